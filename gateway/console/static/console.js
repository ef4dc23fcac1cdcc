// Follows a survey that is under way. Without it the page loads itself again every few seconds.
"use strict";

const root = document.getElementById("survey");
const notice = document.getElementById("notice");
const address = `/surveys/${encodeURIComponent(root.dataset.survey)}`;
const texts = new Map();
const firstPause = 1000;
const longestPause = 15000;
let pause = firstPause;
let lastNumber = 0;
let source = null;
let nextTry = 0;
let nextNotice = 0;
let wanted = "";
let hasEnded = false;

// Shown and read aloud, but only what still holds after a moment: a connection that is back at once is no news.
function say(text, delay = 1500) {
  if (text === wanted) return;
  wanted = text;
  clearTimeout(nextNotice);
  nextNotice = setTimeout(() => { notice.textContent = text; }, text ? delay : 0);
}

function sectionOf(place) {
  const known = root.querySelector(`[data-place="${CSS.escape(place)}"]`);
  if (known) return known;
  const made = document.createElement("section");
  made.dataset.place = place;
  const all = [...root.querySelectorAll("[data-place]")];
  const after = all.find((each) => isBefore(place, each.dataset.place));
  root.querySelector("#sections").insertBefore(made, after || null);
  return made;
}

function isBefore(one, other) {
  const [a, b] = one.split(".").map(Number);
  const [c, d] = other.split(".").map(Number);
  return a < c || (a === c && b < d);
}

// Text under way is Markdown: its links show as their names and its escapes as what they stand for.
function readable(text) {
  return text.replace(/\[((?:\\.|[^\]\\])*)\]\([^()\s]*\)/g, "$1").replace(/\\([^\w\s])/g, "$1");
}

const readers = {
  state({ state }) {
    const shown = root.querySelector("#state");
    shown.className = `state ${state}`;
    shown.textContent = state;
  },
  queue({ position }) {
    root.querySelector("#state").textContent = `queued, number ${position} in the queue`;
  },
  facts({ text }) {
    root.querySelector("#facts").textContent = text;
  },
  stage({ stage, state, done, total, note }) {
    const line = root.querySelector(`[data-stage="${CSS.escape(stage)}"]`);
    if (!line) return;
    line.className = state;
    const bar = line.querySelector("progress");
    bar.max = total || 1;
    bar.value = state === "done" ? bar.max : done;
    line.querySelector(".note").textContent = note;
  },
  text({ place, offset, text }) {
    const section = sectionOf(place);
    const known = Array.from(texts.get(place) || "");
    const whole = known.slice(0, offset).join("") + text;
    texts.set(place, whole);
    if (!section.querySelector(".live")) {
      section.innerHTML = "<h2></h2><p class=\"live\"></p>";
      section.firstChild.textContent = place;
    }
    section.querySelector(".live").textContent = readable(whole);
  },
  section({ place, html }) {
    texts.delete(place);
    sectionOf(place).innerHTML = html; // rendered by the server, which lets no markup of others through
  },
};

function follow() {
  stop();
  source = new EventSource(`${address}/events?after=${lastNumber}`);
  for (const [name, read] of Object.entries(readers)) {
    source.addEventListener(name, (event) => {
      lastNumber = Math.max(lastNumber, Number(event.lastEventId));
      read(JSON.parse(event.data));
    });
  }
  source.addEventListener("end", finish);
  source.addEventListener("open", () => {
    pause = firstPause;
    say("");
  });
  source.addEventListener("error", () => {
    say("The connection is lost; trying again.");
    if (source.readyState === EventSource.CLOSED) lookAgain();
  });
}

function stop() {
  clearTimeout(nextTry);
  if (source) source.close();
}

function later(what) {
  clearTimeout(nextTry);
  nextTry = setTimeout(what, pause);
  pause = Math.min(2 * pause, longestPause);
}

// The page as it is now; null when nobody answers. Where one has to sign in, or the survey is gone, the page says so.
async function body() {
  const answer = await fetch(`${address}/body`, { redirect: "manual" }).catch(() => null);
  if (!answer || answer.status >= 429) return null;
  if (answer.ok) return answer.text();
  location.reload();
  return null;
}

async function lookAgain() {
  if ((await body()) === null) later(lookAgain);
  else later(follow);
}

async function finish() {
  stop();
  hasEnded = true;
  const html = await body();
  if (html === null) {
    say("The connection is lost; trying again.");
    later(finish);
    return;
  }
  replace(html);
  if (root.querySelector(".stages")) { // somebody goes on with it
    hasEnded = false;
    follow();
    return;
  }
  const title = root.querySelector("h1").textContent;
  document.title = `${title} · PaperRoute`;
  say(`The survey has ended: ${root.querySelector("#state").textContent.trim()}.`, 0);
}

// Who reads a section goes on reading it; who stood on a button of the page stands on its state.
function replace(html) {
  const read = [...root.querySelectorAll("[data-place]")].find((each) => each.getBoundingClientRect().bottom > 0);
  const top = read && read.getBoundingClientRect().top;
  const hadFocus = root.contains(document.activeElement);
  const wasScrolled = window.scrollY > 0;
  root.innerHTML = html;
  const now = read && document.getElementById(`s${read.dataset.place}`);
  if (now && wasScrolled) window.scrollBy(0, now.getBoundingClientRect().top - top);
  if (hadFocus) root.querySelector("#state").focus({ preventScroll: true });
}

// Who sends a form leaves this page.
document.addEventListener("submit", () => {
  hasEnded = true;
  stop();
});

// Browsers allow few connections to one place: a page that nobody sees holds none.
document.addEventListener("visibilitychange", () => {
  if (hasEnded) return;
  if (document.hidden) stop();
  else follow();
});

follow();
