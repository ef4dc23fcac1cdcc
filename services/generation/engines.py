"""Which engine answers to which models: "extractive:builtin", "openai:gpt-6-luna", or several in order."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from services.common.errors import NotReady
from services.common.fields import FieldChecks
from services.common.paid.settings import BUILTIN, ModelSettings
from services.common.settings import SettingsError
from services.generation.extractive.engine import ExtractiveEngine
from services.generation.tasks import Engine

if TYPE_CHECKING:
    from services.common.paid.calls import PaidCalls
    from services.common.providers.chat import Provider
    from services.common.providers.registry import Providers
    from services.generation.llm.chat_model import ChatModel
    from services.generation.llm.plan import TextEmbedder

MAX_ENGINES = 100
"""Most combinations of models that are kept ready; making one again costs next to nothing."""


class Engines:
    """Makes engines of the providers there are; the extractive one needs none of them and loads nothing of theirs."""

    def __init__(self, providers: "Providers", calls: "PaidCalls", embedder: "TextEmbedder | None" = None) -> None:
        """Name what engines are made of.

        Args:
            providers: who has models.
            calls: pays and records.
            embedder: compares the candidates of a plan by their meaning; None compares their spelling alone.
        """
        self._providers = providers
        self._calls = calls
        self._embedder = embedder
        self._extractive = ExtractiveEngine()
        self._kept = lru_cache(MAX_ENGINES)(self._made)

    def of(self, models: str) -> Engine:
        """Return the engine of a "provider:model", or of several that stand in for each other, the extractive at last.

        Raises:
            NotReady: there is no such provider; `check_models` and `require_defaults` tell before.
        """
        return self._extractive if models == BUILTIN else self._kept(models)

    def check_models(self, checks: FieldChecks, field: str, models: str) -> None:
        """Record models that a request names and that cannot be; none at all means the default.

        A key that is missing is no fault of the request: using the model says so.
        """
        if not checks.models(field, models) or not models:
            return
        known = self._providers.names
        for name in models.split(","):
            is_known = name == BUILTIN or name.partition(":")[0] in known
            checks.require(is_known, field, f"{BUILTIN} or a model of {', '.join(known)}, not {name[:40]!r}")

    def require_defaults(self, defaults: ModelSettings, stages: Sequence[str]) -> None:
        """Stop a start whose settings name models that cannot be used.

        Args:
            defaults: models by stage.
            stages: those that the role does: fields of the settings.

        Raises:
            SettingsError: one line for each model of them that there is not, or whose key is missing.
        """
        prefix = str(defaults.model_config["env_prefix"])
        named = [(stage, name) for stage in stages for name in str(getattr(defaults, stage)).split(",")]
        problems = [
            f"{prefix}{stage.upper()}={name!r}: {problem}"
            for stage, name in named
            if name != BUILTIN and (problem := self._providers.problem_of(name))
        ]
        if problems:
            raise SettingsError(problems)

    def _made(self, models: str) -> Engine:
        from services.generation.llm.engine import LlmEngine
        from services.generation.llm.fallback import FallbackEngine

        names = models.split(",")
        paid = names[: names.index(BUILTIN)] if BUILTIN in names else names
        return FallbackEngine([LlmEngine(self._model(name), self._embedder) for name in paid], self._extractive)

    def _model(self, name: str) -> "ChatModel":
        from services.generation.llm.chat_model import ChatModel

        provider, _, model = name.partition(":")
        return ChatModel(self._provider(provider), model, self._calls)

    def _provider(self, name: str) -> "Provider":
        provider = self._providers.find(name)
        if provider is None:
            raise NotReady(name, f"no such provider; there are {', '.join(self._providers.names)}")
        return provider
