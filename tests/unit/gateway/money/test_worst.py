"""What calls to services can cost at worst, and that the services see it alike."""

from collections.abc import Iterator
from typing import Any

import pytest
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import paper_pb2
from paperroute.v1 import retrieval_service_pb2 as retrieval_pb
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import survey_pb2 as pb
from scripted_models import MemoryCalls, caller_for, model_of

from gateway.money.worst import Worst, check_priced, worst_of
from services.common.errors import Unpriced
from services.common.paid.calls import PaidCall
from services.common.paid.prices import PriceBook
from services.common.paid.sending import worst_of as worst_of_call
from services.common.paid.settings import BUILTIN
from services.generation import convert
from services.generation.llm.engine import LlmEngine

LUNA, TERRA = "openai:gpt-6-luna", "openai:gpt-6.1-terra"
OWN = PriceBook(
    '{"scripted:m": {"input_mtok": 1, "output_mtok": 10}, "own:encoder": {"input_mtok": 1, "output_mtok": 0}}'
)
SCRIPTED = "scripted:m"


class Models:
    """Takes any model."""

    def check_models(self, *_: object) -> None:
        """Any will do."""


def paper(number: int, abstract: str = "We propose a method.") -> paper_pb2.Paper:
    made = paper_pb2.Paper(paper_id=f"2501.{number:05d}", title=f"Name{number}: a paper", abstract=abstract)
    made.published_at.seconds = 1_735_700_000
    return made


def keyed(count: int, summary: str) -> Iterator[generation_pb.KeyedPaper]:
    for number in range(1, count + 1):
        yield generation_pb.KeyedPaper(key=f"P{number}", paper=paper(number), summary=summary)


def plan(**fields: Any) -> generation_pb.PlanSearchRequest:
    return generation_pb.PlanSearchRequest(**{"model": SCRIPTED, "question": "How is RAG evaluated?", **fields})


def summary(abstract: str = "We propose a method.", **fields: Any) -> summarization_pb.SummarizePaperRequest:
    given = {"model": SCRIPTED, "paper": paper(1, abstract), "language": "en", **fields}
    return summarization_pb.SummarizePaperRequest(**given)


def section(count: int = 8, text: str = "It is good.", **fields: Any) -> generation_pb.WriteSectionRequest:
    keys = [f"P{number}" for number in range(1, count + 1)]
    given = {
        "model": SCRIPTED,
        "question": "How is RAG evaluated?",
        "language": "en",
        "outline": [generation_pb.OutlineChapter(sections=[generation_pb.OutlineSection(keys=keys)])],
        "chapter_number": 1,
        "section_number": 1,
        "papers": list(keyed(count, text)),
        "route_titles": [f"Name{number}: a paper of some length about it" for number in range(1, count + 1)],
        **fields,
    }
    return generation_pb.WriteSectionRequest(**given)


def frame(count: int = 40, text: str = "It is good.", chapters: int = 5) -> generation_pb.WriteFrameRequest:
    papers = list(keyed(count, text))
    each = count // chapters
    outline = [
        generation_pb.OutlineChapter(
            sections=[generation_pb.OutlineSection(keys=[paper.key for paper in papers[start : start + each]])]
        )
        for start in range(0, count, each)
    ]
    return generation_pb.WriteFrameRequest(
        model=SCRIPTED, question="q", language="en", outline=outline, papers=papers, search_terms=["x"]
    )


class FirstCall(Exception):
    """Carries the first call that would be sent."""


class Refusing(MemoryCalls):
    """Sends nothing."""

    async def run(self, call: PaidCall, *_: Any, **__: Any) -> Any:
        raise FirstCall(call)


async def first_call(request: Any) -> PaidCall:
    engine = LlmEngine(model_of([""], calls=Refusing()))
    try:
        match request:
            case generation_pb.PlanSearchRequest():
                await engine.plan_search(convert.plan_task_of(request, Models()), caller_for("plan"))
            case summarization_pb.SummarizePaperRequest():
                await engine.summarize_paper(convert.summary_task_of(request, Models()), caller_for("summarize"))
            case generation_pb.WriteSectionRequest():
                await anext(engine.write_section(convert.section_task_of(request, Models()), caller_for("write")))
            case generation_pb.WriteFrameRequest():
                await anext(engine.write_frame(convert.frame_task_of(request, Models()), caller_for("frame")))
    except FirstCall as sent:
        return sent.args[0]
    raise AssertionError("nothing was asked")


LONG = 'They propose “a method” that \\"quotes\\" much.\n' * 40
JAPANESE = "本研究では、低ランク適応を用いた新しい手法を提案する。" * 30


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(plan(), id="plan"),
        pytest.param(plan(question="画像生成のLoRA周りの技術トレンド" * 50), id="plan, Japanese"),
        pytest.param(summary(), id="summary"),
        pytest.param(summary(LONG), id="summary, long"),
        pytest.param(summary(JAPANESE, language="ja", summary_seconds=120), id="summary, Japanese"),
        pytest.param(summary(language="zh", summary_seconds=60), id="summary, Chinese"),
        pytest.param(summary(language="th", summary_seconds=60), id="summary, Thai"),
        pytest.param(summary(language="de", summary_seconds=5), id="summary, German, short"),
        pytest.param(section(), id="section"),
        pytest.param(section(50, LONG), id="section, large"),
        pytest.param(section(8, JAPANESE, language="ja"), id="section, Japanese"),
        pytest.param(section(100, LONG[:700], form=generation_pb.SECTION_FORM_SINGLE), id="single"),
        pytest.param(frame(), id="frame"),
        pytest.param(frame(300, "They propose a method that is good. " * 20, 30), id="frame, large"),
    ],
)
async def test_the_least_is_what_the_service_will_reserve_for_its_first_call_and_not_much_more(request_: Any):
    """Less would send the service back for more each time; much more would keep others waiting."""
    reserved = worst_of_call(await first_call(request_), OWN)
    found = worst_of(request_, OWN)

    assert reserved is not None
    assert reserved <= found.least < 2.5 * reserved
    assert found.most > 2 * found.least


