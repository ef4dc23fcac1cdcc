"""The dashboards, the alerts and the rules in deploy/ on what real surveys left: no panel is empty, no name is made up.

All roles run as processes of their own on a PostgreSQL, with stand-ins for arXiv and the model provider, and are
scraped by a real Prometheus. `pytest -rA` lists every panel and every alert with its result. What can be said of the
files alone is in tests/unit/test_deploy_files.py.
"""

import asyncio
import contextlib
import json
import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dashboards
import psycopg
import pytest
from dashboards import Panel, Values
from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import admin_service_pb2_grpc as admin_grpc
from paperroute.v1 import search_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from postgres import new_database, postgres
from processes import Cluster
from prometheus import Prometheus, prometheus_server
from pydantic import SecretStr
from standins.arxiv_server import ArxivStandIn, too_many_requests
from standins.otlp_collector import OtlpCollector, otlp_collector
from standins.provider_server import ProviderStandIn, length, rate_limited, refusal, unknown_model
from standins.provider_writers import CitingWriter

from services.common.channel import open_channel
from services.common.settings import ClientSettings
from services.common.telemetry import names

__all__ = ["postgres"]

pytestmark = pytest.mark.timeout(240)
SAMPLE = Path(__file__).parents[2] / "services/retrieval/sample_library.jsonl"
ADMIN_TOKEN = "admin-token-of-the-dashboards"
QUESTION = "What are the recent trends in LoRA for image generation?"
WRITER = CitingWriter(search_terms=("LoRA image generation", "LoRA diffusion", "low-rank adaptation"))
QUICK, REFUSING, UNPRICED, SHORT, UNKNOWN = (
    f"openai:{name}" for name in ("gpt-6-luna", "gpt-6.1-terra", "house-model", "gpt-6-luna-short", "gpt-6-none")
)
PRICES = {model: {"input_mtok": 1, "output_mtok": 2} for model in (SHORT, UNKNOWN)}
TENANTS = ("team-a", "team-b")
BUDGETS = {"team-b": 20_000_000_000}
"""Of a month, in nano-dollars."""
ROUNDS = 2
"""A counter grows only once it is there: what the second round adds can be seen."""
WAIT_S = 60
MAY_BE_ZERO = {
    "Summaries pending and in flight",
    "Queue of surveys",
    "Governor: cooldown, by model",
    "Longest silence of a survey under way",
    "Dropped spans, in 5 minutes",
}
"""Panels of what is over by the time they are looked at, or did not happen; they show 0, not nothing."""
FIRING = {"PaperRouteModelUnpriced"}
"""What the surveys here give cause for at once."""


@dataclass
class Seen:
    """What a Grafana would look at."""

    prometheus: Prometheus
    database: psycopg.Connection[Any]
    traces: OtlpCollector
    values: Values = field(default_factory=lambda: Values({}))

    def rows(self, panel: Panel, query: str) -> Sequence[Mapping[str, Any]]:
        """Return what a panel's query brings, each row with its columns or its labels and the value."""
        if panel.is_sql:
            cursor = self.database.execute(self.values.fill(query).encode())
            columns = [column.name for column in cursor.description or ()]
            return [dict(zip(columns, row, strict=True)) for row in cursor]
        found = self.prometheus.query(self.values.fill(query))
        return [{**each["metric"], "value": float(each["value"][1])} for each in found]

    def until(self, expression: str, least: float) -> None:
        """Wait until an expression has a value of at least so much."""
        ends = time.monotonic() + WAIT_S
        while not any(float(each["value"][1]) >= least for each in self.prometheus.query(expression)):
            assert time.monotonic() < ends, f"{expression} did not come to {least}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def seen(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    home, data_dir = tmp_path_factory.mktemp("prometheus"), tmp_path_factory.mktemp("roles")
    database_url = new_database(postgres)
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        provider = runner.run(ProviderStandIn(writer=WRITER).__aenter__())
        stack.callback(lambda: runner.run(provider.__aexit__()))
        records = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
        arxiv = runner.run(ArxivStandIn(records).__aenter__())
        stack.callback(lambda: runner.run(arxiv.__aexit__()))
        traces = stack.enter_context(otlp_collector())
        environment = {
            **_environment(provider, arxiv),
            "PAPERROUTE_DATABASE_URL": database_url,
            "PAPERROUTE_OTLP_ENDPOINT": traces.endpoint,
        }
        cluster = Cluster(data_dir, environment, has_metrics=True)
        stack.callback(lambda: runner.run(cluster.close()))
        runner.run(cluster.start())
        prometheus = stack.enter_context(prometheus_server(_scraping(cluster, home), home))
        tokens = runner.run(_tenants(cluster))
        looked = Seen(prometheus, stack.enter_context(_reader(database_url)), traces)
        for number in range(1, ROUNDS + 1):
            runner.run(_surveys(cluster, tokens, provider, arxiv))
            looked.until("sum(paperroute_survey_cost_USD_count)", 4 * number)
        looked.until("paperroute_survey_duration_seconds:p95", 0)
        looked.until("model:paperroute_calls:refusal_ratio", 0.01)
        looked.until("paperroute_budget_spent", 0.000001)
        looked.values = _chosen(looked)
        yield looked


