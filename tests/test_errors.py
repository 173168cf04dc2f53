"""The tree of errors: drawn as it is, and whole after every border it crosses."""

from __future__ import annotations

import json
import pickle
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult

from provider_uploads import errors
from provider_uploads.errors import (
    ConfigurationError,
    PermanentError,
    ProviderUploadsError,
    SourceError,
    TransientError,
    UnexpectedError,
    from_record,
)

T = "0123456789abcdef" * 2
NAME = f"files/pu-{T}-0"

#: Data as the code gives it, for every class; oddities of users' files included.
DATA: dict[str, list[tuple[Any, ...]]] = {
    "ProviderUploadsError": [(), ("text", 1, None)],
    "TransientError": [(), ("text",)],
    "NotDeliveredError": [("HTTP 503",), ("HTTP 429", 2.5)],
    "QueueUnavailableError": [("redis://h:1/0", "ConnectionError")],
    "ResultTimeoutError": [
        (T, "QUEUED", 1.5),
        *((T, "QUEUED", 1.5, one) for one in ("batch", "question")),
    ],
    "NewerPayloadError": [(2, 1)],
    "NewerRowError": [(f"upload {T}", "archived_at: Extra inputs are not permitted")],
    "SourceUnavailableError": [("s3://b/k", "ConnectionError"), ("https://h/p", "HTTP 503", 2.5)],
    "ProviderUnavailableError": [("get", "ReadTimeout"), ("get", "", 503, 2.5), ("get", "", 503)],
    "RateLimitedError": [("get", "PerMinute", 429, 27.5), ("get", "", 429, None)],
    "ServiceDownError": [("default", 2.5, ""), ("default", 2.5, "get: 503")],
    "StorageFullError": [("default", 1_000, 20_000_000_000)],
    "SessionLostError": [(410,)],
    "NameTakenError": [(NAME,)],
    "VerificationError": [(NAME, "size", "10", "9")],
    "PermanentError": [(), ("text",)],
    "ReceiverGoneError": [(410,)],
    "InvalidRequestError": [("mime_type", "'x'", "is none; write it as type/subtype")],
    "UnknownProviderError": [("openai",)],
    "ConfigurationError": [("REDIS_URL: is none. Correct it in the environment.",)],
    "MissingDependencyError": [("google-genai", "google")],
    "MissingCredentialsError": [("gemini", "default"), ("gemini", "batch")],
    "UnsupportedOperationError": [("openai", "register", "a profile without a gateway")],
    "SourceError": [("/x",), ("/x", 1)],
    "SourceNotFoundError": [("/Fluß 🏞/[red]x",), ("/\udcff",), ("s3://b/k",)],
    "SourceKindError": [("/x", "a directory"), ("/x", "a FIFO")],
    "SourceNotAllowedError": [("/x", "/y", "/a:/b"), ("/x", "/x", "/a")],
    "SourceSchemeError": [
        ("ftp://h/p", "ftp"),
        ("http://h/p", "http"),
        ("https://h/p", "http"),
        ("s3://b/k", "s3"),
    ],
    "SourceAddressError": [("https://h/p", "h")],
    "SourceUnreadableError": [("/x", "Permission denied"), ("https://h/p", "HTTP 403")],
    "SourceTooLargeError": [("/x", 2**31 + 1, 2**31)],
    "SourceChangedError": [("/x", 10, 9)],
    "ProviderRefusedError": [("get", 400, "INVALID_ARGUMENT", "bad type")],
    "InvalidCredentialsError": [("get", 400, "INVALID_ARGUMENT", "bad key")],
    "FileGoneError": [
        ("get", 403, "PERMISSION_DENIED", "no"),
        ("get", 403, "PERMISSION_DENIED", "no", "Set one key for all."),
    ],
    "FileExpiredError": [(NAME, "2026-11-20T12:00:00+00:00")],
    "FileNotActiveError": [(NAME, "PROCESSING"), (NAME, "FAILED")],
    "UploadFailedError": [
        (NAME, "FAILED"),
        (NAME, "FAILED", {"code": 3, "message": "no frames", "details": [{"@type": "x"}]}),
    ],
    "UploadInactiveError": [
        (NAME, "PROCESSING", 120.0, 14, "deleting"),
        (NAME, "PROCESSING", 120.0, 14, "deleted"),
        (NAME, "PROCESSING", 120.0, 14, "undeleted"),
        (NAME, "PROCESSING", 120.0, 14, "kept", "get: the provider is unavailable"),
    ],
    "BatchInputError": [("in.jsonl", 3, 17, "no key")],
    "BatchFailedError": [("batches/x", "FAILED"), ("batches/x", "FAILED", {"message": "bad"})],
    "BatchExpiredError": [("batches/x", "EXPIRED", 172800.0, 1)],
    "BatchCancelledError": [(T,)],
    "WebhookRefusedError": [("No matching signature found",)],
    "BatchTooLargeError": [("tokens", 10, 5)],
    "UploadCancelledError": [(T,)],
    "UnknownTicketError": [("nonsense",), ("nonsense", "batch")],
    "UnreadableStateError": [(f"upload {T}", "no JSON object")],
    "UnexpectedError": [("KeyError", "'x'")],
}


