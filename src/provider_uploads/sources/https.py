"""https sources: read as a stream, from public addresses only, bounded in size and time.

Who may submit a URL makes the worker connect to it, and a worker often stands where a user does
not: beside a metadata service, a database, an admin page. So every connection, those of redirects
too, is one of ``PublicNetwork``.
"""

from __future__ import annotations

import io
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final, cast
from urllib.parse import unquote

import httpcore2
import httpx2

from provider_uploads import locations
from provider_uploads.errors import (
    InvalidRequestError,
    ProviderUploadsError,
    SourceChangedError,
    SourceNotFoundError,
    SourceSchemeError,
    SourceTooLargeError,
    SourceUnavailableError,
    SourceUnreadableError,
)
from provider_uploads.protocol import MAX_FILE_BYTES
from provider_uploads.sources.base import Source, SourcePolicy, Version
from provider_uploads.sources.network import Deadline, PublicNetwork

MOST_REDIRECTS: Final = 5
#: Seconds without a byte before a server counts as gone, and as many to connect.
_SILENCE_S: Final = 30.0
#: A source of any size may take so much longer than its bytes at the least rate.
_GRACE_S: Final = 60.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})
_TRANSIENT = frozenset({408, 425, 429})


def open_https(location: str, policy: SourcePolicy) -> Source:
    """Open an ``https://`` URL for reading, following at most 5 redirects.

    Raises SourceAddressError, SourceSchemeError (a redirect to another scheme),
    SourceNotFoundError, SourceUnreadableError (a 4xx, no Content-Length, out of time),
    SourceTooLargeError, or SourceUnavailableError where another attempt may succeed. None of them
    shows the query.
    """
    body = _Body(location, policy)
    version = body.version
    return Source(body.shown, cast("BinaryIO", body), version, lambda: body.version)


