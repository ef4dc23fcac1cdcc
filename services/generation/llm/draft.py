"""A text while a model writes it: its heading taken off, held back until its language is known, then cleaned."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace

from services.common.errors import PaperRouteError
from services.common.paid.caller import Caller, Scope
from services.common.paid.calls import TextSink
from services.common.paid.faults import ProviderFault
from services.common.paid.usage import Usage
from services.common.providers.chat import ChatRequest
from services.generation.extractive import section as extractive
from services.generation.llm.chat_model import MAX_SEED, ChatModel, Refused, Text
from services.generation.llm.citing import Cleaned, StreamCleaner, title_of
from services.generation.llm.language import is_in_language, name_of, told_in
from services.generation.llm.paper_text import MAX_TITLE_CHARACTERS, shown
from services.generation.llm.prompts import Prompt
from services.generation.tasks import KeyedPaper, Restarted, SectionTask

HELD_BACK = 200
"""Characters that are written before the first is given on: enough to tell the language by."""
MAX_HEADING_CHARACTERS = 160
PASSED_OVER_S = 3.0
"""Longest wait for the end of a text in another language, to tell what it took."""

_HEADING = re.compile(r"\s*(?:[^\n#]{0,120}[:：][ \t]*\n\s*)?#{1,6}[ \t]*([^\n]*)(?:\n|\Z)")
_NO_HEADING = re.compile(r"[\[【]\s*P\d|[.!?。！？:：]\s*\Z")
_NUMBERING = re.compile(r"^(?:\d+(?:\.\d+)+[.)]?|\d+[.)])\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drafted:
    """What a call wrote."""

    heading: str
    """As plain text in one line; empty where there is none that can be used."""
    body: Cleaned
    """Counts include those of the heading."""


class Draft:
    """One call, started at once; its text is taken while it is written."""

    def __init__(self, ask: Callable[[TextSink], Awaitable[Text]], keys: Collection[str]) -> None:
        """Start the call.

        Args:
            ask: makes it.
            keys: the closed set.
        """
        self._keys = keys
        self._events: asyncio.Queue[str | Restarted | None] = asyncio.Queue()
        self._raw = ""  # not given to the cleaner yet
        self._is_over = False
        self._call = asyncio.ensure_future(ask(self))
        self._call.add_done_callback(lambda _call: self._events.put_nowait(None))

    def text(self, piece: str) -> None:
        """Take the next piece; called by whoever makes the call."""
        self._events.put_nowait(piece)

    def restart(self, reason: str) -> None:
        """Forget all pieces so far; called by whoever makes the call."""
        self._events.put_nowait(Restarted(reason=reason))

    async def opening(self) -> str:
        """Return the beginning of the text without its heading: `HELD_BACK` characters, fewer where it has fewer.

        Raises:
            Refused, ProviderFault, NotReady, BudgetReached, Unpriced: the call failed meanwhile.
        """
        while not self._is_over and len(self._body()) < HELD_BACK:
            await self._take()
        if self._is_over:
            await self._call
        return self._body()[:HELD_BACK]

    async def pieces(self) -> AsyncIterator[str | Restarted | Drafted]:
        """Yield the text from its beginning in whole sentences, then all of it.

        Raises:
            Refused, ProviderFault, NotReady, BudgetReached, Unpriced: the call failed.
        """
        cleaner, heading, given = StreamCleaner(self._keys), None, ""
        while True:
            if heading is None and (split := _split(self._raw, is_over=self._is_over)):
                heading, self._raw = split
            if heading is not None and self._raw:
                piece, self._raw = cleaner.feed(self._raw), ""
                given += piece
                if piece:
                    yield piece
            if self._is_over:
                break
            if restarted := await self._take():
                cleaner, heading = StreamCleaner(self._keys), None
                if given:
                    yield restarted
                given = ""
        answer = await self._call
        rest = cleaner.finish(is_cut=answer.is_truncated)
        given += rest
        if rest:
            yield rest
        yield _drafted(heading or "", cleaner.whole(given), self._keys)

    async def usage(self) -> Usage | None:
        """Return what the call took, once it is over; None where it failed and nothing is known of it."""
        try:
            return (await self._call).usage
        except Refused as refusal:
            return refusal.usage
        except (ProviderFault, PaperRouteError):
            return None

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the call; return whether it has come."""
        done, _ = await asyncio.wait([self._call], timeout=timeout_s)
        return bool(done)

    async def close(self) -> None:
        """Leave the call; one that was sent is still recorded."""
        self._call.cancel()
        await asyncio.gather(self._call, return_exceptions=True)

    async def _take(self) -> Restarted | None:
        """Take the next event; return it if all before it is void."""
        event = await self._events.get()
        if event is None:
            self._is_over = True
        elif isinstance(event, str):
            self._raw += event
        else:
            self._raw = ""
            return event
        return None

    def _body(self) -> str:
        split = _split(self._raw, is_over=self._is_over)
        return split[1].lstrip() if split else ""


