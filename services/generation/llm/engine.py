"""A language model behind the task interface: one model, no stand-in for it."""

from collections.abc import AsyncIterator
from dataclasses import replace

from services.common.paid.caller import Caller
from services.generation.extractive.engine import ExtractiveEngine
from services.generation.llm import frame, plan, summarize
from services.generation.llm.chat_model import ChatModel, Tally
from services.generation.llm.plan import TextEmbedder
from services.generation.tasks import (
    FramePart,
    FrameTask,
    PaperSummary,
    PlanTask,
    Restarted,
    SearchPlan,
    SectionForm,
    SectionTask,
    SummaryTask,
    WrittenFrame,
    WrittenSection,
)


class LlmEngine:
    """Does every task with one model.

    Besides what the interface names, its methods raise Refused, Unusable and ProviderFault: for them another engine
    can stand in, see `fallback`.
    """

    def __init__(self, model: ChatModel, embedder: TextEmbedder | None = None) -> None:
        """Take the model, and what compares the candidates of a plan by their meaning."""
        self.name = model.name
        self._model = model
        self._embedder = embedder

    def tallied(self, tally: Tally) -> "LlmEngine":
        """Return the same engine with a tally of its own, for one task."""
        return LlmEngine(self._model.tallied(tally), self._embedder)

    async def plan_search(self, task: PlanTask, caller: Caller) -> SearchPlan:
        """Return English search terms."""
        return await plan.plan_search(self._model, task, caller, self._embedder)

    async def summarize_paper(self, task: SummaryTask, caller: Caller) -> PaperSummary:
        """Return a summary; a paper without an abstract is not sent, since a model would write it from memory."""
        if not task.paper.abstract.strip():
            summary = await ExtractiveEngine().summarize_paper(task, caller)
            return replace(summary, fallback_reason="the paper has no abstract")
        return await summarize.summarize_paper(self._model, task, caller)

    def write_section(self, task: SectionTask, caller: Caller) -> AsyncIterator[str | Restarted | WrittenSection]:
        """Yield the text in pieces, then the section."""
        from services.generation.llm import section, single

        write = single.write_single if task.form is SectionForm.SINGLE else section.write_section
        return write(self._model, task, caller)

    def write_frame(self, task: FrameTask, caller: Caller) -> AsyncIterator[FramePart | WrittenFrame]:
        """Yield the parts, then the frame."""
        return frame.write_frame(self._model, task, caller)
