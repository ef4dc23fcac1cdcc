"""Encoders that run on this machine, as the service asks them: in threads, for nothing."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.paid.caller import Caller
from services.common.paid.usage import Usage
from services.embedding.paper_vectors import Encoded


class LocalModel(Protocol):
    """Turns texts into vectors; `encode` blocks and is called in a thread, by several threads at once."""

    @property
    def name(self) -> str:
        """The model and its provider, as "provider:model"."""

    @property
    def dimension(self) -> int:
        """Length of a vector; known before the model is opened."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return shape (len(texts), dimension); each row has L2 norm 1 and depends on its own text only.

        Without texts it does no more than open the model.

        Raises:
            NotReady: the model cannot be opened; a later call tries again.
        """


class LocalEncoder:
    """An `Encoder` around a model of this machine: it costs nothing and counts no tokens."""

    def __init__(self, model: LocalModel) -> None:
        self.name = model.name
        self.dimension = model.dimension
        self._model = model

    async def open(self) -> None:
        """Open the model.

        Raises:
            NotReady: it cannot be opened; a later call tries again.
        """
        await asyncio.to_thread(self._model.encode, [])

    async def encode(self, papers: Sequence[str], texts: Sequence[str], caller: Caller) -> Encoded:  # noqa: ARG002
        """Return the vectors, made by one call; see `Encoder`."""
        rows = await asyncio.to_thread(self._model.encode, [*papers, *texts])
        return Encoded(rows=rows, usage=(Usage(model=self.name, cost_nano_usd=0, is_estimated=True),))
