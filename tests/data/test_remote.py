"""Images from web servers are limited in size, time and redirects, and come from public addresses only."""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.data import make
from xvlm.common.errors import InputError, MissingFileError
from xvlm.data.files import http as remote
from xvlm.data.files import storage
from xvlm.data.files.limits import temporary_limits
from xvlm.data.images.decode import open_image

PNG = make.encoded(make.photo(30, 20), "PNG")
ENDLESS = bytes(2**16)


class _Handler(http.server.BaseHTTPRequestHandler):
    """A server whose behaviour is the first part of the path."""

    def do_GET(self) -> None:
        kind, _, rest = self.path.lstrip("/").partition("/")
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has disconnected
            getattr(self, f"do_{kind.split('.')[0]}")(rest)

    def answer(self, status: int, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def do_image(self, rest: str) -> None:
        self.answer(200, len(PNG))
        self.wfile.write(PNG)

    def do_unsized(self, rest: str) -> None:
        self.answer(200)
        self.wfile.write(PNG)

    def do_to(self, rest: str) -> None:
        self.answer(302, 0, Location=rest)

    def do_loop(self, rest: str) -> None:
        self.answer(302, 0, Location=f"/loop/{int(rest or 0) + 1}")

    def do_missing(self, rest: str) -> None:
        self.answer(404, 0)

    def do_broken(self, rest: str) -> None:
        self.answer(500, 0)

    def do_endless(self, rest: str) -> None:
        self.answer(200)
        while True:
            self.wfile.write(ENDLESS)

    def do_large(self, rest: str) -> None:
        self.answer(200, 10**12)
        self.wfile.write(PNG)

    def do_short(self, rest: str) -> None:
        self.answer(200, len(PNG) + 9)
        self.wfile.write(PNG)

    def do_slow(self, rest: str) -> None:
        self.answer(200, len(PNG))
        for byte in PNG:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def do_slowhead(self, rest: str) -> None:
        for byte in b"HTTP/1.0 200 OK\r\nX: " + b"y" * 1000:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


@pytest.fixture(scope="module")
def server() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.requests = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_trusted_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_trusted_hosts", set())


@pytest.fixture
def url(server: _Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("path", ["image.png", "unsized", "to//image.png", "to//to//to//image.png"])
def test_an_image_is_read(url: str, path: str) -> None:
    with temporary_limits(allow_private=True):
        assert remote.fetch(f"{url}/{path}") == PNG
        assert open_image(f"{url}/{path}", key="k").width == 30


def test_private_addresses_need_permission(url: str, server: _Server) -> None:
    before = len(server.requests)  # type: ignore[attr-defined]
    error = make.bad_record(open_image, f"{url}/image.png", key="k")
    assert error.reason == "image file unreadable"
    assert re.search(r"127\.0\.0\.1 is 127.0.0.1, a private, loopback .*--allow-private", error.detail)
    assert len(server.requests) == before, "no request was sent"  # type: ignore[attr-defined]
    assert open_image(f"{url}/image.png", key="k", trusted=True).width == 30, "the user typed it"
    assert open_image(f"{url}/to//image.png", key="k", trusted=True).width == 30, "the same host"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
        ("169.254.169.254", "169.254.169.254"),
        ("0.0.0.0", "0.0.0.0"),
        ("10.1.2.3", "10.1.2.3"),
    ],
)
def test_every_spelling_of_an_address_is_checked(
    host: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", None)
    with pytest.raises(InputError, match=f"is {address}, a private, loopback or reserved address"):
        remote.fetch(f"http://{host}:9/a.jpg")


PUBLIC = ["93.184.216.34", "2606:2800:220:1::1"]
NOT_PUBLIC = ["100.64.0.1", "192.168.0.1", "172.16.0.1", "224.0.0.1", "255.255.255.255"]
NOT_PUBLIC += ["fe80::1%eth0", "fd00::1", "64:ff9b::7f00:1", "2002:7f00:1::", "::"]


@pytest.mark.parametrize("address", PUBLIC + NOT_PUBLIC)
def test_public_addresses(address: str) -> None:
    assert remote.is_public(address) is (address in PUBLIC)


def test_one_private_address_of_several_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: addresses)
    with pytest.raises(InputError, match=r"example\.org is 127\.0\.0\.1"):
        remote.fetch("http://example.org/a.jpg")


