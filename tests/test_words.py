"""A wrong setting or a refusing Redis is told in a sentence that helps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography.fernet import Fernet
from pydantic import SecretStr
from redis.exceptions import ResponseError

from provider_uploads import UploadQueue
from provider_uploads.emulator import LocalGemini
from provider_uploads.errors import (
    ConfigurationError,
    FileGoneError,
    InvalidRequestError,
    ProviderUploadsError,
    QueueUnavailableError,
    SourceNotFoundError,
    StorageFullError,
)
from provider_uploads.ledger.connection import Connection, explained
from provider_uploads.ledger.upload_steps import row_key
from provider_uploads.ledger.uploads import Ledger
from provider_uploads.profiles import Profile
from provider_uploads.providers.error_mapping import error_for
from provider_uploads.providers.gemini import Gemini
from provider_uploads.requests import request_of
from provider_uploads.schemas import UploadRequest
from provider_uploads.settings import settings, unknown_variables
from tests.conftest import KEY


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("GEMINI_API_KEY", "abc\ndef", "holds a line break or a letter that no key has"),
        ("GEMINI_API_KEY", "schlüssel", "holds a line break or a letter that no key has"),
        ("PROVIDER_UPLOADS_BASE_URL", "nonsense", "is no URL of a server: write it as https://"),
        ("PROVIDER_UPLOADS_BASE_URL", "http://", "is no URL of a server: write it as https://"),
        ("PROVIDER_UPLOADS_REDIS_TIMEOUT_S", "inf", "finite number"),
        ("PROVIDER_UPLOADS_HTTPS_NETWORKS", "nope", "'nope' is no network; write its first"),
        ("PROVIDER_UPLOADS_ENV_FILE", "/nowhere.env", "there is no file /nowhere.env"),
        ("PROVIDER_UPLOADS_ENCRYPTION_KEY", "short", "is no key of Fernet's"),
    ],
)
def test_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match=told) as raised:
        settings()
    assert variable in str(raised.value)


def test_a_key_from_a_file_may_end_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "abc\n")
    assert settings().profile().key() == "abc"


def test_a_misspelt_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_UPLOADS_ROOT", "/srv")
    monkeypatch.setenv("PROVIDER_UPLOADS_UPLOAD_TRYS", "3")
    monkeypatch.setenv("PROVIDER_UPLOADS_PROFILES__BATCH__API_KEY", "k")
    monkeypatch.setenv("PROVIDER_UPLOADS_FLOWER_AUTH", "a:b")
    assert unknown_variables(["upload_tries"]) == {
        "PROVIDER_UPLOADS_ROOT": "PROVIDER_UPLOADS_ROOTS",
        "PROVIDER_UPLOADS_UPLOAD_TRYS": "PROVIDER_UPLOADS_UPLOAD_TRIES",
    }


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ResponseError("OOM command not allowed when used memory > 'maxmemory'"), "It is full"),
        (redis.AuthenticationError("WRONGPASS invalid"), "Check the user and the password"),
        (ResponseError("NOPERM this user has no permissions"), "Check the rights of its user"),
        (ResponseError("READONLY You can't write against a read only replica."), "a replica"),
        (redis.ConnectionError("refused"), "Start it, or point"),
    ],
)
def test_a_redis_that_refuses(error: Exception, told: str) -> None:
    said = explained("redis://h/0", error)
    assert isinstance(said, QueueUnavailableError)
    assert told in str(said)


def test_a_database_that_is_not_there(redis_url: str) -> None:
    connection = Connection(redis_url.rpartition("/")[0] + "/99")
    with pytest.raises(ConfigurationError, match="has no database of that number"):
        connection.now()
    connection.close()


@pytest.mark.parametrize("quiet_s", ["nan", "inf", "-1"])
def test_seconds_on_the_command_line(quiet_s: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "provider_uploads", "sweep", "--dry-run", "--quiet-s", quiet_s],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 2
    assert "--quiet-s" in done.stderr
    assert "Traceback" not in done.stderr


def test_seconds_of_a_sweep(redis_url: str) -> None:
    with UploadQueue(redis_url) as queue, pytest.raises(InvalidRequestError, match="quiet_s"):
        queue.sweep(quiet_s=float("nan"))


def test_a_staged_copy_that_the_worker_cannot_see() -> None:
    said = str(SourceNotFoundError(f"staged://{'a' * 32}/clip.mp4"))
    assert "PROVIDER_UPLOADS_STAGING" in said
    assert "Check the URL" not in said


def test_a_file_that_is_not_there_at_another_provider(gemini: LocalGemini) -> None:
    headers = {"x-model-provider": SecretStr("openai")}
    profile = Profile(
        name="openai", api_key=SecretStr(KEY), base_url=f"{gemini.url}/genai", headers=headers
    )
    with Gemini(profile) as provider:
        with pytest.raises(FileGoneError):
            provider.get("files/file-missing")
        assert provider.delete("files/file-missing") is False


def test_full_storage_is_no_rate_limit() -> None:
    detail = {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "FileStorageBytesPerProject"}],
    }
    body = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [detail]}}
    error = error_for("start", 429, body)
    assert isinstance(error, StorageFullError)
    assert 'evict="oldest"' in str(error)


class TestSecrets:
    def test_settings_show_no_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_URL", "redis://u:hidden@h:1/0")
        monkeypatch.setenv("PROVIDER_UPLOADS_STAGING", "ftp://u:hidden@h/x")
        monkeypatch.setenv("GEMINI_API_KEY", "hidden")
        settings.cache_clear()
        assert "hidden" not in repr(settings()) + str(settings())

    def test_urls_with_a_credential_are_encrypted(
        self, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticket, url = "a" * 32, "https://u:hidden@h/a.txt?token=hidden"
        keys = [Fernet.generate_key().decode() for _ in range(2)]
        request = request_of(ticket, "https://h/a.txt", "a.txt", None)

        def use(key: str) -> Ledger:
            monkeypatch.setenv("PROVIDER_UPLOADS_ENCRYPTION_KEY", key)
            settings.cache_clear()
            return ledger

        ledger = Ledger(redis_url)
        use(keys[0]).open([request], {ticket: url})
        assert "hidden" not in str(ledger.redis.hgetall(row_key(ticket)))
        assert ledger.read(ticket).location == url
        assert use(f"{keys[1]},{keys[0]}").read(ticket).location == url  # a change of keys
        with pytest.raises(ConfigurationError, match="encrypted with another key"):
            use(keys[1]).read(ticket).location  # noqa: B018 - read for its complaint
        with pytest.raises(ConfigurationError, match="there is no key here"):
            use("").read(ticket).location  # noqa: B018
        ledger.close()

    def test_an_unknown_field_is_named_without_its_value(self) -> None:
        payload: dict[str, Any] = {"version": 1, "upload_id": "a" * 32, "source": "/x"}
        payload |= {"display_name": "x", "mime_type": "text/plain", "size_bytes": 1}
        with pytest.raises(InvalidRequestError, match="api_key") as raised:
            UploadRequest.read(payload | {"api_key": "hidden"})
        assert "hidden" not in str(raised.value) + json.dumps(raised.value.as_record())

    @pytest.mark.slow
    def test_each_process_of_up_has_what_it_needs(
        self, tmp_path: Path, make_file: Callable[..., Path], gemini: LocalGemini
    ) -> None:
        from provider_uploads.local.stack import Stack, StackOptions

        options = StackOptions(redis_port=0, beat=True, flower=True, flower_port=0)
        with Stack(options) as stack:
            env = {
                name: Path(f"/proc/{pid}/environ").read_text()
                for name, pid in stack.supervisor.pids.items()
            }
            password = (stack.flower_auth or "").partition(":")[2]
        keys = {name for name, text in env.items() if "API_KEY=" in text}
        assert keys == {"transfer-1", "control"}
        assert {name for name, text in env.items() if password in text} == {"flower"}


def test_every_error_of_the_queue_has_a_remedy() -> None:
    for reason in ("OOM", "NOPERM", "LOADING", "MISCONF", "TimeoutError"):
        said = str(QueueUnavailableError("redis://h", reason))
        assert isinstance(QueueUnavailableError("redis://h", reason), ProviderUploadsError)
        assert said.endswith("Whatever has a ticket goes on when it is back.")
