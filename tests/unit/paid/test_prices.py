import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.common.paid.money import shown
from services.common.paid.prices import PriceBook, PriceSource
from services.common.paid.usage import TokenUsage
from services.common.settings import SettingsError

TABLES = Path(__file__).parents[4] / "shared" / "data" / "cost_tables.json"
NOW = datetime(2026, 11, 21, tzinfo=UTC)
MILLION = TokenUsage(input_tokens=1_000_000, output_tokens=1_000_000)


def problems_of(overrides: str) -> list[str]:
    with pytest.raises(SettingsError) as failure:
        PriceBook(overrides)
    return failure.value.problems


@pytest.mark.skipif(not TABLES.exists(), reason="the published cost tables lie in ../shared/data, which is not here")
@pytest.mark.parametrize("run", [0, 1])
def test_published_cost_tables_are_reproduced(run: int) -> None:
    """At the prices of their date, and with totals that were summed before they were rounded."""
    table = json.loads(TABLES.read_text(encoding="utf-8"))["runs"][run]
    providers = {"gpt": "openai", "text": "openai", "claude": "anthropic"}
    costs = []
    for row in table["rows"]:
        tokens = TokenUsage(input_tokens=row["input_tokens"], output_tokens=row["output_tokens"])
        model = f"{providers[row['model'].split('-')[0]]}:{row['model']}"
        costs.append(PriceBook("").price(model, tokens, at=datetime(2024, 4, 15, tzinfo=UTC)).cost_nano_usd)

    assert [shown(cost) for cost in costs if cost is not None] == [row["usd"] for row in table["rows"]]
    assert shown(sum(cost for cost in costs if cost is not None)) == table["total_usd"]


def test_a_call_costs_what_it_cost_on_its_day() -> None:
    """The catalogue has a higher price of this model from 2026-12-01 on."""
    prices = PriceBook("")
    before = prices.price("gemini:gemini-4-argon", MILLION, at=datetime(2026, 11, 30, 23, 59, tzinfo=UTC))
    after = prices.price("gemini:gemini-4-argon", MILLION, at=datetime(2026, 12, 1, 0, 1, tzinfo=UTC))

    assert before.cost_nano_usd is not None
    assert after.cost_nano_usd is not None
    assert before.cost_nano_usd < after.cost_nano_usd
    assert before.source is after.source is PriceSource.CATALOGUE
    assert before.version.startswith("genai-prices ")


def test_cached_and_written_tokens_have_prices_of_their_own() -> None:
    """Of this model: 2 USD a million in, 0.1 from the cache, 2.5 into it, 10 out."""
    tokens = TokenUsage(
        input_tokens=1_000_000, cached_input_tokens=400_000, cache_write_tokens=200_000, output_tokens=100_000
    )

    priced = PriceBook("").price("anthropic:claude-sonnet-5-5", tokens, at=NOW)

    assert priced.cost_nano_usd == (400_000 * 2_000) + (400_000 * 100) + (200_000 * 2_500) + (100_000 * 10_000)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("openai:gpt-77-imagined", id="unknown model"),
        pytest.param("ollama:qwen", id="server that is in no catalogue"),
        pytest.param("gemini:gemma-3", id="in the catalogue, without a price"),
        pytest.param("openai:text-embedding-3-large", id="tokens of a kind without a price"),
    ],
)
def test_what_is_not_known_is_unpriced_and_not_free(model: str) -> None:
    priced = PriceBook("").price(model, MILLION, at=NOW)

    assert priced.cost_nano_usd is None
    assert priced.source is PriceSource.UNPRICED
    assert PriceBook("").worst(model, MILLION, at=NOW, seconds=1) is None


def test_an_embedding_model_has_no_price_for_tokens_out() -> None:
    tokens = TokenUsage(input_tokens=1_000_000)

    assert PriceBook("").price("openai:text-embedding-3-large", tokens, at=NOW).cost_nano_usd == 130_000_000


def test_the_operators_price_stands_over_the_catalogue() -> None:
    prices = PriceBook(
        '{"openai:gpt-6-luna": {"input_mtok": 0.1, "output_mtok": 2}, "ollama:*": {"input_mtok": 0, "output_mtok": 0}}'
    )

    priced = prices.price("openai:gpt-6-luna", TokenUsage(input_tokens=3, output_tokens=5), at=NOW)
    assert priced.cost_nano_usd == 3 * 100 + 5 * 2_000
    assert priced.source is PriceSource.OVERRIDE
    assert priced.version
    assert prices.price("ollama:anything", MILLION, at=NOW).cost_nano_usd == 0
    assert prices.price("openai:gpt-6-sol", MILLION, at=NOW).source is PriceSource.CATALOGUE


