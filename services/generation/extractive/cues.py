"""Cues: what the wording of a sentence tells about its part in an abstract."""

import re


def _any_of(*patterns: str, start: bool = False) -> re.Pattern[str]:
    """Return a pattern that finds any of the patterns as whole words, at the start only if asked."""
    return re.compile(rf"{'^' if start else chr(92) + 'b'}(?:{'|'.join(patterns)})", re.IGNORECASE)


_PAPER = r"(?:paper|work|study|article|thesis|survey|report|letter|chapter|manuscript|research)\b"
_AUTHORS = r"(?:we|i|the authors?)\s+(?:(?:\w+ly|here|therefore|thus|first|also|then)\s+)?"

PROPOSES = _any_of(
    _AUTHORS + r"(?:propos|present|introduc|develop|devis)\w*",
    rf"(?:this|the present) {_PAPER}\s+(?:\w+ly\s+)?(?!is\b|was\b|has\b)\w+s\b",
)
"""Says what the paper is about in so many words."""

ACTS = _any_of(
    _AUTHORS
    + r"(?:adapt|address|analy|appl|argue|buil[dt]|collect|combin|conduct|consider|construct|contribut|creat|defin|"
    r"describ|design|employ|establish|examin|explor|extend|find that|formulat|investigat|learn|offer|prove|provid|"
    r"releas|review|revisit|show how|stud|survey|tackl|train|use\b|using\b)\w*",
    rf"(?:this|the present|our|in this) {_PAPER}",
    r"(?:is|are) (?:proposed|presented|introduced|developed)\b",
    r"aims? to\b",
    r"our (?:method|approach|model|framework|system|algorithm|key idea|main idea)\b",
)
"""Says what the authors do."""

_VERBS = (
    r"(?:accepts?|adapts?|adds?|aligns?|applies|argues?|attains?|augments?|automates?|builds?|captures?|chooses|combines?|"
    r"compress\w*|computes?|consists?|constructs?|converts?|couples?|decomposes?|decouples?|derives?|detects?|disentangles?|"
    r"divides?|employs?|enables?|encodes?|estimates?|extends?|features?|finds?|formulates?|generates?|handles?|identif(?:y|ies)|"
    r"incorporates?|injects?|integrates?|introduces?|jointly|learns?|leverages?|makes?|maps?|masks?|mines?|models?|"
    r"observes?|operates?|optimi[sz]es?|outputs?|pairs?|predicts?|presents?|probes?|proposes?|provides?|reduces?|"
    r"reformulates?|removes?|replaces?|represents?|reuses?|runs?|selects?|separates?|solves?|speeds?|splits?|starts?|"
    r"supports?|takes?|traces?|trains?|transforms?|treats?|turns?|unifies|unites|uses?|utili[sz]es|works?)\b"
)

NAMED_SUBJECT = re.compile(r"^(?:(?:Our|The) )?\S*[A-Z0-9]\S*(?: \([^)]*\))?(?: \w+){0,4}? (?:is\b|" + _VERBS + ")")
"""Something with a name does something: "X combines ..."."""

DOES = re.compile(rf"(?: \([^)]*\))?,?(?: \w+ly| first| then| instead)? {_VERBS}|(?: \([^)]*\))? (?:is|was) an? ")
"""What may follow a name that stands for a paper: "X combines ...", "X is a ..."."""

PROBLEM = _any_of(
    r"(?:however|challeng\w*|limit(?:ed|s|ations?)?|suffer\w*|costly|expensive|remain\w*|lack\w*|difficult\w*|struggl\w*|"
    r"bottleneck\w*|fail\w*|hard|hinder\w*|underexplored|unexplored|unclear|scarce\w*|issue|problem\w*|yet|inefficien\w*|"
    r"insufficient|prone|degrad\w*|neglect\w*|overlook\w*|ignor\w*|requir\w*|demand\w*|slow|unreliable|although|despite|"
    r"while|but|little|poor\w*|cannot|unable|impractical|prohibitive\w*|critical|needs?|usually|often|tend to|"
    r"interference|hallucinat\w*|bias\w*|vulnerab\w*|inconsisten\w*|instability|open question)\b"
)
"""Words of what is wrong or missing; the more of them, the more a sentence is about it."""

RESULT = _any_of(
    r"(?:experiment\w*|outperform\w*|state-of-the-art|results?|achiev\w*|improv\w*|evaluat\w*|demonstrat\w*|surpass\w*|"
    r"superior|benchmarks?|competitive|validat\w*|accuracy|faster|speed-?ups?|significant\w*|exceeds?|beats?|findings?|"
    r"we (?:show|find|observe)|reports?|gains?|reduces?)\b"
)
"""Words of what came out."""

FIGURE = re.compile(r"\d+(?:\.\d+)?\s?(?:%|×|x\b|percent|points?)")
"""A figure of a result."""

