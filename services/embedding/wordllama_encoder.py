"""The encoder that needs no download: a text is the mean of its tokens' vectors, from the files of `wordllama`.

Source: wordllama 0.4.0.post1 (MIT), `WordLlamaInference.embed`. Its files are read directly, because the package's own
loader does not find the tokenizer that lies in its wheel and would ask the network for it. That is also the lean way:
importing wordllama sets up the root logger and loads an HTTP client, and its pooling pads every text to the longest
of 64, which takes gigabytes where one abstract is very long. The vectors are the same to the bit.
"""

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from services.common.errors import NotReady
from services.embedding.paper_vectors import unit_rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROVIDER = "wordllama"
MODEL = "l2_supercat_256"
TOKENIZER_FILE = "tokenizers/l2_supercat_tokenizer_config.json"
WEIGHTS_FILE = "weights/l2_supercat_256.safetensors"


def encoder_of(model: str) -> "WordLlamaEncoder | None":
    """Return the encoder of a model; None for any but the one that lies in the package."""
    return WordLlamaEncoder() if model == MODEL else None


class WordLlamaEncoder:
    """A static model of 32,000 tokens; encodes some thousand abstracts a second on one core."""

    name = f"{PROVIDER}:{MODEL}"
    dimension = 256

    def __init__(self, package: str = "wordllama") -> None:
        """Name the package whose folder holds the files; nothing is read before `encode`."""
        self._package = package
        self._loading = threading.Lock()
        self._model: tuple[Tokenizer, NDArray[np.float16]] | None = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return shape (len(texts), 256), rows of L2 norm 1.

        Raises:
            NotReady: a file of the package is missing or damaged.
        """
        tokenizer, table = self._loaded()
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            # One text at a time: the batch call is no quicker at a hundred abstracts and starts a thread per core.
            tokens = tokenizer.encode(text, add_special_tokens=False).ids
            if tokens:
                row[:] = table[tokens].mean(axis=0, dtype=np.float32)
        return unit_rows(rows)

    def _loaded(self) -> "tuple[Tokenizer, NDArray[np.float16]]":
        with self._loading:
            if self._model is None:
                self._model = self._read()
            return self._model

    def _read(self) -> "tuple[Tokenizer, NDArray[np.float16]]":
        found = importlib.util.find_spec(self._package)  # imports nothing
        if found is None or not found.submodule_search_locations:
            raise NotReady(f"encoder {self.name}", "its package is missing; pip install 'paperroute[embedding]'")
        from safetensors import SafetensorError, safe_open
        from tokenizers import Tokenizer

        folder = Path(found.submodule_search_locations[0])
        try:
            tokenizer = Tokenizer.from_str((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
            with safe_open(folder / WEIGHTS_FILE, framework="np") as file:
                table: NDArray[np.float16] = file.get_tensor("embedding.weight")
        except (OSError, SafetensorError) as error:
            advice = f"a file of its package cannot be read ({error}); reinstall {self._package}"
            raise NotReady(f"encoder {self.name}", advice) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer, table
