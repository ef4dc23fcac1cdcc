"""Which models `paperroute survey` proposes when a provider's key is there, and what it says of them beforehand."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.cli import report
from gateway.document.stages import name_of
from services.common.paid.money import shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A provider's models: a quick one for the many short calls, a better one for the text."""

    key_names: tuple[str, ...]
    quick: str
    writer: str


PROPOSALS = (
    Proposal(
        key_names=("OPENAI_API_KEY", "PAPERROUTE_OPENAI__API_KEY", "PAPERROUTE_OPENAI__API_KEY_FILE"),
        quick="openai:gpt-6-luna",
        writer="openai:gpt-6.1-terra",
    ),
    Proposal(
        key_names=("ANTHROPIC_API_KEY", "PAPERROUTE_ANTHROPIC__API_KEY", "PAPERROUTE_ANTHROPIC__API_KEY_FILE"),
        quick="anthropic:claude-haiku-5-5",
        writer="anthropic:claude-sonnet-5-5",
    ),
    Proposal(
        key_names=(
            "GEMINI_API_KEY",
            "GOOGLE_API_KEY",
            "PAPERROUTE_GEMINI__API_KEY",
            "PAPERROUTE_GEMINI__API_KEY_FILE",
        ),
        quick="gemini:gemini-3.1-flash-lite",
        writer="gemini:gemini-3.8-flash",
    ),
)
"""In the order in which they are looked for."""

_STAGES = ("plan", "summarize", "write", "frame")


def proposed(environment: Mapping[str, str] | None = None) -> pb.ModelChoice:
    """Return the models of the first provider whose key is set; none where no key is, or where models are configured.

    Only `paperroute survey` in its own process asks this: a server never picks a paid model by itself.
    """
    names = os.environ if environment is None else environment
    if any(names.get(f"PAPERROUTE_MODELS__{stage.upper()}") for stage in _STAGES):
        return pb.ModelChoice()
    for proposal in PROPOSALS:
        if any(names.get(name) for name in proposal.key_names):
            quick, writer = proposal.quick, proposal.writer
            return pb.ModelChoice(plan=quick, summarize=quick, write=writer, frame=quick)
    return pb.ModelChoice()


def tell_estimate(estimate: service_pb.EstimateSurveyResponse) -> None:
    """Print which models will be called and what that may cost; nothing when none costs."""
    paid = [stage for stage in estimate.stages if stage.input_tokens]
    if not paid:
        return
    for stage in paid:
        name = name_of(stage.stage)
        cost = f"${shown(stage.cost_nano_usd)}" if stage.HasField("cost_nano_usd") else "unpriced"
        tokens = f"{stage.input_tokens:,} tokens in, {stage.output_tokens:,} out"
        report.tell(f"  {name:<10} {stage.model}: {stage.call_count:,} calls, about {tokens}, {cost}")
    is_known = estimate.HasField("cost_nano_usd")
    total = "unknown, since a model is unpriced"
    if is_known:
        low, high = shown(estimate.low_cost_nano_usd), shown(estimate.high_cost_nano_usd)
        total = f"${shown(estimate.cost_nano_usd)} (${low} to ${high})"
    report.tell(f"estimate for {estimate.paper_count} papers: {total}; --model extractive:builtin costs nothing")
