"""Images by http(s), from servers that are not trusted.

Sizes, times and redirects are limited (`Limits`); every host is resolved here, each of its addresses is
checked, and the connection goes to the address that was checked, so that a second look-up cannot lead
elsewhere.  Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

from xvlm.data.limits import Limits, current
from xvlm.errors import InputError, MissingFileError

T = TypeVar("T")
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 65536


_named_hosts: set[str] = set()


def name_host(url: str) -> None:
    """Remember the host of a URL that a person named (an image root): it may be private."""
    _named_hosts.add(urlsplit(url).netloc)


def may_be_private(url: str) -> bool:
    """Whether a private address is allowed for this URL."""
    return current().allow_private or urlsplit(url).netloc in _named_hosts


def fetch(url: str, trusted: bool = False) -> bytes:
    """The content of an http(s) URL.

    Args:
        trusted: a person typed the URL, so that its host may be private; hosts of redirects may not.
    Raises:
        MissingFileError: the server says that it has no such file.
        InputError: a limit is reached, an address is private, or the server fails.
    """
    limits, typed = current(), urlsplit(url).netloc if trusted else None
    until = time.monotonic() + limits.read_seconds
    place = url
    for _ in range(limits.max_redirects + 1):
        allow_private = may_be_private(place) or urlsplit(place).netloc == typed
        try:
            location, content = _get(place, until, allow_private, limits)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, (InputError, MissingFileError)) and time.monotonic() < until:
                raise
            late = f"not read within {limits.read_seconds:g} s"
            reason = late if time.monotonic() >= until else f"{type(error).__name__}: {error}"
            raise InputError(f"{place} cannot be read: {reason}") from error
        if location is None:
            return content
        place = urljoin(place, location)
        if urlsplit(place).scheme not in ("http", "https"):
            raise InputError(f"{url} leads to {place[:200]!r}; only http and https are followed")
    raise InputError(f"{url} leads from one URL to another more than {limits.max_redirects} times")


def _get(url: str, until: float, allow_private: bool, limits: Limits) -> tuple[str | None, bytes]:
    """(where a redirect leads, b"") or (None, content)."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise InputError(f"{url} names no host")
    kind = _HTTPSConnection if parts.scheme == "https" else _HTTPConnection
    connection = kind(parts.hostname, parts.port)
    connection.prepare(until, allow_private, limits.connect_seconds)
    watch = threading.Timer(max(0.0, until - time.monotonic()), connection.cut)
    watch.daemon = True
    watch.start()
    try:
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
            f"?{parts.query}" if parts.query else ""
        )
        connection.request("GET", target, headers={"User-Agent": "xvlm", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        if response.status in _REDIRECTS and (location := response.headers.get("Location")):
            return location, b""
        if response.status in (404, 410):
            raise MissingFileError(f"{url} does not exist: the server says {response.status}")
        if response.status != 200:
            raise InputError(f"{url} cannot be read: the server says {response.status} {response.reason}")
        return None, _content(response, url, until, limits)
    finally:
        watch.cancel()
        connection.close()


def _content(response: http.client.HTTPResponse, url: str, until: float, limits: Limits) -> bytes:
    declared = response.length
    content = bytearray()
    while len(content) <= limits.max_file_bytes and (declared or 0) <= limits.max_file_bytes:
        part = response.read1(_CHUNK_BYTES)
        if time.monotonic() >= until:
            raise InputError(f"{url} cannot be read: not read within {limits.read_seconds:g} s")
        if not part:
            break
        content += part
    else:
        raise InputError(f"{url} has more than the {limits.max_file_bytes:,} bytes that are read of an image")
    if declared is not None and len(content) != declared:
        raise InputError(f"{url} ends after {len(content):,} of {declared:,} bytes")
    return bytes(content)


class _HTTPConnection(http.client.HTTPConnection):
    """Connects to an address that was checked, and can be cut from another thread."""

    def prepare(self, until: float, allow_private: bool, connect_seconds: float) -> None:
        self.until, self.allow_private, self.connect_seconds = until, allow_private, connect_seconds

    def connect(self) -> None:
        addresses = checked_addresses(self.host, self.port, self.allow_private, self.connect_seconds)
        for number, (family, address) in enumerate(addresses, start=1):
            plain = socket.socket(family, socket.SOCK_STREAM)
            plain.settimeout(max(0.01, min(self.connect_seconds, self.until - time.monotonic())))
            try:
                plain.connect(address)
            except OSError:
                plain.close()
                if number == len(addresses):
                    raise
            else:
                self.sock = plain
                return

    def cut(self) -> None:
        """End the connection, whatever is waiting for it."""
        try:
            if self.sock is not None:
                self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already


class _HTTPSConnection(_HTTPConnection):
    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        # The handshake comes after the assignment, so that `cut` can end it.
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock.do_handshake()


def checked_addresses(
    host: str, port: int, allow_private: bool, seconds: float
) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """(family, address) of a host, to connect to.  Raises InputError if one of them is not public."""
    found = within(seconds, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    addresses = [(family, address) for family, _, _, _, address in found]
    for _, address in addresses:
        if not allow_private and not is_public(str(address[0])):
            raise InputError(
                f"{host} is {address[0]}, a private, loopback or reserved address; --allow-private allows it"
            )
    return addresses  # type: ignore[return-value]


def check_host(url: str) -> None:
    """Raise InputError if the host of a URL has a private address, which is not allowed for it."""
    if host := urlsplit(url).hostname:
        checked_addresses(host, 0, may_be_private(url), current().connect_seconds)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, also where IPv6 only wraps one of IPv4."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


def within(seconds: float, function: Callable[[], T]) -> T:
    """The result of a function that cannot be interrupted; raises InputError where it takes longer."""
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((function(), None))
        except BaseException as error:  # it is raised where the result is waited for
            done.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = done.get(timeout=seconds)
    except queue.Empty:
        raise InputError(f"not read within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
