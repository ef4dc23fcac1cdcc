"""The files that Grafana and Prometheus read, by themselves; tests/e2e/test_dashboards.py runs their queries."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dashboards
import pytest
from prometheus import promtool


@pytest.mark.parametrize("alert", dashboards.alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not(alert: Mapping[str, Any]):
    cases = [each for test in dashboards.rule_tests() for each in test.get("alert_rule_test", ())]
    expected = [bool(each["exp_alerts"]) for each in cases if each["alertname"] == alert["alert"]]

    assert {True, False} == set(expected)


def test_the_rules_pass_their_own_tests():
    done = promtool("test", "rules", *dashboards.RULE_TESTS)

    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_example_of_a_configuration():
    done = promtool("check", "config", dashboards.SCRAPING)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", dashboards.GRAFANA, ids=lambda path: path.name)
def test_no_address_of_anybody_is_in_what_grafana_reads(path: Path):
    assert not re.search(r"://|localhost|\d+\.\d+\.\d+\.\d+|^\s*url: [^$]", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", dashboards.DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_put_anywhere_and_tells_what_it_is_for(path: Path):
    """Its data sources are variables, its ids stay; each panel has a unit and says what to do."""
    source = dashboards.dashboard(path)
    panels = source["panels"]

    assert source["uid"] == path.stem
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} <= {"${prometheus}", "${postgres}"}
    for panel in panels:
        units = [panel["fieldConfig"]["defaults"].get("unit")]
        units += [
            each["value"]
            for one in panel["fieldConfig"]["overrides"]
            for each in one["properties"]
            if each["id"] == "unit"
        ]
        assert any(units), panel["title"]
        assert len(panel["description"]) > 40, panel["title"]
