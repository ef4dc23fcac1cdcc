"""A bad variable stops the start by its name."""

import pytest
from pydantic import PositiveInt
from pydantic_settings import BaseSettings

from services.common.settings import SettingsError, SharedSettings, load, settings_config


class OvenSettings(BaseSettings):
    model_config = settings_config("ordering")

    listen: str = "127.0.0.1:1"
    time_budget_ms: PositiveInt = 5


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_ORDERING__TIME_BUDGET_MS", "70")

    assert load(OvenSettings).time_budget_ms == 70


def test_all_bad_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_ORDERING__TIME_BUDGET_MS", "soon")
    monkeypatch.setenv("PAPERROUTE_ORDERING__LISTENS", "127.0.0.1:2")

    with pytest.raises(SettingsError) as failure:
        load(OvenSettings)

    assert len(failure.value.problems) == 2
    assert "PAPERROUTE_ORDERING__LISTENS: no such setting; did you mean PAPERROUTE_ORDERING__LISTEN?" in str(
        failure.value
    )
    assert "PAPERROUTE_ORDERING__TIME_BUDGET_MS='soon'" in str(failure.value)


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_ORDERING__TIME_BUDGET_MS", "")

    assert load(OvenSettings).time_budget_ms == 5


def test_shared_settings_leave_the_variables_of_roles_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_ORDERING__LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("PAPERROUTE_LOGLEVEL", "debug")

    with pytest.raises(SettingsError, match="PAPERROUTE_LOGLEVEL: no such setting; did you mean PAPERROUTE_LOG_LEVEL"):
        load(SharedSettings)
