"""Where a survey goes and in which form: what `survey` and `surveys show` have in common."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paperroute.v1 import survey_pb2 as pb

FORMS = ("md", "html", "json", "bib")
_LIBRARIES: Mapping[str, Sequence[str]] = {"html": ("jinja2", "markdown_it"), "bib": ("bibtexparser",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where a survey's document goes, in which form, and what is said beside it."""

    out: Path | None = None
    map_file: Path | None = None
    form: str = "md"
    """One of `FORMS`."""
    is_quiet: bool = False
    """Whether standard error is for problems only."""
    is_jsonl: bool = False
    """Whether standard output is for events; the document then goes into a file or nowhere."""

    @property
    def is_silent(self) -> bool:
        """Whether only problems are said."""
        return self.is_quiet or self.is_jsonl

    def problems(self) -> list[str]:
        """Return why it cannot be as it is wanted, before anything is spent."""
        files = {"--out": self.out, "--map": self.map_file}
        missing = {name: path.parent for name, path in files.items() if path and not path.parent.is_dir()}
        found = [f"{name}: there is no folder {str(folder)!r}" for name, folder in missing.items()]
        if any(importlib.util.find_spec(name) is None for name in _LIBRARIES.get(self.form, ())):
            found.append(f"--format {self.form}: not installed; pip install 'paperroute[gateway]'")
        return found


def document_of(survey: "pb.Survey", form: str) -> str:
    """Return a survey in one of `FORMS`; the same survey gives the same text."""
    match form:
        case "html":
            from gateway.document.export_html import html_of

            return html_of(survey)
        case "json":
            from google.protobuf.json_format import MessageToJson

            return MessageToJson(survey, ensure_ascii=False, always_print_fields_with_no_presence=True) + "\n"
        case "bib":
            from gateway.document.export_bibtex import bibtex_of

            return bibtex_of(survey)
        case _:
            from gateway.document.export_markdown import markdown_of

            return markdown_of(survey)
