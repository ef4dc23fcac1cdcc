"""Settings of providers: read from the environment, told when they are wrong, keys renewed without a restart."""

import os
from pathlib import Path

import pytest
from providing import KEY, request_to
from pydantic import SecretStr

from services.common.errors import NotReady
from services.common.paid.faults import FaultKind, ProviderFault
from services.common.providers import openai
from services.common.providers.registry import Providers
from services.common.providers.settings import ProviderKey, ProviderSettings
from services.common.settings import SettingsError


def problems() -> list[str]:
    with pytest.raises(SettingsError) as raised:
        Providers.from_environment()
    return raised.value.problems


@pytest.mark.parametrize(
    ("variables", "provider"),
    [
        ({"OPENAI_API_KEY": "usual"}, "openai"),
        ({"PAPERROUTE_OPENAI__API_KEY": "usual"}, "openai"),
        ({"PAPERROUTE_OPENAI__API_KEY": "usual", "OPENAI_API_KEY": "another"}, "openai"),
        ({"ANTHROPIC_API_KEY": "usual"}, "anthropic"),
        ({"GEMINI_API_KEY": "usual", "GOOGLE_API_KEY": "another"}, "gemini"),
        ({"GOOGLE_API_KEY": "usual"}, "gemini"),
    ],
)
async def test_a_key_is_read_by_its_usual_names(monkeypatch, server, variables, provider):
    server.accepted_key = "usual"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    url = getattr(server, f"{provider}_url")
    monkeypatch.setenv(f"PAPERROUTE_{provider.upper()}__BASE_URL", url)
    providers = Providers.from_environment()

    assert providers.problem_of(f"{provider}:model") is None
    assert (await providers.find(provider).chat(request_to(provider))).text
    await providers.close()


@pytest.mark.parametrize(
    ("provider", "usual"),
    [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY"), ("gemini", "GEMINI_API_KEY")],
)
async def test_a_missing_key_is_told_before_anything_is_sent(server, monkeypatch, provider, usual):
    monkeypatch.setenv(f"PAPERROUTE_{provider.upper()}__BASE_URL", getattr(server, f"{provider}_url"))
    providers = Providers.from_environment()
    wanted = f"{usual} or PAPERROUTE_{provider.upper()}__API_KEY"

    with pytest.raises(NotReady, match=wanted):
        await providers.find(provider).chat(request_to(provider))

    problem = providers.problem_of(f"{provider}:model")
    assert problem
    assert wanted in problem
    assert server.requests == []
    await providers.close()


async def test_a_compatible_server_is_used_by_its_name(server, monkeypatch):
    """Its models' names may hold colons, and it needs no key; OpenAI's is not for it."""
    monkeypatch.setenv("PAPERROUTE_COMPATIBLE__OLLAMA__BASE_URL", server.openai_url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    providers = Providers.from_environment()

    reply = await providers.find("ollama").chat(request_to("ollama", model="qwen2.5:1.5b"))

    assert reply.text
    assert server.requests[0].model == "qwen2.5:1.5b"
    assert KEY not in str(server.requests[0].headers)
    assert providers.problem_of("ollama:qwen2.5:1.5b") is None
    assert list(providers.names) == ["anthropic", "gemini", "ollama", "openai"]
    await providers.close()


async def test_a_compatible_server_may_have_a_key(server, monkeypatch):
    server.accepted_key = "theirs"
    monkeypatch.setenv("PAPERROUTE_COMPATIBLE__MY_VLLM__BASE_URL", server.openai_url)
    monkeypatch.setenv("PAPERROUTE_COMPATIBLE__MY_VLLM__API_KEY", "theirs")
    providers = Providers.from_environment()

    assert (await providers.find("my_vllm").chat(request_to("ollama"))).text
    await providers.close()


def test_every_wrong_variable_is_named_at_once(monkeypatch):
    wrong = {
        "PAPERROUTE_OPENAI__BASEURL": "http://x",
        "PAPERROUTE_OPENAI__TIMEOUT_S": "-1",
        "PAPERROUTE_ANTHROPIC__BASE_URL": "ftp://x",
        "PAPERROUTE_GEMINI__CAPABILITIES": '{"m": {"sed": 1}}',
        "PAPERROUTE_COMPATIBLE__OLLAMA__BASEURL": "http://x",
        "PAPERROUTE_COMPATIBLE__VLLM__API_KEY": KEY,
        "PAPERROUTE_COMPATIBLE__OPENAI__BASE_URL": "http://x",
        "PAPERROUTE_COMPATIBLE__EXTRACTIVE__BASE_URL": "http://x",
        "PAPERROUTE_COMPATIBLE__LLAMA": "http://x",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)

    told = problems()

    starts = ["PAPERROUTE_COMPATIBLE__VLLM__BASE_URL" if "VLLM" in name else name for name in wrong]
    starts = [name.replace("__OPENAI__BASE_URL", "__OPENAI__...") for name in starts]
    starts = [name.replace("__EXTRACTIVE__BASE_URL", "__EXTRACTIVE__...") for name in starts]
    assert sorted(line.replace("=", ":").split(":")[0] for line in told) == sorted(starts)
    assert any("did you mean PAPERROUTE_COMPATIBLE__OLLAMA__BASE_URL?" in line for line in told)
    assert KEY not in str(told)


def test_a_key_shows_nowhere(tmp_path):
    settings = ProviderSettings(api_key=SecretStr(KEY))
    key = ProviderKey("openai", settings, variable="OPENAI_API_KEY")

    assert key.current() == KEY
    assert KEY not in f"{settings!r} {settings} {key!r} {settings.model_dump_json()}"


async def test_a_key_in_a_file_is_renewed_without_a_restart(server, connect, tmp_path):
    """What is under way ends with the old key, what comes after begins with the new one."""
    file = tmp_path / "key"
    file.write_text("first\n")
    server.accepted_key = "first"
    found = connect(api_key_file=file).find("openai")
    await found.chat(request_to("openai"))

    write_anew(file, "second")
    with pytest.raises(ProviderFault) as raised:
        await found.chat(request_to("openai"))
    server.accepted_key = "second"
    reply = await found.chat(request_to("openai"))

    assert raised.value.kind is FaultKind.KEY_REFUSED
    assert reply.text
    assert [received.headers["Authorization"] for received in server.requests] == [
        "Bearer first",
        "Bearer second",
        "Bearer second",
    ]


def write_anew(file: Path, key: str) -> None:
    """Replace a file as a cluster does with a secret: by another one, at once."""
    beside = file.with_suffix(".new")
    beside.write_text(key)
    os.replace(beside, file)  # noqa: PTH105 # what is tested is exactly this


@pytest.mark.parametrize("content", [None, ""])
def test_a_file_without_a_key_is_told(tmp_path, content):
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    key = ProviderKey("openai", ProviderSettings(api_key_file=file), variable="OPENAI_API_KEY")

    with pytest.raises(NotReady) as raised:
        key.current()

    assert ("OPENAI_API_KEY" if content == "" else str(file)) in raised.value.message


def test_an_address_is_told_without_a_password_in_it():
    settings = ProviderSettings(base_url="http://me:secret@127.0.0.1:1/v1/")

    found = openai.make("vllm", settings, ProviderKey("vllm", settings, variable="X", is_needed=False))

    assert found.endpoint == "http://127.0.0.1:1/v1"
    assert "secret" not in repr(settings)
