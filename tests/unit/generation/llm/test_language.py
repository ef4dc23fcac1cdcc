"""Whether a text can be in a language: what script tells, and where it tells nothing."""

import pytest

from services.common.languages import LANGUAGES
from services.generation.llm.language import is_in_language, is_latin, name_of, told_in

NATIVE = {
    "ja": "LoRA [P1]とDreamBooth [P2]はStable Diffusionを個人の画像に合わせる手法であり、学習する重みが異なる。",
    "ja-dense": "Transformer [P1]、Mamba [P2]、RWKV [P3]、RetNet [P4]を用いたText-to-Image Diffusionの比較である。",
    "zh": "本文提出了一种新的低秩适应方法LoRA，用于扩散模型Stable Diffusion的个性化微调，并减少了参数。",
    "ko": "LoRA와 DreamBooth는 Stable Diffusion을 개인 이미지에 맞추는 방법이며 학습하는 가중치가 서로 다르다.",
    "ru": "LoRA и DreamBooth приспосабливают Stable Diffusion к изображениям пользователя, но обучают разные веса.",
    "uk": "LoRA та DreamBooth пристосовують Stable Diffusion до зображень користувача, але навчають різні ваги.",
    "ar": "يضبط LoRA وDreamBooth نموذج Stable Diffusion على صور المستخدم لكنهما يدربان أوزانا مختلفة.",
    "he": "השיטות LoRA ו-DreamBooth מתאימות את Stable Diffusion לתמונות של המשתמש אבל מאמנות משקלים שונים.",
    "el": "Οι LoRA και DreamBooth προσαρμόζουν το Stable Diffusion στις εικόνες του χρήστη με διαφορετικά βάρη.",
    "hi": "LoRA और DreamBooth उपयोगकर्ता की छवियों के लिए Stable Diffusion को ढालते हैं पर अलग भार सीखते हैं।",
    "th": "LoRA และ DreamBooth ปรับ Stable Diffusion ให้เข้ากับภาพของผู้ใช้ แต่ฝึกน้ำหนักต่างกัน",
    "en": "LoRA [P1] and DreamBooth [P2] adapt Stable Diffusion to a user's images with α ≤ β but train other weights.",
    "de": "LoRA und DreamBooth passen Stable Diffusion an Bilder der Nutzer an, trainieren aber andere Gewichte.",
    "vi": "LoRA và DreamBooth điều chỉnh Stable Diffusion theo ảnh của người dùng nhưng huấn luyện trọng số khác nhau.",
}
ENGLISH = NATIVE["en"]


@pytest.mark.parametrize("case", NATIVE)
def test_a_text_is_in_its_own_language_whatever_the_names_in_it(case: str):
    assert is_in_language(NATIVE[case], case.removesuffix("-dense"))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        *(pytest.param(ENGLISH, case, id=f"English for {case}") for case in ("ja", "zh", "ko", "ru", "ar", "he", "hi")),
        pytest.param("LoRA (低ランク適応) freezes the weights of a model and trains two matrices", "ja", id="a gloss"),
        pytest.param(NATIVE["zh"], "ja", id="Chinese for Japanese"),
        pytest.param(NATIVE["ja"], "zh", id="Japanese for Chinese"),
        pytest.param(NATIVE["ja"], "en", id="Japanese for English"),
        pytest.param(NATIVE["ja-dense"], "en", id="Japanese full of names for English"),
        pytest.param(NATIVE["ko"], "ja", id="Korean for Japanese"),
        pytest.param(NATIVE["ru"], "en", id="Russian for English"),
    ],
)
def test_a_text_in_another_script_is_not(text: str, language: str):
    assert not is_in_language(text, language)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        pytest.param("", "ja", id="nothing"),
        pytest.param("LoRA [P1], DreamBooth", "ja", id="names alone"),
        pytest.param("[P1, P2] `x = torch.zeros(1)` $\\alpha_{long} + \\beta_{long}$", "ja", id="no words"),
        pytest.param(ENGLISH, "tlh", id="a language we do not know"),
    ],
)
def test_too_little_to_tell_by_is_not_held_against_a_text(text: str, language: str):
    assert is_in_language(text, language)


@pytest.mark.parametrize(("one", "other"), [("en", "de"), ("ru", "uk"), ("ar", "fa")])
def test_languages_of_one_script_are_not_told_apart(one: str, other: str):
    """The check promises no more than the script; a wrong language of the same script is not paid for twice."""
    assert is_in_language(NATIVE[one], other)


def test_serbian_is_written_in_either_script():
    assert is_in_language(NATIVE["ru"], "sr")
    assert is_in_language(ENGLISH, "sr")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_can_be_asked_for_in_itself(language: str):
    """A model that answered in English is told in the language it is to write."""
    assert is_in_language(5 * told_in(language), language)
    assert name_of(language) == LANGUAGES[language]


def test_latin_script():
    assert [language for language in ("en", "vi", "sr", "ja", "ru") if is_latin(language)] == ["en", "vi", "sr"]
