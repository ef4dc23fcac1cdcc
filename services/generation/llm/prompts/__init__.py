"""Prompts as files, one a task; a change of one changes its hash, and with it what the ledger serves again."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from string import Template


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A template with places for values, "$language"."""

    prompt_id: str
    """Name, version and hash: "section.v1@1f3a5c77"."""
    template: str

    def filled(self, values: Mapping[str, object]) -> str:
        """Return the text with every place filled; a value's own "$" stays as it is.

        Raises:
            KeyError: a place has no value.
        """
        return Template(self.template).substitute(values).strip()


@functools.cache
def prompt(name: str) -> Prompt:
    """Return the prompt of a file "NAME.md", such as "section.v1"."""
    template = resources.files(__package__).joinpath(f"{name}.md").read_text(encoding="utf-8")
    digest = hashlib.sha256(template.encode()).hexdigest()[:8]
    return Prompt(prompt_id=f"{name}@{digest}", template=template)