def test_a_name_stands_over_a_pattern_and_cached_tokens_cost_as_input() -> None:
    own = {
        "vllm:*": {"input_mtok": 1, "output_mtok": 1},
        "vllm:small": {"input_mtok": 2, "cached_input_mtok": 0.5, "output_mtok": 4},
    }
    prices = PriceBook(json.dumps(own))
    tokens = TokenUsage(input_tokens=100, cached_input_tokens=40, cache_write_tokens=20, output_tokens=10)

    assert prices.price("vllm:small", tokens, at=NOW).cost_nano_usd == 60 * 2_000 + 40 * 500 + 10 * 4_000
    assert prices.price("vllm:large", tokens, at=NOW).cost_nano_usd == 110 * 1_000


def test_a_gpu_hour_is_shared_by_the_calls_that_run_in_it() -> None:
    prices = PriceBook('{"vllm:*": {"gpu_usd_per_hour": 3.6, "gpus": 2}}')

    alone = prices.price("vllm:x", MILLION, at=NOW, seconds=10, mean_in_flight=0.5)
    shared = prices.price("vllm:x", MILLION, at=NOW, seconds=10, mean_in_flight=4)

    assert alone.cost_nano_usd == 20_000_000
    assert shared.cost_nano_usd == 5_000_000
    assert shared.source is PriceSource.GPU_TIME
    assert prices.worst("vllm:x", MILLION, at=NOW, seconds=10) == 20_000_000


def test_the_worst_case_counts_on_no_cache() -> None:
    """A prompt may be written to a cache at a higher price, and read from none."""
    tokens = TokenUsage(input_tokens=1_000, cached_input_tokens=1_000, output_tokens=100)
    prices = PriceBook("")

    assert prices.worst("anthropic:claude-sonnet-5-5", tokens, at=NOW, seconds=1) == 1_000 * 2_500 + 100 * 10_000


def test_the_worst_case_counts_on_a_cache_that_costs_more() -> None:
    """An operator may set any price; the budget holds all the same."""
    own = '{"own:x": {"input_mtok": 1, "cached_input_mtok": 5, "cache_write_mtok": 3, "output_mtok": 0}}'

    assert PriceBook(own).worst("own:x", MILLION, at=NOW, seconds=1) == 5_000_000_000


def test_all_that_is_wrong_with_own_prices_is_told_at_once() -> None:
    problems = problems_of(
        '{"model": {"input_mtok": 1, "output_mtok": 1}, "a:b": 3, "c:d": {"input_mtok": -1, "outputs": 2},'
        ' "e:*": {"gpu_usd_per_hour": 1e999, "gpus": 0, "input_mtok": 1}}'
    )

    assert all(problem.startswith("PAPERROUTE_PAID__PRICES: ") for problem in problems)
    named = [problem.removeprefix("PAPERROUTE_PAID__PRICES: ") for problem in problems]
    expected = [
        "'model':",
        "'a:b':",
        "c:d: input_mtok:",
        "c:d: output_mtok:",
        "c:d: outputs:",
        "e:*: gpu_usd_per_hour:",
        "e:*: gpus:",
        "e:*: input_mtok:",
    ]
    assert [any(line.startswith(start) for line in named) for start in expected] == [True] * len(expected)
    assert len(problems) == len(expected)


@pytest.mark.parametrize("text", ["{", "[]", "3", '"openai:x"'])
def test_what_is_no_table_of_prices_is_refused_with_an_example(text: str) -> None:
    (problem,) = problems_of(text)

    assert problem.startswith("PAPERROUTE_PAID__PRICES: ")
    assert "input_mtok" in problem


def test_the_catalogue_has_the_names_we_use() -> None:
    """They are not among those the package promises to keep."""
    import genai_prices
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import ModelPrice, PriceCalculation, Usage

    assert {provider.id for provider in get_snapshot().providers} >= {"openai", "anthropic", "google"}
    usage = Usage(input_tokens=3, cache_read_tokens=1, cache_write_tokens=1, output_tokens=1)
    found = genai_prices.calc_price(
        usage, "claude-sonnet-5-5", provider_id="anthropic", genai_request_timestamp=datetime(2026, 11, 1, tzinfo=UTC)
    )
    assert isinstance(found, PriceCalculation)
    assert isinstance(found.model_price, ModelPrice)
    assert found.model_price.input_mtok is not None
    assert found.model_price.output_mtok is not None
