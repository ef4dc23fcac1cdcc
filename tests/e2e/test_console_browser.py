"""The console in a browser, with a real gateway behind it: what a person sees, and nothing that goes wrong unseen."""

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import pytest_asyncio
from browser import Visit, chromium, visiting
from consoles import console_at
from fakes import Fakes, Gate, fails, papers, usage
from gateways import Gateway, gateway_with
from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import admin_service_pb2_grpc as admin_grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2, writing_pb2
from playwright.async_api import Browser
from pydantic import SecretStr

from gateway.console.limits import Places
from services.common.channel import open_channel
from services.common.settings import ClientSettings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
ADMIN = "an-admin-token-of-the-settings"
NOTED = """
window.noted = [];
window.EventSource = class extends EventSource {
    addEventListener(name, heard) {
        super.addEventListener(name, (event) => {
            const number = Number(event.lastEventId); // of the last numbered one, where this has none
            if (number && number !== window.noted.at(-1)) window.noted.push(number);
            heard(event);
        });
    }
};
"""
"""Notes the numbered events that a page hears."""
DONE = "text=Download:"
LONG = "How does low-rank adaptation change image generation, and what did it not change? " * 12
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
JAPANESE = "画像生成におけるLoRAの最近の技術動向は何ですか。また、その評価方法と限界について教えてください。"
MODEL = "a-provider-with-a-long-name:an-organisation/a-model-with-a-very-long-name-2026-11-21-preview-instruct"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@contextlib.asynccontextmanager
async def at_console(
    browser: Browser, fakes: Fakes, tmp_path: Path, settings: Any = None, **options: Any
) -> AsyncIterator[tuple[Visit, Gateway]]:
    """Visit the console of a gateway with those services behind it."""
    async with (
        gateway_with(fakes, tmp_path, **(settings or {})) as gateway,
        console_at(gateway, needs_tokens=bool(settings and "auth" in settings)) as url,
        visiting(browser, url, **options) as visit,
    ):
        yield visit, gateway


def paid() -> Fakes:
    """Return services that find six papers, write two sections, and cost something."""
    return Fakes(found=papers(6), section_usage=of_model("fake:paid"))


def of_model(name: str) -> usage_pb2.ModelUsage:
    used = usage(tokens=12_000, cost=34_500_000)
    used.model = name
    return used


async def ask(visit: Visit, question: str = "What about names?") -> str:
    """Ask a question in the form and return the survey's id."""
    await visit.go("/")
    await visit.page.fill("#question", question)
    await visit.page.click("text=Write the survey")
    await visit.see("#survey")
    return survey_of(visit)


def survey_of(visit: Visit) -> str:
    return urlsplit(visit.page.url).path.rsplit("/", 1)[-1]


# A survey on its way


async def test_a_question_is_asked_watched_and_read(browser: Browser, tmp_path: Path):
    midway, end = Gate(), Gate()
    fakes = replace(paid(), before={"WriteSection midway": midway, "WriteSection end": end})
    async with at_console(browser, fakes, tmp_path) as (visit, gateway):
        survey_id = await ask(visit)
        await visit.see(".live:has-text('A claim about')")
        early = await visit.text(".live >> nth=0")
        await visit.page.focus("button:has-text('Cancel')")
        facts = await visit.text("#facts")
        stages = {name: await visit.page.get_attribute(f"[data-stage={name}]", "class") for name in ("plan", "write")}
        await visit.check()
        midway.opened.set()
        await visit.page.wait_for_function("(early) => document.querySelector('.live').innerText > early", arg=early)
        end.opened.set()
        await visit.see(DONE)
        survey = await gateway.get(survey_id)
        await visit.check()

        assert re.fullmatch(r"6 papers found · [1-9]\d* tokens · (≥ )?\$0\.\d{4} so far", facts)
        assert stages == {"plan": "done", "write": "running"}
        await visit.see_focus("state")  # the button that had it is gone
        assert await visit.text("h1") == survey.title
        assert await visit.text("#notice") == "The survey has ended: done."
        assert await visit.page.locator("svg.map a.paper").count() == 6
        assert "6 papers kept: 6 cited" in await visit.text("main")
        assert "$0.069" in await visit.text(".costs tfoot")
        assert survey.title in await visit.page.title()


