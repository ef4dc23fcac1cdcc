"""Encoders of fastembed without a download.

The library's place is taken by a module of the same shape; where it is installed, it runs a model that the test makes.
"""

import json
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.common.errors import NotReady
from services.embedding.fastembed_encoder import FastembedEncoder, encoder_of

TEXTS = ["low rank adaptation", "rank", "object tracking in long videos", ""]


class FakeLibrary(ModuleType):
    """Has one model, "org/tiny", whose vector counts the text's characters; opens it unless told otherwise."""

    def __init__(self) -> None:
        super().__init__("fastembed")
        self.opened: list[tuple[str, str]] = []
        self.failure: Exception | None = None
        library = self

        class TextEmbedding:
            def __init__(self, model_name: str, cache_dir: str) -> None:
                library.opened.append((model_name, cache_dir))
                if library.failure:
                    raise library.failure

            @staticmethod
            def list_supported_models() -> list[dict[str, Any]]:
                return [{"model": "org/tiny", "dim": 3, "license": "mit"}]

            def embed(self, documents: list[str]) -> Iterator[NDArray[np.float64]]:
                for text in documents:
                    yield np.array([text.count("a"), len(text), 0.0])

        self.TextEmbedding = TextEmbedding


@pytest.fixture
def library(monkeypatch) -> FakeLibrary:
    fake = FakeLibrary()
    monkeypatch.setitem(sys.modules, "fastembed", fake)
    return fake


def test_a_model_the_library_has_is_known_with_its_dimension(library, tmp_path):
    """Before anything is opened: vectors that are kept already need no model."""
    made = encoder_of("org/tiny", tmp_path)

    assert made is not None
    assert (made.name, made.dimension) == ("fastembed:org/tiny", 3)
    assert library.opened == []


@pytest.mark.parametrize("model", ["org/none", "ORG/Tiny", "tiny", ""])
def test_a_model_the_library_does_not_have_is_none(library, model, tmp_path):
    """One spelling only: another would be another collection of the same vectors."""
    assert encoder_of(model, tmp_path) is None


def test_a_missing_library_is_told_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "fastembed", None)

    with pytest.raises(NotReady, match=r"encoder fastembed:org/tiny: .*pip install 'paperroute\[fastembed\]'"):
        encoder_of("org/tiny", tmp_path)


def test_rows_are_unit_vectors_whatever_the_model_makes(library, tmp_path):
    rows = FastembedEncoder("org/tiny", 3, tmp_path).encode(["aabb", "bb", ""])

    assert rows.dtype == np.float32
    assert np.allclose(rows, [[2 / 20**0.5, 4 / 20**0.5, 0], [0, 1, 0], [1, 0, 0]])


def test_the_model_is_opened_once_from_the_given_folder(library, tmp_path):
    encoder = FastembedEncoder("org/tiny", 3, tmp_path / "models")
    together = threading.Barrier(4)

    def encode(_number: int) -> None:
        together.wait(timeout=20)
        encoder.encode([])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(encode, range(4)))

    assert library.opened == [("org/tiny", str(tmp_path / "models"))]


@pytest.mark.parametrize("failure", [ValueError("from any source"), OSError("disk"), Exception("native")])
def test_a_model_that_cannot_be_opened_is_told_with_its_folder(library, failure, tmp_path):
    library.failure = failure

    with pytest.raises(NotReady, match=f"encoder fastembed:org/tiny: .*{failure}.*{tmp_path}"):
        FastembedEncoder("org/tiny", 3, tmp_path).encode([])


def test_calls_after_a_failed_opening_are_refused_at_once(library, tmp_path):
    """Without a network each try takes most of a minute, in a thread that others wait for."""
    library.failure = ValueError("from any source")
    encoder = FastembedEncoder("org/tiny", 3, tmp_path)

    for _ in range(3):
        with pytest.raises(NotReady, match="from any source"):
            encoder.encode([])

    assert len(library.opened) == 1


