import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.retrieval.words import holds_all_words, plain_words, term_words, tokens


@pytest.mark.parametrize(
    ("term", "text"),
    [
        pytest.param("lora", "LoRA adapters", id="case"),
        pytest.param("LoRA", "two LoRAs are merged", id="plural of capitals"),
        pytest.param("loras", "a LoRA", id="plural in the term"),
        pytest.param("NeRF", "NeRFs of rooms", id="NeRFs"),
        pytest.param("nerfs", "a NeRF", id="nerfs"),
        pytest.param("API", "APIs", id="plural in -is"),
        pytest.param("GPU", "on 8 GPUs", id="plural in -us"),
        pytest.param("gpus", "one GPU", id="plural in -us in lower case"),
        pytest.param("VAE", "VAEs", id="plural in -es of capitals"),
        pytest.param("image", "images", id="plural in the text"),
        pytest.param("images", "image", id="plural in the term, singular in the text"),
        pytest.param("study", "studies", id="-ies"),
        pytest.param("studies", "a study", id="-ies in the term"),
        pytest.param("class", "classes", id="-sses"),
        pytest.param("processes", "process", id="-sses in the term"),
        pytest.param("patch", "patches", id="-ches"),
        pytest.param("cache", "KV caches", id="-ches of -che"),
        pytest.param("box", "boxes", id="-xes"),
        pytest.param("size", "sizes", id="-zes"),
        pytest.param("case", "cases", id="-ses"),
        pytest.param("bias", "biases", id="-ases"),
        pytest.param("movie", "movies", id="-ies of -ie"),
        pytest.param("analysis", "analyses", id="-yses"),
        pytest.param("matrix", "matrices", id="-ices"),
        pytest.param("benchmark metrics", "a benchmark and its metric", id="-ics that is a plural"),
        pytest.param("quantization", "quantisation", id="-isation"),
        pytest.param("quantised models", "a quantized model", id="-ised"),
        pytest.param("optimise", "optimizes", id="-izes"),
        pytest.param("analyze", "we analyse", id="-yse"),
        pytest.param("optimisers", "optimizer", id="-isers"),
        pytest.param("image", "text-to-image generation", id="part of a hyphenated word"),
        pytest.param("text-to-image", "text-to-image generation", id="hyphenated word"),
        pytest.param("text-to-image", "from text to image", id="hyphenated word in pieces"),
        pytest.param("text to image", "text-to-image", id="pieces in a hyphenated word"),
        pytest.param("fine-tuning", "finetuning", id="hyphenated word in one"),
        pytest.param("finetuning", "fine-tuning", id="word in one with a hyphen"),
        pytest.param("multi-object tracking", "multi-objects tracking", id="plural inside hyphens"),
        pytest.param("retrieval-augmented", "retrieval\u2013augmented", id="en dash"),
        pytest.param("retrieval augmented", "retrieval\u2011augmented", id="hyphen that does not break"),
        pytest.param("vision language", "vision\u2014language", id="em dash"),
        pytest.param("video", "image/video", id="slash"),
        pytest.param("video", "(video)", id="brackets"),
        pytest.param("video", "“video”,", id="quotation marks"),
        pytest.param("clip", "CLIP's", id="possessive"),
        pytest.param("clip", "CLIP\u2019s", id="typographic possessive"),
        pytest.param("models", "the models' size", id="possessive plural"),
        pytest.param("LoRA", "ＬｏＲＡ", id="full-width letters"),
        pytest.param("fine", "\ufb01ne", id="ligature"),
        pytest.param("frechet", "Fréchet", id="accent"),
        pytest.param("Fréchet", "Frechet", id="accent in the term"),
        pytest.param("Fréchet", r"Fr\'echet", id="accent in LaTeX"),
        pytest.param("Poincaré", r"Poincar\'{e}", id="accent in LaTeX with braces"),
        pytest.param("Schrödinger", r"Schr{\"o}dinger", id="umlaut in LaTeX"),
        pytest.param("Cech", r"\v{C}ech", id="háček in LaTeX"),
        pytest.param("LoRA", r"\textbf{LoRA}", id="bold in LaTeX"),
        pytest.param("LoRA", r"\textbf{LoRA}s", id="plural after LaTeX"),
        pytest.param("Mamba", r"{\em Mamba}", id="old LaTeX command"),
        pytest.param("namenet", r"\textsc{Name}Net", id="LaTeX inside a word"),
        pytest.param("k-means", "$k$-means", id="math"),
        pytest.param("alpha", r"$\alpha$-divergence", id="Greek letter in LaTeX"),
        pytest.param("LLaMA2", "LLaMA$_2$", id="subscript"),
        pytest.param("Gaussian splatting", r"${\rm Gaussian}$~Splatting", id="LaTeX space"),
        pytest.param("3D", "3D$^2$ and 3D", id="digits"),
        pytest.param("GPT-4", "GPT-4o and GPT-4", id="letters and digits"),
        pytest.param("reason", "rea\u00adson", id="soft hyphen"),
        pytest.param("画像生成", "「画像生成」について", id="Japanese"),
        pytest.param("ガウス", "ガウス", id="Japanese letters with their marks"),
        pytest.param("image LoRA image", "LoRA for an image", id="word that stands twice in the term"),
    ],
)
def test_text_holds_all_words(term, text):
    assert holds_all_words(term_words(term), tokens(text))


