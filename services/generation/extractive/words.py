"""Words that carry a topic, told apart from words that carry a sentence."""

import re
from functools import lru_cache

WORD = re.compile(r"[^\W_]+(?:[-./+^’'][^\W_]+)*\+*")
"""A word as titles write it: "text-to-3D", "GPT-4.1", "C++"."""

_SHORTEST_PLURAL = 4  # letters: "bus" and "gas" are none


def words_in(text: str) -> frozenset[str]:
    """Return the words of a list that is written as running text."""
    return frozenset(text.split())


FUNCTION_WORDS = words_in(
    """
    a about above across after again against all along also although always am among an and another any are as at
    back be because been before being below between beyond both but by can cannot could did do does doing done
    down due during each either else enough et etc even ever every few first for from further get give given go
    had has have having he hence her here his how however i if in instead into is it its itself just last least
    less let like made make makes making many may me might more most much must my near neither never next no nor
    not nothing now of off often on once one ones only onto or other others our ours out over own per perhaps
    quite rather s same second see several shall she should since so some still such t take than that the their
    theirs them themselves then there thereby therefore these they third this those though three through
    throughout thus to together too toward towards two under unlike until up upon us use used uses using usually
    versus very via was we well were what when where whereas whether which while who whom whose why will with within
    without would yet you your
    """
)
"""Words of grammar; a noun phrase ends at them."""

GENERIC_WORDS = words_in(
    """
    ability able accurate achieve achieves achieving adaptive additional address addressing advance advanced
    advances advancing advantage aim aims allow allows amount analyses analyze analyzing applied apply applying
    approach approaches aspect aspects attempt author authors automated automatic automatically available based
    baseline baselines basis best better bi-level bridge bridging build capability capable case case-study cases
    challenge challenges challenging class closer collecting collection common comparative compared comparison
    complete complex component components comprehensive concept-based concept-driven considering content-based
    context-based contribution contributions current demonstrate designing develop developed developing
    development different direct diverse dynamic easy effect effective effectively effectiveness efficiency
    efficient efficiently emerging empirical enable enables enabling end-to-end enhance enhanced enhancement
    enhancing ensure entire equal era essential evaluate evaluating example examples existing experiment
    experiments exploit exploiting explore exploring extend extended extending extensive factor factors fast
    faster feature features find finding findings fine-grained flexible foundation-based framework frameworks free
    full fully future gap gaps general generalizable generalized generic global good great group guide guided
    handle hard help high high-fidelity high-performance high-quality higher highly hybrid idea impact
    implementation implicit important improve improved improved-based improvement improvements improves improving
    increase independent innovative insight insights inspired integrated integrating intelligent introduce
    introduces introducing introduction investigate investigating investigation issue issues jointly kind know
    known large large-scale lead learn learnable learned let level level-based levels leverage leverages
    leveraging light lightweight limit limitation limitations limited local long look low lower main major mapping
    matter meet meets method methodology methods mind minimal mixed model-agnostic modern module modules multiple
    natural need need-based needs new non notion novel number numerous object-level one-step open optimal overcome
    overcoming overview paper papers paradigm part part-level partial particular perform performance performs
    pilot pipeline place plug-and-play possible potential power powerful practical precise present presents
    principled problem problems procedure procedure-based progress promising proper properties property propose
    proposed proposes provide provides providing pure quality question questions range ready real real-world
    really recent reduce reduced reducing related reliable report require research result results rethinking
    reveal revealing review revisit revisited revisiting rich right robust role scalable scale scaling scenario
    scenarios scheme schemes score second-order self sensitive set sets setting settings share shared shot show
    shows side significant significantly simple simplified simultaneous single sketch small smart solution
    solutions solve solving sota sound special specific stage standard start state-of-the-art step steps story
    strategies strong structured studies studying success success-based successful suitable superior supervised
    survey systematic tackle tackling tale task-specific technical technique techniques test testing theoretical
    thing think thorough three-stage tool toolkit tools top toward towards train trained training-based true turn
    two-stage type types understand unified unifying unique universal unlock unlocking unsupervised useful user
    users variant variants variety various versatile version view way ways weight weights wide widely work works
    year years
    """
)
"""Words any paper could use of itself; a noun phrase that names a topic ends at them too."""

HEADS = words_in(
    """
    adapter agent agents ai aid algorithm algorithms analysis application applications architecture architectures
    block blocks building code codes computation computing data dataset datasets decoder decoding deep design
    diffusion domain domains dynamics edge edges encoder encoding engine environment environments experts feedback
    field fields form frame frames function functions fusion game games generation generator graph graphs image
    images inference information initiative intelligence interaction interface joint knowledge label labels
    language languages layer layers learning life loop loss machine machines management map maps measurement
    mechanism mechanisms metrics mixture model modeling models network networks object objects operator operators
    order parameter parameters patch path pattern patterns perspective plan platform platforms policies policy
    principle prior priors process processes processing program programming programs query rate ratio reality
    region regions representation representations response responses sample samples scene scenes science sensor
    sensors sequence sequences series server service services simulator software source space specialization state
    strategy structure structures study subject subjects support switch synthesis system systems target task tasks
    text theory time times token tokens track trade-off trade-offs traffic training transfer transform
    transformation transformer transformers tree trees understanding update updates validation value values
    variable variables vision world writing
    """
)
"""Words that name something only with a word before them: "video generation", "diffusion models"."""

