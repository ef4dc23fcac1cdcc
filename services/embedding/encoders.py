"""Encoders by name, "provider:model": made when one is first asked for, and kept."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping

from services.embedding.paper_vectors import Encoder

MAX_KEPT = 4
"""Encoders kept at once; each may hold a model of some gigabytes. The one not asked for longest goes first."""

Maker = Callable[[str], Encoder | None]
"""Makes the encoder of a model, without opening it; None when its provider has no such model. It may block.

It raises NotReady when the provider's package is missing.
"""


class Encoders:
    """The encoders that can be asked for."""

    def __init__(self, makers: Mapping[str, Maker]) -> None:
        """Name the providers, each with what makes its encoders."""
        self._makers = makers
        self._kept: OrderedDict[str, Encoder] = OrderedDict()

    @property
    def wanted(self) -> str:
        """What a name must be, in words."""
        return f"provider:model with the provider {' or '.join(sorted(self._makers))} and a model that it has"

    async def find(self, name: str) -> Encoder | None:
        """Return the encoder of a name, the same object as long as it is kept; None when there is none of that name.

        Raises:
            NotReady: its provider's package is missing.
        """
        if name not in self._kept:
            encoder = await asyncio.to_thread(self.make, name)
            if encoder is None:
                return None
            self._kept.setdefault(name, encoder)
        self._kept.move_to_end(name)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return self._kept[name]

    def make(self, name: str) -> Encoder | None:
        """Return a new encoder of a name; None when there is none of that name. It may block.

        Raises:
            NotReady: its provider's package is missing.
        """
        provider, _, model = name.partition(":")
        maker = self._makers.get(provider)
        return maker(model) if maker else None
