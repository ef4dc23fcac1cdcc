"""Usage by any combination of dimensions: the same sums as counted by hand, on both databases, page by page."""

import base64
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2
from paperroute.v1 import usage_service_pb2 as usage_pb
from paperroute.v1 import usage_service_pb2_grpc as usage_grpc
from played_ledgers import a_running_job
from survey_rows import Gateways

from gateway.access.principal import LOCAL, Principal, Scope
from gateway.api.convert_usage import query_of
from gateway.api.usage_service import UsageService
from gateway.document.draft import Draft
from gateway.money import usage
from services.common.channel import open_channel
from services.common.errors import InvalidRequest, violations_in
from services.common.server import RoleServer

SURVEY, STAGE, MODEL, TENANT, LABEL, DAY = range(1, 7)
COUNTS = (
    "call_count",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "served_call_count",
    "served_input_tokens",
    "served_output_tokens",
    "avoided_cost_nano_usd",
)
NOON = 1_795_262_400.0  # 2026-11-21 12:00 UTC
DAY_S = 86_400.0
LABELS = {"team": ["search", "Ärzte", "", "search/2", "=1+1"], "env": ["prod", "test"]}


class Table:
    """What was recorded, as the test knows it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def fill(self, connection: Any) -> None:
        """Record surveys of three tenants as the gateway does at their end."""
        from sqlalchemy import insert

        from gateway.store.tables import SURVEY_LABEL

        chance = random.Random(7)
        for number in range(30):
            job = a_running_job(survey_id=f"survey-{number}", tenant=chance.choice(["a", "b", "b-2"]))
            object.__setattr__(job, "created_at", NOON + number * DAY_S / 4)
            labels = {key: chance.choice(values) for key, values in LABELS.items() if chance.random() < 0.7}
            draft = Draft(survey_id=job.survey_id, spec=job.spec, labels=labels)
            for stage in chance.sample([pb.STAGE_PLAN, pb.STAGE_SUMMARIZE, pb.STAGE_WRITE], 2):
                report = draft.reports[stage] = pb.StageReport(stage=stage, paper_count=5)
                for model in chance.sample(["openai:a", "openai:B", "ollama:c"], 2):
                    counts = {name: chance.randint(0, 1_000) for name in COUNTS}
                    cost = None if model == "ollama:c" else chance.randint(0, 10**9)
                    report.usage.add(model=model, cost_nano_usd=cost, **counts)
                    self.rows.append(self._row(job, draft, stage, report.usage[-1]))
            for key, value in labels.items():
                row = {"survey_id": job.survey_id, "key": key, "value": value}
                connection.execute(insert(SURVEY_LABEL).values(row))
            for _ in range(2):  # repeating it changes nothing
                usage.record(connection, job, draft)

    def _row(self, job: Any, draft: Draft, stage: int, used: usage_pb2.ModelUsage) -> dict[str, Any]:
        counts = {name: getattr(used, name) for name in COUNTS}
        is_priced = used.HasField("cost_nano_usd")
        return {
            "survey_id": job.survey_id,
            "stage": stage,
            "model": used.model,
            "tenant": job.tenant,
            "labels": draft.labels,
            "created_at": job.created_at,
            "day": f"2026-11-{21 + int((job.created_at - NOON + DAY_S / 2) // DAY_S)}",
            "cost_nano_usd": used.cost_nano_usd,
            "unpriced_call_count": 0 if is_priced else used.call_count,
            **counts,
        }

    def summed(self, key_of: Callable[[Any], Any], wanted: Callable[[Any], bool] = lambda _: True) -> dict[Any, Any]:
        """Return the sums by hand: by key surveys, calls, cost, unpriced calls and all other counts."""
        groups: dict[Any, list[Any]] = defaultdict(list)
        for row in self.rows:
            if wanted(row):
                groups[key_of(row)].append(row)
        names = (*COUNTS, "cost_nano_usd", "unpriced_call_count")
        return {
            key: (len({row["survey_id"] for row in rows}), *(sum(row[name] for row in rows) for name in names))
            for key, rows in groups.items()
        }


def figures(row: usage_pb.UsageRow) -> tuple[int, ...]:
    names = ("survey_count", *COUNTS, "cost_nano_usd", "unpriced_call_count")
    return tuple(getattr(row, name) for name in names)


def key_of(row: Any, group_by: tuple[int, ...]) -> tuple[Any, ...]:
    """Return a row's place: of a label first whether it is there."""
    names = {SURVEY: "survey_id", STAGE: "stage", MODEL: "model", TENANT: "tenant", DAY: "day"}
    key: list[Any] = []
    for dimension in group_by:
        if dimension == LABEL:
            key += ["team" in row["labels"], row["labels"].get("team", "")]
        else:
            key.append(row[names[dimension]])
    return tuple(key)


