"""Data and images on S3; needs the extra `remote` and moto's server."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest

from tests.data import make
from xvlm.data.files import storage
from xvlm.data.files.limits import temporary_limits
from xvlm.data.images.decode import open_image
from xvlm.data.sources.open import open_source

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").clear_instance_cache()
    fs = fsspec.filesystem("s3")
    fs.mkdir("bucket")
    fs.pipe("bucket/a.png", make.encoded(make.photo(30, 20), "PNG"))
    lines = b'{"caption": "a", "image": "a.png"}\n{"caption": "b", "image": "s3://bucket/a.png"}\n'
    fs.pipe("bucket/a.jsonl", lines)
    yield "s3://bucket"
    server.stop()


def test_data_and_images(bucket: str) -> None:
    source = open_source(f"{bucket}/*.jsonl")
    assert open_image(source[0].image, key="k").width == 30
    assert "--allow-remote" in make.bad_record(source.__getitem__, 1).detail
    with temporary_limits(allow_remote=True):
        assert open_image(source[1].image, key="k").width == 30
    with temporary_limits(max_file_bytes=50):
        assert "more than the 50 bytes" in make.bad_record(open_image, f"{bucket}/a.png", key="k").detail
    for missing in (f"{bucket}/none.png", "s3://nobucket/a.png"):
        assert make.bad_record(open_image, missing, key="k").reason == "image file missing"
    assert storage.file_state(f"{bucket}/a.jsonl").bytes > 0
