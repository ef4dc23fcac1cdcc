"""One model, asked: what is paid, recorded, corrected, and what its faults become."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, Field
from scripted_models import CUT, PRICE, REFUSAL, MemoryCalls, Sink, caller_for, model_of, provider_of, reply

from services.common.errors import NotReady
from services.common.paid.caller import Scope
from services.common.paid.calls import Outcome
from services.common.paid.faults import REACTIONS, FaultKind, ProviderFault
from services.common.providers.chat import ChatRequest, Finish
from services.generation.llm.chat_model import ChatModel, Refused, Tally, Unusable

REQUEST = ChatRequest(model="", system="system", prompt="prompt", max_output_tokens=100)
HOW: dict[str, Any] = {"scope": Scope.TENANT, "prompt_id": "p.v1@0"}


class Pair(BaseModel):
    left: int = Field(ge=0)
    right: str


GOOD = '{"left": 1, "right": "x"}'
BAD = '{"left": -1}'


async def asked(model: ChatModel, **fields: Any) -> Any:
    return await model.ask(REQUEST, caller_for(), **HOW, **fields)


async def formed(model: ChatModel) -> Any:
    return await model.ask_form(REQUEST, Pair, caller_for(), **HOW)


async def test_text_is_streamed_and_the_recorded_one_is_played_whole():
    """A rerun costs nothing, and whoever watches it sees the text all the same."""
    calls = MemoryCalls()
    first, second = Sink(), Sink()

    await asked(model_of(["One two."], calls=calls), sink=first)
    again = await asked(model_of([REFUSAL], calls=calls), sink=second)

    assert "".join(first.pieces).strip() == "One two."
    assert second.pieces == ["One two."]
    assert (again.usage.cost_nano_usd, again.usage.avoided_cost_nano_usd) == (0, PRICE)


async def test_an_answer_that_reasoning_ate_is_asked_for_with_twice_the_room():
    model = model_of([CUT, "Enough room."])

    text = await asked(model)

    assert text.text == "Enough room."
    assert [each.max_output_tokens for each in provider_of(model).requests] == [100, 200]
    assert (text.usage.call_count, text.usage.cost_nano_usd) == (2, 2 * PRICE)


async def test_room_is_doubled_once_only():
    model = model_of([CUT])

    text = await asked(model)

    assert (text.text, text.is_truncated) == ("", True)
    assert len(provider_of(model).requests) == 2


async def test_a_cut_text_is_kept():
    """Prose without its end is of use; asking again would pay for it twice."""
    text = await asked(model_of([reply("The beginning of", Finish.LENGTH)]))

    assert (text.text, text.is_truncated) == ("The beginning of", True)


async def test_json_without_its_end_is_asked_for_with_twice_the_room():
    model = model_of([reply(GOOD[:9], Finish.LENGTH), GOOD])

    assert (await formed(model)).value == Pair(left=1, right="x")
    assert [each.max_output_tokens for each in provider_of(model).requests] == [100, 200]


async def test_refusal_is_raised_with_what_it_cost():
    with pytest.raises(Refused, match="scripted:m declined") as refusal:
        await asked(model_of([REFUSAL]))

    assert refusal.value.usage.cost_nano_usd == PRICE


@pytest.mark.parametrize("text", [GOOD, f"```json\n{GOOD}\n```", f"Here it is:\n{GOOD}\nAnything else?"])
async def test_json_is_found_in_what_a_server_without_schemas_says(text: str):
    assert (await formed(model_of([text]))).value.right == "x"


async def test_an_answer_that_breaks_the_form_is_sent_back_with_what_is_wrong():
    model = model_of([BAD, GOOD])

    answer = await formed(model)

    assert answer.value == Pair(left=1, right="x")
    assert answer.usage[0].call_count == 2
    turn = provider_of(model).requests[1].turns[0]
    assert turn.answer == BAD
    assert "left" in turn.correction
    assert "right" in turn.correction


@pytest.mark.parametrize("bad", ["", "no JSON at all", "[1, 2]", "{", '{"left": "a", "right": 3}', "null", BAD])
async def test_what_stays_bad_is_unusable_and_names_the_model(bad: str):
    with pytest.raises(Unusable, match="scripted:m") as failure:
        await formed(model_of([bad]))

    assert sum(each.call_count for each in failure.value.usage) == 2
    assert failure.value.text == bad


async def test_a_rerun_pays_neither_for_the_first_answer_nor_for_its_correction():
    calls = MemoryCalls()
    await formed(model_of([BAD, GOOD], calls=calls))

    again = await formed(model_of([REFUSAL], calls=calls))

    assert again.value.left == 1
    assert again.usage[0].cost_nano_usd == 0


async def test_a_correction_that_is_no_better_is_not_served_again():
    """Otherwise one bad day of a model would spoil the same question for ever."""
    calls = MemoryCalls()
    with pytest.raises(Unusable):
        await formed(model_of([BAD], calls=calls))

    again = await formed(model_of([GOOD], calls=calls))

    assert again.value.left == 1
    assert again.usage[0].cost_nano_usd == PRICE


async def test_an_empty_answer_is_recorded_as_malformed():
    recorded: list[Outcome] = []

    class Noting(MemoryCalls):
        async def run(self, *args: Any) -> Any:
            answer = await super().run(*args)
            recorded.append(answer.outcome)
            return answer

    await asked(model_of([" \n"], calls=Noting()))

    assert recorded == [Outcome.MALFORMED]


async def test_half_a_character_does_not_break_the_record():
    """A stream cut between the halves of a surrogate pair leaves one of them."""
    assert (await asked(model_of(["Fine \ud83d here"]))).text == "Fine ? here"


@pytest.mark.parametrize("kind", FaultKind)
async def test_each_fault_goes_on_to_another_model_or_to_the_operator(kind: FaultKind):
    """The table of reactions decides, and the message names what to change."""
    fault = ProviderFault(kind, "scripted:m", "as told")
    model = model_of([fault])

    if REACTIONS[kind].stands_in:
        with pytest.raises(ProviderFault):
            await asked(model)
    else:
        with pytest.raises(NotReady, match=r"scripted:m.*(PAPERROUTE_MODELS__PLAN|API_KEY)"):
            await asked(model)


async def test_a_refused_key_names_its_variable():
    fault = ProviderFault(FaultKind.KEY_REFUSED, "scripted:m", "401")

    with pytest.raises(NotReady, match="SCRIPTED_API_KEY"):
        await asked(model_of([fault]))


async def test_the_sample_the_seed_and_the_prompt_tell_calls_apart_but_not_the_hint_for_caching():
    calls = MemoryCalls()
    model = model_of(["Text."], calls=calls)

    for survey in ("s", "other"):
        for sample in ("a", "b"):
            await model.ask(REQUEST, caller_for(survey_id=survey), **HOW, sample=sample)

    assert len(provider_of(model).requests) == 2


async def test_what_a_caller_wants_private_is_never_public():
    """A tenant's own paper looks like any other to a prompt made of papers alone."""
    calls = MemoryCalls()
    model = model_of(["Text."], calls=calls)
    how = {**HOW, "scope": Scope.PUBLIC}

    await model.ask(REQUEST, caller_for(), **how)
    await model.ask(REQUEST, caller_for(is_private=True), **how)

    assert [call.scope for call, _ in calls.calls] == [Scope.PUBLIC, Scope.TENANT]


async def test_the_worst_case_covers_the_prompt_in_any_script_and_the_limit():
    calls = MemoryCalls()
    request = ChatRequest(model="", system="日本語" * 100, prompt="x" * 400, max_output_tokens=77)

    await model_of(["Text."], calls=calls).ask(request, caller_for(), **HOW)

    worst = calls.calls[0][0].worst
    assert worst.output_tokens == 77
    assert worst.input_tokens >= 300 + 200
    assert json.loads(calls.calls[0][0].payload)["system"] == request.system


async def test_a_meter_counts_answers_of_one_task_although_the_task_fails():
    tally = Tally()
    model = model_of([BAD, REFUSAL])

    with pytest.raises(Refused):
        await formed(model.tallied(tally))

    assert [each.cost_nano_usd for each in tally.usages] == [PRICE, PRICE]
