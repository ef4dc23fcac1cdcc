"""The ledger itself; what calls make of it is in test_calls.py."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import COST, MODEL, TOKENS, Ledgers, a_call, a_caller

from services.common.errors import InvalidRequest, UpstreamFailed
from services.common.paid.caller import Caller, Scope
from services.common.paid.calls import PaidCall
from services.common.paid.ledger import Ledger, key_of
from services.common.paid.ledger_values import Busy, CallState, Claimed, Recorded
from services.common.paid.prices import Priced, PriceSource
from services.common.paid.usage import TokenUsage

PRICED = Priced(cost_nano_usd=COST, source=PriceSource.OVERRIDE, version="v1")


async def claimed(ledger: Ledger, call: PaidCall, caller: Caller) -> Claimed:
    found = await ledger.claim(key_of(call, caller), call, caller)
    assert isinstance(found, Claimed)
    return found


async def record(
    ledger: Ledger, call: PaidCall, caller: Caller, *, body: bytes = b"an answer", state: CallState = CallState.OK
) -> Claimed:
    claim = await claimed(ledger, call, caller)
    await ledger.finish(claim, state=state, tokens=TOKENS, priced=PRICED, body=body, response_id="response-1")
    return claim


def states(calls: Sequence[object]) -> list[CallState]:
    return [call.state for call in calls]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("other_call", "other_caller", "is_same"),
    [
        pytest.param(a_call(), a_caller(), True, id="the same"),
        pytest.param(a_call(), a_caller("survey-2", stage="frame", item="1"), True, id="another survey of the tenant"),
        pytest.param(a_call(), a_caller(tenant="tenant-b"), False, id="another tenant"),
        pytest.param(a_call("another question"), a_caller(), False, id="another prompt"),
        pytest.param(a_call(sample="candidate 2"), a_caller(), False, id="another sample"),
        pytest.param(a_call(model="own:other"), a_caller(), False, id="another model"),
        pytest.param(replace(a_call(), endpoint="http://127.0.0.1:2/v1"), a_caller(), False, id="another server"),
        pytest.param(a_call(scope=Scope.PUBLIC), a_caller(), False, id="another scope"),
        pytest.param(
            replace(a_call(), prompt_id="section.v2@1"), a_caller(), True, id="a prompt's name decides nothing"
        ),
        pytest.param(a_call(), a_caller(cache_off=True), False, id="without what others recorded"),
    ],
)
def test_a_key_names_what_is_asked_and_for_whom(other_call: PaidCall, other_caller: Caller, is_same: bool) -> None:
    assert (key_of(a_call(), a_caller()) == key_of(other_call, other_caller)) is is_same


def test_public_prompts_are_shared_by_tenants_but_not_with_a_cache_switched_off() -> None:
    call = a_call(scope=Scope.PUBLIC)
    without = [
        key_of(call, a_caller(survey, tenant=tenant, cache_off=True))
        for tenant, survey in (("tenant-a", "survey-1"), ("tenant-a", "survey-2"), ("tenant-b", "survey-1"))
    ]

    assert key_of(call, a_caller()) == key_of(call, a_caller("survey-9", tenant="tenant-b"))
    assert len({*without, key_of(call, a_caller())}) == 4
    assert without[0] == key_of(call, a_caller(item="another", cache_off=True))


async def test_an_answer_is_served_again_after_a_restart(file_ledgers: Ledgers) -> None:
    await record(file_ledgers.ledger(), a_call(), a_caller())

    found = await file_ledgers.ledger().claim(key_of(a_call(), a_caller()), a_call(), a_caller())

    assert isinstance(found, Recorded)
    assert found.body == b"an answer"


async def test_the_payer_gets_its_cost_back_and_any_other_caller_pays_nothing(file_ledgers: Ledgers) -> None:
    ledger = file_ledgers.ledger()
    await record(ledger, a_call(), a_caller())
    found = await ledger.claim(key_of(a_call(), a_caller()), a_call(), a_caller())
    assert isinstance(found, Recorded)

    payer = found.usage_for(a_caller())
    assert (payer.cost_nano_usd, payer.avoided_cost_nano_usd, payer.input_tokens) == (COST, 0, TOKENS.input_tokens)
    for other in (a_caller("survey-2"), a_caller(stage="frame"), a_caller(item="2.4"), a_caller(tenant="tenant-b")):
        usage = found.usage_for(other)
        assert (usage.cost_nano_usd, usage.avoided_cost_nano_usd) == (0, COST)


@pytest.mark.parametrize(
    "state",
    [CallState.TRUNCATED, CallState.REFUSED, CallState.MALFORMED, CallState.FAILED],
    ids=lambda state: state.value,
)
async def test_only_an_answer_that_is_well_is_served_again(file_ledgers: Ledgers, state: CallState) -> None:
    """The others were paid for, and are asked anew."""
    ledger = file_ledgers.ledger()
    await record(ledger, a_call(), a_caller(), state=state)

    assert isinstance(await ledger.claim(key_of(a_call(), a_caller()), a_call(), a_caller()), Claimed)
    first, second = await file_ledgers.listed()
    assert (first.state, first.usage.cost_nano_usd) == (state, COST)
    assert second.state is CallState.IN_FLIGHT


async def test_a_call_in_flight_is_made_by_one_process_only(ledgers: Ledgers) -> None:
    here, there = ledgers.ledger(), ledgers.ledger()
    claim = await claimed(here, a_call(), a_caller())

    assert await there.claim(claim.key, a_call(), a_caller()) == Busy()

    await here.release(claim)
    assert isinstance(await there.claim(claim.key, a_call(), a_caller()), Claimed)


async def test_many_processes_that_ask_at_once_make_one_call(ledgers: Ledgers) -> None:
    several = [ledgers.ledger() for _ in range(4)]
    key = key_of(a_call(), a_caller())

    found = await asyncio.gather(*(ledger.claim(key, a_call(), a_caller()) for ledger in several * 3))

    assert sum(isinstance(each, Claimed) for each in found) == 1
    assert sum(isinstance(each, Busy) for each in found) == 11


async def test_the_database_itself_keeps_two_answers_from_one_key(ledgers: Ledgers) -> None:
    ledger = ledgers.ledger()
    for name in ("one", "two"):
        await record(ledger, a_call(name), a_caller(item=name))

    with pytest.raises(UpstreamFailed, match="IntegrityError"):
        await ledgers.sql("UPDATE {call} SET key = 'the same'")
    await ledgers.sql("UPDATE {call} SET state = 'failed' WHERE item = 'one'")
    await ledgers.sql("UPDATE {call} SET key = 'the same'")


async def test_a_lease_that_ran_out_is_taken_over(ledgers: Ledgers) -> None:
    """The process that made the call is dead: nobody knows what its call cost."""
    claim = await claimed(ledgers.ledger(), a_call(), a_caller())
    await ledgers.sql("UPDATE {call} SET lease_until = started_at - 1")

    taken = await ledgers.ledger().claim(claim.key, a_call(), a_caller("survey-2"))

    assert isinstance(taken, Claimed)
    assert taken.took_over
    (lost,) = await ledgers.listed()
    assert lost.state is CallState.LOST
    assert lost.usage.cost_nano_usd is None
    assert lost.finished_at is not None
    assert states(await ledgers.listed("survey-2")) == [CallState.IN_FLIGHT]


async def test_the_worst_case_is_written_with_the_claim(ledgers: Ledgers) -> None:
    """While a call is under way, and when it is lost, this is all that is known of its cost."""
    ledger = ledgers.ledger()
    await ledger.claim(key_of(a_call(), a_caller()), a_call(), a_caller(), 7_000)
    await ledger.claim(key_of(a_call("unpriced"), a_caller()), a_call("unpriced"), a_caller())

    assert [call.worst_nano_usd for call in await ledgers.listed()] == [7_000, None]


@pytest.mark.parametrize(("survey_id", "lost"), [("survey-1", 7_000), ("survey-2", 0)])
async def test_who_takes_over_a_call_of_its_own_is_told_what_it_may_have_cost(
    ledgers: Ledgers, survey_id: str, lost: int
) -> None:
    key = key_of(a_call(), a_caller())
    await ledgers.ledger().claim(key, a_call(), a_caller(), 7_000)
    await ledgers.sql("UPDATE {call} SET lease_until = started_at - 1")

    taken = await ledgers.ledger().claim(key, a_call(), a_caller(survey_id), 9_000)

    assert isinstance(taken, Claimed)
    assert taken.lost_nano_usd == lost


async def test_a_call_whose_process_died_is_shown_as_lost_before_anybody_asks_again(file_ledgers: Ledgers) -> None:
    """Otherwise who closes a survey would wait for it for ever."""
    await claimed(file_ledgers.ledger(), a_call(), a_caller())
    await file_ledgers.sql("UPDATE {call} SET lease_until = started_at - 1")

    assert states(await file_ledgers.listed()) == [CallState.LOST]


async def test_leases_are_renewed(ledgers: Ledgers) -> None:
    ledger = ledgers.ledger()
    claim = await claimed(ledger, a_call(), a_caller())
    await ledgers.sql("UPDATE {call} SET lease_until = started_at - 1")

    await ledger.renew_leases()

    assert await ledgers.ledger().claim(claim.key, a_call(), a_caller()) == Busy()


async def test_leases_are_renewed_without_being_asked(file_ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.paid.ledger.LEASE_S", 0.06)
    await claimed(file_ledgers.ledger(), a_call(), a_caller())
    seen = set()

    async with asyncio.timeout(20):
        while len(seen) < 3:
            (row,) = await file_ledgers.sql("SELECT lease_until FROM {call}")
            seen.add(row["lease_until"])

    assert len(seen) == 3


async def test_a_lease_is_not_renewed_after_the_end_of_its_call(file_ledgers: Ledgers) -> None:
    ledger = file_ledgers.ledger()
    await record(ledger, a_call(), a_caller())
    (before,) = await file_ledgers.sql("SELECT lease_until FROM {call}")

    await ledger.renew_leases()

    assert await file_ledgers.sql("SELECT lease_until FROM {call}") == [before]


async def test_an_answer_that_comes_after_its_call_was_taken_over_is_billed_but_not_kept(ledgers: Ledgers) -> None:
    """A machine that slept: it is paid for twice, and both rows say so."""
    slow, quick = ledgers.ledger(), ledgers.ledger()
    claim = await claimed(slow, a_call(), a_caller())
    await ledgers.sql("UPDATE {call} SET lease_until = started_at - 1")
    await record(quick, a_call(), a_caller(item="other"), body=b"quick")

    await slow.finish(claim, state=CallState.OK, tokens=TOKENS, priced=PRICED, body=b"slow")

    late, kept = await ledgers.listed()
    assert (late.state, late.usage.cost_nano_usd) == (CallState.EXPIRED, COST)
    assert (kept.state, kept.usage.cost_nano_usd) == (CallState.OK, COST)
    found = await slow.claim(claim.key, a_call(), a_caller())
    assert isinstance(found, Recorded)
    assert found.body == b"quick"


async def test_an_answer_that_comes_late_is_kept_where_nobody_took_its_call_over(file_ledgers: Ledgers) -> None:
    ledger = file_ledgers.ledger()
    claim = await claimed(ledger, a_call(), a_caller())
    await file_ledgers.sql("UPDATE {call} SET lease_until = started_at - 1")

    await ledger.finish(claim, state=CallState.OK, tokens=TOKENS, priced=PRICED, body=b"late")

    assert isinstance(await ledger.claim(claim.key, a_call(), a_caller()), Recorded)


async def test_a_released_call_leaves_nothing(file_ledgers: Ledgers) -> None:
    ledger = file_ledgers.ledger()
    await ledger.release(await claimed(ledger, a_call(), a_caller()))

    assert await file_ledgers.listed() == ()


async def test_a_broken_attempt_is_a_row_of_its_own(ledgers: Ledgers) -> None:
    ledger = ledgers.ledger()
    claim = await claimed(ledger, a_call(), a_caller())
    await ledger.add_broken(claim, state=CallState.TRUNCATED, tokens=TOKENS, priced=PRICED, seconds=2.0)
    await ledger.finish(claim, state=CallState.OK, tokens=TOKENS, priced=PRICED, body=b"whole")

    whole, broken = await ledgers.listed()
    assert states([whole, broken]) == [CallState.OK, CallState.TRUNCATED]
    assert broken.call_id != whole.call_id
    assert (broken.stage, broken.item, broken.usage.cost_nano_usd) == (whole.stage, whole.item, COST)
    assert broken.finished_at is not None
    assert broken.finished_at - broken.started_at == pytest.approx(2.0)


async def test_a_listed_call_tells_all_but_prompt_and_answer(file_ledgers: Ledgers) -> None:
    tokens = TokenUsage(
        input_tokens=100,
        cached_input_tokens=30,
        cache_write_tokens=20,
        output_tokens=50,
        reasoning_tokens=40,
        is_estimated=True,
    )
    ledger = file_ledgers.ledger()
    claim = await claimed(ledger, a_call(), a_caller())
    await ledger.finish(claim, state=CallState.OK, tokens=tokens, priced=PRICED, body=b"x", response_id="r-1")

    (call,) = await file_ledgers.listed()

    assert (call.survey_id, call.stage, call.item) == ("survey-1", "write", "2.3")
    assert (call.prompt_id, call.response_id) == ("section.v1@00000000", "r-1")
    assert (call.price_source, call.price_version) == (PriceSource.OVERRIDE, "v1")
    usage = call.usage
    assert (usage.model, usage.call_count, usage.cost_nano_usd, usage.is_estimated) == (MODEL, 1, COST, True)
    assert (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens) == (100, 30, 20)
    assert (usage.output_tokens, usage.reasoning_tokens) == (50, 40)
    assert call.finished_at is not None
    assert call.started_at <= call.finished_at


async def test_nothing_a_server_says_keeps_its_answer_from_being_recorded(ledgers: Ledgers) -> None:
    """Calls beside it are recorded in the same transaction."""
    ledger = ledgers.ledger()
    odd = await claimed(ledger, a_call("odd"), a_caller(item="a\0b"))
    other = await claimed(ledger, a_call("other"), a_caller())
    name = "\ud800\0" + "x" * 10**6

    await asyncio.gather(
        ledger.finish(odd, state=CallState.OK, tokens=TOKENS, priced=PRICED, body=b"odd", response_id=name),
        ledger.finish(other, state=CallState.OK, tokens=TOKENS, priced=PRICED, body=b"other"),
    )

    assert states(await ledgers.listed()) == [CallState.OK, CallState.OK]


async def test_calls_are_listed_in_pages_in_the_order_they_began(ledgers: Ledgers) -> None:
    ledger = ledgers.ledger()
    for number in range(7):
        await record(ledger, a_call(f"prompt {number}"), a_caller(item=f"{number}"))
    await record(ledger, a_call("of another survey"), a_caller("survey-2"))
    await record(ledger, a_call("of another tenant"), a_caller(tenant="tenant-b"))

    items: list[list[str]] = []
    token = ""
    while token or not items:
        page = await ledger.list_calls("tenant-a", "survey-1", 3, token)
        items.append([call.item for call in page.calls])
        token = page.next_page_token

    assert items == [["0", "1", "2"], ["3", "4", "5"], ["6"]]


async def test_a_page_that_ends_with_the_last_call_is_the_last(file_ledgers: Ledgers) -> None:
    ledger = file_ledgers.ledger()
    for number in range(3):
        await record(ledger, a_call(f"prompt {number}"), a_caller())

    assert (await ledger.list_calls("tenant-a", "survey-1", 3)).next_page_token == ""


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "９", "9" * 19])
async def test_a_page_token_of_another_kind_is_refused(file_ledgers: Ledgers, token: str) -> None:
    with pytest.raises(InvalidRequest) as failure:
        await file_ledgers.ledger().list_calls("tenant-a", "survey-1", 3, token)

    assert [each.field for each in failure.value.violations] == ["page_token"]


async def test_deleting_a_survey_removes_what_its_calls_say_of_the_question(ledgers: Ledgers) -> None:
    ledger = ledgers.ledger()
    for name in ("one", "two"):
        await record(ledger, a_call(name), a_caller(item=name), body=f"answer {name}".encode())
    await record(ledger, a_call("three"), a_caller(item="three"), state=CallState.REFUSED)
    await record(ledger, a_call("abstract", scope=Scope.PUBLIC), a_caller(item="1706.03762v7"), body=b"summary")
    await record(ledger, a_call("one"), a_caller("survey-2", tenant="tenant-b"))

    assert await ledger.delete_calls("tenant-a", "survey-1") == 2
    assert await ledger.delete_calls("tenant-a", "survey-1") == 0

    rows = await ledgers.sql("SELECT * FROM {call} WHERE survey_id = 'survey-1' ORDER BY number")
    asked = [(a_call("one"), a_caller()), (a_call("two"), a_caller()), (a_call("three"), a_caller())]
    assert [row["answer"] for row in rows[:3]] == [None] * 3
    assert [row["item"] for row in rows] == [""] * 4
    assert [row["response_id"] for row in rows[:3]] == [""] * 3
    assert not {row["key"] for row in rows} & {key_of(*each) for each in asked}
    assert [row["state"] for row in rows] == ["expired", "expired", "refused", "ok"]
    assert {row["cost_nano_usd"] for row in rows} == {COST}


async def test_answers_that_serve_all_stay_when_their_survey_is_deleted(file_ledgers: Ledgers) -> None:
    ledger = file_ledgers.ledger()
    call = a_call("abstract", scope=Scope.PUBLIC)
    await record(ledger, call, a_caller())
    await ledger.delete_calls("tenant-a", "survey-1")

    assert isinstance(await ledger.claim(key_of(call, a_caller()), call, a_caller(tenant="tenant-b")), Recorded)


async def test_a_deleted_answer_is_not_served_and_other_surveys_keep_theirs(file_ledgers: Ledgers) -> None:
    ledger = file_ledgers.ledger()
    await record(ledger, a_call("one"), a_caller())
    await record(ledger, a_call("two"), a_caller("survey-2"))
    await ledger.delete_calls("tenant-a", "survey-1")

    assert isinstance(await ledger.claim(key_of(a_call("one"), a_caller()), a_call("one"), a_caller()), Claimed)
    assert isinstance(await ledger.claim(key_of(a_call("two"), a_caller()), a_call("two"), a_caller()), Recorded)


async def test_a_call_that_was_in_flight_when_its_survey_was_deleted_leaves_only_its_cost(ledgers: Ledgers) -> None:
    ledger = ledgers.ledger()
    claims = [await claimed(ledger, a_call(name), a_caller(item=name)) for name in ("one", "two")]
    await ledger.delete_calls("tenant-a", "survey-1")

    await ledger.add_broken(claims[0], state=CallState.TRUNCATED, tokens=TOKENS, priced=PRICED, seconds=1.0)
    for claim in claims:
        await ledger.finish(
            claim, state=CallState.OK, tokens=TOKENS, priced=PRICED, body=b"secret", response_id="response-1"
        )

    rows = await ledgers.sql("SELECT * FROM {call} ORDER BY number")
    assert [row["state"] for row in rows] == ["expired", "expired", "truncated"]
    assert all(row["answer"] is None and row["item"] == "" and row["response_id"] == "" for row in rows)
    assert not {row["key"] for row in rows} & {claim.key for claim in claims}
    assert [row["cost_nano_usd"] for row in rows] == [COST] * 3


async def test_a_deleted_answer_is_overwritten_in_the_file(file_ledgers: Ledgers) -> None:
    secret = os.urandom(200)  # does not compress, so it lies in the file as it is
    file = file_ledgers.shared.data_dir / "generation.sqlite3"
    ledger = file_ledgers.ledger()
    await record(ledger, a_call(), a_caller(), body=secret)
    await ledger.close()
    assert secret in file.read_bytes()

    ledger = file_ledgers.ledger()
    await ledger.delete_calls("tenant-a", "survey-1")
    await ledger.close()

    assert secret not in file.read_bytes()
    assert [each.name for each in file.parent.iterdir()] == [file.name]


async def test_old_answers_are_removed_and_what_they_cost_is_kept(ledgers: Ledgers) -> None:
    ledger = ledgers.ledger(retention_days=30)
    for name in ("old", "new"):
        await record(ledger, a_call(name), a_caller(item=name))
    await ledgers.sql("UPDATE {call} SET finished_at = finished_at - 31 * 86400 WHERE item = 'old'")

    await ledger.tidy()

    old, new = await ledgers.listed()
    assert (old.state, old.usage.cost_nano_usd) == (CallState.EXPIRED, COST)
    assert new.state is CallState.OK
    assert isinstance(await ledger.claim(key_of(a_call("old"), a_caller()), a_call("old"), a_caller()), Claimed)


async def test_beyond_the_size_the_answers_not_used_for_longest_are_removed(ledgers: Ledgers) -> None:
    body = os.urandom(1_000)
    ledger = ledgers.ledger(max_answer_bytes=3_500)
    for number in range(5):
        await record(ledger, a_call(f"{number}"), a_caller(item=f"{number}"), body=body)
        await ledgers.sql(
            "UPDATE {call} SET used_at = used_at - :age WHERE item = :item", age=9_000 - number, item=f"{number}"
        )
    first = a_call("0")
    await ledger.claim(key_of(first, a_caller()), first, a_caller())  # used now

    await ledger.tidy()

    kept = [call.item for call in await ledgers.listed() if call.state is CallState.OK]
    assert kept == ["0", "3", "4"]
    (left,) = await ledgers.sql("SELECT sum(size_bytes) AS size_bytes, sum(length(answer)) AS length FROM {call}")
    assert left["size_bytes"] == left["length"] <= 3_500


async def test_limits_are_kept_to_without_being_asked(file_ledgers: Ledgers) -> None:
    """A ledger that is opened looks for what has grown too old meanwhile."""
    await record(file_ledgers.ledger(), a_call("old"), a_caller())
    await file_ledgers.sql("UPDATE {call} SET finished_at = finished_at - 91 * 86400")
    ledger = file_ledgers.ledger(retention_days=90)

    await record(ledger, a_call("new"), a_caller("survey-2"))
    await ledger.close()

    assert states(await file_ledgers.listed()) == [CallState.EXPIRED]


async def test_answers_are_compressed(ledgers: Ledgers) -> None:
    body = b'{"text": "' + b"the same again and again " * 4_000 + b'"}'
    ledger = ledgers.ledger()
    await record(ledger, a_call(), a_caller(), body=body)

    (row,) = await ledgers.sql("SELECT size_bytes, length(answer) AS length FROM {call}")
    assert row["size_bytes"] == row["length"] < len(body) / 50
    found = await ledger.claim(key_of(a_call(), a_caller()), a_call(), a_caller())
    assert isinstance(found, Recorded)
    assert found.body == body


async def test_the_prompt_is_nowhere_in_the_ledger(file_ledgers: Ledgers) -> None:
    ledger = file_ledgers.ledger()
    await record(ledger, a_call("a most confidential question"), a_caller())
    await ledger.close()

    files = list(file_ledgers.shared.data_dir.iterdir())
    assert files
    assert all(b"confidential" not in file.read_bytes() for file in files)


async def test_the_file_is_its_owners_alone(file_ledgers: Ledgers) -> None:
    await record(file_ledgers.ledger(), a_call(), a_caller())

    files = list(Path(file_ledgers.shared.data_dir).iterdir())
    assert {file.name.split("-")[0] for file in files} == {"generation.sqlite3"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_owners_keep_ledgers_of_their_own(ledgers: Ledgers) -> None:
    await record(ledgers.ledger(owner="generation"), a_call(), a_caller())
    embedding = ledgers.ledger(owner="embedding")

    assert (await embedding.list_calls("tenant-a", "survey-1")).calls == ()
    assert isinstance(await embedding.claim(key_of(a_call(), a_caller()), a_call(), a_caller()), Claimed)
