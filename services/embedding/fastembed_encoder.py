"""Encoders of the library fastembed: models of Hugging Face that run on this machine, each downloaded once.

Hugging Face is asked for a model's files when they are not in the folder yet, and for nothing when
HF_HUB_OFFLINE=1 is set. Queries and papers are encoded alike: the library adds no instruction to either.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from services.common.errors import NotReady
from services.embedding.paper_vectors import unit_rows

if TYPE_CHECKING:
    from fastembed import TextEmbedding

PROVIDER = "fastembed"
PAUSE_S = 60.0
"""Time after a failed opening in which calls are refused at once: without a network the library takes 39 s to fail."""


def encoder_of(model: str, folder: Path) -> "FastembedEncoder | None":
    """Return the encoder of a model, spelled as the library spells it; None when it has no such model.

    Args:
        model: such as "BAAI/bge-small-en-v1.5".
        folder: where the models' files are kept; made when it is missing.

    Raises:
        NotReady: the library is not installed.
    """
    try:
        from fastembed import TextEmbedding
    except ImportError as error:
        advice = "its package is missing; pip install 'paperroute[fastembed]'"
        raise NotReady(f"encoder {PROVIDER}:{model}", advice) from error
    dimensions = {each["model"]: each["dim"] for each in TextEmbedding.list_supported_models()}
    return FastembedEncoder(model, dimensions[model], folder) if model in dimensions else None


class FastembedEncoder:
    """One model of the library."""

    def __init__(self, model: str, dimension: int, folder: Path, *, pause_s: float = PAUSE_S) -> None:
        """Name a model that the library has; nothing is read before `encode`."""
        self.name = f"{PROVIDER}:{model}"
        self.dimension = dimension
        self._model_name = model
        self._folder = folder
        self._pause_s = pause_s
        self._loading = threading.Lock()
        self._model: TextEmbedding | None = None
        self._problem = ""
        self._refused_until = 0.0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return shape (len(texts), dimension), rows of L2 norm 1; a text is cut where the model's input ends.

        The first call downloads the model if its files are missing, which can take minutes.

        Raises:
            NotReady: the model cannot be downloaded or read.
        """
        model = self._loaded()
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            # One text at a time: beside a longer one it would be padded, and its vector would differ in the last bits.
            (row[:],) = model.embed([text])
        return unit_rows(rows)

    def _loaded(self) -> "TextEmbedding":
        with self._loading:
            if self._model is None:
                if time.monotonic() < self._refused_until:
                    raise NotReady(f"encoder {self.name}", self._problem)
                self._model = self._load()
            return self._model

    def _load(self) -> "TextEmbedding":
        try:
            from fastembed import TextEmbedding

            return TextEmbedding(self._model_name, cache_dir=str(self._folder))
        except Exception as error:  # the library passes on what four others raise, which share no other class
            self._problem = (
                f"its model cannot be opened ({error}); "
                f"it is downloaded from huggingface.co to {self._folder} when it is first used"
            )
            self._refused_until = time.monotonic() + self._pause_s
            raise NotReady(f"encoder {self.name}", self._problem) from error
