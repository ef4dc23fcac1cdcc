import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import NotReady
from services.embedding.wordllama_encoder import TOKENIZER_FILE, WEIGHTS_FILE, WordLlamaEncoder, encoder_of

TEXTS = [
    "Low-rank adaptation of diffusion models\nWe adapt an image generator with few parameters.",
    "Personalized image generation\nA diffusion model learns a subject from three pictures.",
    "Pedestrian tracking\nBoxes are linked over time by their motion.",
    "画像生成の動向",
    "\ue000\ue001",
]


@pytest.fixture(scope="module")
def encoder() -> WordLlamaEncoder:
    return WordLlamaEncoder()


def package_folder() -> Path:
    found = importlib.util.find_spec("wordllama")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def test_the_one_model_of_the_package_is_known_by_its_name():
    made = encoder_of("l2_supercat_256")

    assert made is not None
    assert (made.name, made.dimension) == ("wordllama:l2_supercat_256", 256)
    assert [encoder_of(name) for name in ("l2_supercat", "l3_supercat_256", "")] == [None, None, None]


def test_rows_are_unit_vectors(encoder):
    rows = encoder.encode(TEXTS)

    assert rows.shape == (len(TEXTS), encoder.dimension)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_rows_are_those_of_the_library(encoder):
    """The files are read without the library's loader; its own pooling is the measure of ours."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
    from wordllama import WordLlamaInference

    folder = package_folder()
    table = load_file(folder / WEIGHTS_FILE)["embedding.weight"]
    library = WordLlamaInference(table, Tokenizer.from_file(str(folder / TOKENIZER_FILE)))

    assert np.allclose(encoder.encode(TEXTS), library.embed(TEXTS, norm=True), atol=1e-6)


def test_a_row_depends_on_its_own_text_only(encoder):
    """A vector must be the same to the bit whatever it was encoded beside, or caching would change results."""
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])

    assert np.array_equal(encoder.encode(TEXTS), alone)


def test_related_texts_are_closer_than_unrelated_ones(encoder):
    lora, personal, tracking = encoder.encode(TEXTS[:3])

    assert lora @ personal > lora @ tracking


def test_a_text_without_tokens_is_the_first_axis(encoder):
    """It has no direction; a unit vector is promised all the same, and dividing by its length would give NaN."""
    first_axis = np.eye(1, encoder.dimension, dtype=np.float32)[0]

    rows = encoder.encode(["", TEXTS[0], ""])

    assert np.array_equal(rows[[0, 2]], [first_axis, first_axis])
    assert not np.array_equal(rows[1], first_axis)


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([]).shape == (0, encoder.dimension)


def test_threads_at_once_get_the_same_rows():
    """The first call opens the model; callers in other threads wait for it."""
    fresh = WordLlamaEncoder()
    together = threading.Barrier(4)

    def encode(_number: int) -> bytes:
        together.wait(timeout=20)
        return fresh.encode(TEXTS).tobytes()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(encode, range(4)))) == 1


@pytest.mark.parametrize(
    "package",
    [
        pytest.param("paperroute_has_no_such_package", id="package missing"),
        pytest.param("json", id="files missing"),
    ],
)
def test_what_cannot_be_opened_is_told_each_time(package):
    broken = WordLlamaEncoder(package)

    for _ in range(2):
        with pytest.raises(NotReady, match=r"encoder wordllama:l2_supercat_256: .*install"):
            broken.encode(["text"])


def test_damaged_weights_are_told(tmp_path, monkeypatch):
    """An interrupted installation leaves such files."""
    package = tmp_path / "damaged_model"
    for name in (TOKENIZER_FILE, WEIGHTS_FILE):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / TOKENIZER_FILE).write_bytes((package_folder() / TOKENIZER_FILE).read_bytes())
    (package / WEIGHTS_FILE).write_bytes(b"not weights")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(NotReady, match="reinstall damaged_model"):
        WordLlamaEncoder("damaged_model").encode([])