def shown_key(row: usage_pb.UsageRow, group_by: tuple[int, ...]) -> tuple[Any, ...]:
    names = {SURVEY: "survey_id", STAGE: "stage", MODEL: "model", TENANT: "tenant", DAY: "day", LABEL: "label_value"}
    return tuple(getattr(row, names[dimension]) for dimension in group_by)


class Asked:
    """Asks the service, for whoever a test says."""

    def __init__(self, gateways: Gateways, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
        self.table = table
        self.who = LOCAL
        self._service = UsageService(gateways.database)
        monkeypatch.setattr("gateway.api.usage_service.principal", lambda: self.who)

    async def page(self, **fields: Any) -> usage_pb.QueryUsageResponse:
        request = usage_pb.QueryUsageRequest(**fields)
        return await self._service.QueryUsage(request, None)  # type: ignore[arg-type]

    async def all(self, **fields: Any) -> list[usage_pb.UsageRow]:
        """Return the groups of all pages."""
        rows, token = [], ""
        while True:
            page = await self.page(**fields, page_token=token)
            rows += page.rows
            token = page.next_page_token
            if not token:
                return rows
            assert len(page.rows) == fields["page_size"]


@pytest.fixture
async def asked(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> Asked:
    table = Table()
    await gateways.database.run(table.fill)
    return Asked(gateways, table, monkeypatch)


def combinations() -> Iterator[tuple[int, ...]]:
    for size in range(1, 4):
        yield from itertools.permutations(range(1, 7), size)


async def test_every_combination_sums_as_by_hand_and_comes_in_order(asked: Asked):
    for group_by in combinations():
        label_key = "team" if LABEL in group_by else ""
        response = await asked.page(group_by=group_by, label_key=label_key, page_size=10_000)
        sums = asked.table.summed(lambda row, by=group_by: key_of(row, by))
        shown = [(shown_key(row, group_by), figures(row)) for row in response.rows]
        wanted = [(key_of_shown(key, group_by), sums[key]) for key in sorted(sums)]

        assert shown == wanted, group_by
        assert not response.next_page_token


def key_of_shown(key: tuple[Any, ...], group_by: tuple[int, ...]) -> tuple[Any, ...]:
    """Return a place without the part that says whether there is a label."""
    if LABEL not in group_by:
        return key
    at = group_by.index(LABEL)
    return key[:at] + key[at + 1 :]


async def test_fields_that_were_not_grouped_by_are_empty(asked: Asked):
    row = (await asked.page(group_by=[STAGE])).rows[0]

    assert (row.survey_id, row.model, row.tenant, row.label_value, row.day) == ("", "", "", "", "")


@pytest.mark.parametrize("page_size", [1, 3, 7])
async def test_pages_make_up_the_whole_and_each_tells_the_sum_of_all(asked: Asked, page_size: int):
    for group_by, label_key in (((LABEL, STAGE), "team"), ((SURVEY, MODEL), ""), ((STAGE,), ""), ((DAY, TENANT), "")):
        whole = list((await asked.page(group_by=group_by, label_key=label_key)).rows)
        first = await asked.page(group_by=group_by, label_key=label_key, page_size=page_size)

        assert await asked.all(group_by=group_by, label_key=label_key, page_size=page_size) == whole
        assert figures(first.total) == asked.table.summed(lambda _: "all")["all"]


async def test_without_dimensions_there_is_one_group(asked: Asked):
    response = await asked.page()

    assert [figures(row) for row in response.rows] == [figures(response.total)]
    assert figures(response.total) == asked.table.summed(lambda _: "all")["all"]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"survey_id": "survey-3"}, lambda row: row["survey_id"] == "survey-3"),
        ({"stage": pb.STAGE_WRITE}, lambda row: row["stage"] == pb.STAGE_WRITE),
        ({"model": "openai:B"}, lambda row: row["model"] == "openai:B"),
        ({"tenant": "b"}, lambda row: row["tenant"] == "b"),
        ({"labels": {"team": "search"}}, lambda row: row["labels"].get("team") == "search"),
        (
            {"labels": {"team": "Ärzte", "env": "prod"}},
            lambda row: (row["labels"].get("team"), row["labels"].get("env")) == ("Ärzte", "prod"),
        ),
        ({"labels": {"team": ""}}, lambda row: row["labels"].get("team") == ""),
        ({"created_from": Timestamp(seconds=int(NOON + 3 * DAY_S))}, lambda row: row["created_at"] >= NOON + 3 * DAY_S),
        ({"created_before": Timestamp(seconds=int(NOON + DAY_S))}, lambda row: row["created_at"] < NOON + DAY_S),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_filters_leave_the_rest_out(asked: Asked, fields: dict[str, Any], wanted: Callable[[Any], bool]):
    for group_by, label_key in (((MODEL,), ""), ((LABEL,), "env")):
        response = await asked.page(group_by=group_by, label_key=label_key, **fields)

        assert figures(response.total) == asked.table.summed(lambda _: "all", wanted)["all"]
        assert sum(row.call_count for row in response.rows) == response.total.call_count
        assert all(row.survey_count for row in response.rows)


