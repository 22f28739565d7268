"""A local S3 server of which some requests fail or stall."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "shards"


class FaultyServer:
    """A WSGI application that answers some requests by an error, or late.

    Attributes:
        share: share of the requests that fail or stall, half of them each.
        stall_seconds: time of a stall.
        faults: number of faults so far, by kind.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self.application = application
        self.share, self.stall_seconds = 0.0, 3.0
        self.faults: Counter[str] = Counter()
        self._rng, self._lock = random.Random(0), threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            fate = self._rng.random()
        if fate < self.share / 2:
            self.faults["error"] += 1
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>reduce your rate</Message></Error>"]
        if fate < self.share:
            self.faults["stall"] += 1
            time.sleep(self.stall_seconds)
        return self.application(environ, start_response)


@contextmanager
def faulty_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """Start the server with a bucket, and point the clients of this process and its children to it."""
    import boto3
    import fsspec
    import s3fs
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = FaultyServer(DomainDispatcherApplication(create_backend_app))
    http = make_server("127.0.0.1", 0, server, threaded=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{http.server_port}"
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    # A stall is noticed after a second, in this process and in those that it starts.
    monkeypatch.setenv("FSSPEC_S3_CONFIG_KWARGS", '{"read_timeout": 1, "connect_timeout": 1}')
    fsspec.config.set_conf_env(fsspec.config.conf)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        fsspec.config.conf.pop("s3", None)
        s3fs.S3FileSystem.clear_instance_cache()