class Drafts:
    """The drafts of one task: the first in the language asked for goes on, and what each took is kept."""

    def __init__(self, model: ChatModel, task: SectionTask, template: Prompt) -> None:
        """Name the model, the task and the prompt the request is made of."""
        self._model = model
        self._task = task
        self._template = template
        self._keys = frozenset(each.key for each in task.papers)
        self._all: list[Draft] = []

    async def begun(self, request: ChatRequest, caller: Caller) -> Draft:
        """Return a draft whose language is known; asked for once more where it is another one than wanted.

        Raises:
            Refused, ProviderFault, NotReady, BudgetReached, Unpriced: as ChatModel.ask.
        """
        first = self._start(request, caller)
        if self._is_wanted(await first.opening()):
            return first
        stronger = f"{request.prompt}\n\n{_insisting(self._task.language)}"
        second = self._start(replace(request, prompt=stronger), caller.for_step("language"))
        try:
            opening = await second.opening()
        except (Refused, ProviderFault, PaperRouteError):
            return first
        return second if opening and self._is_wanted(opening) else first

    async def usages(self) -> list[Usage]:
        """Return what they took; one that was passed over is waited for, but not for long: the ledger has it anyway."""
        over = [draft for draft in self._all if await draft.wait(PASSED_OVER_S)]
        return [usage for draft in over if (usage := await draft.usage())]

    async def aclose(self) -> None:
        """Leave what is under way."""
        for draft in self._all:
            await draft.close()

    def _start(self, request: ChatRequest, caller: Caller) -> Draft:
        def ask(sink: TextSink) -> Awaitable[Text]:
            return self._model.ask(
                request,
                caller,
                scope=Scope.TENANT,
                prompt_id=self._template.prompt_id,
                sample=sample_of(self._task),
                sink=sink,
            )

        draft = Draft(ask, self._keys)
        self._all.append(draft)
        return draft

    def _is_wanted(self, opening: str) -> bool:
        return is_in_language(opening, self._task.language)


def sample_of(task: SectionTask) -> str:
    """Return what tells one drawing of a task from another."""
    return f"seed {task.sample_seed}"


def seed_of(task: SectionTask) -> int:
    """Return a task's seed as providers take it."""
    return task.sample_seed % MAX_SEED


def lines_of(papers: Sequence[KeyedPaper]) -> list[dict[str, str]]:
    """Return what a model is shown of papers: key, title and summary; the abstract where there is no summary."""
    return [
        {
            "key": each.key,
            "title": shown(each.paper.title, MAX_TITLE_CHARACTERS),
            "summary": shown(each.summary or each.paper.abstract),
        }
        for each in papers
    ]


def finished(answer: Text, keys: Collection[str]) -> Drafted:
    """Return what a call wrote, without a sentence that was cut short."""
    heading, body = _split(answer.text, is_over=True) or ("", "")
    cleaner = StreamCleaner(keys)
    given = cleaner.feed(body) + cleaner.finish(is_cut=answer.is_truncated)
    return _drafted(heading, cleaner.whole(given), keys)


async def heading_of(heading: str, task: SectionTask) -> str:
    """Return a section's heading; where the model gave none in the language, that of the extractive engine."""
    if heading and is_in_language(heading, task.language):
        return heading
    return (await asyncio.to_thread(extractive.drafted, task)).title


def _split(text: str, *, is_over: bool) -> tuple[str, str] | None:
    """Return a text's heading, empty for none, and the rest; None while that cannot be told.

    A heading is the first line with "#" before it, also behind a line such as "Here is the section:", or a first line
    that is short and no sentence.
    """
    found = _HEADING.match(text)
    if found:
        is_line = found.group().endswith("\n") or is_over
        return (found[1], text[found.end() :]) if is_line else None
    line, newline, rest = text.lstrip().partition("\n")
    if is_over or len(line) > MAX_HEADING_CHARACTERS:
        is_decided = True
    else:
        is_decided = bool(newline and rest.strip()) and not rest.lstrip().startswith("#")
    if not is_decided:
        return None
    is_heading = bool(line and rest.strip()) and len(line) <= MAX_HEADING_CHARACTERS and not _NO_HEADING.search(line)
    return (line, rest) if is_heading else ("", text)


def _drafted(heading: str, body: Cleaned, keys: Collection[str]) -> Drafted:
    title = title_of(_NUMBERING.sub("", heading.strip()), keys)
    return Drafted(
        heading=title.text if len(title.text) <= MAX_HEADING_CHARACTERS else "",
        body=replace(
            body,
            unknown_key_count=body.unknown_key_count + title.unknown_key_count,
            removed_link_count=body.removed_link_count + title.removed_link_count,
        ),
    )


def _insisting(language: str) -> str:
    """Return what is added to a prompt that was answered in another language."""
    name = name_of(language)
    return f"Write the heading and all of the text in {name}, and in no other language. {told_in(language)}".rstrip()
