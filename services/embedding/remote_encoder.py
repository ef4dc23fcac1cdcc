"""Encoders of providers: paid for, recorded, and held to what they promise.

Three models are known by their names. Any other, also of a server that speaks OpenAI's protocol, is named with the
length of its vectors: "ollama:nomic-embed-text@768". So the length is known before anything is asked, and a model whose
vectors are of another one is told.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.errors import NotReady, UpstreamFailed
from services.common.paid.caller import Caller, Scope
from services.common.paid.calls import Outcome, PaidCall, PaidCalls, Reply, TextSink
from services.common.paid.faults import REACTIONS, FaultKind, ProviderFault
from services.common.paid.usage import TokenUsage, summed
from services.common.providers.advice import unusable
from services.common.providers.chat import EmbeddingReply, Provider
from services.common.providers.registry import Providers
from services.common.providers.tokens import estimated_tokens
from services.common.vectors import bytes_of, vectors_of
from services.embedding.paper_vectors import Encoded, unit_rows

DIMENSIONS = {
    "openai:text-embedding-3-large": 1_024,
    "openai:text-embedding-3-small": 1_536,
    "gemini:gemini-embedding-001": 1_024,
}
"""Length of the vectors of models that are known."""
WITHOUT_EMBEDDINGS = ("anthropic",)
"""Providers that have no encoders."""
MAX_DIMENSION = 4_096
PROMPT_ID = "embedding.v1"
SETTING = "PAPERROUTE_EMBEDDING__ENCODER"

MAX_TEXT_BYTES = 8_000
"""Longest text that is encoded, the rest is left out: a token has at least one byte, and models take 8,191 tokens. The
longest of 50,007 real abstracts has 2,934 characters."""
MAX_BATCH_TOKENS = 100_000
"""Most tokens of one request by our estimate; OpenAI takes 300,000."""
MAX_BATCH_TEXTS = {"openai": 2_048}
DEFAULT_BATCH_TEXTS = 100
"""Most texts of one request; Gemini takes 100, and other servers are not known to take more."""
BYTES_PER_TOKEN = 2
"""For the most a text can take: English has about four, Japanese about two and a half."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Texts of one request."""

    scope: Scope
    item: str
    """What for, with its number: "papers 2"."""
    texts: tuple[str, ...]


def encoder_of(name: str, providers: Providers, calls: PaidCalls) -> "RemoteEncoder | None":
    """Return the encoder of "provider:model" or "provider:model@dimension"; None when there is none of that name."""
    provider_name, _, rest = name.partition(":")
    model, _, digits = rest.rpartition("@")
    is_told = bool(model) and digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_DIMENSION))
    known = DIMENSIONS.get(f"{provider_name}:{model}" if is_told else name)
    dimension = int(digits) if is_told else known
    provider = providers.find(provider_name)
    if provider is None or not dimension or dimension > MAX_DIMENSION:
        return None
    return RemoteEncoder(provider, model if is_told else rest, dimension, calls, is_default=dimension == known)


