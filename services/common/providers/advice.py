"""What the operator is told of a model that cannot be used until a setting is changed."""

from collections.abc import Mapping

from services.common.errors import NotReady
from services.common.paid.faults import FaultKind, ProviderFault
from services.common.providers.chat import Provider

MAX_PROBLEM_CHARACTERS = 200
_ADVICE: Mapping[FaultKind, str] = {
    FaultKind.KEY_REFUSED: "its key was refused ({problem}); set another one in {key}",
    FaultKind.NO_SUCH_MODEL: "there is no such model ({problem}); name another one in the request or in {setting}",
    FaultKind.BAD_REQUEST: "it cannot be asked ({problem}); name another one in the request or in {setting}",
}
"""By the faults after which no other model stands in."""


def unusable(fault: ProviderFault, provider: Provider, setting: str) -> NotReady:
    """Return the error of a fault after which no other model stands in.

    Args:
        fault: what was wrong.
        provider: whose model it is.
        setting: variable that names the default model.
    """
    problem = fault.problem[:MAX_PROBLEM_CHARACTERS]
    return NotReady(
        fault.model, _ADVICE[fault.kind].format(problem=problem, key=provider.key_variable, setting=setting)
    )
