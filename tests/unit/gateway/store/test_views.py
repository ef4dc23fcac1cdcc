"""The views that dashboards read, on both databases."""

from typing import Any

from paperroute.v1 import survey_pb2 as pb
from sqlalchemy import insert

from gateway.store.tables import SURVEY_LABEL, USAGE

ROW = {
    "survey_id": "s1", "stage": pb.STAGE_SUMMARIZE, "model": "openai:m", "tenant": "search", "day": "2026-09-21",
    "created_at": 1_790_000_000.0, "call_count": 3, "input_tokens": 100, "cached_input_tokens": 10,
    "cache_write_tokens": 0, "output_tokens": 20, "reasoning_tokens": 5, "cost_nano_usd": 1_500_000,
    "avoided_cost_nano_usd": 0, "paper_count": 3, "served_call_count": 1, "served_input_tokens": 7,
    "served_output_tokens": 2,
}  # fmt: skip


async def test_the_views_show_names_and_dollars(gateways: Any):
    def work(connection: Any) -> tuple[list[Any], list[Any]]:
        connection.execute(insert(USAGE), [ROW, ROW | {"model": "mine:m", "cost_nano_usd": None}])
        connection.execute(insert(SURVEY_LABEL), [{"survey_id": "s1", "key": "team", "value": "a"}])
        query = "SELECT stage, model, cost_usd, is_unpriced, day, created_at FROM paperroute_usage ORDER BY model"
        label = "SELECT survey_id, key, value FROM paperroute_label"
        return connection.exec_driver_sql(query).all(), connection.exec_driver_sql(label).all()

    rows, labels = await gateways.database.run(work)

    assert [(row.stage, row.model, row.cost_usd and float(row.cost_usd)) for row in rows] == [
        ("summarize", "mine:m", None),
        ("summarize", "openai:m", 0.0015),
    ]
    assert [bool(row.is_unpriced) for row in rows] == [True, False]
    assert {str(row.day) for row in rows} == {"2026-09-21"}
    assert str(rows[0].created_at).startswith("2026-09-21")
    assert [tuple(row) for row in labels] == [("s1", "team", "a")]


async def test_a_survey_shows_what_it_cost_and_whether_that_is_the_whole(gateways: Any):
    """Nothing called is 0; a cost that nobody knows is not."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    rows = {
        "nothing-called": [],
        "unpriced": [ROW | {"model": "mine:m", "cost_nano_usd": None}],
        "partly": [ROW | {"model": "mine:m", "cost_nano_usd": None}, ROW],
        "priced": [ROW, ROW | {"stage": pb.STAGE_WRITE}],
    }
    for survey_id, given in rows.items():
        await gateways.create(survey_id=survey_id)
        for row in given:
            columns = ROW | row | {"survey_id": survey_id}
            await gateways.database.run(
                lambda connection, columns=columns: connection.execute(insert(USAGE), [columns])
            )
    await gateways.sql("UPDATE survey SET trace = :trace", trace=f"00-{trace_id}-b7ad6b7169203331-01")

    shown = await gateways.sql("SELECT survey_id, state, cost_usd, is_unpriced, trace_id FROM paperroute_survey")

    costs = {row["survey_id"]: (row["cost_usd"], bool(row["is_unpriced"])) for row in shown}
    assert {
        name: (cost if cost is None else float(cost), is_unpriced) for name, (cost, is_unpriced) in costs.items()
    } == {
        "nothing-called": (0, False),
        "unpriced": (None, True),
        "partly": (0.0015, True),
        "priced": (0.003, False),
    }
    assert {(row["state"], row["trace_id"]) for row in shown} == {("queued", trace_id)}
