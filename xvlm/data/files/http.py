"""Download images over http(s) from servers that are not trusted.

Sizes, times and redirects are limited (`Limits`).  Every host is resolved here, each of its addresses is
checked, and the connection goes to the address that was checked, so a second DNS look-up cannot lead
elsewhere (DNS rebinding).  Proxies from the environment are not used.
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

from xvlm.common.errors import InputError, MissingFileError
from xvlm.data.files.limits import Limits, current_limits

T = TypeVar("T")
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 65536
_trusted_hosts: set[str] = set()


def trust_host(url: str) -> None:
    """Allow a private address for the host of a URL that the user typed (an image root)."""
    _trusted_hosts.add(urlsplit(url).netloc)


def allows_private(url: str) -> bool:
    """Return whether this URL may lead to a private address."""
    return current_limits().allow_private or urlsplit(url).netloc in _trusted_hosts


def fetch(url: str, trusted: bool = False) -> bytes:
    """Download the content of an http(s) URL.

    Args:
        trusted: the user typed the URL, so its host may be private; the hosts of redirects may not.
    Raises:
        MissingFileError: the server has no such file.
        InputError: a limit is exceeded, an address is private, or the server fails.
    """
    limits, trusted_host = current_limits(), urlsplit(url).netloc if trusted else None
    deadline = time.monotonic() + limits.read_seconds
    target = url
    for _ in range(limits.max_redirects + 1):
        allow_private = allows_private(target) or urlsplit(target).netloc == trusted_host
        try:
            location, content = _get(target, deadline, allow_private, limits)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, (InputError, MissingFileError)) and time.monotonic() < deadline:
                raise
            late = time.monotonic() >= deadline
            reason = (
                f"not read within {limits.read_seconds:g} s" if late else f"{type(error).__name__}: {error}"
            )
            raise InputError(f"{target} cannot be read: {reason}") from error
        if location is None:
            return content
        target = urljoin(target, location)
        if urlsplit(target).scheme not in ("http", "https"):
            raise InputError(f"{url} redirects to {target[:200]!r}; only http and https are followed")
    raise InputError(f"{url} redirects more than {limits.max_redirects} times")


def _get(url: str, deadline: float, allow_private: bool, limits: Limits) -> tuple[str | None, bytes]:
    """Send one request and return (target of a redirect, b"") or (None, content)."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise InputError(f"{url} names no host")
    connection_type = _HTTPSConnection if parts.scheme == "https" else _HTTPConnection
    connection = connection_type(parts.hostname, parts.port)
    connection.prepare(deadline, allow_private, limits.connect_seconds)
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), connection.abort)
    timer.daemon = True
    timer.start()
    try:
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "xvlm", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        if response.status in _REDIRECTS and (location := response.headers.get("Location")):
            return location, b""
        if response.status in (404, 410):
            raise MissingFileError(f"{url} does not exist: the server answers {response.status}")
        if response.status != 200:
            raise InputError(f"{url} cannot be read: the server answers {response.status} {response.reason}")
        return None, _read_body(response, url, deadline, limits)
    finally:
        timer.cancel()
        connection.close()


def _read_body(response: http.client.HTTPResponse, url: str, deadline: float, limits: Limits) -> bytes:
    declared = response.length
    content = bytearray()
    while len(content) <= limits.max_file_bytes and (declared or 0) <= limits.max_file_bytes:
        chunk = response.read1(_CHUNK_BYTES)
        if time.monotonic() >= deadline:
            raise InputError(f"{url} cannot be read: not read within {limits.read_seconds:g} s")
        if not chunk:
            break
        content += chunk
    else:
        raise InputError(f"{url} has more than the {limits.max_file_bytes:,} bytes allowed for an image")
    if declared is not None and len(content) != declared:
        raise InputError(f"{url} ends after {len(content):,} of {declared:,} bytes")
    return bytes(content)


class _HTTPConnection(http.client.HTTPConnection):
    """A connection to a checked address that another thread can abort."""

    def prepare(self, deadline: float, allow_private: bool, connect_seconds: float) -> None:
        self.deadline, self.allow_private, self.connect_seconds = deadline, allow_private, connect_seconds

    def connect(self) -> None:
        addresses = resolve_host(self.host, self.port, self.allow_private, self.connect_seconds)
        for number, (family, address) in enumerate(addresses, start=1):
            connection = socket.socket(family, socket.SOCK_STREAM)
            connection.settimeout(max(0.01, min(self.connect_seconds, self.deadline - time.monotonic())))
            try:
                connection.connect(address)
            except OSError:
                connection.close()
                if number == len(addresses):
                    raise
            else:
                self.sock = connection
                return

    def abort(self) -> None:
        """Shut the socket down, so that a blocking read in another thread returns."""
        try:
            if self.sock is not None:
                self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the socket is closed already


class _HTTPSConnection(_HTTPConnection):
    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        # The handshake comes after the assignment, so that `abort` can end it.
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock.do_handshake()


def resolve_host(
    host: str, port: int, allow_private: bool, seconds: float
) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """Return (family, address) pairs of a host.  Raises InputError if one is private, or after `seconds`."""
    resolved = run_with_timeout(seconds, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    addresses = [(family, address) for family, _, _, _, address in resolved]
    for _, address in addresses:
        if not allow_private and not is_public(str(address[0])):
            raise InputError(
                f"{host} is {address[0]}, a private, loopback or reserved address; --allow-private allows it"
            )
    return addresses  # type: ignore[return-value]


def check_host(url: str) -> None:
    """Raise InputError if the host of a URL has a private address that is not allowed for it."""
    if host := urlsplit(url).hostname:
        resolve_host(host, 0, allows_private(url), current_limits().connect_seconds)


def is_public(address: str) -> bool:
    """Return whether an IP address is globally routable; an IPv4 address inside an IPv6 one is unwrapped."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def run_with_timeout(seconds: float, function: Callable[[], T]) -> T:
    """Return the result of a function, which cannot be interrupted.  Raises InputError after `seconds`."""
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((function(), None))
        except BaseException as error:  # raised again in the waiting thread
            done.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = done.get(timeout=seconds)
    except queue.Empty:
        raise InputError(f"not read within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
