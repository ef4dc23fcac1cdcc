import asyncio
from dataclasses import dataclass

import pytest

from services.common.errors import NotReady
from services.embedding.encoders import MAX_KEPT, Encoders


@dataclass(eq=False)
class NamedEncoder:
    name: str
    dimension: int = 8


class Provider:
    """Has models whose names begin with "model", and notes which it was asked to make."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.made: list[str] = []

    def __call__(self, model: str) -> NamedEncoder | None:
        self.made.append(model)
        return NamedEncoder(f"{self.name}:{model}") if model.startswith("model") else None


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        pytest.param("one:model", True, id="known"),
        pytest.param("other:model:8k", True, id="a model's name can hold a colon"),
        pytest.param("one:none", False, id="unknown model"),
        pytest.param("third:model", False, id="unknown provider"),
        pytest.param("one:", False, id="no model"),
        pytest.param("model", False, id="no provider"),
        pytest.param("", False, id="empty"),
    ],
)
async def test_encoders_are_found_by_provider_and_model(name, is_known):
    encoders = Encoders({"one": Provider("one"), "other": Provider("other")}, {})

    found = await encoders.find(name)

    assert (found.name if found else None) == (name if is_known else None)


async def test_an_encoder_is_made_once():
    """It holds a model, which may be gigabytes; requests that come at once must share it too."""
    provider = Provider("one")
    encoders = Encoders({"one": provider}, {})

    at_once = await asyncio.gather(*(encoders.find("one:model") for _ in range(5)))
    later = await encoders.find("one:model")

    assert {id(each) for each in (*at_once, later)} == {id(later)}


async def test_the_one_not_asked_for_longest_is_let_go():
    encoders = Encoders({"one": Provider("one")}, {})
    first = [await encoders.find(f"one:model{number}") for number in range(MAX_KEPT)]
    await encoders.find("one:model0")

    await encoders.find("one:model-new")

    assert await encoders.find("one:model0") is first[0]
    assert await encoders.find("one:model1") is not first[1]


async def test_names_that_are_not_known_are_not_kept():
    """Whoever asks for many of them must not push out those in use."""
    encoders = Encoders({"one": Provider("one")}, {})
    known = await encoders.find("one:model")

    for number in range(2 * MAX_KEPT):
        await encoders.find(f"one:none{number}")

    assert await encoders.find("one:model") is known


async def test_a_missing_package_is_told_each_time():
    def missing(model: str) -> NamedEncoder:
        raise NotReady("encoder", "its package is missing")

    encoders = Encoders({"one": missing}, {})

    for _ in range(2):
        with pytest.raises(NotReady):
            await encoders.find("one:model")


def test_what_is_wanted_names_every_provider():
    local = Encoders({"other": Provider("other"), "one": Provider("one")}, {})
    both = Encoders({"one": Provider("one")}, {"far": Provider("far")})

    assert "one or other" in local.wanted
    assert "@" not in local.wanted
    assert "far or one" in both.wanted
    assert "any model of far as model@dimension" in both.wanted


async def test_remote_encoders_are_found_like_local_ones():
    encoders = Encoders({"one": Provider("one")}, {"far": Provider("far")})

    assert (await encoders.find("far:model@8")).name == "far:model@8"
    assert await encoders.find("far:none") is None
