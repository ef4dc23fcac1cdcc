"""What operators can set."""

import pytest

from services.common.settings import SettingsError, load
from services.ordering.settings import OrderingSettings


def test_settings_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("PAPERROUTE_ORDERING__SEARCH_FACTOR", "2.5")
    monkeypatch.setenv("PAPERROUTE_ORDERING__CONCURRENT_SOLVES", "3")

    settings = load(OrderingSettings)

    assert (settings.search_factor, settings.concurrent_solves) == (2.5, 3)


def test_a_laptop_needs_no_settings():
    settings = load(OrderingSettings, {})

    assert settings.listen == "127.0.0.1:50053"
    assert settings.concurrent_solves >= 1


@pytest.mark.parametrize("name", ["SEARCH_FACTOR", "CONCURRENT_SOLVES"])
def test_zero_is_refused_by_name(monkeypatch, name):
    monkeypatch.setenv(f"PAPERROUTE_ORDERING__{name}", "0")

    with pytest.raises(SettingsError, match=f"PAPERROUTE_ORDERING__{name}"):
        load(OrderingSettings)
