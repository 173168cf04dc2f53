"""Connections to the public internet only, and until a deadline.

Every connection goes to an address that was looked at, not to a name that may resolve otherwise a
moment later.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpcore2

from provider_uploads.errors import SourceAddressError

Networks = Sequence[IPv4Network | IPv6Network]

#: What is reached over IPv6 but is an IPv4 address (RFC 4291, 6052): its last 32 bits.
_IPV4_IN_LAST_BITS = tuple(map(IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96")))
#: All that is routed on the internet (RFC 4291); everything else is somebody's own.
_UNICAST = IPv6Network("2000::/3")
#: Public by number, or so says some Python, but answered beside the worker: IETF assignments (the
#: metadata service of Oracle's cloud), relays into IPv6, the agent of each machine at Azure.
_NEVER = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is on the public internet, and so is any IPv4 address inside it."""
    if isinstance(address, IPv4Address):
        ours = any(address in network for network in _NEVER)
        return address.is_global and not (address.is_multicast or ours)
    if any(address in network for network in _IPV4_IN_LAST_BITS):
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    if address.teredo is not None:
        return False
    if address.sixtofour is not None and not is_public(address.sixtofour):
        return False
    return address in _UNICAST and address.is_global


def is_allowed(address: IPv4Address | IPv6Address, networks: Networks) -> bool:
    """Whether an address is public, or in one of ``networks``."""
    mapped = getattr(address, "ipv4_mapped", None) or address
    return is_public(address) or any(mapped in network for network in networks)


@dataclass
class Deadline:
    """When connections end, on the monotonic clock; it may be moved while they are open."""

    at: float

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.at


class PublicNetwork(httpcore2.NetworkBackend):
    """Connections to addresses that may be reached, until a deadline."""

    def __init__(self, shown: str, networks: Networks, deadline: Deadline) -> None:
        self._shown = shown
        self._networks = networks
        self._deadline = deadline
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of ``host`` that may be reached; all are looked at."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError("name not resolved") from None
        addresses = [str(sockaddr[0]) for *_, sockaddr in found]
        allowed = [one for one in addresses if is_allowed(ip_address(one), self._networks)]
        if not allowed:
            raise SourceAddressError(self._shown, host)
        trouble: httpcore2.NetworkError | httpcore2.TimeoutException | None = None
        for address in allowed:  # numbers: nothing is resolved a second time
            try:
                stream = self._sockets.connect_tcp(
                    address,
                    port,
                    _remaining(self._deadline, timeout),
                    socket_options=socket_options,
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                trouble = error
                continue
            reached = str(stream.get_extra_info("server_addr")[0])
            if not is_allowed(ip_address(reached), self._networks):
                stream.close()
                raise SourceAddressError(self._shown, host)
            return _TimedStream(stream, self._deadline)
        raise trouble or httpcore2.ConnectError("no address")


class _TimedStream(httpcore2.NetworkStream):
    """A connection that ends at a deadline, however steadily its bytes trickle."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _remaining(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _remaining(self._deadline, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left_s = _remaining(self._deadline, timeout)
        secure = self._stream.start_tls(ssl_context, server_hostname, left_s)
        return _TimedStream(secure, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _remaining(deadline: Deadline, timeout: float | None) -> float:
    left_s = deadline.at - time.monotonic()
    if left_s <= 0:
        raise httpcore2.ReadTimeout("the whole time is up")
    return left_s if timeout is None else min(left_s, timeout)
