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

    def __init__(self, local: Mapping[str, Maker], remote: Mapping[str, Maker]) -> None:
        """Name the providers, each with what makes its encoders.

        Args:
            local: of models on this machine.
            remote: of models elsewhere, whose names may say the length of their vectors.
        """
        self._makers = {**local, **remote}
        self._remote = sorted(remote)
        self._kept: OrderedDict[str, Encoder] = OrderedDict()

    @property
    def wanted(self) -> str:
        """What a name must be, in words."""
        words = f"provider:model with the provider {' or '.join(sorted(self._makers))} and a model that it has"
        return f"{words}, or any model of {' or '.join(self._remote)} as model@dimension" if self._remote else words

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
