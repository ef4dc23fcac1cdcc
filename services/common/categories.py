"""The categories of arXiv, and the rule of the request fields that name some. Source: arXiv's category taxonomy."""

import difflib
from collections.abc import Sequence

from services.common.fields import FieldChecks

MAX_CATEGORIES = 50

_IN_ARCHIVES = {
    "astro-ph": "CO EP GA HE IM SR",
    "cond-mat": "dis-nn mes-hall mtrl-sci other quant-gas soft stat-mech str-el supr-con",
    "cs": "AI AR CC CE CG CL CR CV CY DB DC DL DM DS ET FL GL GR GT HC IR IT LG LO MA MM MS NA NE NI OH OS PF PL RO SC"
    " SD SE SI SY",
    "econ": "EM GN TH",
    "eess": "AS IV SP SY",
    "math": "AC AG AP AT CA CO CT CV DG DS FA GM GN GR GT HO IT KT LO MG MP NA NT OA OC PR QA RA RT SG SP ST",
    "nlin": "AO CD CG PS SI",
    "physics": "acc-ph ao-ph app-ph atm-clus atom-ph bio-ph chem-ph class-ph comp-ph data-an ed-ph flu-dyn gen-ph"
    " geo-ph hist-ph ins-det med-ph optics plasm-ph pop-ph soc-ph space-ph",
    "q-bio": "BM CB GN MN NC OT PE QM SC TO",
    "q-fin": "CP EC GN MF PM PR RM ST TR",
    "stat": "AP CO ME ML OT TH",
}
_WHOLE_ARCHIVES = "gr-qc hep-ex hep-lat hep-ph hep-th math-ph nucl-ex nucl-th quant-ph"
_FORMER = (
    "acc-phys adap-org alg-geom ao-sci astro-ph atom-ph bayes-an chao-dyn chem-ph cmp-lg comp-gas cond-mat dg-ga"
    " funct-an mtrl-th patt-sol plasm-ph q-alg q-bio solv-int supr-con"
)
"""Archives that newer ones have taken over; old papers still bear them."""

CATEGORIES = frozenset(
    [
        *(f"{archive}.{name}" for archive, names in _IN_ARCHIVES.items() for name in names.split()),
        *_WHOLE_ARCHIVES.split(),
        *_FORMER.split(),
    ]
)


def check_categories(checks: FieldChecks, field: str, categories: Sequence[str]) -> None:
    """Record too many categories, or each that arXiv does not have, with the one that may be meant."""
    if not checks.count(field, len(categories), 0, MAX_CATEGORIES):
        return
    for position, category in enumerate(categories):
        if category not in CATEGORIES:
            close = difflib.get_close_matches(category[:40], CATEGORIES, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            checks.add(f"{field}[{position}]", f"an arXiv category such as cs.CV, not {category[:40]!r}{hint}")