def tree(cls: type[ProviderUploadsError], depth: int = 0) -> Iterator[tuple[int, type]]:
    yield depth, cls
    for child in cls.__subclasses__():
        yield from tree(child, depth + 1)


CLASSES = {cls.__name__: cls for _, cls in tree(ProviderUploadsError)}
MADE = [CLASSES[name](*args) for name in CLASSES for args in DATA.get(name, [])]


def same(one: BaseException, other: BaseException) -> bool:
    return (
        type(one) is type(other)
        and one.args == other.args
        and str(one) == str(other)
        and vars(one) == vars(other)
    )


def test_no_class_is_left_out() -> None:
    assert set(DATA) == set(CLASSES)


def test_the_drawing_is_the_tree() -> None:
    drawn = [
        (len(branch) // 4, name)
        for branch, name in re.findall(
            r"^    ((?:[ │]   )*(?:[├└]── )?)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE
        )
    ]
    assert drawn == [(depth, cls.__name__) for depth, cls in tree(ProviderUploadsError)]


@pytest.mark.parametrize("name", ["ResultTimeoutError", "InvalidRequestError"])
def test_what_else_they_are(name: str) -> None:
    """A caller who knows Python's own errors need not learn ours."""
    kinds = {"ResultTimeoutError": TimeoutError, "InvalidRequestError": ValueError}
    assert issubclass(CLASSES[name], kinds[name])
    assert issubclass(errors.SourceNotFoundError, FileNotFoundError)
    assert issubclass(errors.UnknownTicketError, LookupError)


def test_one_branch_decides() -> None:
    for cls in set(CLASSES.values()) - {ProviderUploadsError}:
        assert issubclass(cls, TransientError) != issubclass(cls, PermanentError)


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
class TestBorders:
    def test_a_record_in_the_ledger(self, error: ProviderUploadsError) -> None:
        record = json.loads(json.dumps(error.as_record()))
        assert set(record) == {"type", "args", "message"}
        assert record["message"] == str(error)
        assert same(from_record(record), error)

    def test_pickle(self, error: ProviderUploadsError) -> None:
        assert same(pickle.loads(pickle.dumps(error)), error)

    @pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's
    def test_celery_s_json_result(self, error: ProviderUploadsError, redis_url: str) -> None:
        app = Celery("worker", backend=redis_url, set_as_current=False)
        reader = Celery("reader", backend=redis_url, set_as_current=False)
        for store in (app.backend.mark_as_failure, store_result(app)):
            ticket = uuid.uuid4().hex
            store(ticket, error)
            stored: AsyncResult[Any] = AsyncResult(ticket, app=reader)
            with pytest.raises(type(error)) as caught:
                stored.get(timeout=5)
            assert same(caught.value, error)
        app.close()
        reader.close()


def store_result(app: Celery[Any]) -> Any:
    def store(ticket: str, error: ProviderUploadsError) -> None:
        app.backend.store_result(ticket, error, "FAILURE")

    return store


#: How a sentence begins that says what to do.
_ADVICE = re.compile(
    r"\b(Start|point|submit|ask|upgrade|Try|Send|send|Run|Set|Check|Name|Copy|Move|add|Change|Split"
    r"|Submit|Upload|Use|Correct|write|Delete)\b"
)


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_every_message_says_what_to_do_next(error: ProviderUploadsError) -> None:
    if type(error) in {ProviderUploadsError, TransientError, PermanentError, SourceError}:
        return  # branches: nothing raises them
    said = str(error)
    if isinstance(error, errors.UnknownTicketError):
        assert "mistyped" in said
    elif isinstance(error, UnexpectedError):
        assert "log has the traceback" in said
    else:
        for quoted in map(str, error.args) if not isinstance(error, ConfigurationError) else ():
            if not isinstance(error, errors.InvalidRequestError):
                said = said.replace(quoted, "")  # what others say is no advice of ours
        assert _ADVICE.search(said), said


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_messages_show_all_data_that_a_user_can_act_on(error: ProviderUploadsError) -> None:
    if type(error).__str__ is not Exception.__str__:
        first = error.args[0]
        assert f"{first:,}" if isinstance(first, int) else str(first) in str(error)


class TestFromANewerWorker:
    def test_an_unknown_class(self) -> None:
        error = from_record({"type": "QuotaSoldError", "args": [1], "message": "no more"})
        assert isinstance(error, UnexpectedError)
        assert error.args == ("QuotaSoldError", "no more")

    @pytest.mark.parametrize("args", [[], [404, "and more"]])
    def test_a_known_class_with_other_data(self, args: list[Any]) -> None:
        """A class that gained an argument must not turn into a TypeError at the reader."""
        error = from_record({"type": "SessionLostError", "args": args, "message": "lost"})
        assert isinstance(error, ProviderUploadsError)
        assert "lost" in str(error)

    def test_a_name_that_is_no_error_of_ours(self) -> None:
        for name in ("SystemExit", "ValueError", "Any", "from_record"):
            assert isinstance(from_record({"type": name, "args": []}), UnexpectedError)


def test_a_permanent_error_asks_for_no_wait() -> None:
    assert TransientError.retry_after_s is None
    assert errors.RateLimitedError("get", "", 429, 3.0).retry_after_s == 3.0
    assert not hasattr(PermanentError(), "retry_after_s")