def _environment(provider: ProviderStandIn, arxiv: ArxivStandIn) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": "sk-stand-in-0123456789",
        "PAPERROUTE_OPENAI__BASE_URL": provider.openai_url,
        "PAPERROUTE_PAID__PRICES": json.dumps(PRICES),
        "PAPERROUTE_RETRIEVAL__ARXIV_URL": arxiv.url,
        "PAPERROUTE_RETRIEVAL__REQUEST_SPACING_S": "0.05",
        "PAPERROUTE_RETRIEVAL__COOLDOWN_S": "0.5",
        "PAPERROUTE_RETRIEVAL__FRESH_S": "0",
        "PAPERROUTE_GATEWAY__AUTH": "tokens",
        "PAPERROUTE_GATEWAY__ADMIN_TOKEN": ADMIN_TOKEN,
    }


def _scraping(cluster: Cluster, home: Path) -> str:
    """Return the example of a configuration with the addresses of the roles, looking oftener."""
    for path in dashboards.RULES:
        shutil.copy(path, home)
    config = dashboards.SCRAPING.read_text().replace("_interval: 15s", "_interval: 500ms")
    for role, address in cluster.metrics.items():
        assert f'"{role}:9464"' in config
        config = config.replace(f'"{role}:9464"', f'"{address}"')
    return config