@pytest.mark.parametrize(
    ("term", "text"),
    [
        pytest.param("lora", "exploration", id="inside another word"),
        pytest.param("rag", "storage, ragged, fragments", id="inside other words"),
        pytest.param("generation", "generative", id="another form"),
        pytest.param("new", "news", id="news is no plural"),
        pytest.param("mean", "k-means", id="means is no plural"),
        pytest.param("bia", "bias", id="bias is no plural"),
        pytest.param("clas", "class", id="class"),
        pytest.param("analysi", "analysis", id="analysis"),
        pytest.param("proces", "process", id="process"),
        pytest.param("len", "lens", id="lens"),
        pytest.param("dynamic", "dynamics", id="dynamics is no plural"),
        pytest.param("physic", "physics", id="physics is no plural"),
        pytest.param("sery", "series", id="series"),
        pytest.param("specy", "species", id="species"),
        pytest.param("focu", "focus", id="focus"),
        pytest.param("base", "basis", id="basis is not base"),
        pytest.param("text-to-image", "text and images", id="a part is missing"),
        pytest.param("multi-object", "one object", id="first part is missing"),
        pytest.param("LoRA image generation", "LoRA for image editing", id="one of three words is missing"),
        pytest.param("か", "が", id="a Japanese mark makes another letter"),
        pytest.param("image", "", id="empty text"),
    ],
)
def test_text_lacks_a_word(term, text):
    assert not holds_all_words(term_words(term), tokens(text))


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("LoRA image generation", ("lora", "image", "generation")),
        ("Text-to-Image models", ("text-to-image", "model")),
        ("image images IMAGE", ("image",)),
        (" (RAG) ", ("rag",)),
        ("-- ?!", ()),
        ("", ()),
    ],
)
def test_words_of_a_term(term, words):
    assert term_words(term) == words


def test_plain_words_keep_their_spelling():
    """A search engine folds plurals in its own way, so it is given what was typed."""
    assert plain_words("Text-to-Images of the Fréchet kind") == ("text", "to", "images", "of", "the", "frechet", "kind")


@settings(deadline=None)
@given(st.text())
def test_any_text_holds_its_own_words(text):
    """Term and text are folded alike, whatever their characters."""
    assert holds_all_words(term_words(text), tokens(text))


@settings(deadline=None)
@given(st.text(alphabet=string.ascii_lowercase + "-", min_size=1))
def test_folding_is_stable(word):
    """A folded word folds to itself, so it finds the same papers as the word it was made of."""
    folded = term_words(word)

    assert term_words(" ".join(folded)) == folded
