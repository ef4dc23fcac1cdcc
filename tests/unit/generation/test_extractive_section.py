"""Sections of the extractive engine: every paper once, only true things, readable in both languages."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from services.common.papers import Paper
from services.generation.extractive.engine import ExtractiveEngine
from services.generation.extractive.latex import readable
from services.generation.tasks import SectionTask, WrittenSection

KEY = re.compile(r"(?<!\\)\[(P\d+)\]")
TOPICS = ["lora", "rag-eval", "splatting", "video"]
ON_TERM = re.compile(r"(?:^|[.!?] )(?:Also on|Likewise concerned with|Staying with) ([^,]+), ")


async def written(task: SectionTask) -> tuple[list[str], WrittenSection]:
    """Return the pieces of a section's text, and the section."""
    events = [event async for event in ExtractiveEngine().write_section(task)]
    pieces = [event for event in events[:-1] if isinstance(event, str)]
    assert len(pieces) == len(events) - 1, "the section comes last and once"
    assert isinstance(events[-1], WrittenSection)
    return pieces, events[-1]


def plainly(text: str) -> str:
    """Return words alone, as a comparison of spellings needs them: singular, hyphens as spaces, American."""
    words = re.findall(r"[a-z0-9]+", text.lower().replace("isation", "ization").replace("isa", "iza"))
    return " ".join(word.removesuffix("s") for word in words)


def unescaped(text: str) -> str:
    return re.sub(r"\\([\\`*_\[\]<>#|~+.)=-])", r"\1", text)


def mentions(task: SectionTask, place: int, term: str) -> bool:
    paper = task.papers[place].paper
    return f" {plainly(term)} " in f" {plainly(readable(f'{paper.title} {paper.abstract}'))} "


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("language", ["en", "ja"])
async def test_every_paper_is_cited_once_in_order(
    library: dict[str, list[Paper]], route_of: Callable[..., Any], topic: str, language: str
):
    for task in route_of(library[topic], chapters=3).sections(language=language):
        _, section = await written(task)
        keys = tuple(each.key for each in task.papers)

        assert tuple(KEY.findall(section.text)) == keys
        assert section.cited_keys == keys
        assert (section.unknown_key_count, section.removed_link_count) == (0, 0)


@pytest.mark.parametrize("language", ["en", "ja", "de"])
async def test_the_pieces_make_up_the_text(lora: Any, language: str):
    """A key is never cut in two, and a piece is about a sentence."""
    for task in lora.sections(language=language):
        pieces, section = await written(task)

        assert "".join(pieces) == section.text
        assert len(pieces) >= len(task.papers)
        assert all(piece.count("[") == piece.count("]") for piece in pieces)


@pytest.mark.parametrize("topic", TOPICS)
async def test_english_sentences_are_the_papers_own(
    library: dict[str, list[Paper]], route_of: Callable[..., Any], topic: str
):
    """What follows a key up to the full stop stands so in the abstract; so does what comes before a key at the end."""
    checked = 0
    for task in route_of(library[topic], chapters=3).sections():
        _, section = await written(task)
        texts = {each.key: plainly(readable(each.paper.abstract)) for each in task.papers}
        for paragraph in section.text.split("\n\n"):
            for before, key, after in re.findall(r"([^.]*)(?<!\\)\[(P\d+)\]([^.]*)\.", paragraph):
                told = unescaped(after if after.strip() else before.split(", ", 1)[-1])
                if "author" in before or "author" in told:
                    continue  # "we" was changed; the next test is about that
                assert plainly(told) in texts[key], (key, told)
                checked += 1

    assert checked > 15


@pytest.mark.parametrize("topic", TOPICS)
async def test_japanese_quotations_are_verbatim(
    library: dict[str, list[Paper]], route_of: Callable[..., Any], topic: str
):
    """What stands between the brackets 「」 stands so in the abstract."""
    for task in route_of(library[topic], chapters=3).sections(language="ja"):
        _, section = await written(task)
        quotes = re.findall(r"「([^」]*)」", section.text)
        abstracts = [readable(each.paper.abstract).lower() for each in task.papers]

        assert len(quotes) == len(task.papers)
        for quote, abstract in zip(quotes, abstracts, strict=True):
            assert unescaped(quote).lower().removesuffix(" …") in abstract


