"""What every benchmark ends with: its table, one line of JSON, and a status that says whether the targets were met."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure and the most it may be."""

    name: str
    figure: float
    most: float

    @property
    def is_met(self) -> bool:
        return self.figure <= self.most


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, the first one to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for first, *others in (header, *rows):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


def finish(targets: Sequence[Target], figures: Mapping[str, object]) -> None:
    """Print the targets and the line of JSON, and end the program: status 0 when all are met, else 1."""
    print()
    for target in targets:
        print(f"{'ok  ' if target.is_met else 'MISS'}  {target.name}: {target.figure:.4g}, at most {target.most:.4g}")
    ok = all(target.is_met for target in targets)
    wanted = {target.name: {"figure": target.figure, "most": target.most, "ok": target.is_met} for target in targets}
    print(json.dumps({"figures": figures, "targets": wanted, "ok": ok}))
    sys.exit(0 if ok else 1)
