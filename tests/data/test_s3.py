"""Data and images on S3, where the extra `remote` and moto's server are installed."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest

from tests.data import make
from xvlm.data import files
from xvlm.data.images import open_image
from xvlm.data.limits import limited
from xvlm.data.sources import open_source
from xvlm.records import BadRecord

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
    fs.pipe(
        "bucket/a.jsonl",
        b'{"caption": "a", "image": "a.png"}\n{"caption": "b", "image": "s3://bucket/a.png"}\n',
    )
    yield "s3://bucket"
    server.stop()


def test_data_and_images(bucket: str) -> None:
    source = open_source(f"{bucket}/*.jsonl")
    assert open_image(source[0].image, key="k").width == 30
    with pytest.raises(BadRecord, match="--allow-remote"):
        source[1]
    with limited(allow_remote=True):
        assert open_image(source[1].image, key="k").width == 30
    with limited(max_file_bytes=50), pytest.raises(BadRecord, match="more than the 50 bytes"):
        open_image(f"{bucket}/a.png", key="k")
    for missing in (f"{bucket}/none.png", "s3://nobucket/a.png"):
        with pytest.raises(BadRecord) as caught:
            open_image(missing, key="k")
        assert caught.value.reason == "image file missing"
    assert files.state(f"{bucket}/a.jsonl").bytes > 0
