"""docs/telemetry.md names what exists: every instrument with its unit and its name in Prometheus, every attribute."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from services.common.telemetry import names

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/telemetry.md").read_text()
KINDS = {
    "create_counter": "counter",
    "create_histogram": "histogram",
    "create_up_down_counter": "up-down counter",
    "create_observable_gauge": "gauge",
}
ATTRIBUTE = re.compile(r"`((?:paperroute|gen_ai|rpc|server|error)\.[a-z_.]+)`")


def instruments() -> Iterator[tuple[str, str, str]]:
    """Yield name, kind and unit of each instrument that our modules make."""
    for file in (*ROOT.glob("services/**/*.py"), *ROOT.glob("gateway/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in KINDS:
                name = node.args[0]
                assert isinstance(name, ast.Attribute), f"{file}: an instrument's name is one of `names`"
                unit = next(each.value for each in node.keywords if each.arg == "unit")
                assert isinstance(unit, ast.Constant)
                yield getattr(names, name.attr), KINDS[node.func.attr], str(unit.value)


def documented() -> list[list[str]]:
    """Return the cells of the table of metrics."""
    table = TEXT.split("| metric |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


def in_prometheus(name: str, kind: str, unit: str) -> str:
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(disable_target_info=True, registry=registry)
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("test")
    match kind:
        case "counter":
            meter.create_counter(name, unit=unit).add(1)
        case "histogram":
            meter.create_histogram(name, unit=unit).record(1)
        case "up-down counter":
            meter.create_up_down_counter(name, unit=unit).add(1)
        case "gauge":
            meter.create_observable_gauge(name, callbacks=[lambda _: [Observation(1)]], unit=unit)
    (family,) = registry.collect()
    return f"{family.name}_total" if kind == "counter" else family.name


def test_the_table_has_every_instrument_and_no_other():
    rows = {(cells[0].strip("`"), cells[1], cells[2].strip("`")) for cells in documented()}

    assert rows == set(instruments())


@pytest.mark.parametrize(("name", "kind", "unit"), sorted(instruments()))
def test_the_table_has_the_name_that_a_scrape_shows(name: str, kind: str, unit: str):
    (shown,) = (cells[4].strip("`") for cells in documented() if cells[0] == f"`{name}`")

    assert shown == in_prometheus(name, kind, unit)


def test_every_name_in_the_text_exists_and_every_name_that_exists_is_in_the_text():
    existing = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}

    assert set(ATTRIBUTE.findall(TEXT)) == existing - {names.STAGE_SPAN, names.SURVEY_RUN, names.SURVEY_REWRITE}