async def test_every_form_of_a_survey_is_a_download(browser: Browser, tmp_path: Path):
    async with at_console(browser, paid(), tmp_path) as (visit, _):
        survey_id = await ask(visit)
        await visit.see(DONE)
        names = []
        for form in ("Markdown", "HTML", "JSON", "BibTeX"):
            async with visit.page.expect_download() as coming:
                await visit.page.click(f".exports >> text={form}")
            names.append((await coming.value).suggested_filename)

    assert names == [f"survey-{survey_id}.{form}" for form in ("md", "html", "json", "bib")]


async def test_a_failed_survey_says_why_and_goes_on_when_asked_to(browser: Browser, tmp_path: Path):
    """What it ended with the first time is no end to the page that follows it the second time."""
    fakes, gate = paid(), Gate()
    fakes.before["WriteSection"] = fails(grpc.StatusCode.INVALID_ARGUMENT)
    async with at_console(browser, fakes, tmp_path) as (visit, _):
        await ask(visit)
        await visit.see(".state.failed")
        said = await visit.text(".fault >> nth=0")
        await visit.check()
        fakes.before["WriteSection"] = gate
        await visit.page.click("text=Go on with it")
        await visit.see("[data-stage=write].running")
        await visit.see_focus("state")
        gate.opened.set()
        await visit.see(DONE)

    assert said.startswith("Stage write failed")


async def test_a_survey_is_cancelled_and_deleted_by_keyboard(browser: Browser, tmp_path: Path):
    gate = Gate()
    fakes = replace(paid(), before={"SummarizePaper": gate})
    async with at_console(browser, fakes, tmp_path) as (visit, _):
        await visit.go("/")
        keyboard = visit.page.keyboard
        await visit.page.focus("#question")
        await keyboard.type("What about names?")
        for _ in range(2):  # over the options
            await keyboard.press("Tab")
        await keyboard.press("Enter")
        await visit.see("[data-stage=summarize].running")
        await keyboard.press("Tab")
        while await visit.page.evaluate("document.activeElement.innerText") != "Cancel":
            await keyboard.press("Tab")
        await keyboard.press("Enter")
        await visit.see(".state.cancelled")
        await visit.see_focus("state")
        await visit.check()
        while await visit.page.evaluate("document.activeElement.innerText") != "Delete":
            await keyboard.press("Tab")
        await keyboard.press("Enter")
        await visit.see("button.danger")
        await visit.check()
        await keyboard.press("Tab")
        await keyboard.press("Enter")
        await visit.see("text=There is none.")
        gate.opened.set()


async def test_a_queued_survey_says_its_place_until_its_turn(browser: Browser, tmp_path: Path):
    gate = Gate()
    fakes = replace(paid(), before={"PlanSearch": gate})
    async with at_console(browser, fakes, tmp_path, {"max_running_surveys": 1}) as (visit, gateway):
        await gateway.create()
        await gate.entered.wait()
        await ask(visit)
        await visit.see("text=number 1 in the queue")
        await visit.check()
        gate.opened.set()
        await visit.see(DONE)


# Over a connection that breaks


@pytest.mark.parametrize("way", ["restart", "offline"])
async def test_a_lost_connection_misses_nothing_and_repeats_nothing(browser: Browser, tmp_path: Path, way: str):
    midway, end = Gate(), Gate(lambda request: request.chapter_number == 1)
    fakes = replace(paid(), before={"WriteSection midway": midway, "WriteSection end": end})
    async with gateway_with(fakes, tmp_path) as gateway, contextlib.AsyncExitStack() as consoles:
        places = Places()
        url = await consoles.enter_async_context(console_at(gateway, places=places))
        async with visiting(browser, url) as visit:
            await visit.page.add_init_script(NOTED)
            survey_id = await ask(visit)
            await visit.see(".live:has-text('A claim about')")
            visit.is_loss_expected = True
            if way == "restart":
                await consoles.aclose()
            else:
                await visit.page.context.set_offline(True)  # which leaves what is open as it is
                places.closing.set()
            await visit.see("text=The connection is lost; trying again.")
            midway.opened.set()
            await end.entered.wait()
            await gateway.first(survey_id, lambda event: event.WhichOneof("event") == "section_finished")
            if way == "restart":
                await consoles.enter_async_context(console_at(gateway, listen=urlsplit(url).netloc))
            else:
                places.closing.clear()
                await visit.page.context.set_offline(False)
            await visit.see(".live:has-text('(Name3)')")
            arrived = await visit.text(".live")
            end.opened.set()
            await visit.see(DONE)
            heard = await visit.page.evaluate("window.noted")
            shown = await visit.text("main")
            events = await gateway.events(survey_id)
            await visit.check()

    assert heard == [event.number for event in events if event.number]
    assert [arrived.count(f"(Name{number})") for number in (6, 5, 4, 3)] == [1, 1, 1, 1]
    assert all(shown.count(f"A claim about Name{number}") == 1 for number in range(1, 7))