@contextlib.contextmanager
def _reader(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield the database to somebody who may read the views and nothing else, as docs/usage.md advises."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("CREATE ROLE dashboards LOGIN")
        owner.execute("GRANT SELECT ON paperroute_usage, paperroute_label, paperroute_survey TO dashboards")
        with psycopg.connect(database_url, user="dashboards", autocommit=True) as reader:
            yield reader
        owner.execute("DROP OWNED BY dashboards")
        owner.execute("DROP ROLE dashboards")


async def _tenants(cluster: Cluster) -> Mapping[str, str]:
    """Set up tenants and return a token of each. The one that calls a model without a price may have no budget."""
    client = ClientSettings(token=SecretStr(ADMIN_TOKEN))
    async with open_channel(cluster.addresses["gateway"], client=client) as channel:
        stub = admin_grpc.AdminServiceStub(channel)
        tokens = {}
        for name in TENANTS:
            tenant = admin_pb.Tenant(tenant=name, max_month_cost_nano_usd=BUDGETS.get(name))
            await stub.CreateTenant(admin_pb.CreateTenantRequest(tenant=tenant), timeout=10)
            request = admin_pb.CreateTokenRequest(tenant=name, scope=admin_pb.TOKEN_SCOPE_WRITE)
            tokens[name] = (await stub.CreateToken(request, timeout=10)).secret
        return tokens


async def _surveys(cluster: Cluster, tokens: Mapping[str, str], provider: ProviderStandIn, arxiv: ArxivStandIn) -> None:
    """Make four surveys: one with all that can go wrong, one of arXiv, one served by the ledger, one that fails."""
    provider.faults = {"gpt-6.1-terra": refusal(), "gpt-6-luna-short": length(), "gpt-6-none": unknown_model()}
    good = pb.ModelChoice(plan=QUICK, summarize=QUICK, write=QUICK, frame=QUICK)
    bad = pb.ModelChoice(plan=UNPRICED, summarize=QUICK, write=SHORT, frame=REFUSING)
    provider.script([None, rate_limited(retry_after=0.2)])
    await _survey(cluster, tokens["team-a"], models=bad, cache_off=True, source=search_pb2.SOURCE_SAMPLE)
    arxiv.script([too_many_requests()])
    whole = await _survey(cluster, tokens["team-b"], models=good, cache_off=True, source=search_pb2.SOURCE_ARXIV)
    served = await _survey(cluster, tokens["team-a"], models=good, source=search_pb2.SOURCE_SAMPLE)
    failing = pb.ModelChoice(plan=UNKNOWN, summarize=UNKNOWN, write=UNKNOWN, frame=UNKNOWN)
    failed = await _survey(cluster, tokens["team-b"], models=failing, source=search_pb2.SOURCE_SAMPLE)
    states = [survey.state for survey in (whole, served, failed)]
    assert states == [pb.SURVEY_STATE_DONE, pb.SURVEY_STATE_DONE, pb.SURVEY_STATE_FAILED]


async def _survey(cluster: Cluster, token: str, **spec: Any) -> pb.Survey:
    async with open_channel(cluster.addresses["gateway"], client=ClientSettings(token=SecretStr(token))) as channel:
        stub = pb_grpc.SurveyServiceStub(channel)
        asked = pb.SurveySpec(question=QUESTION, max_papers=12, **spec)
        request = service_pb.CreateSurveyRequest(spec=asked, labels={"team": "search"})
        survey_id = (await stub.CreateSurvey(request, timeout=20)).survey.survey_id
        async for _ in stub.WatchSurvey(service_pb.WatchSurveyRequest(survey_id=survey_id), timeout=60):
            pass
        return (await stub.GetSurvey(service_pb.GetSurveyRequest(survey_id=survey_id), timeout=20)).survey


def _chosen(looked: Seen) -> Values:
    """Return what "All" stands for: the values that the variables' own queries bring."""
    found: dict[str, Sequence[str]] = {}
    for each in dashboards.variables():
        if each.is_sql:
            found[each.title.removeprefix("$")] = [
                next(iter(row.values())) for row in looked.rows(each, each.queries[0])
            ]
    return Values(found)


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    values = [value for row in rows for value in row.values() if not isinstance(value, (str, bool, type(None)))]
    numbers = [float(value) for value in values if hasattr(value, "__float__")]
    return [number for number in numbers if not math.isnan(number)]


@pytest.mark.parametrize("panel", dashboards.panels(), ids=str)
def test_a_panel_shows_what_happened(seen: Seen, panel: Panel):
    """A panel that is empty although something happened is worse than none."""
    found = [_numbers(seen.rows(panel, query)) for query in panel.queries]

    print(f"{panel}: {[len(each) for each in found]} numbers, up to {[max(each, default=None) for each in found]}")  # noqa: T201  for pytest -rA
    assert all(found), panel.queries
    if panel.title not in MAY_BE_ZERO:
        assert any(number > 0 for each in found for number in each)


@pytest.mark.parametrize("variable", dashboards.variables(), ids=str)
def test_a_variable_has_values(seen: Seen, variable: Panel):
    if variable.is_sql:
        values = [next(iter(row.values())) for row in seen.rows(variable, variable.queries[0])]
    else:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable.queries[0]).groups()  # type: ignore[union-attr]
        values = seen.prometheus.api(f"label/{label}/values", **{"match[]": metric})

    print(f"{variable}: {values}")  # noqa: T201  for pytest -rA
    assert values