def test_a_second_look_up_cannot_lead_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the checked address, however the name resolves later (DNS rebinding)."""
    resolved, connected = [], []

    def resolve(*arguments: object, **options: object) -> list:
        resolved.append(arguments[0])
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.1" if len(resolved) > 1 else "93.184.216.34", 80))]

    def connect(self: socket.socket, address: object) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(InputError, match="ConnectionRefusedError"):
        remote.fetch("http://example.org/a.jpg")
    assert resolved == ["example.org"] and connected == [("93.184.216.34", 80)]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("file:///etc/hostname", "only http and https are followed"),
        ("ftp://example.org/a", "only http and https are followed"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254 is 169.254.169.254, a private"),
        ("http://localhost:1/", "localhost is (127.0.0.1|::1), a private"),
        ("gopher://127.0.0.1/", "only http and https are followed"),
    ],
)
def test_redirects_are_checked_again(url: str, target: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        remote.fetch(f"{url}/to/{target}", trusted=True)


def test_redirects_are_counted(url: str, server: _Server) -> None:
    server.requests.clear()  # type: ignore[attr-defined]
    with temporary_limits(allow_private=True), pytest.raises(InputError, match="redirects more than 5 times"):
        remote.fetch(f"{url}/loop/0")
    assert len(server.requests) == 6  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("endless", "more than the 1,000,000 bytes"),
        ("large", "more than the 1,000,000 bytes"),
        ("short", f"ends after {len(PNG):,} of {len(PNG) + 9:,} bytes"),
        ("broken", "the server answers 500"),
    ],
)
def test_faults_of_a_body_are_named(url: str, path: str, message: str) -> None:
    limits = temporary_limits(allow_private=True, max_file_bytes=1_000_000)
    with limits, pytest.raises(InputError, match=message):
        remote.fetch(f"{url}/{path}")


def test_a_missing_image(url: str) -> None:
    with temporary_limits(allow_private=True):
        with pytest.raises(MissingFileError, match="the server answers 404"):
            remote.fetch(f"{url}/missing")
        error = make.bad_record(open_image, f"{url}/missing", key="k")
    assert error.reason == "image file missing"


@pytest.mark.parametrize("path", ["slow", "slowhead"])
def test_a_slow_server_times_out(url: str, path: str) -> None:
    """Each byte arrives in time, but not the whole answer."""
    start = time.monotonic()
    limits = temporary_limits(allow_private=True, read_seconds=0.5)
    with limits, pytest.raises(InputError, match=r"not read within 0\.5 s"):
        remote.fetch(f"{url}/{path}")
    assert time.monotonic() - start < 5


def test_a_server_that_never_answers_times_out() -> None:
    limits = temporary_limits(allow_private=True, read_seconds=0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, limits:
        for scheme in ("http", "https"):
            with pytest.raises(InputError, match="not read within"):
                remote.fetch(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/a.jpg")


def test_a_name_that_does_not_resolve_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(5))
    start = time.monotonic()
    with temporary_limits(connect_seconds=0.2), pytest.raises(InputError, match=r"not read within 0\.2 s"):
        remote.fetch("http://example.org/a.jpg")
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.jpg", "http://a:b/c", "http://[::1/a", "http://x y/a\r\nb: c"]
)
def test_invalid_urls(url: str) -> None:
    with temporary_limits(allow_private=True), pytest.raises(InputError):
        remote.fetch(url)


def test_the_host_of_an_image_root_may_be_private(url: str) -> None:
    path = storage.join(f"{url}/image", "a.png")
    assert open_image(path, key="k").width == 30