@pytest.mark.parametrize(
    ("request_", "item"),
    [
        (plan(), ""),
        (summary(), "2501.00001"),
        (section(), "1.1"),
        (frame(), ""),
        (embedding_pb.EmbedPapersRequest(papers=[paper(1)]), ""),
    ],
)
def test_what_a_call_is_for_is_named_as_the_ledgers_name_it(request_: Any, item: str):
    assert worst_of(request_, OWN).item == item


def test_candidates_are_asked_side_by_side():
    assert worst_of(plan(plan_candidates=10), OWN).least == 10 * worst_of(plan(), OWN).least


def test_models_that_may_stand_in_count_in_the_most():
    prices = PriceBook('{"own:a": {"input_mtok": 1, "output_mtok": 1}, "own:b": {"input_mtok": 5, "output_mtok": 5}}')
    alone, both = (worst_of(summary(model=models), prices) for models in ("own:a", "own:a,own:b"))
    never = worst_of(summary(model=f"own:a,{BUILTIN},own:b"), prices)

    assert (both.least, both.most) == (alone.least, 6 * alone.most)
    assert never == alone


@pytest.mark.parametrize("models", [BUILTIN, f"{BUILTIN},openai:gpt-6-luna", "", "openai:nobody-knows-this"])
def test_what_costs_nothing_or_has_no_price_is_granted_nothing(models: str):
    """The service itself says that it has no price."""
    assert worst_of(summary(model=models), OWN) == Worst(item="2501.00001", least=0, most=0)


def test_vectors_cost_by_the_bytes_of_title_and_abstract():
    request = embedding_pb.EmbedPapersRequest(encoder="own:encoder@16", papers=[paper(1, "x" * 2_000), paper(2, "")])
    found = worst_of(request, OWN)

    assert 2_000_000 < found.least < 3_000_000


@pytest.mark.parametrize("encoder", ["", "wordllama:l2_supercat_256", "fastembed:BAAI/bge-small-en-v1.5"])
def test_vectors_of_our_own_machines_cost_nothing(encoder: str):
    request = embedding_pb.EmbedPapersRequest(encoder=encoder, papers=[paper(1)])

    assert worst_of(request, OWN) == Worst(item="", least=0, most=0)


@pytest.mark.parametrize("encoder", ["openai:text-embedding-3-large", "gemini:gemini-embedding-001"])
def test_a_search_is_granted_what_the_longest_terms_cost_by_any_encoder(encoder: str):
    """It is not known which one the source needs, if it needs one."""
    terms = ["\N{GRINNING FACE}" * 200] * 10
    found = worst_of(retrieval_pb.SearchPapersRequest(search_terms=terms), OWN)
    dearest = worst_of(embedding_pb.EmbedPapersRequest(encoder=encoder, query=terms[0]), PriceBook(""))

    assert found.least == 0
    assert 10 * dearest.least <= found.most <= 100 * dearest.least


def spec(**models: str) -> pb.SurveySpec:
    chosen = {"plan": LUNA, "summarize": LUNA, "write": f"{TERRA},{LUNA}", "frame": LUNA, **models}
    return pb.SurveySpec(models=pb.ModelChoice(**chosen), writer=pb.WRITER_SECTIONS)


@pytest.mark.parametrize(
    ("models", "unpriced"),
    [
        pytest.param({}, None, id="all are priced"),
        pytest.param({"plan": "ollama:mine"}, "ollama:mine", id="one is not"),
        pytest.param({"write": f"{TERRA},ollama:mine"}, "ollama:mine", id="one that may stand in"),
        pytest.param({"write": f"{TERRA},{BUILTIN},ollama:mine"}, None, id="one that never will"),
        pytest.param({"plan": BUILTIN, "write": BUILTIN}, None, id="the built-in engine"),
        pytest.param({"embed": "openai:text-embedding-3-large"}, None, id="an encoder"),
        pytest.param({"embed": "openai:text-embedding-3-large@256"}, None, id="an encoder of another length"),
        pytest.param({"embed": "ollama:nomic-embed-text@768"}, "ollama:nomic-embed-text", id="an unpriced encoder"),
        pytest.param({"embed": "wordllama:l2_supercat_256"}, None, id="a local encoder"),
    ],
)
def test_a_budget_needs_the_price_of_every_model_that_may_be_called(models: dict[str, str], unpriced: str | None):
    prices = PriceBook("")
    check_priced(spec(**models), prices, has_limit=False)
    if unpriced is None:
        check_priced(spec(**models), prices, has_limit=True)
        return
    with pytest.raises(Unpriced) as failure:
        check_priced(spec(**models), prices, has_limit=True)

    assert failure.value.metadata["model"] == unpriced


def test_a_survey_without_a_frame_needs_no_price_for_one():
    alone = spec(frame="ollama:mine")
    alone.writer = pb.WRITER_SINGLE

    check_priced(alone, PriceBook(""), has_limit=True)
