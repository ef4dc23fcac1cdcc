"""The paid calls of a role's process, put together as in production."""

from pathlib import Path

import pytest
from ledgers import COST, PRICES, Provider, a_call, a_caller

from services.common.paid.process import paid_calls_of
from services.common.paid.settings import PaidSettings
from services.common.server import RoleServer
from services.common.settings import SettingsError, SharedSettings


@pytest.fixture
async def host() -> RoleServer:
    return RoleServer("127.0.0.1:0")


async def test_roles_of_one_server_share_what_they_pay_for(host: RoleServer, tmp_path: Path) -> None:
    shared = SharedSettings(data_dir=tmp_path / "data")
    first = paid_calls_of(host, shared, PaidSettings(), "generation")

    assert paid_calls_of(host, shared, PaidSettings(), "generation") is first
    assert paid_calls_of(host, shared, PaidSettings(), "embedding") is not first
    assert not shared.data_dir.exists()  # nothing is opened before the first call
    await host.stop()
    assert not shared.data_dir.exists()


async def test_a_call_goes_through_governor_and_ledger(host: RoleServer, tmp_path: Path) -> None:
    shared = SharedSettings(data_dir=tmp_path / "data")
    calls, provider = paid_calls_of(host, shared, PaidSettings(prices=PRICES), "generation"), Provider()

    answers = [await calls.run(a_call(), a_caller(), provider.send) for _ in range(2)]

    assert [answer.is_recorded for answer in answers] == [False, True]
    assert {answer.usage.cost_nano_usd for answer in answers} == {COST}
    assert [call.item for call in (await calls.list_calls("tenant-a", "survey-1")).calls] == ["2.3"]
    await host.stop()
    assert {path.name for path in shared.data_dir.iterdir()} == {"generation.sqlite3"}


async def test_prices_that_cannot_be_read_stop_the_start(host: RoleServer, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PAPERROUTE_PAID__PRICES"):
        paid_calls_of(host, SharedSettings(data_dir=tmp_path), PaidSettings(prices="{"), "generation")
    await host.stop()