async def test_where_there_is_nothing_there_is_no_group(asked: Asked):
    for group_by in ([], [MODEL]):
        response = await asked.page(group_by=group_by, survey_id="nothing")

        assert not response.rows
        assert response.total == usage_pb.UsageRow()


async def test_a_token_sees_its_own_tenant_only(asked: Asked):
    asked.who = Principal("b", "tk_1", Scope.WRITE)
    mine = asked.table.summed(lambda row: row["tenant"], lambda row: row["tenant"] == "b")

    for fields in ({}, {"tenant": "b"}):
        response = await asked.page(group_by=[TENANT], **fields)
        assert {row.tenant: figures(row) for row in response.rows} == mine
    for fields in ({"tenant": "a"}, {"tenant": "nobody"}, {"survey_id": other_survey(asked.table)}):
        response = await asked.page(group_by=[TENANT], **fields)
        assert (list(response.rows), response.total) == ([], usage_pb.UsageRow())


def other_survey(table: Table) -> str:
    return str(next(row["survey_id"] for row in table.rows if row["tenant"] == "a"))


async def test_an_admin_sees_all_tenants_or_the_one_it_names(asked: Asked):
    asked.who = Principal("a", "tk_1", Scope.ADMIN)
    everybody = asked.table.summed(lambda row: row["tenant"])

    assert {row.tenant: figures(row) for row in (await asked.page(group_by=[TENANT])).rows} == everybody
    only = await asked.page(group_by=[TENANT], tenant="b-2")
    assert {row.tenant: figures(row) for row in only.rows} == {"b-2": everybody["b-2"]}


async def test_a_page_token_of_another_question_is_refused(asked: Asked):
    token = (await asked.page(group_by=[SURVEY], page_size=1)).next_page_token
    wrong = [
        {"group_by": [MODEL], "page_token": token},
        {"group_by": [SURVEY], "model": "openai:a", "page_token": token},
        {"group_by": [], "page_token": token},
        {"group_by": [SURVEY], "page_token": token[:-4]},
        {"group_by": [SURVEY], "page_token": "nonsense"},
        {"group_by": [SURVEY], "page_token": "é"},
    ]
    for fields in wrong:
        with pytest.raises(InvalidRequest) as failure:
            await asked.page(**fields)
        assert [each.field for each in failure.value.violations] == ["page_token"]


