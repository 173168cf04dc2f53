"""Foreign errors become ours at one seam, and none is left out."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import math
import pkgutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import httpx2
import pytest
from google.auth import exceptions as auth_errors
from google.genai import errors as genai_errors
from google.genai import types
from pydantic import ValidationError

from provider_uploads.errors import (
    FileGoneError,
    InvalidCredentialsError,
    MissingCredentialsError,
    NameTakenError,
    PermanentError,
    ProviderRefusedError,
    ProviderUnavailableError,
    ProviderUploadsError,
    QueueUnavailableError,
    RateLimitedError,
    ResultTimeoutError,
    SourceNotFoundError,
)
from provider_uploads.providers.error_mapping import error_for, mapped_errors
from provider_uploads.schemas import PollPolicy

NAME = "files/pu-1"
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"

#: What a 4xx means, by status alone, and with a file's name.
TABLE: list[tuple[int, type[ProviderUploadsError], type[ProviderUploadsError]]] = [
    (302, ProviderRefusedError, ProviderRefusedError),
    (400, ProviderRefusedError, ProviderRefusedError),
    (401, InvalidCredentialsError, InvalidCredentialsError),
    (403, ProviderRefusedError, FileGoneError),
    (404, ProviderRefusedError, ProviderRefusedError),
    (408, ProviderUnavailableError, ProviderUnavailableError),
    (409, NameTakenError, NameTakenError),
    (413, ProviderRefusedError, ProviderRefusedError),
    (425, ProviderUnavailableError, ProviderUnavailableError),
    (429, RateLimitedError, RateLimitedError),
    (499, ProviderRefusedError, ProviderRefusedError),
    (500, ProviderUnavailableError, ProviderUnavailableError),
    (502, ProviderUnavailableError, ProviderUnavailableError),
    (503, ProviderUnavailableError, ProviderUnavailableError),
    (504, ProviderUnavailableError, ProviderUnavailableError),
    (529, ProviderUnavailableError, ProviderUnavailableError),
]

ERROR = {"error": {"code": 1, "message": "what it said", "status": "SOME_STATUS"}}
BODIES: dict[str, Any] = {
    "dict": ERROR,
    "bare": ERROR["error"],
    "list": [ERROR],
    "text": json.dumps(ERROR),
    "bytes": json.dumps([ERROR]).encode(),
    "html": "<html><h1>what it said</h1>",
    "html bytes": b"<html><h1>what it said</h1>",
    "a text in error": {"error": "what it said"},
}
EMPTY_BODIES: dict[str, Any] = {
    "empty": b"",
    "empty text": "",
    "empty dict": {},
    "empty list": [],
    "none": None,
    "null": "null",
    "number": 5,
    "list of text": ["x"],
    "null in error": {"error": None},
    "not utf-8": b"\xff\xfe",
    "odd details": {"error": {"details": "x"}},
    "details of null": {"error": {"details": [None, 1, "x"]}},
    "violations of null": {"error": {"details": [{"violations": None}]}},
    "violations of text": {"error": {"details": [{"violations": ["x"]}]}},
}


class TestStatusDecides:
    @pytest.mark.parametrize("body", BODIES | EMPTY_BODIES)
    def test_whatever_the_body_is(self, body: str) -> None:
        given = (BODIES | EMPTY_BODIES)[body]
        for code, nameless, named in TABLE:
            assert (code, type(error_for("get", code, given))) == (code, nameless)
            assert (code, type(error_for("get", code, given, name=NAME))) == (code, named)

    @pytest.mark.parametrize("body", BODIES)
    def test_what_was_said_is_quoted(self, body: str) -> None:
        for code in (400, 503, 429):
            assert "what it said" in str(error_for("get", code, BODIES[body]))

    @pytest.mark.parametrize(
        "message",
        ["API key not valid", "API_KEY_INVALID", "429 RESOURCE_EXHAUSTED", "not found", "exists"],
    )
    def test_no_text_decides(self, message: str) -> None:
        body = {"error": {"message": message, "status": message, "code": 429}}
        assert type(error_for("get", 400, body, name=NAME)) is ProviderRefusedError
        assert type(error_for("get", 503, body, name=NAME)) is ProviderUnavailableError

    def test_an_invalid_key_is_told_by_its_reason(self) -> None:
        body = {"error": {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}
        error = error_for("get", 400, body, name=NAME)
        assert type(error) is InvalidCredentialsError
        assert error.args == ("get", 400, "INVALID_ARGUMENT", "")

    def test_a_conflict_names_the_file(self) -> None:
        assert error_for("upload", 409, b"", name=NAME).args == (NAME,)

    def test_a_long_page_is_cut(self) -> None:
        assert len(str(error_for("get", 400, "x" * 100_000))) < 1000


class TestWaits:
    @staticmethod
    def retry_info(delay: Any) -> dict[str, Any]:
        return {"error": {"details": [{"@type": RETRY_INFO, "retryDelay": delay}]}}

    @pytest.mark.parametrize(
        ("delay", "wait_s"),
        [("27s", 27.0), ("0.5s", 0.5), ("58.304892710s", 58.30489271), ("0s", 0.0), ("-1s", 0.0)],
    )
    @pytest.mark.parametrize("code", [429, 503])
    def test_retry_info(self, code: int, delay: str, wait_s: float) -> None:
        error = error_for("get", code, self.retry_info(delay), {"retry-after": "99"})
        assert isinstance(error, ProviderUnavailableError)
        assert error.retry_after_s == wait_s

    @pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER"])
    def test_retry_after(self, name: str) -> None:
        error = error_for("get", 429, b"", httpx2.Headers({name: "7"}))
        assert isinstance(error, RateLimitedError)
        assert error.retry_after_s == 7.0
        assert "Try in 7 s" in str(error)

    def test_retry_after_as_a_date(self) -> None:
        for seconds, least, most in ((100, 95, 100), (-100, 0, 0), (10**7, 86400, 86400)):
            date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
            error = error_for("get", 503, b"", {"retry-after": date})
            assert isinstance(error, ProviderUnavailableError)
            assert error.retry_after_s is not None
            assert least <= error.retry_after_s <= most

    def test_nobody_waits_for_years(self) -> None:
        error = error_for("get", 429, self.retry_info("99999999s"))
        assert isinstance(error, RateLimitedError)
        assert error.retry_after_s == 86400

    @pytest.mark.parametrize("said", ["", "soon", "Wed, 99 Oct 2026 07:28:00 GMT", "Wed, 2026"])
    def test_a_wait_that_says_nothing(self, said: str) -> None:
        for error in (
            error_for("get", 429, b"", {"retry-after": said}),
            error_for("get", 429, self.retry_info(said)),
        ):
            assert isinstance(error, RateLimitedError)
            assert error.retry_after_s is None

    @pytest.mark.parametrize("said", ["inf", "nan", "1e999", "-inf"])
    def test_a_wait_that_no_countdown_can_hold(self, said: str) -> None:
        """A countdown of infinity kills the retry, and with it the upload."""
        for error in (
            error_for("get", 429, b"", {"retry-after": said}),
            error_for("get", 429, self.retry_info(said + "s")),
        ):
            assert isinstance(error, RateLimitedError)
            assert error.retry_after_s is None or math.isfinite(error.retry_after_s)

    def test_the_quota_is_named(self) -> None:
        quota = {"violations": [{"quotaId": "PerMinute"}, {"quotaMetric": "requests"}]}
        error = error_for("get", 429, {"error": {"message": "long text", "details": [quota]}})
        assert "(PerMinute, requests)" in str(error)


def walk(cls: type[BaseException]) -> Iterator[type[BaseException]]:
    yield cls
    for child in cls.__subclasses__():
        yield from walk(child)


URL = "http://h/upload?upload_id=s3cret"
REQUEST = httpx2.Request("POST", URL)


def made(cls: type[BaseException]) -> BaseException:
    """Make an error of this class, with the URL wherever it takes one."""
    given: dict[str, Any] = {
        "message": URL,
        "request": REQUEST,
        "response": httpx2.Response(500, request=REQUEST),
    }
    takes = list(inspect.signature(cls).parameters)
    return cls(**{name: given[name] for name in takes if name in given})


HTTP_ERRORS = [
    error
    for root in (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL)
    for error in walk(root)
]
GENAI_ERRORS = [
    error
    for _, error in inspect.getmembers(genai_errors, inspect.isclass)
    if issubclass(error, Exception) and error.__module__ == genai_errors.__name__
]


def taken(library: Any) -> bool:
    with library.Client() as http:
        try:
            types.HttpOptions(httpx_client=http)
        except ValidationError:
            return False
    return True


#: The HTTP clients that this version of google-genai takes: httpx2 since 2.18.
CLIENTS = [library for library in (httpx, httpx2) if taken(library)]


def misread(body: Any) -> bool:
    try:
        genai_errors.APIError(400, body)
    except AttributeError:
        return True
    return False


def errors_of(package: str) -> list[type[Exception]]:
    """All error classes that any module of an installed library defines."""
    root = importlib.import_module(package)
    names = [package]
    for module in pkgutil.walk_packages(getattr(root, "__path__", []), f"{package}."):
        names.append(module.name)
    found: dict[type[Exception], None] = {}
    for name in names:
        try:
            module_ = importlib.import_module(name)
        except (ImportError, Warning):  # of something optional that is not installed
            continue
        for value in vars(module_).values():
            is_error = inspect.isclass(value) and issubclass(value, Exception)
            if is_error and value.__module__.partition(".")[0] == package.partition(".")[0]:
                found[value] = None
    return list(found)


#: What google-genai stands on, by way of its two other HTTP clients and of google-auth.
BELOW = (
    "aiohttp",
    "httpx",
    "httpcore",
    "httpx2",
    "httpcore2",
    "h11",
    "requests",
    "urllib3",
    "http",
)


class TestTheSeam:
    @pytest.mark.parametrize("library", BELOW)
    def test_every_error_of_what_is_below(self, library: str) -> None:
        classes = errors_of(library)
        assert classes, library
        homeless = []
        for cls in classes:
            try:
                with mapped_errors("get", NAME):
                    raise cls.__new__(cls)
            except ProviderUnavailableError as error:
                shows_no_url(error)
            except Exception:
                homeless.append(cls)
        assert homeless == []

    @pytest.mark.parametrize("retryable", [True, False])
    def test_every_error_of_google_auth(self, retryable: bool) -> None:
        classes = errors_of("google.auth.exceptions")
        assert len(classes) > 10
        for cls in classes:
            if issubclass(cls, DeprecationWarning):
                continue  # Python's warnings, as errors only in these tests
            build: Any = cls
            error = build(URL, retryable=retryable)
            with pytest.raises(ProviderUploadsError) as caught, mapped_errors("register"):
                raise error
            passing = error.retryable or issubclass(cls, auth_errors.TransportError)
            home = ProviderUnavailableError if passing else MissingCredentialsError
            assert type(caught.value) is home, cls
            shows_no_url(caught.value)

    @pytest.mark.parametrize("cls", HTTP_ERRORS, ids=lambda cls: cls.__name__)
    def test_every_error_of_the_http_client(self, cls: type[BaseException]) -> None:
        with pytest.raises(ProviderUnavailableError) as caught, mapped_errors("get", NAME):
            raise made(cls)
        assert cls.__name__ in str(caught.value)
        shows_no_url(caught.value)

    def test_that_is_all_it_has(self) -> None:
        public = {
            value
            for value in vars(httpx2).values()
            if inspect.isclass(value) and issubclass(value, Exception)
        }
        assert public - set(HTTP_ERRORS) <= {httpx2.CookieConflict}  # we keep no cookies

    @pytest.mark.parametrize("cls", GENAI_ERRORS, ids=lambda cls: cls.__name__)
    def test_every_error_of_google_genai(self, cls: type[Any]) -> None:
        error = (
            cls(503, {"error": {"message": "m"}})
            if issubclass(cls, genai_errors.APIError)
            else Exception.__new__(cls)
        )
        with pytest.raises(ProviderUnavailableError) as caught, mapped_errors("get", NAME):
            raise error
        shows_no_url(caught.value)

    def test_an_answer_of_another_shape_than_google_genai_expects(self) -> None:
        """The SDK reads answers into pydantic models."""
        with pytest.raises(ProviderUnavailableError), mapped_errors("get", NAME):
            PollPolicy.model_validate({"timeout_s": "abc"})

    @pytest.mark.parametrize(
        "error",
        [
            ConnectionResetError(104, URL),
            BrokenPipeError(URL),
            TimeoutError(URL),
            OSError(113, "No route to host", URL),
            json.JSONDecodeError(URL, URL, 0),
            KeyError("file"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, URL),
            UnicodeError("encoding with 'idna' codec failed"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_python_itself_raises(self, error: Exception) -> None:
        with pytest.raises(ProviderUnavailableError) as caught, mapped_errors("get", NAME):
            raise error
        assert type(error).__name__ in str(caught.value)
        shows_no_url(caught.value)

    @pytest.mark.parametrize(
        "error",
        [
            QueueUnavailableError("redis://h", "x"),
            SourceNotFoundError("/x"),
            ResultTimeoutError("t", "QUEUED", 1.0),
            NameTakenError(NAME),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_our_own_pass_unchanged(self, error: ProviderUploadsError) -> None:
        """Some of them are OSErrors."""
        with pytest.raises(ProviderUploadsError) as caught, mapped_errors("get", NAME):
            raise error
        assert caught.value is error

    @pytest.mark.parametrize(
        "error",
        [KeyboardInterrupt(), asyncio.CancelledError(), ZeroDivisionError(), AssertionError()],
    )
    def test_faults_of_ours_are_not_blamed_on_the_provider(self, error: BaseException) -> None:
        with pytest.raises(type(error)), mapped_errors("get", NAME):
            raise error

    @pytest.mark.parametrize("code", [400, 403, 404, 429, 500, 503])
    @pytest.mark.parametrize("http", CLIENTS, ids=lambda http: http.__name__)
    def test_a_refusal_through_google_genai(self, http: Any, code: int) -> None:
        request = http.Request("GET", URL)
        for body in (json.dumps(ERROR), json.dumps([ERROR]), "", "plain"):
            response = http.Response(code, text=body, headers={"Retry-After": "7"}, request=request)
            with pytest.raises(ProviderUploadsError) as caught, mapped_errors("get", NAME):
                genai_errors.APIError.raise_for_response(response)
            assert type(caught.value) is type(error_for("get", code, body, name=NAME))
            if isinstance(caught.value, ProviderUnavailableError):
                assert caught.value.retry_after_s == 7.0
            shows_no_url(caught.value)

    @pytest.mark.parametrize("code", [400, 403, 404, 429, 500, 503])
    @pytest.mark.parametrize("http", CLIENTS, ids=lambda http: http.__name__)
    def test_a_refusal_that_is_no_json_object(self, http: Any, code: int) -> None:
        """google-genai 1.57 cannot read it and loses the status: tried again, within bounds."""
        for body in ("[]", "null", "5"):
            response = http.Response(code, text=body, request=http.Request("GET", URL))
            with (
                pytest.raises(ProviderUploadsError) as caught,
                mapped_errors("get", NAME, by_sdk=True),
            ):
                genai_errors.APIError.raise_for_response(response)
            read = type(error_for("get", code, body, name=NAME))
            lost = misread(json.loads(body))
            assert type(caught.value) is (ProviderUnavailableError if lost else read)
            shows_no_url(caught.value)

    @pytest.mark.parametrize("code", [400, 403, 503, 429])
    def test_a_page_that_quotes_the_url(self, code: int) -> None:
        for page in (f"<html>retrieving the URL: {URL}</html>", {"error": {"message": URL}}):
            shows_no_url(error_for("get", code, page, name=NAME))
            shows_no_url(error_for("get", code, page))


def shows_no_url(error: BaseException) -> None:
    assert "s3cret" not in f"{error} {error!r} {error.args} {vars(error)}"
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


def test_the_two_validation_errors_are_not_confused() -> None:
    assert issubclass(ValidationError, ValueError)
    assert not issubclass(ProviderRefusedError, ValueError)
    assert issubclass(ProviderRefusedError, PermanentError)