OFFER = _any_of(
    r"(?:code|dataset|data|models?|weights|project page|demo|website|implementation)\b.{0,60}\b(?:available|released?|"
    r"open-sourced?|publicly|found at|can be found|accessible)\b",
    r"project (?:web)?page\b",
    r"github\b",
)
"""Says where code or data are to be had."""

CONNECTIVE = re.compile(
    r"^(?:However|Nevertheless|Nonetheless|Moreover|Furthermore|Additionally|Also|In addition|Besides|Therefore|Thus|"
    r"Hence|Consequently|Accordingly|As a result|Specifically|In particular|More specifically|Concretely|Instead|"
    r"More precisely|Meanwhile|Yet|Still|In contrast|By contrast|On the (?:one|other) hand|For example|For instance|"
    r"Notably|Importantly|Indeed|In fact|Finally|First|Firstly|Second|Secondly|Third|Thirdly|Then|Next|Here|Overall|"
    r"Lastly|Ultimately|In short|In summary|And|But|So),?\s+(?=\w)"
)
"""A start that ties a sentence to the one before."""

ASIDE = re.compile(r",\s(?:however|nevertheless|therefore|moreover|furthermore|thus|hence|in turn),\s")
"""The same within a sentence: ", however, "."""

POINTS_BACK = _any_of(
    r"it\b(?!\s+(?:is|was|remains|has been|becomes)\s+(?:\w+\s+){0,3}(?:that|to|how|whether|why)\b)",
    r"(?:its|they|their|them|he|she|his|her|these|those|such|both|each of|another|doing so|as such)\b",
    r"the (?:former|latter|resulting|proposed|first|second|key|other)\b",
    rf"this\b(?!\s+{_PAPER})",
    r"to (?:this|that) end\b",
    r"(?:in order )?to \w+ (?:with )?(?:\w+\s+)?(?:this|these|those|such|it|so|both|that)\b",
    r"(?:based|building|drawing|relying) (?:on|upon) (?:this|these|that|it)\b",
    r"(?:motivated|inspired|guided) by (?:this|these)\b",
    r"(?:integrating|using|combining|leveraging) (?:(?:the )?(?:proposed|above)|this|these|that|both)\b",
    rf"(?:with|from|for|under|in|at|through|by|on) (?:this|these|that|those|it|them|such)\b(?!\s+{_PAPER})",
    r"(?:the authors?|we) (?:also|further|additionally|then)\b",
    r"in the (?:first|second|third|next|final|last) (?:stage|step|phase|part)\b",
    start=True,
)
"""A start whose noun stands in an earlier sentence: "It ...", "To address these ..."."""

POINTS_BACK_SOON = re.compile(
    rf"^(?:[^\s.;]+\s+){{1,7}}?(?:this\s+(?!{_PAPER})|both\s+(?:in|at|by|with|into|within|from|under|of them)\b|"
    r"instead\b(?!\s+of)|the\s+(?:latter|former)\b)"
    r"|^(?:[^\s;]+\s+){1,24}?(?:these\s+(?!who\b|that\b|in\b|from\b|with\b|based\b)|"
    r"(?:this|that)\s+(?:gap|issue|problem|limitation|challenge|setting|\w+-\w+ \w+)\b)"
    r"|^(?:[^\s.;]+\s+){1,9}?such\s+(?!as\b|that\b)"
    r"|^(?:[^\s.;,]+\s+){1,2}(?:\w+ly\s+)?\w{2,}s\s+(?:them|it|that\s+\w+\s+(?:with|by|through|in|at|as)|both\.?$)\b",
    re.IGNORECASE,
)
"""The same within the first words: "X traces this to ..."."""

PURPOSE = re.compile(
    r"^(?:To (?:this|that) end|(?:In order )?To \w+ (?:with )?(?:\w+ )?(?:this|these|those|such|it|both)\b[^,]{0,80}|"
    r"Towards? \w+ing (?:this|these)\b[^,]{0,60}|(?:Motivated|Inspired|Guided) by (?:this|these)\b[^,]{0,60}|"
    r"(?:Based|Building) (?:on|upon) (?:this|these|our)\b[^,]{0,60}|For (?:this|that) (?:purpose|reason)|"
    r"(?:In|With) this (?:context|setting|light|regard)|In response),\s+"
    r"(?:(?:in|with) this (?:paper|work|study),?\s+)?(?=we\b|this paper|this work|the authors)",
    re.IGNORECASE,
)
"""A start that points back and can be left out: "To address these issues, we ..."."""

LABEL = re.compile(
    r"^(?:(?:Background|Motivation|Objectives?|Aims?|Purpose|Introduction|Context|Problem|Methods?|Approach|Methodology|"
    r"Results?|Findings|Conclusions?|Abstract|Summary)(?:\s+and\s+\w+)?\s*[:.]\s*|\W*(?=[\w“\"(]))"
)
"""A heading inside an abstract, or marks before its first word."""
