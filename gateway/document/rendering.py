"""Survey texts as HTML: Markdown of ours made safe once more, and the templates that hold it.

What a survey holds was cleaned when it was made. Here it is treated as hostile all the same: raw HTML shows as text,
pictures are left out, and a link leads to arXiv or nowhere.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.document.links import ARXIV_ABSTRACTS
from services.common.markdown import plain, visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markdown_it import MarkdownIt

TEMPLATES = Path(__file__).with_name("templates")


@functools.cache
def environment() -> "Environment":
    """Return the templates of documents; what is put into them is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["markdown"] = markdown_html
    made.filters["plain"] = plain
    return made


def markdown_html(text: str) -> str:
    """Return Markdown as HTML that holds no script, no picture and no link but to arXiv; it needs no escaping."""
    from markupsafe import Markup

    return Markup(_markdown().render(visible(text)))  # noqa: S704  # made of tokens, each escaped


@functools.cache
def _markdown() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    made = MarkdownIt("commonmark", {"html": False}).disable(["image", "html_block", "html_inline", "autolink"])
    made.validateLink = lambda url: url.startswith(ARXIV_ABSTRACTS)  # type: ignore[method-assign]  # how it is set up
    return made