async def test_a_page_that_nobody_sees_holds_no_stream(browser: Browser, tmp_path: Path):
    """Browsers allow six connections to one place: the seventh page would never load."""
    gate, places = Gate(), Places(total=1)
    async with (
        gateway_with(replace(paid(), before={"WriteSection": gate}), tmp_path) as gateway,
        console_at(gateway, places=places) as url,
        visiting(browser, url) as visit,
    ):
        await ask(visit)
        await visit.see("[data-stage=write].running")
        await turn(visit, is_hidden=True)
        async with visiting(browser, url) as other:  # there is one place only
            await other.go(urlsplit(visit.page.url).path)
            await other.see("[data-stage=write] .note:has-text('0 of 2')")  # which only a stream tells
            await turn(other, is_hidden=True)
        await turn(visit, is_hidden=False)
        gate.opened.set()
        await visit.see(DONE)


async def turn(visit: Visit, *, is_hidden: bool) -> None:
    """Let a page believe that it is hidden, or shown again."""
    hidden = "true" if is_hidden else "false"
    await visit.page.evaluate(
        f"Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});"
        "document.dispatchEvent(new Event('visibilitychange'));"
    )


async def test_without_scripts_the_page_loads_itself_again_and_can_be_read(browser: Browser, tmp_path: Path):
    gate = Gate()
    fakes = replace(paid(), before={"WriteSection end": gate})
    async with at_console(browser, fakes, tmp_path, java_script_enabled=False) as (visit, _):
        await ask(visit)
        gate.opened.set()
        await visit.see(DONE)
        assert "A claim about Name1" in await visit.text("main")
        assert await visit.page.locator("svg.map").count() == 1


async def test_text_of_others_is_text_while_it_arrives_and_after(browser: Browser, tmp_path: Path):
    """A script that ran, or that the page's policy had to stop, would show as a problem of the visit."""
    midway = Gate()
    fakes = replace(
        paid(),
        found=[replace(paper, title=f"{HOSTILE} {paper.paper_id}") for paper in papers(2)],
        text_of=lambda request: f"{HOSTILE} {request.papers[0].key} [{request.papers[0].key}]. " * 9,
        before={"WriteSection midway": midway},
    )
    async with at_console(browser, fakes, tmp_path) as (visit, _):
        visit.page.on("dialog", lambda dialog: visit.problems.append(dialog.message))
        await ask(visit, HOSTILE)
        await visit.see(".live:has-text('[P1]'), .live:has-text('P1')")
        midway.opened.set()
        await visit.see(DONE)
        images = await visit.page.locator("main img, main script").count()
        shown = await visit.text("main")

    assert images == 0
    assert HOSTILE in shown


# Forms


async def test_an_estimate_is_told_and_keeps_the_form(browser: Browser, tmp_path: Path):
    async with at_console(browser, paid(), tmp_path) as (visit, _):
        await visit.go("/")
        await visit.page.fill("#question", "What about names?")
        await visit.page.click("text=What would it cost?")
        await visit.see("#estimate")
        await visit.check()
        await visit.see_focus("estimate")
        assert await visit.page.input_value("#question") == "What about names?"
        await visit.go("/surveys")
        await visit.see("text=There is none.")


