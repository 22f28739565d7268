"""Images from web servers: within limits of size, time and redirects, and from public addresses only."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.data import make
from xvlm.data import files, remote
from xvlm.data.images import open_image
from xvlm.data.limits import limited
from xvlm.errors import InputError, MissingFileError
from xvlm.records import BadRecord

PNG = make.encoded(make.photo(30, 20), "PNG")
ENDLESS = bytes(2**16)


class _Handler(http.server.BaseHTTPRequestHandler):
    """What a server may do; the path says which."""

    def do_GET(self) -> None:
        kind, _, rest = self.path.lstrip("/").partition("/")
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has had enough
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

    def do_whole(self, rest: str) -> None:
        self.answer(200)  # without a length
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
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_named_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_named_hosts", set())


@pytest.fixture
def url(server: _Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("path", ["image.png", "whole", "to//image.png", "to//to//to//image.png"])
def test_an_image_is_read(url: str, path: str) -> None:
    with limited(allow_private=True):
        assert remote.fetch(f"{url}/{path}") == PNG
        assert open_image(f"{url}/{path}", key="k").width == 30


def test_private_addresses_need_permission(url: str, server: _Server) -> None:
    before = len(server.seen)  # type: ignore[attr-defined]
    with pytest.raises(
        BadRecord, match=r"127\.0\.0\.1 is 127.0.0.1, a private, loopback .*--allow-private"
    ) as caught:
        open_image(f"{url}/image.png", key="k")
    assert caught.value.reason == "image file unreadable"
    assert len(server.seen) == before, "it was not asked"  # type: ignore[attr-defined]
    assert open_image(f"{url}/image.png", key="k", trusted=True).width == 30, "a person typed it"
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
def test_every_way_to_write_an_address(host: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", None)
    with pytest.raises(InputError, match=f"is {address}, a private, loopback or reserved address"):
        remote.fetch(f"http://{host}:9/a.jpg")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("100.64.0.1", False),
        ("192.168.0.1", False),
        ("172.16.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("::", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert remote.is_public(address) is public


def test_one_private_address_of_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
    with pytest.raises(InputError, match=r"example\.org is 127\.0\.0\.1"):
        remote.fetch("http://example.org/a.jpg")


def test_a_second_look_up_cannot_lead_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that was checked is connected to, however the name resolves later (DNS rebinding)."""
    asked, connected = [], []

    def resolve(*arguments: object, **options: object) -> list:
        asked.append(arguments[0])
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.1" if len(asked) > 1 else "93.184.216.34", 80))]

    def connect(self: socket.socket, address: object) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(InputError, match="ConnectionRefusedError"):
        remote.fetch("http://example.org/a.jpg")
    assert asked == ["example.org"] and connected == [("93.184.216.34", 80)]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("file:///etc/hostname", "only http and https are followed"),
        ("ftp://example.org/a", "only http and https are followed"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254 is 169.254.169.254, a private"),
        ("http://localhost:1/", "localhost is (127.0.0.1|::1), a private"),
        ("gopher://127.0.0.1/", "only http and https are followed"),
    ],
)
def test_redirects_are_checked_again(url: str, target: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        remote.fetch(f"{url}/to/{target}", trusted=True)


def test_redirects_are_counted(url: str, server: _Server) -> None:
    server.seen.clear()  # type: ignore[attr-defined]
    with (
        limited(allow_private=True),
        pytest.raises(InputError, match="from one URL to another more than 5 times"),
    ):
        remote.fetch(f"{url}/loop/0")
    assert len(server.seen) == 6  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("endless", "more than the 1,000,000 bytes"),
        ("large", "more than the 1,000,000 bytes"),
        ("short", f"ends after {len(PNG):,} of {len(PNG) + 9:,} bytes"),
        ("broken", "the server says 500"),
    ],
)
def test_what_is_wrong_with_a_body_is_named(url: str, path: str, said: str) -> None:
    with limited(allow_private=True, max_file_bytes=1_000_000), pytest.raises(InputError, match=said):
        remote.fetch(f"{url}/{path}")


def test_a_missing_image(url: str) -> None:
    with limited(allow_private=True):
        with pytest.raises(MissingFileError, match="the server says 404"):
            remote.fetch(f"{url}/missing")
        with pytest.raises(BadRecord) as caught:
            open_image(f"{url}/missing", key="k")
    assert caught.value.reason == "image file missing"


@pytest.mark.parametrize("path", ["slow", "slowhead"])
def test_a_slow_server_is_left(url: str, path: str) -> None:
    """Each byte comes in time; all of them do not."""
    begun = time.monotonic()
    with (
        limited(allow_private=True, read_seconds=0.5),
        pytest.raises(InputError, match=r"not read within 0\.5 s"),
    ):
        remote.fetch(f"{url}/{path}")
    assert time.monotonic() - begun < 5


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg"
        for address in (place, place.replace("http:", "https:")):
            with (
                limited(allow_private=True, read_seconds=0.5),
                pytest.raises(InputError, match="not read within"),
            ):
                remote.fetch(address)


def test_a_name_that_does_not_resolve_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(5))
    begun = time.monotonic()
    with limited(connect_seconds=0.2), pytest.raises(InputError, match=r"not read within 0\.2 s"):
        remote.fetch("http://example.org/a.jpg")
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    "place", ["http://", "http:///a.jpg", "http://a:b/c", "http://[::1/a", "http://x y/a\r\nb: c"]
)
def test_addresses_that_are_none(place: str) -> None:
    with limited(allow_private=True), pytest.raises(InputError):
        remote.fetch(place)


def test_the_host_of_an_image_root_that_a_person_named_may_be_private(url: str) -> None:
    path = files.join(f"{url}/image", "a.png")
    assert open_image(path, key="k").width == 30