COUNTABLE = words_in(
    """
    adapter agent algorithm architecture assistant attack auction autoencoder avatar benchmark code dataset
    document encoder experiment game graph image interface judge language map market metric model network object
    operator paradigm platform policy prior prompt query region representation rule scene sensor simulator system
    task tokenizer tracker transformer tree vehicle video
    """
)
"""Words that a heading wants in the plural."""

NOUNS = words_in(
    """
    accident acoustics adjustment agent agents agreement alignment analytics animal appraisal approval argument
    arithmetic arrival assessment assignment assistant assistants attachment attack avatar boundary calendar
    capital chemistry classification client clients coefficient component content crystal deployment dialog
    dialogue dictionary disentanglement displacement disposal document documents dynamics editing element embed
    engagement ensemble entailment entanglement environment environments equipment ethics event events fabric feed
    fine-tuning garment gradient gradients grammar graphics hearing hospital image-text imaging incident indexing
    ingredient inpainting intent investment journal judgement judgment kinematics language learning library
    lighting lip-sync logic lyrics management manual material materials measurement mechanics meeting metric
    metrics microscopy modeling moment movement music narrative navigation objective optics outpainting pairing
    parent patient patients payment pedestrian pedestrians perspective physics portrait portraits pre-training
    pretraining prompting proposal pruning radar ranking rationale reasoning rehearsal relighting removal
    rendering requirement requirements retrieval reward robotics routing rubric sampling seed segment segmentation
    semantics sentiment signal signals speed splatting statistics steering stereo streaming student students
    styling summary supplement table talent teacher terminal topic topics tracking traffic trajectory transcript
    treatment trial trials tutorial unlearning variable variables video-text vocabulary warping watermarking
    """
)
"""Nouns that end like adjectives or verbs."""

ADJECTIVES = words_in(
    """
    2d 3d 4d african american arabic aware bayesian beyond born chinese cross-lingual cross-modal customized dense
    easy english european explicit fair few-shot french frozen german heavy high-resolution hindi image-to-video
    implicit indian japanese korean long-form long-term low-rank low-resource many monocular multi-modal
    multi-view multilingual multimodal one-shot open-source open-vocabulary plain post-training real-time russian
    self-supervised semi-supervised short-term spanish sparse test-time text-to-3d text-to-image text-to-speech
    text-to-video training-free ultra-high-resolution weak zero-shot
    """
)
"""Words that describe a noun and name nothing alone."""

PROPER_WORDS = words_in(
    """
    african american arabic bayesian bernoulli boolean cauchy chinese dirichlet english euclidean european fisher
    fourier french gaussian gaussians german github gumbel hamiltonian hessian hilbert hindi indian jacobian
    japanese kalman korean laplacian linux lipschitz mamba markov monte-carlo nash newton poisson reddit
    riemannian russian sobolev spanish turing twitter wasserstein wikipedia youtube
    """
)
"""Names that keep their capital."""

_SPELLING = (
    (re.compile(r"([a-z]{3,})is(ation|ations|ed|ing|e|es|er|ers)$"), r"\1iz\2"),
    (re.compile(r"colour"), "color"),
    (re.compile(r"modell"), "model"),
    (re.compile(r"labell"), "label"),
)
_NOT_BRITISH = words_in(
    """
    advise compromise concise denoise denoised denoising enterprise exercise expertise franchise likewise noise
    noised otherwise paradise praise precise premise promise raise raised raising revise supervise surprise
    """
)


@lru_cache(maxsize=20_000)
def folded(word: str) -> str:
    """Return the form by which spellings of one word are the same: lower case, singular, American."""
    small = word.lower().replace("’", "'").removesuffix("'s")
    if small not in _NOT_BRITISH and not small.endswith(("vise", "vised", "vising")):
        for pattern, spelling in _SPELLING:
            small = pattern.sub(spelling, small)
    return _singular(small)


def content_words(text: str) -> list[str]:
    """Return the folded words of a text that are neither function words nor numbers."""
    return [
        folded(word)
        for word in WORD.findall(text)
        if len(word) > 1 and word.lower() not in FUNCTION_WORDS and not word.replace(".", "").isdigit()
    ]


def _singular(word: str) -> str:
    if len(word) < _SHORTEST_PLURAL or word.endswith(("ss", "us", "is", "ics", "as", "os")):
        return word
    if word.endswith("ies") and len(word) > _SHORTEST_PLURAL:
        return f"{word.removesuffix('ies')}y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word.removesuffix("es")
    return word.removesuffix("s")