class RemoteEncoder:
    """An `Encoder` of a provider."""

    def __init__(
        self, provider: Provider, model: str, dimension: int, calls: PaidCalls, *, is_default: bool = True
    ) -> None:
        """Name a model.

        Args:
            provider: who has it.
            model: its name, without the provider.
            dimension: length of its vectors.
            calls: pays and records.
            is_default: whether the length is the model's usual one, which its name leaves out.
        """
        self.model = f"{provider.name}:{model}"
        self.name = self.model if is_default else f"{self.model}@{dimension}"
        self.dimension = dimension
        self._provider = provider
        self._model = model
        self._calls = calls

    async def open(self) -> None:
        """Do nothing: a provider is asked only for what is wanted."""

    async def encode(self, papers: Sequence[str], texts: Sequence[str], caller: Caller) -> Encoded:
        """Return the vectors; requests go side by side. See `Encoder`."""
        most = MAX_BATCH_TEXTS.get(self._provider.name, DEFAULT_BATCH_TEXTS)
        batches = [*_batches(papers, Scope.PUBLIC, "papers", most), *_batches(texts, Scope.TENANT, "texts", most)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._encoded(batch, caller)) for batch in batches]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        done = [task.result() for task in tasks]
        rows = np.concatenate([encoded.rows for encoded in done])
        return Encoded(rows=rows, usage=summed(usage for encoded in done for usage in encoded.usage))

    async def _encoded(self, batch: Batch, caller: Caller) -> Encoded:
        async def send(_sink: TextSink | None) -> Reply:
            reply = await self._provider.embed(self._model, batch.texts, self.dimension)
            rows = self._rows_of(reply, len(batch.texts))
            return Reply(
                body=bytes_of(rows),
                tokens=reply.tokens,
                outcome=Outcome.OK if rows.shape[1] == self.dimension else Outcome.MALFORMED,
                response_id=reply.response_id,
                response_model=reply.model,
                rate=reply.rate,
            )

        what = {"dimension": self.dimension, "texts": batch.texts}
        worst = sum(len(text.encode()) for text in batch.texts) // BYTES_PER_TOKEN + len(batch.texts)
        call = PaidCall(
            model=self.model,
            endpoint=self._provider.endpoint,
            payload=json.dumps(what, ensure_ascii=False, sort_keys=True).encode(),
            scope=batch.scope,
            prompt_id=PROMPT_ID,
            worst=TokenUsage(input_tokens=worst, is_estimated=True),
            dimension=self.dimension,
        )
        try:
            answer = await self._calls.run(call, caller.for_step(batch.item), send)
        except ProviderFault as fault:
            if REACTIONS[fault.kind].stands_in:
                problem = f"{fault.kind.value}: {fault.problem}"
                raise UpstreamFailed(self.model, problem, retry_after_s=fault.retry_after_s or 1.0) from fault
            raise unusable(fault, self._provider, SETTING) from fault
        if answer.outcome is Outcome.MALFORMED:
            length = len(vectors_of(answer.body, 1)) // len(batch.texts)
            raise NotReady(self.name, f"its vectors have {length} numbers; name it {self.model}@{length}")
        return Encoded(rows=vectors_of(answer.body, self.dimension), usage=(answer.usage,))

    def _rows_of(self, reply: EmbeddingReply, count: int) -> NDArray[np.float32]:
        """Return the vectors of a reply as rows of L2 norm 1: some providers shorten theirs and leave it at that.

        They may be of another length than the encoder's name says.

        Raises:
            ProviderFault: it is not one vector of numbers for each text.
        """
        lengths = {len(vector) for vector in reply.vectors}
        if len(reply.vectors) != count or len(lengths) != 1:
            raise self._malformed(f"{count} vectors wanted, not {len(reply.vectors)}", reply)
        rows = np.array(reply.vectors, dtype=np.float32)
        if not np.isfinite(rows).all():
            raise self._malformed("a vector holds what is no number", reply)
        return unit_rows(rows)

    def _malformed(self, problem: str, reply: EmbeddingReply) -> ProviderFault:
        return ProviderFault(FaultKind.MALFORMED, self.model, problem, rate=reply.rate, tokens=reply.tokens)


def _batches(texts: Sequence[str], scope: Scope, what: str, most: int) -> Iterator[Batch]:
    """Yield the texts in requests of at most `most` texts and 100,000 tokens; a text is cut, but never left out."""
    batch: list[str] = []
    token_count = number = 0
    for text in map(_cut, texts):
        tokens = estimated_tokens(text)
        if batch and (len(batch) == most or token_count + tokens > MAX_BATCH_TOKENS):
            number += 1
            yield Batch(scope=scope, item=f"{what} {number}", texts=tuple(batch))
            batch, token_count = [], 0
        batch.append(text)
        token_count += tokens
    if batch:
        yield Batch(scope=scope, item=f"{what} {number + 1}", texts=tuple(batch))


def _cut(text: str) -> str:
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= MAX_TEXT_BYTES else encoded[:MAX_TEXT_BYTES].decode(errors="ignore")