@pytest.mark.parametrize("topic", TOPICS)
async def test_what_ties_two_papers_is_true(library: dict[str, list[Paper]], route_of: Callable[..., Any], topic: str):
    """A phrase such as "Also on X" stands only between two papers that both mention X."""
    for seed in range(3):
        for task in route_of(library[topic], chapters=3).sections(sample_seed=seed):
            _, section = await written(task)
            keys = [each.key for each in task.papers]
            for found in ON_TERM.finditer(section.text.replace("\n\n", " ")):
                following = KEY.search(section.text.replace("\n\n", " "), found.end())
                assert following is not None
                place = keys.index(following.group(1))

                assert mentions(task, place - 1, unescaped(found.group(1)))
                assert mentions(task, place, unescaped(found.group(1)))


@pytest.mark.parametrize("topic", TOPICS)
async def test_counts_in_the_opening_are_true(
    library: dict[str, list[Paper]], route_of: Callable[..., Any], topic: str
):
    """An opening's "style (4)" means that four papers of the section name it in title or abstract."""
    checked = 0
    for task in route_of(library[topic], chapters=3).sections():
        _, section = await written(task)
        opening = section.text.split("\n\n")[0]
        for term, count in re.findall(r"(?:of|to|and) ((?:[\w-]+ ){1,4})\((\d+)\)", opening):
            shortest = next(
                (words for words in (term.split()[-size:] for size in range(len(term.split()), 0, -1))
                 if sum(mentions(task, place, " ".join(words)) for place in range(len(task.papers))) == int(count)),
                None,
            )  # fmt: skip
            assert shortest, (term, count)
            checked += 1

    assert checked


async def test_first_persons_become_the_authors(route_of: Callable[..., Any], paper: Callable[..., Paper]):
    """In a survey "we" would be its writer."""
    abstracts = {
        "Alpha: A": "We propose Alpha, a net that we train on our data.",
        "Beta: B": "In this paper, we show that ropes twist and we prove our bound.",
        "Gamma: C": "This paper presents Gamma, which folds paper.",
        "Delta: D": "Delta combines two of our tools.",
        "Epsilon: E": "We study how birds sing.",
        "Zeta: F": "While fish swim, we let them rest on our boat.",
        "Eta: G": "Our method eats less memory than others.",
        "Theta: H": "I argue that my cat thinks.",
        "Iota: I": "We introduce Iota, a language for ropes.",
    }
    route = route_of([paper(title, abstract) for title, abstract in abstracts.items()], most=9)

    _, section = await written(route.section(1, 1))
    text = section.text

    assert "[P1] is a net that the authors train on their data." in text
    assert "the authors of [P2] show that ropes twist and the authors prove their bound." in text.replace("The", "the")
    assert "[P3] presents Gamma, which folds paper." in text
    assert "[P4] combines two of their tools." in text
    assert "[P5] studies how birds sing." in text
    assert "hile fish swim, the authors of [P6] let them rest on their boat." in text
    assert "he method of [P7] eats less memory than others." in text
    assert "[P8] puts it in these words: “I argue that my cat thinks.”" in text
    assert "[P9] is a language for ropes." in text
    assert not re.search(r"\b(?:[Ww]e|[Oo]ur)\b", text)


async def test_a_sentence_that_leans_comes_with_what_it_leans_on(
    route_of: Callable[..., Any], paper: Callable[..., Paper]
):
    abstract = "Ropes tangle on ships. Knotter solves this by pulling both ends."

    _, section = await written(route_of([paper("Knotter: Ropes", abstract)]).section(1, 1))

    assert section.text.endswith("Ropes tangle on ships. [P1] solves this by pulling both ends.")


@pytest.mark.parametrize(
    ("name", "sentence", "told"),
    [
        pytest.param("Attention", "Attention nets are slow.", "Attention nets are slow [P1].", id="common-word"),
        pytest.param("Glance", "Glance uses one step.", "[P1] uses one step.", id="a-name-that-is-a-word"),
        pytest.param("LoRA", "LoRAShop differs.", "LoRAShop differs [P1].", id="name-within-a-word"),
        pytest.param("3D Gaussians", "3D Gaussians have won.", "3D Gaussians have won [P1].", id="a-field"),
    ],
)  # fmt: skip
async def test_a_key_stands_for_a_name_only(
    name: str, sentence: str, told: str, route_of: Callable[..., Any], paper: Callable[..., Paper]
):
    """A title may begin with a common word; the paper is not its subject then."""
    _, section = await written(route_of([paper(f"{name}: of something", sentence)]).section(1, 1))

    assert section.text.endswith(told)