class _Body(io.RawIOBase):
    """The bytes behind a URL; going back to 0 asks for them again, and for the same version."""

    def __init__(self, location: str, policy: SourcePolicy) -> None:
        self.shown = locations.shown(location)
        self._location = location
        self._policy = policy
        self._pool: httpcore2.ConnectionPool | None = None
        self._response: httpcore2.Response | None = None
        self._open()

    def _open(self) -> None:
        begun = time.monotonic()
        self._deadline = Deadline(
            begun + min(self._policy.https_answer_s, self._policy.https_timeout_s)
        )
        self._waited_s, self._came_bytes = 0.0, 0
        self._left = b""
        self._read_bytes = 0
        with self._asked():
            self._pool = httpcore2.ConnectionPool(
                ssl_context=httpcore2.default_ssl_context(),
                network_backend=PublicNetwork(
                    self.shown, self._policy.https_networks, self._deadline
                ),
            )
            try:
                self._response = self._answer(self._pool)
                self.version = self._version(self._response)
                self._deadline.at = begun + self._most_s(self.version.size_bytes)
            except BaseException:
                self._release()
                raise
            self._blocks = self._response.iter_stream()

    def _answer(self, pool: httpcore2.ConnectionPool) -> httpcore2.Response:
        url = httpx2.URL(self._location)
        login = url.userinfo
        for _ in range(MOST_REDIRECTS + 1):
            headers: dict[bytes | str, bytes | str] = {
                "Host": url.netloc.decode("ascii"),
                "Accept": "*/*",
                "Accept-Encoding": "identity",  # what is counted and hashed is the file itself
                "User-Agent": "provider-uploads",
            }
            if login:
                user, _, password = login.decode("ascii").partition(":")
                pair = f"{unquote(user)}:{unquote(password)}".encode()
                headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
            response = pool.handle_request(
                httpcore2.Request(
                    "GET",
                    httpcore2.URL(
                        scheme=url.raw_scheme,
                        host=url.raw_host,
                        port=url.port,
                        target=url.raw_path,
                    ),
                    headers=headers,
                    extensions={
                        "timeout": dict.fromkeys(("connect", "read", "write", "pool"), _SILENCE_S)
                    },
                )
            )
            if response.status not in _REDIRECTS:
                return response
            response.close()
            onward = url.join(_header(response, b"location"))
            if onward.scheme != "https":
                raise SourceSchemeError(self.shown, onward.scheme or "nothing")
            if (onward.host, onward.port) != (url.host, url.port):
                login = b""
            url = onward
        raise SourceUnreadableError(self.shown, f"more than {MOST_REDIRECTS} redirects")

    def _version(self, response: httpcore2.Response) -> Version:
        code, length = response.status, _header(response, b"content-length")
        if code in _GONE:
            raise SourceNotFoundError(self.shown)
        if code >= 500 or code in _TRANSIENT:
            raise SourceUnavailableError(self.shown, f"HTTP {code}", _retry_after_s(response))
        if code != 200:
            raise SourceUnreadableError(self.shown, f"HTTP {code}")
        if _header(response, b"content-encoding").lower() not in {"", "identity"}:
            raise SourceUnreadableError(self.shown, "the server sends it compressed all the same")
        if not (length.isascii() and length.isdecimal()):
            raise SourceUnreadableError(self.shown, "the server does not say how large it is")
        if len(length) > 18 or int(length) > MAX_FILE_BYTES:
            raise SourceTooLargeError(self.shown, int(length[:18]), MAX_FILE_BYTES)
        mark = (_header(response, b"etag"), _header(response, b"last-modified"))
        return Version(int(length), mark)

    def _most_s(self, size_bytes: int) -> float:
        """Return how long a source of this size may take."""
        least = self._policy.https_least_bytes_s
        by_size_s = _GRACE_S + size_bytes / least if least else self._policy.https_timeout_s
        return min(by_size_s, self._policy.https_timeout_s)

    def _check_rate(self, waited_s: float, came_bytes: int) -> None:
        """Raise SourceUnavailableError when the server is too slow; only waiting for it counts."""
        self._waited_s += waited_s
        self._came_bytes += came_bytes
        if self._waited_s < self._policy.https_slow_for_s:
            return
        rate, least = self._came_bytes / self._waited_s, self._policy.https_least_bytes_s
        if rate < least:
            raise SourceUnavailableError(
                self.shown, f"{rate:,.0f} bytes a second, less than {least:,.0f}"
            )
        self._waited_s, self._came_bytes = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(cast("bytearray", buffer))
        with self._asked():
            while not self._left:
                begun = time.monotonic()
                block = next(self._blocks, None)
                if block is None:
                    return 0
                self._check_rate(time.monotonic() - begun, len(block))
                self._left = block
        taken = self._left[: len(view)]
        view[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        self._read_bytes += len(taken)
        return len(taken)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if (offset, whence) != (0, 0):
            raise io.UnsupportedOperation("only back to the first byte")
        if self._read_bytes:
            before = self.version
            self._release()
            self._open()
            if self.version != before:
                raise SourceChangedError(self.shown, before.size_bytes, self.version.size_bytes)
        return 0

    def close(self) -> None:
        if not self.closed:
            self._release()
        super().close()

    def _release(self) -> None:
        # A response that was not read to its end takes its connection with it.
        with suppress(httpcore2.NetworkError, httpcore2.ProtocolError, OSError):
            if self._response is not None:
                self._response.close()
        if self._pool is not None:
            self._pool.close()
        self._response = self._pool = None

    def _too_late(self) -> SourceUnreadableError:
        whole_s, answer_s = self._policy.https_timeout_s, self._policy.https_answer_s
        if self._response is None and answer_s < whole_s:
            said, name = f"no answer within {answer_s:g} s", "ANSWER_S"
        elif self._response is None or self._most_s(self.version.size_bytes) >= whole_s:
            said, name = f"it took longer than {whole_s:g} s", "TIMEOUT_S"
        else:
            limit_s = self._most_s(self.version.size_bytes)
            said, name = f"it took longer than {limit_s:g} s", "LEAST_BYTES_S"
        return SourceUnreadableError(
            self.shown, f"{said}; PROVIDER_UPLOADS_HTTPS_{name} sets the limit"
        )

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn what the HTTP client and the sockets raise into this library's errors.

        Their texts may hold URLs, so only the class is named.
        """
        try:
            yield
        except ProviderUploadsError:
            raise  # some of ours are OSErrors and ValueErrors too
        except (
            httpcore2.TimeoutException,
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
        ) as error:
            if self._deadline.passed:
                raise self._too_late() from None
            if isinstance(error.__cause__ or error.__context__, ssl.SSLCertVerificationError):
                raise SourceUnreadableError(self.shown, "its certificate is not valid") from None
            raise SourceUnavailableError(self.shown, type(error).__name__) from None
        except (httpx2.InvalidURL, UnicodeError):
            raise InvalidRequestError(
                "source", self.shown, "is not a URL that can be asked for, or leads to none"
            ) from None


def _header(response: httpcore2.Response, name: bytes) -> str:
    values = [value for key, value in response.headers if key.lower() == name]
    return values[0].decode("latin-1").strip() if values else ""


def _retry_after_s(response: httpcore2.Response) -> float | None:
    said = _header(response, b"retry-after")
    return float(said) if said.isascii() and said.isdecimal() and len(said) < 6 else None