@pytest.mark.parametrize(
    "place",
    [[1], ["x", "y"], [None], [10**30], ["a\0b"], ["\ud800"], [True], [], [["x"]], [{}]],
    ids=repr,
)
async def test_a_forged_page_token_is_refused(asked: Asked, place: list[Any]):
    """Whatever it holds, it must reach no database as a value that this one cannot compare."""
    token = (await asked.page(group_by=[SURVEY], page_size=1)).next_page_token
    digest = json.loads(base64.urlsafe_b64decode(token))[0]
    forged = base64.urlsafe_b64encode(json.dumps([digest, *place]).encode()).decode()

    with pytest.raises(InvalidRequest):
        await asked.page(group_by=[SURVEY], page_token=forged)


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        ({"group_by": [0]}, ["group_by[0]"]),
        ({"group_by": [99]}, ["group_by[0]"]),
        ({"group_by": [STAGE, MODEL, STAGE]}, ["group_by"]),
        ({"group_by": [LABEL]}, ["label_key"]),
        ({"group_by": [STAGE], "label_key": "team"}, ["label_key"]),
        ({"group_by": [LABEL], "label_key": "x" * 64}, ["label_key"]),
        ({"stage": 99, "page_size": 10_001}, ["stage", "page_size"]),
        ({"survey_id": "x" * 129, "model": "y" * 301, "tenant": "z" * 129}, ["survey_id", "tenant", "model"]),
        ({"survey_id": "a\0b", "model": "\0", "tenant": "\0"}, ["survey_id", "tenant", "model"]),
        ({"labels": {f"k{n}": "v" for n in range(21)}}, ["labels"]),
        ({"labels": {"": "v"}}, ["labels['']"]),
        ({"labels": {"k": "v" * 256}}, ["labels['k']"]),
        ({"labels": {"k": "\0"}}, ["labels['k']"]),
        ({"created_from": Timestamp(seconds=-(10**12))}, ["created_from"]),
        ({"created_before": Timestamp(nanos=-1)}, ["created_before"]),
        ({"page_token": "x" * 4_097}, ["page_token"]),
    ],
)
def test_every_broken_field_is_named(fields: dict[str, Any], broken: list[str]):
    with pytest.raises(InvalidRequest) as failure:
        query_of(usage_pb.QueryUsageRequest(**fields), LOCAL)

    assert [each.field for each in failure.value.violations] == broken


async def test_a_broken_request_is_an_invalid_argument(file_gateways: Gateways):
    host = RoleServer("127.0.0.1:0")
    usage_grpc.add_UsageServiceServicer_to_server(UsageService(file_gateways.database), host.server)
    await host.start()
    async with open_channel(host.address) as channel:
        stub = usage_grpc.UsageServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.QueryUsage(usage_pb.QueryUsageRequest(group_by=[99]), timeout=10)
        empty = await stub.QueryUsage(usage_pb.QueryUsageRequest(group_by=[STAGE]), timeout=10)
    await host.stop(0)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in violations_in(failure.value)] == ["group_by[0]"]
    assert empty == usage_pb.QueryUsageResponse(total=usage_pb.UsageRow())


async def test_a_survey_that_was_corrected_is_counted_as_it_is_now(asked: Asked, gateways: Gateways):
    """Its cost is read again until no call of it is under way, in whichever direction it moves."""
    before = (await asked.page(survey_id="survey-3")).total
    job = a_running_job(
        survey_id="survey-3", tenant=(await asked.page(group_by=[TENANT], survey_id="survey-3")).rows[0].tenant
    )
    draft = Draft(survey_id="survey-3", spec=job.spec, labels={})
    row = next(each for each in asked.table.rows if each["survey_id"] == "survey-3" and each["model"] != "ollama:c")
    for each in asked.table.rows:
        if each["survey_id"] == "survey-3":
            report = draft.reports.setdefault(each["stage"], pb.StageReport(stage=each["stage"]))
            cost = None if each["model"] == "ollama:c" else 1 if each is row else each["cost_nano_usd"]
            report.usage.add(model=each["model"], cost_nano_usd=cost, **{name: each[name] for name in COUNTS})
    await gateways.database.run(lambda connection: usage.record(connection, job, draft))
    after = (await asked.page(survey_id="survey-3")).total

    assert after.call_count == before.call_count
    assert after.cost_nano_usd == before.cost_nano_usd - row["cost_nano_usd"] + 1


async def test_a_row_that_no_longer_holds_anything_is_gone(asked: Asked, gateways: Gateways):
    """A call that seemed to be under way when the survey ended may have taken nothing."""
    job = a_running_job(survey_id="survey-3", tenant="a")
    draft = Draft(survey_id="survey-3", spec=job.spec, labels={})
    draft.reports[pb.STAGE_WRITE] = pb.StageReport(stage=pb.STAGE_WRITE)
    draft.reports[pb.STAGE_WRITE].usage.add(model="openai:a", served_call_count=3, avoided_cost_nano_usd=70)
    await gateways.database.run(lambda connection: usage.record(connection, job, draft))
    response = await asked.page(group_by=[STAGE, MODEL], survey_id="survey-3")

    assert [(row.stage, row.model, row.call_count, row.served_call_count) for row in response.rows] == [
        (pb.STAGE_WRITE, "openai:a", 0, 3)
    ]
