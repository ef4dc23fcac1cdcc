"""What a shell may complete: names of values. It asks nobody, so ids of surveys are not among them."""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def values_of(module: str, name: str, prefix: str) -> Completer:
    """Return what completes the values of an enum of the contract.

    Args:
        module: "search_pb2".
        name: of the enum in it.
        prefix: of its values: "SOURCE_".
    """

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        from gateway.cli.arguments import enum_name

        kind: Any = getattr(importlib.import_module(f"paperroute.v1.{module}"), name)  # Any: protobuf's kind of enum
        return _beginning([enum_name(kind, prefix, value) for value in kind.values()[1:]], incomplete)

    return complete


def categories(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete a category of arXiv."""
    from services.common.categories import CATEGORIES

    return _beginning(sorted(CATEGORIES), incomplete)


def models(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete a model that is proposed to somebody with its provider's key."""
    from gateway.cli.models import PROPOSALS
    from services.common.paid.settings import BUILTIN

    proposed = [name for each in PROPOSALS for name in (each.quick, each.writer)]
    return _beginning([BUILTIN, *proposed], incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
