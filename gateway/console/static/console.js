// Follows a survey that is under way. Without it the page loads itself again every few seconds.
"use strict";

const root = document.getElementById("survey");
const address = `/surveys/${encodeURIComponent(root.dataset.survey)}`;
const texts = new Map();

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

const readers = {
  state({ state }) {
    const shown = root.querySelector("#state");
    shown.className = `state ${state}`;
    shown.textContent = state;
  },
  queue({ position }) {
    root.querySelector("#state").textContent = `queued, number ${position} in the queue`;
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
    const known = Array.from(texts.get(place) || "");
    const whole = known.slice(0, offset).join("") + text;
    texts.set(place, whole);
    const section = sectionOf(place);
    section.className = "live";
    section.textContent = whole;
  },
  section({ place, title, html }) {
    texts.delete(place);
    const section = sectionOf(place);
    section.className = "";
    section.innerHTML = html; // rendered by the server, which lets no markup of others through
    const head = document.createElement("h2");
    head.textContent = `${place} ${title}`;
    section.prepend(head);
  },
  problem({ text }) {
    const shown = root.querySelector("#problem");
    shown.textContent = text;
    shown.hidden = false;
  },
};

const source = new EventSource(`${address}/events`);
for (const [name, read] of Object.entries(readers)) {
  source.addEventListener(name, (event) => read(JSON.parse(event.data)));
}
source.addEventListener("end", async () => {
  source.close();
  const answer = await fetch(`${address}/body`);
  if (answer.ok) root.innerHTML = await answer.text();
});
