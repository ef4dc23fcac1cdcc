"""What stands in deploy/: the panels of the dashboards and the rules, and their queries as Grafana fills them in."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
GRAFANA = [*DASHBOARDS, *sorted((DEPLOY / "grafana/provisioning").glob("*/*.yaml"))]
RULES = [DEPLOY / "prometheus/recording.yml", DEPLOY / "prometheus/alerts.yml"]
RULE_TESTS = sorted((DEPLOY / "prometheus").glob("*_test.yml"))
SCRAPING = DEPLOY / "prometheus/prometheus.yml"

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACES = re.compile(r"\{([^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?![\w:]*\s*\()")
_WORDS = {"and", "or", "unless", "offset", "bool"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A panel, or a variable whose values are asked for."""

    dashboard: str
    title: str
    is_sql: bool
    queries: Sequence[str]
    source: Mapping[str, Any]
    """As the JSON has it."""

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.title}"


@dataclass(frozen=True, slots=True)
class Values:
    """What is chosen at the head of a dashboard; a variable that is not here is at "All"."""

    lists: Mapping[str, Sequence[str]]

    def fill(self, query: str) -> str:
        """Return a query as Grafana sends it."""
        until = datetime.now(UTC)
        since, to = (moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (until - timedelta(days=7), until))
        filled = re.sub(r"\$__timeFilter\(([\w.]+)\)", rf"\1 BETWEEN '{since}' AND '{to}'", query)
        filled = re.sub(r"\$\{(\w+):sqlstring\}", lambda found: self._strings(found[1]), filled)
        return re.sub(r"\$\{(\w+)\}", lambda found: self._pattern(found[1]), filled)

    def _strings(self, name: str) -> str:
        return ",".join("'" + each.replace("'", "''") + "'" for each in self.lists[name])

    def _pattern(self, name: str) -> str:
        """Return a regular expression inside of a string of PromQL: what is special has two backslashes."""
        if name not in self.lists:
            return ".*"
        return "(" + "|".join(re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", each) for each in self.lists[name]) + ")"


def dashboard(path: Path) -> dict[str, Any]:
    """Return a dashboard."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def panels() -> Sequence[Panel]:
    """Return the panels of all dashboards."""
    return [panel for path in DASHBOARDS for panel in _panels_of(dashboard(path))]


def variables() -> Sequence[Panel]:
    """Return the variables that ask for their values."""
    made = []
    for path in DASHBOARDS:
        source = dashboard(path)
        for each in source["templating"]["list"]:
            if each["type"] == "query":
                is_sql = each["datasource"]["uid"] == "${postgres}"
                panel = Panel(
                    dashboard=source["title"], title=f"${each['name']}", is_sql=is_sql, queries=[each["query"]],
                    source=each,
                )  # fmt: skip
                made.append(panel)
    return made


def _panels_of(source: Mapping[str, Any]) -> Iterator[Panel]:
    for each in source["panels"]:
        is_sql = each["datasource"]["uid"] == "${postgres}"
        queries = [target["rawSql" if is_sql else "expr"] for target in each["targets"]]
        yield Panel(dashboard=source["title"], title=each["title"], is_sql=is_sql, queries=queries, source=each)


def rules() -> Sequence[dict[str, Any]]:
    """Return all rules as they are written: `record` or `alert`, and `expr`."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> Sequence[dict[str, Any]]:
    """Return the rules that alert."""
    return [rule for rule in rules() if "alert" in rule]


def rule_tests() -> Sequence[dict[str, Any]]:
    """Return the tests of the rules."""
    return [test for path in RULE_TESTS for test in yaml.safe_load(path.read_text())["tests"]]


def names_in(expression: str) -> tuple[set[str], set[str]]:
    """Return the metrics and the labels that an expression of PromQL names."""
    plain = _STRING.sub('""', expression)
    labels = {name for inner in _BRACES.findall(plain) for name in _MATCHER.findall(inner)}
    labels |= {name.strip() for inner in _GROUPING.findall(plain) for name in inner.split(",") if name.strip()}
    plain = _GROUPING.sub(" ", _BRACES.sub(" ", plain))
    return set(_NAME.findall(plain)) - _WORDS, labels
