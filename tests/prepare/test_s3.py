"""Release and shards on S3, of which one request in twenty fails or stalls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prepare.many import COUNT, contents, kill_and_repeat, run, write_many
from xvlm.data.files.limits import temporary_limits
from xvlm.data.sources.open import open_source
from xvlm.prepare.leaks import find_leaks
from xvlm.prepare.prepare import prepare

pytest.importorskip("moto")
pytest.importorskip("s3fs")
from tests.prepare.faulty_s3 import BUCKET, FaultyServer, faulty_s3


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with faulty_s3(monkeypatch) as server:
        yield server


def download(url: str, folder: Path) -> Path:
    """Copy what was prepared to a local folder."""
    import fsspec

    fs, inner = fsspec.core.url_to_fs(url)
    fs.get(f"{inner}/", f"{folder}/", recursive=True)
    return folder


@pytest.mark.slow
def test_the_same_bytes_although_requests_fail(server: FaultyServer, tmp_path: Path) -> None:
    import fsspec

    release = write_many(tmp_path / "in")
    run(release, tmp_path / "local")
    fs, inner = fsspec.core.url_to_fs(f"s3://{BUCKET}/in")
    fs.put(f"{tmp_path / 'in'}/", f"{inner}/", recursive=True)
    server.share = 0.05
    with temporary_limits(allow_remote=True):
        done = prepare(
            "lines",
            f"s3://{BUCKET}/in/many.jsonl",
            f"s3://{BUCKET}/out",
            per_shard=5,
            workers=2,
            room="prepare.forms",
        )
    assert done.total("samples") == COUNT - 2
    source = open_source(f"s3://{BUCKET}/out")
    assert [source[number].extra["width"] for number in (0, 21)] == [70, 93]
    assert len(find_leaks([f"s3://{BUCKET}/out"], [str(release)], workers=1).leaks) == COUNT - 2
    server.share = 0.0
    found, expected = (
        contents(download(f"s3://{BUCKET}/out", tmp_path / "copy")),
        contents(tmp_path / "local"),
    )
    tars = [name for name in expected if name.endswith(".tar")]
    assert len(tars) == 5 and sum(server.faults.values()) > 3
    assert {name: found[name] for name in tars} == {name: expected[name] for name in tars}


@pytest.mark.slow
def test_shards_on_s3_of_a_local_release(server: FaultyServer, tmp_path: Path) -> None:
    """Killed at random moments, with requests that fail: the same bytes as on a disk."""
    release = write_many(tmp_path / "in")
    run(release, tmp_path / "local")
    server.share = 0.05
    kill_and_repeat(release, f"s3://{BUCKET}/killed", tmp_path, seconds=10.0)
    server.share = 0.0
    assert contents(download(f"s3://{BUCKET}/killed", tmp_path / "copy")) == contents(tmp_path / "local")
