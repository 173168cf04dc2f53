"""https sources over real TLS: which addresses, redirects, sizes and answers are taken."""

from __future__ import annotations

import random
import socket
import time
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from provider_uploads.errors import (
    InvalidRequestError,
    SourceAddressError,
    SourceChangedError,
    SourceNotFoundError,
    SourceSchemeError,
    SourceTooLargeError,
    SourceUnavailableError,
    SourceUnreadableError,
)
from provider_uploads.protocol import MAX_FILE_BYTES
from provider_uploads.sources.base import Source, SourcePolicy
from provider_uploads.sources.https import MOST_REDIRECTS
from provider_uploads.sources.network import is_allowed, is_public
from provider_uploads.sources.open import open_source
from tests.nodes import free_port
from tests.origins import Answer, Origin, plain, truncated, whole

CONTENT = random.Random(2).randbytes(700_000)
HERE = ip_network("127.0.0.0/8")
REACH = SourcePolicy(schemes=frozenset({"https"}), https_networks=(HERE,), https_timeout_s=20)
PUBLIC_ONLY = SourcePolicy(schemes=frozenset({"https"}), https_timeout_s=20)


@pytest.fixture(autouse=True)
def trusted(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(origin.ca_file))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "192.0.0.192", "198.18.0.1", "168.63.129.16"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"),
        *("2001:db8::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
        *("2002:7f00:1::", "2002:a9fe:a9fe::", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b:1::8.8.8.8", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    ],
)
def test_other_addresses(address: str) -> None:
    assert not is_public(ip_address(address))


def test_a_network_may_be_let_in() -> None:
    for address in ("127.0.0.1", "::ffff:127.0.0.1", "8.8.8.8"):
        assert is_allowed(ip_address(address), [HERE])
    for address in ("10.0.0.1", "::1"):
        assert not is_allowed(ip_address(address), [HERE])


class TestAddresses:
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "2130706433", "0x7f.1", "0"]
    )
    def test_a_private_one_is_not_connected_to(self, origin: Origin, host: str) -> None:
        origin.always = whole(CONTENT)
        with pytest.raises(SourceAddressError, match="no public address") as caught:
            open_source(f"https://{host}:{origin.port}/x?token=t", PUBLIC_ONLY)
        assert "token" not in str(caught.value)
        assert origin.requests == []

    def test_nor_after_a_redirect(self, origin: Origin) -> None:
        with socket.create_server(("127.0.0.2", 0)) as inner:
            inner.settimeout(0)
            port = inner.getsockname()[1]
            origin.always = plain(302, Location=f"https://127.0.0.2:{port}/x")
            only = SourcePolicy(
                schemes=frozenset({"https"}), https_networks=(ip_network("127.0.0.1"),)
            )
            with pytest.raises(SourceAddressError, match=r"127\.0\.0\.2 has no public"):
                open_source(f"{origin.url}/x", only)
            with pytest.raises(BlockingIOError):
                inner.accept()

    def test_a_proxy_of_the_environment_is_not_asked(
        self, origin: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        origin.always = whole(CONTENT)
        with open_source(f"{origin.url}/x", REACH) as source:
            assert source.stream.read() == CONTENT


class TestReading:
    def test_the_whole_and_once_more(self, origin: Origin) -> None:
        origin.always = whole(CONTENT, ETag='"1"')
        with open_source(f"{origin.url}/clip.mp4?a=b#c", REACH) as source:
            assert source.path == f"{origin.url}/clip.mp4"
            assert source.size_bytes == len(CONTENT)
            source.stream.seek(0)
            assert len(origin.requests) == 1
            for _ in range(2):
                assert drain(source) == CONTENT
                source.stream.seek(0)
            source.unchanged(len(CONTENT))
            with pytest.raises(SourceChangedError):
                source.unchanged(1)
        assert source.stream.closed
        path, headers = origin.requests[0]
        assert (path, headers["Accept-Encoding"]) == ("/clip.mp4?a=b", "identity")

    def test_another_version_the_second_time(self, origin: Origin) -> None:
        turns = iter([whole(CONTENT, ETag='"1"'), whole(CONTENT, ETag='"2"')])
        origin.always = lambda to: next(turns)(to)
        with open_source(f"{origin.url}/x", REACH) as source:
            source.stream.read(10)
            with pytest.raises(SourceChangedError):
                source.stream.seek(0)

    def test_an_empty_one(self, origin: Origin) -> None:
        origin.always = whole(b"")
        with open_source(f"{origin.url}/x", REACH) as source:
            assert (source.size_bytes, source.stream.read()) == (0, b"")

    def test_redirects_and_a_login_that_stays_with_its_host(self, origin: Origin) -> None:
        origin.answers = {
            "/a": plain(301, Location="/b"),
            "/b": plain(307, Location=f"https://localhost:{origin.port}/c"),
            "/c": whole(CONTENT),
        }
        with open_source(origin.url.replace("//", "//me:pw@") + "/a", REACH) as source:
            assert source.stream.read() == CONTENT
            assert source.path == f"{origin.url}/a"
        logins = [headers.get("Authorization") for _, headers in origin.requests]
        assert logins == ["Basic bWU6cHc=", "Basic bWU6cHc=", None]

    def test_too_many_redirects(self, origin: Origin) -> None:
        origin.always = plain(302, Location="/on")
        with pytest.raises(SourceUnreadableError, match="more than 5 redirects"):
            open_source(f"{origin.url}/x", REACH)
        assert len(origin.requests) == MOST_REDIRECTS + 1

    @pytest.mark.parametrize("onward", ["http://127.0.0.1/x", "file:///etc/passwd", "ftp://h/x"])
    def test_a_redirect_to_another_scheme(self, origin: Origin, onward: str) -> None:
        origin.always = plain(302, Location=onward)
        with pytest.raises(SourceSchemeError, match=f"it leads to {onward.split(':')[0]}://"):
            open_source(f"{origin.url}/x", REACH)


def endless(to: BaseHTTPRequestHandler) -> None:
    """Answer without a length."""
    to.send_response(200)
    to.end_headers()
    to.close_connection = True


def drain(source: Source) -> bytes:
    return b"".join(iter(lambda: source.stream.read(65_536), b""))


class TestRefusals:
    @pytest.mark.parametrize(
        ("answer", "error", "said"),
        [
            (plain(404), SourceNotFoundError, "nothing is there"),
            (plain(403), SourceUnreadableError, "HTTP 403"),
            (plain(206), SourceUnreadableError, "HTTP 206"),
            (plain(503, Retry_After="7"), SourceUnavailableError, "HTTP 503"),
            (plain(429), SourceUnavailableError, "HTTP 429"),
            (whole(b"x", Content_Encoding="gzip"), SourceUnreadableError, "compressed"),
            (endless, SourceUnreadableError, "how large"),
        ],
    )
    def test_answers(
        self, origin: Origin, answer: Answer, error: type[Exception], said: str
    ) -> None:
        origin.always = answer
        with pytest.raises(error, match=said) as caught:
            open_source(f"{origin.url}/x?token=t", REACH)
        assert "token" not in str(caught.value)
        if said == "HTTP 503":
            assert caught.value.args[-1] == 7

    def test_too_large(self, origin: Origin) -> None:
        def answer(to: BaseHTTPRequestHandler) -> None:
            to.send_response(200)
            to.send_header("Content-Length", str(MAX_FILE_BYTES + 1))
            to.end_headers()
            to.close_connection = True

        origin.always = answer
        with pytest.raises(SourceTooLargeError):
            open_source(f"{origin.url}/x", REACH)

    def test_truncated(self, origin: Origin) -> None:
        origin.always = truncated(CONTENT, 300_000)
        with (
            open_source(f"{origin.url}/x", REACH) as source,
            pytest.raises(SourceUnavailableError, match="RemoteProtocolError"),
        ):
            drain(source)

    @pytest.mark.parametrize("bytes_first", [0, 1000])
    def test_too_slow_however_steady(self, origin: Origin, bytes_first: int) -> None:
        def answer(to: BaseHTTPRequestHandler) -> None:
            if bytes_first:
                to.send_response(200)
                to.send_header("Content-Length", "1000000")
                to.end_headers()
            while not origin.ended.wait(0.05):
                to.wfile.write(b"x")

        origin.always = answer
        hasty = SourcePolicy(schemes=REACH.schemes, https_networks=(HERE,), https_timeout_s=0.5)
        begun = time.monotonic()
        with (
            pytest.raises(SourceUnreadableError, match=r"longer than 0\.5 s"),
            open_source(f"{origin.url}/x", hasty) as source,
        ):
            drain(source)
        assert time.monotonic() - begun < 5

    def test_a_certificate_of_somebody_unknown(
        self, origin: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(SourceUnreadableError, match="certificate is not valid"):
            open_source(f"{origin.url}/x", REACH)

    def test_a_certificate_of_another_host(self, origin: Origin) -> None:
        with pytest.raises(SourceUnreadableError, match="certificate is not valid"):
            open_source(f"https://2130706433:{origin.port}/x", REACH)

    def test_nobody_there(self) -> None:
        with pytest.raises(SourceUnavailableError, match="ConnectError"):
            open_source(f"https://127.0.0.1:{free_port()}/x", REACH)

    @pytest.mark.parametrize(
        "url",
        ["https://", "https:///x", "https://h:0/x", "https://h:x/", "https://a b/", "https://h/\n"],
    )
    def test_what_is_no_url(self, url: str) -> None:
        with pytest.raises(InvalidRequestError):
            open_source(url, REACH)

    def test_not_switched_on(self, tmp_path: Path) -> None:
        with pytest.raises(SourceSchemeError, match="PROVIDER_UPLOADS_SOURCES"):
            open_source("https://example.com/x?token=t")
