"""Profiles: who is asked, with whose key, and where that may be written."""

from __future__ import annotations

import pytest

from provider_uploads.errors import ConfigurationError, MissingCredentialsError
from provider_uploads.profiles import GEMINI_URL, Profile
from provider_uploads.providers.capabilities import capabilities_of
from provider_uploads.settings import settings

PREFIX = "PROVIDER_UPLOADS_PROFILES__BATCH__"


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}API_KEY", "batch-key")
    monkeypatch.setenv(f"{PREFIX}BASE_URL", "http://gateway:8080/genai")
    monkeypatch.setenv(f"{PREFIX}HEADERS", '{"X-Model-Provider": "openai", "x-bf-vk": "virtual"}')


@pytest.mark.usefixtures("batch")
class TestFromTheEnvironment:
    def test_each_has_its_own_of_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GEMINI_API_KEY", "default-key")
        batch, default = settings().profile("batch"), settings().profile()
        assert (batch.key(), default.key()) == ("batch-key", "default-key")
        assert (batch.base_url, default.base_url) == ("http://gateway:8080/genai", GEMINI_URL)
        assert (capabilities_of(batch).name, capabilities_of(default).name) == ("openai", "google")
        assert (batch.name, default.name) == ("batch", "default")
        assert not default.headers

    def test_no_value_shows(self) -> None:
        for shown in (repr(settings()), repr(settings().profile("batch"))):
            assert "batch-key" not in shown
            assert "virtual" not in shown

    def test_one_without_a_key_takes_no_other_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GEMINI_API_KEY", "default-key")
        monkeypatch.delenv(f"{PREFIX}API_KEY")
        with pytest.raises(MissingCredentialsError, match=f"Set {PREFIX}API_KEY"):
            settings().profile("batch").key()

    def test_an_unknown_one_names_the_known(self) -> None:
        with pytest.raises(ConfigurationError, match=r"no profile 'bulk' here \(known: default, b"):
            settings().profile("bulk")


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("HEADERS", "x-model-provider: openai", "not JSON"),
        ("HEADERS", '["a"]', f"{PREFIX}HEADERS"),
        ("API_KEI", "a-key-that-is-secret", f"{PREFIX}API_KEI: .*[Ee]xtra"),
    ],
)
def test_a_mistake_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(f"{PREFIX}{variable}", value)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        settings()
    assert "a-key-that-is-secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["bad-name", "a__b"])
def test_names_that_no_variable_can_have(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PROVIDER_UPLOADS_PROFILES", f'{{"{name}": {{"api_key": "k"}}}}')
    with pytest.raises(ConfigurationError, match="PROVIDER_UPLOADS_PROFILES"):
        settings()


@pytest.mark.parametrize(
    ("base_url", "header", "name", "through_gateway"),
    [
        (GEMINI_URL, None, "google", False),
        ("http://proxy:8080", None, "google", False),
        ("http://gateway:8080/genai", None, "google", True),
        ("http://gateway:8080/genai/", None, "google", True),
        ("http://gateway:8080/other", "gemini", "google", True),
        ("http://gateway:8080/genai", "openai", "openai", True),
        ("http://gateway:8080/genai", "anthropic", "anthropic", True),
        ("http://gateway:8080/genai", "bedrock", "bedrock", True),
    ],
)
def test_who_answers(base_url: str, header: str | None, name: str, through_gateway: bool) -> None:
    headers = {"x-model-provider": header} if header else {}
    found = capabilities_of(Profile.model_validate({"base_url": base_url, "headers": headers}))
    assert (found.name, not found.takes_names) == (name, through_gateway)


def test_an_unknown_provider_is_refused() -> None:
    profile = Profile.model_validate({"headers": {"x-model-provider": "mistral"}})
    with pytest.raises(ConfigurationError, match="known: gemini, openai, anthropic, bedrock"):
        capabilities_of(profile)