@pytest.mark.parametrize("alert", dashboards.alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_is_evaluated_and_says_what_to_do(seen: Seen, alert: Mapping[str, Any]):
    groups = seen.prometheus.api("rules", type="alert")["groups"]
    (found,) = [rule for group in groups for rule in group["rules"] if rule["name"] == alert["alert"]]

    print(f"{alert['alert']}: {found['state']}, {found['health']}")  # noqa: T201  for pytest -rA
    assert (found["health"], found["state"] == "firing") == ("ok", alert["alert"] in FIRING), found
    assert found["annotations"]["summary"]
    assert len(found["annotations"]["runbook"]) > 40
    assert found["labels"]["severity"] in {"page", "ticket"}


def test_rules_are_evaluated_without_an_error(seen: Seen):
    groups = seen.prometheus.api("rules")["groups"]

    assert {rule["name"]: rule["health"] for group in groups for rule in group["rules"] if rule["health"] != "ok"} == {}
    assert len(dashboards.rules()) == sum(len(group["rules"]) for group in groups)


def test_every_role_is_scraped(seen: Seen):
    up = {each["metric"]["role"]: each["value"][1] for each in seen.prometheus.query('up{job="paperroute"}')}

    assert up == dict.fromkeys(("gateway", "retrieval", "embedding", "ordering", "generation", "summarization"), "1")


def test_every_name_in_deploy_is_one_that_is_scraped(seen: Seen):
    """A misspelled name is no error for Prometheus: its panel is empty, its alert never fires."""
    panels = [query for panel in dashboards.panels() if not panel.is_sql for query in panel.queries]
    series = [each["series"] for test in dashboards.rule_tests() for each in test["input_series"]]
    spelled = {_spelled(name): name for name in vars(names).values() if isinstance(name, str)}
    recorded = {rule["record"] for rule in dashboards.rules() if "record" in rule}

    for expression in [*panels, *(rule["expr"] for rule in dashboards.rules()), *series]:
        metrics, labels = dashboards.names_in(seen.values.fill(expression))
        known = {"le", "__name__"}
        for metric in metrics:
            found = seen.prometheus.api("series", **{"match[]": metric})
            assert found, f"{metric} is not scraped: {expression}"
            known |= {label for each in found for label in each}
            family = re.sub(r"(_seconds|_USD)?(_total|_bucket|_count|_sum)?$", "", metric)
            assert metric in recorded | {"up"} or family in spelled, f"{metric} is no name of ours"
        assert labels <= known, f"{labels - known}: {expression}"


def _spelled(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9:]+", "_", name)


def test_the_most_expensive_surveys_lead_to_their_traces(seen: Seen):
    """The address is the viewer's, which a variable holds, and the trace's id."""
    (panel,) = [panel for panel in dashboards.panels() if panel.title == "Most expensive surveys"]
    links = {
        one["matcher"]["options"]: link["url"]
        for one in panel.source["fieldConfig"]["overrides"]
        for each in one["properties"]
        if each["id"] == "links"
        for link in each["value"]
    }
    rows = seen.rows(panel, panel.queries[0])
    received = {span.attributes.get(names.SURVEY_ID): span.trace_id for span in seen.traces.spans}

    assert links == {"trace_id": "${trace_viewer:raw}${__value.raw}"}
    assert {row["survey_id"]: row["trace_id"] for row in rows} == {
        row["survey_id"]: received[row["survey_id"]] for row in rows
    }
    assert [row["cost_usd"] for row in rows] == sorted((row["cost_usd"] for row in rows), reverse=True)
    assert {row["is_unpriced"] for row in rows} == {True, False}


def test_every_way_to_divide_the_cost_comes_to_the_same(seen: Seen):
    """Stages, models, tenants, labels, surveys, and what the services counted by themselves."""
    titles = ("Cost by stage", "Cost by model", "Cost by tenant", "Cost by label ${label}")
    sums = {
        panel.title: sum(row["usd"] for row in seen.rows(panel, panel.queries[0]) if row["usd"] is not None)
        for panel in dashboards.panels()
        if panel.title in titles
    }
    (total,) = seen.database.execute("SELECT sum(cost_usd) FROM paperroute_survey").fetchone() or ()
    seen.until("sum(paperroute_cost_USD_total)", float(total) - 1e-9)
    (counted,) = seen.prometheus.query("sum(paperroute_cost_USD_total)")

    assert sums == dict.fromkeys(titles, total)
    assert float(counted["value"][1]) == pytest.approx(float(total), abs=1e-9)
