"""`xvlm serve` as a process: many clients, slow clients, signals, its log."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.server.process import Running, serving
from tests.server.tiny_service import encoded, write_index

CLIENTS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("process"))


def test_many_clients_at_once(folder: Path) -> None:
    """Every answer is right or a 429, and none takes longer than the time limit."""
    image = encoded(folder / "photos" / "a.jpg")
    body = {"image": image, "texts": ["a red dog"]}
    with serving(folder, "--max-queue", "32", "--timeout", "20") as running:
        expected = httpx.post(f"{running.url}/v1/match", json=body).json()["scores"]
        limits = httpx.Limits(max_connections=CLIENTS)
        with httpx.Client(limits=limits, timeout=40) as web, ThreadPoolExecutor(CLIENTS) as pool:
            begin = time.monotonic()
            answers = list(
                pool.map(lambda _: web.post(f"{running.url}/v1/match", json=body), range(2 * CLIENTS))
            )
            seconds = time.monotonic() - begin
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) <= {200, 429} and statuses[200] >= 32, statuses
        for answer in answers:
            if answer.status_code == 200:
                assert answer.json()["scores"] == pytest.approx(expected, abs=1e-4)
            else:
                assert answer.headers["retry-after"] == "1"
        assert seconds < 40
        assert httpx.get(f"{running.url}/healthz").status_code == 200


def test_answers_do_not_wait_for_acknowledgements(folder: Path) -> None:
    """Their head and body are sent apart; with Nagle's algorithm the body would be 40 ms late."""
    with serving(folder) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        seconds = []
        for _ in range(20):
            begin = time.perf_counter()
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b'{"status":"ok"}'
            seconds.append(time.perf_counter() - begin)
        connection.close()
    assert sorted(seconds)[10] < 0.03


def test_slow_clients_are_let_go(folder: Path) -> None:
    """One that sends no request, one that stops in the head, and one that stops in the body."""
    head = b"POST /v1/match HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    starts = (b"", head[:30], head + b'Content-Length: 50\r\n\r\n{"texts"')
    with serving(folder, "--timeout", "1.5") as running:
        waiting = [socket.create_connection(("127.0.0.1", running.port)) for _ in starts]
        for connection, start in zip(waiting, starts, strict=True):
            connection.sendall(start)
            connection.settimeout(10)
        received = [receive_all(connection) for connection in waiting]
        assert received[0] == b"" and received[1] in (b"", received[1])
        assert b" 408 " in received[2].splitlines()[0] and b"did not arrive" in received[2]
        assert httpx.get(f"{running.url}/healthz").status_code == 200


def receive_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    connection.close()
    return b"".join(parts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish(folder: Path, number: signal.Signals) -> None:
    body = {"image": encoded(folder / "photos" / "a.jpg"), "texts": ["a red dog"] * 60}
    with serving(folder) as running:
        url = f"{running.url}/v1/match"
        statuses: list[int] = []
        with httpx.Client(timeout=40) as web:
            web.post(url, json=body)
            threads = [
                threading.Thread(target=lambda: statuses.append(web.post(url, json=body).status_code))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            time.sleep(0.1)
            running.process.send_signal(number)
            for thread in threads:
                thread.join()
        assert running.process.wait(30) in (0, -number, 130)
    assert set(statuses) <= {200, 503}, statuses


def test_the_log_holds_no_texts_unless_asked(folder: Path) -> None:
    body = {"text": "a secret red dog"}
    for options in ((), ("--log-texts",)):
        with serving(folder, *options) as running:
            assert httpx.post(f"{running.url}/v1/search", json=body).status_code == 200
            stop(running)
        lines = [json.loads(line) for line in (folder / "serve.log").read_text().splitlines() if "{" in line]
        (search,) = [line for line in lines if line["route"] == "/v1/search"]
        assert search["status"] == 200 and search["ms"] > 0
        assert ("secret" in json.dumps(search)) == bool(options)


def stop(running: Running) -> None:
    running.process.terminate()
    running.process.wait(30)


def test_a_taken_port_and_an_open_host_are_refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from xvlm.cli import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code = main(["serve", "--index", str(folder / "index"), "--port", port])
    assert code == 2 and "in use" in capfd.readouterr().err
    assert main(["serve", "--index", str(folder / "index"), "--host", "0.0.0.0"]) == 2
    assert "XVLM_TOKEN" in capfd.readouterr().err