async def test_faults_stand_beside_their_fields_and_the_first_has_the_focus(browser: Browser, tmp_path: Path):
    async with at_console(browser, paid(), tmp_path) as (visit, _):
        await visit.go("/")
        await visit.page.fill("#question", "What about names?")
        await visit.page.click("summary")
        await visit.page.fill("#categories", "no category")
        await visit.page.fill("#max_cost", "much")
        await visit.page.fill("#labels", "vision")
        await visit.page.click("text=Write the survey")
        await visit.see("[role=alert]")
        await visit.check()

        await visit.see_focus("categories")
        assert await visit.text("#max_cost-note") == "US dollars, such as 0.05"
        assert await visit.text("#labels-note") == "name=value, several separated by commas"
        assert await visit.page.input_value("#labels") == "vision"


async def test_labels_lead_to_surveys_and_to_their_cost(browser: Browser, tmp_path: Path):
    async with at_console(browser, paid(), tmp_path) as (visit, gateway):
        for team in ("vision", "speech"):
            await gateway.finished(pb.SurveySpec(question=f"What does {team} do?"), labels={"team": team})
        await visit.go("/surveys")
        await visit.page.fill("#label", "team=vision")
        await visit.page.click("text=Show")
        await visit.see("text=What does vision do?")
        listed = await visit.text("tbody")
        await visit.go("/usage")
        await visit.page.select_option("#by", "label")
        await visit.page.click("text=Show")
        await visit.see("text=Name the label")
        await visit.see_focus("label")
        await visit.page.fill("#label", "team")
        await visit.page.click("text=Show")
        await visit.see("svg.plot")
        await visit.check()
        used = await visit.text("tbody")

    assert "speech" not in listed
    assert re.search(r"speech.*\$0\.0[0-9]*[1-9]", used)
    assert re.search(r"vision.*\$0\.0[0-9]*[1-9]", used)


async def test_a_visitor_signs_in_and_out(browser: Browser, tmp_path: Path):
    settings = {"auth": "tokens", "admin_token": SecretStr(ADMIN)}
    async with at_console(browser, paid(), tmp_path, settings) as (visit, gateway):
        token = await token_of(gateway)
        await visit.go("/usage")
        await visit.check()
        await visit.page.fill("#token", token)
        await visit.page.keyboard.press("Enter")
        await visit.see("h1:has-text('Usage')")
        left = await visit.text("main")
        await visit.check()
        assert token not in await visit.page.content()
        await visit.page.click("text=Sign out")
        await visit.see("#token")
        await visit.go("/surveys")
        await visit.see("#token")

    assert "Left of this month's budget: $5" in left


async def token_of(gateway: Gateway) -> str:
    async with open_channel(gateway.address, client=ClientSettings(token=SecretStr(ADMIN))) as channel:
        stub = admin_grpc.AdminServiceStub(channel)
        made = admin_pb.CreateTenantRequest(tenant=admin_pb.Tenant(tenant="lab", max_month_cost_nano_usd=5 * 10**9))
        await stub.CreateTenant(made, timeout=10)
        request = admin_pb.CreateTokenRequest(tenant="lab", scope=admin_pb.TOKEN_SCOPE_WRITE)
        return (await stub.CreateToken(request, timeout=10)).secret


# How pages look


@pytest.mark.parametrize(("scheme", "width"), [("light", 1_100), ("dark", 1_100), ("light", 390), ("dark", 390)])
async def test_every_page_is_readable(browser: Browser, tmp_path: Path, scheme: Any, width: int):
    """Long questions, long names of models, other scripts, flags, 160 papers: nothing is wider than the window."""
    async with at_console(browser, many(), tmp_path, color_scheme=scheme, width=width) as (visit, gateway):
        for path in ("/", "/surveys", "/usage", "/nowhere", "/surveys/nowhere"):
            await visit.go(path)
            await visit.check()
        made = [
            await gateway.finished(pb.SurveySpec(question=each), labels={"team": "x" * 80}) for each in (LONG, JAPANESE)
        ]
        for path in (
            *(f"/surveys/{each.survey_id}" for each in made),
            "/surveys",
            "/usage?by=model",
            "/usage?by=stage",
        ):
            await visit.go(path)
            await visit.check()


def many() -> Fakes:
    flag = writing_pb2.TextFlag(
        kind=writing_pb2.TEXT_FLAG_KIND_UNSUPPORTED, sentence="It gains 12.5 % [P1].", terms=["12.5 %"], keys=["P1"]
    )
    return Fakes(found=papers(160), section_usage=of_model(MODEL), section_fields={"flags": [flag]}, section_size=8)
