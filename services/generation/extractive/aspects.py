"""Aspects of a study that a reader asks for whatever its subject, found by the words of an abstract."""

import re

ASPECTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\buser stud|\bhuman (?:evaluat|stud|judg|rat|prefer|annotat)|\braters?\b|\bparticipants\b|\bquestionnaire",
        r"\btheor(?:y|etical|em)|\bprov(?:e|es|ed|ably)\b|\bproofs?\b|\bconvergence (?:rate|guarantee)|\blower bound",
        r"\breal[- ]time\b|\blatency|\bthroughput|\bframes per second|\bFPS\b|\bspeed-?ups?\b|\bfaster\b|\baccelerat",
        r"\bmemory|\bGPU|\bFLOP|\bcomput(?:e\b|ational|ation\b)|\bparameters?\b|\bcostly\b|\bcosts?\b",
        r"\bbenchmark|\bdatasets?\b|\btestbed|\bcorpus\b|\bcorpora\b",
        r"\b(?:code|models?|weights|implementation)\b[^.]{0,60}\b(?:available|released?|public)|\bopen[- ]sourc",
        r"\brobust",
        r"\bsafe(?:ty|ly)?\b|\bprivacy|\bfair(?:ness)?\b|\bbias(?:es|ed)?\b|\bharm|\bcopyright|\bethic|\bwatermark",
        r"\bfew[- ]shot|\blow[- ]resource|\bdata[- ]efficient|\b(?:few|small|limited|scarce|little) (?:\w+ )?"
        r"(?:data|samples|datasets|examples|pictures|images|labels)",
    )
)
"""One pattern an aspect; a pack of phrases names them in this order."""