def test_the_opening_is_tried_again_after_the_pause(library, tmp_path):
    library.failure = ValueError("from any source")
    encoder = FastembedEncoder("org/tiny", 3, tmp_path, pause_s=0)
    with pytest.raises(NotReady):
        encoder.encode([])

    library.failure = None

    assert encoder.encode(["a"]).shape == (1, 3)


@pytest.fixture(scope="module")
def installed() -> Any:
    """The library itself with a model of eight numbers a word, made here and registered as the library allows."""
    library = pytest.importorskip("fastembed", reason="needs the extra paperroute[fastembed]")
    from fastembed.common.model_description import ModelSource, PoolingType

    library.TextEmbedding.add_custom_model(
        model="paperroute/tiny",
        pooling=PoolingType.MEAN,
        normalization=False,
        sources=ModelSource(url="http://127.0.0.1:9/never-asked"),
        dim=8,
        model_file="model.onnx",
    )
    return library


@pytest.fixture
def models(installed, tmp_path) -> Path:
    """A folder in which the model's files lie as if they had been downloaded."""
    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    table = np.random.default_rng(3).normal(size=(len(vocabulary), 8)).astype(np.float32)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(lookup_model(table))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64, "pad_token": "[PAD]"}))
    (folder / "config.json").write_text(json.dumps({"pad_token_id": 0}))
    return folder.parent


def test_the_installed_library_runs_a_model_from_its_folder(models):
    encoder = encoder_of("paperroute/tiny", models)

    assert encoder is not None
    rows = encoder.encode(TEXTS)
    assert rows.shape == (4, 8)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert rows[1] @ rows[0] > rows[1] @ rows[2]


def test_a_row_of_the_installed_library_depends_on_its_own_text_only(models):
    """A vector must be the same to the bit whatever it was encoded beside, or caching would change results."""
    encoder = FastembedEncoder("paperroute/tiny", 8, models)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])

    assert np.array_equal(encoder.encode(TEXTS), alone)


def test_damaged_files_of_the_installed_library_are_told(models):
    (models / "tiny" / "model.onnx").write_bytes(b"not a model")

    with pytest.raises(NotReady, match="fastembed:paperroute/tiny"):
        FastembedEncoder("paperroute/tiny", 8, models).encode([])


def test_a_model_the_installed_library_cannot_download_is_told(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(NotReady, match=r"fastembed:BAAI/bge-small-en-v1\.5: .*huggingface\.co"):
        FastembedEncoder("BAAI/bge-small-en-v1.5", 384, tmp_path).encode([])


def lookup_model(table: NDArray[np.float32]) -> bytes:
    """Return an ONNX model that reads each token's row in `table`: input_ids (batch, length) -> (batch, length, d).

    Written by hand, field by field, because nothing else here needs the package that writes such files.
    Source: the message ModelProto of onnx.proto3, version 8 of its format.
    """
    int64, float32 = 7, 1
    weights = numbers((1, table.shape[0]), (1, table.shape[1]), (2, float32))
    weights += field(8, b"table") + field(9, table.tobytes())
    node = field(1, b"table") + field(1, b"input_ids") + field(2, b"last_hidden_state") + field(4, b"Gather")
    graph = field(1, node) + field(2, b"lookup") + field(5, weights)
    graph += field(11, tensor("input_ids", int64, 2)) + field(11, tensor("attention_mask", int64, 2))
    graph += field(12, tensor("last_hidden_state", float32, 3))
    return numbers((1, 8)) + field(7, graph) + field(8, numbers((2, 13)))


def tensor(name: str, kind: int, rank: int) -> bytes:
    """Return a ValueInfoProto of a tensor whose sizes are open."""
    shape = b"".join(field(1, field(2, f"{name}_{axis}".encode())) for axis in range(rank))
    return field(1, name.encode()) + field(2, field(1, numbers((1, kind)) + field(2, shape)))


def field(number: int, value: bytes) -> bytes:
    """Return a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def numbers(*fields: tuple[int, int]) -> bytes:
    """Return varint fields."""
    return b"".join(varint(number << 3) + varint(value) for number, value in fields)


def varint(value: int) -> bytes:
    digits: Iterable[int] = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    *low, high = digits
    return bytes([*(each | 128 for each in low), high])
