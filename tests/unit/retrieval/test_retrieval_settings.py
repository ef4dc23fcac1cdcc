import pytest

from services.common.settings import SettingsError, load
from services.retrieval.settings import RetrievalSettings

PREFIX = "PAPERROUTE_RETRIEVAL__"


def test_defaults_keep_to_the_terms_of_arxiv():
    settings = load(RetrievalSettings)

    assert settings.arxiv_url == "https://export.arxiv.org/api/query"
    assert settings.request_spacing_s == 3


@pytest.mark.parametrize(
    "url",
    ["", "https://export.arxiv.org/api/query", "http://arxiv.org/api/query", "https://EXPORT.ARXIV.ORG./api/query"],
)
def test_less_than_three_seconds_is_refused_towards_arxiv(monkeypatch, url):
    """The message names the variable, so that it can be found."""
    monkeypatch.setenv(f"{PREFIX}ARXIV_URL", url)
    monkeypatch.setenv(f"{PREFIX}REQUEST_SPACING_S", "2.9")

    with pytest.raises(SettingsError, match=rf"{PREFIX}REQUEST_SPACING_S='2.9'"):
        load(RetrievalSettings)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/api/query", "https://notarxiv.org/api/query"])
def test_other_hosts_may_be_asked_more_often(monkeypatch, url):
    monkeypatch.setenv(f"{PREFIX}ARXIV_URL", url)
    monkeypatch.setenv(f"{PREFIX}REQUEST_SPACING_S", "0")

    assert load(RetrievalSettings).request_spacing_s == 0


@pytest.mark.parametrize("url", ["arxiv.org/api", "ftp://arxiv.org", "https://", "https://a/b?c=d", "https://a/{}"])
def test_address_that_is_none_is_refused(monkeypatch, url):
    monkeypatch.setenv(f"{PREFIX}ARXIV_URL", url)

    with pytest.raises(SettingsError, match=f"{PREFIX}ARXIV_URL"):
        load(RetrievalSettings)


def test_defaults_of_the_cache_and_the_queue():
    """A day, twenty seconds, a week: what the documentation promises."""
    settings = load(RetrievalSettings)

    assert (settings.fresh_s, settings.max_wait_s, settings.max_index_age_days) == (86_400, 20, 7)
    assert settings.embedding == "127.0.0.1:50052"