async def test_shared_subjects_open_the_section(route_of: Callable[..., Any], paper: Callable[..., Paper]):
    route = route_of(
        [
            paper("A: Style Transfer for Cats", "Aa does style transfer."),
            paper("B: Style Transfer for Dogs", "Bb does style transfer."),
            paper("C: Style Transfer for Birds", "Cc does style transfer."),
        ]
    )

    _, section = await written(route.section(1, 1))

    assert section.text.startswith(
        "The three papers of this section, published in January 2025, all speak of style transfer."
    )


@pytest.mark.parametrize("language", ["en", "ja"])
async def test_a_section_is_a_few_plain_paragraphs(lora: Any, language: str):
    for task in lora.sections(language=language):
        _, section = await written(task)
        paragraphs = section.text.split("\n\n")

        assert 2 <= len(paragraphs) <= 4
        assert not any("\n" in paragraph for paragraph in paragraphs)
        assert not re.search(r"(?m)^(?:#|>|[-*+] |\d+[.)] |    )|\]\(|<\w|://", section.text)
        assert not re.search(r" {2}|\.\.|\( | \)|,,", section.text)
        assert "\n" not in section.title


async def test_the_same_request_gives_the_same_text(lora: Any):
    for task in lora.sections():
        assert await written(task) == await written(task)


async def test_another_seed_changes_connecting_phrases_only(lora: Any):
    """Title, papers and their order stay; what a paper says stays; something around it changes."""
    task = lora.section(1, 1)
    _, first = await written(task)
    _, second = await written(replace(task, sample_seed=1))

    assert first.text != second.text
    assert (first.title, first.cited_keys) == (second.title, second.cited_keys)
    tails = [re.findall(r"\[P\d+\]([^.]*)\.", text) for text in (first.text, second.text)]
    assert tails[0] == tails[1]


async def test_japanese_is_framed_in_japanese(lora: Any):
    """Outside the quotations no English sentence is left, and the key stands in the Japanese sentence."""
    for task in lora.sections(language="ja"):
        _, section = await written(task)
        own = re.sub(r"「[^」]*」", "", section.text)

        assert re.search(r"[\u3040-\u309f]", own)
        assert not re.search(r"\b(?:the|papers|published|section|speak|authors)\b", own)
        assert all(paragraph.endswith("。") for paragraph in section.text.split("\n\n"))


async def test_other_languages_are_written_in_english(lora: Any):
    task = lora.section(1, 1)

    assert (await written(replace(task, language="fr")))[1] == (await written(task))[1]


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize(
    ("title", "abstract", "summary"),
    [
        pytest.param("A title", "", "", id="nothing-but-a-title"),
        pytest.param("A title", "Some abstract.", "", id="no-summary"),
        pytest.param("A title: and more", "Some abstract.", "手法を提案する。速い。", id="summary-in-japanese"),
        pytest.param("T", "x", "1. First. - second", id="looks-like-a-list"),
        pytest.param("$\\alpha$-Net: A", "$\\alpha$-Net is a net.", "α-Net is a net.", id="latex-name"),
    ],
)  # fmt: skip
async def test_odd_papers_are_cited_too(
    *, title: str, abstract: str, summary: str, language: str, route_of: Callable[..., Any], paper: Callable[..., Paper]
):
    task = route_of([paper(title, abstract), paper()]).section(1, 1, language=language)
    odd = replace(task.papers[0], summary=summary)

    _, section = await written(replace(task, papers=(odd, task.papers[1])))

    assert section.cited_keys == ("P1", "P2")
    assert tuple(KEY.findall(section.text)) == ("P1", "P2")
    assert section.title


async def test_papers_that_were_dropped_are_left_out(lora: Any):
    """A section may be asked for with fewer papers than its outline has."""
    task = lora.section(1, 1)
    fewer = replace(task, papers=task.papers[::2])

    _, section = await written(fewer)

    assert section.cited_keys == tuple(each.key for each in task.papers[::2])
    assert section.text.count("[P") == len(fewer.papers)


async def test_real_abstracts_are_written_about(arxiv_papers: list[Paper], route_of: Callable[..., Any]):
    """Any mix of real papers makes sections in which each stands once and nobody says "we"."""
    for task in route_of(arxiv_papers[:160], chapters=5).sections():
        _, section = await written(task)
        own = re.sub(r"“[^”]*”", "", section.text)

        assert tuple(KEY.findall(section.text)) == tuple(each.key for each in task.papers)
        assert not re.search(r"\b(?:[Ww]e|[Oo]ur|ours)\b", own), own
