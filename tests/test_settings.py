"""The environment, as a user writes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from provider_uploads.errors import ConfigurationError, MissingCredentialsError
from provider_uploads.profiles import GEMINI_URL
from provider_uploads.settings import Settings, settings, without_secrets


def test_without_any_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = settings()
    assert found.redis_url == "redis://127.0.0.1:6379/0"
    assert found.redis_timeout_s == 2.0
    assert found.base_url == GEMINI_URL
    assert found.api_version == "v1beta"
    assert found.provider_timeout_s == 60.0
    assert found.readable_roots == (tmp_path.resolve(),)
    with pytest.raises(MissingCredentialsError, match="Set GEMINI_API_KEY"):
        found.profile().key()


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({"GOOGLE_API_KEY": "google"}, "google"),
        ({"GOOGLE_API_KEY": "google", "GEMINI_API_KEY": "gemini"}, "gemini"),
        ({"GEMINI_API_KEY": "gemini", "PROVIDER_UPLOADS_API_KEY": "ours"}, "ours"),
        ({"PROVIDER_UPLOADS_API_KEY": "", "GEMINI_API_KEY": "gemini"}, "gemini"),
    ],
)
def test_which_key_wins(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], key: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert settings().profile().key() == key


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ({}, "from the file"),
        ({"GEMINI_API_KEY": "gemini"}, "from the file"),  # ours goes first, wherever it stands
        ({"PROVIDER_UPLOADS_API_KEY": "from the environment"}, "from the environment"),
    ],
)
def test_an_env_file_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: dict[str, str], key: str
) -> None:
    (tmp_path / ".env").write_text(
        "PROVIDER_UPLOADS_API_KEY=from the file\nPROVIDER_UPLOADS_API_VERSION=v1\nTHEIRS=1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROVIDER_UPLOADS_ENV_FILE")
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    assert settings().profile().key() == key
    assert settings().api_version == "v1"


def test_another_env_file_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GEMINI_API_KEY=from the working directory\n")
    (tmp_path / "prod.env").write_text("GEMINI_API_KEY=from another file\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingCredentialsError):
        settings().profile().key()  # the tests' own environment says: none
    monkeypatch.setenv("PROVIDER_UPLOADS_ENV_FILE", str(tmp_path / "prod.env"))
    settings.cache_clear()
    assert settings().profile().key() == "from another file"


def test_an_empty_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "")
    with pytest.raises(MissingCredentialsError):
        settings().profile().key()


def test_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "s3cret")
    found = settings()
    assert found.profile().key() == "s3cret"
    assert "s3cret" not in f"{found!r} {found!s} {found.model_dump_json()}"


def test_where_the_provider_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://theirs")
    assert settings().base_url == "http://theirs"
    settings.cache_clear()
    monkeypatch.setenv("PROVIDER_UPLOADS_BASE_URL", "http://ours/genai")
    assert settings().base_url == "http://ours/genai"


def test_it_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings()
    monkeypatch.setenv("PROVIDER_UPLOADS_API_VERSION", "v1")
    assert settings() is before
    settings.cache_clear()
    assert settings().api_version == "v1"


def test_roots_are_separated_like_path_and_resolved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(
        "PROVIDER_UPLOADS_ROOTS", os.pathsep.join([str(tmp_path / "link"), "~/home", "here", ""])
    )
    resolved = tmp_path.resolve()
    assert settings().readable_roots == (resolved / "real", resolved / "home", resolved / "here")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("REDIS_URL", "http://localhost", "must begin with redis:// or rediss://"),
        ("REDIS_URL", "localhost:6379", "must begin with redis:// or rediss://"),
        ("REDIS_URL", "redis://h/abc", "has no number of a database"),
        ("REDIS_URL", "redis://h/0?socket_timeout=abc", "only those of TLS are"),
        ("REDIS_URL", "redis://h/0?password=x", "only those of TLS are"),
        ("REDIS_TIMEOUT_S", "0", "greater than 0"),
        ("REDIS_TIMEOUT_S", "soon", "valid number"),
        ("PROVIDER_TIMEOUT_S", "-1", "greater than 0"),
    ],
)
def test_a_wrong_value_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    variable = f"PROVIDER_UPLOADS_{name}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        settings()
    assert str(caught.value).startswith(f"{variable}: ")
    assert problem in str(caught.value)
    assert str(caught.value).endswith("Correct it in the environment.")


@pytest.mark.parametrize("url", ["redis://host:port/0", "redis://host:99999/0", "redis://[::1/0"])
def test_a_redis_url_with_an_impossible_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_URL", url)
    with pytest.raises(ConfigurationError, match=r"^PROVIDER_UPLOADS_REDIS_URL: "):
        settings()


def test_a_wrong_redis_url_does_not_tell_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_URL", "http://user:s3cret@host")
    with pytest.raises(ConfigurationError) as caught:
        settings()
    assert "s3cret" not in f"{caught.value} {caught.value!r}"


def test_they_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings().api_version = "v1"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://user:p%40ss@host:1/2?password=x", "redis://host:1/2"),
        ("rediss://:p@ss@host/2", "rediss://host/2"),
        ("redis://:s3cret@[::1]:7/0", "redis://[::1]:7/0"),
        ("https://key@host/path?key=s3cret#s3cret", "https://host/path"),
    ],
)
def test_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_settings_can_be_given_in_code() -> None:
    given = Settings(redis_url="redis://elsewhere/1", roots=(Path("/data"),))
    assert given.redis_url == "redis://elsewhere/1"
    assert given.readable_roots == (Path("/data"),)
