"""Remote shards are copied to a local disk in the background, and read from there."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from tests.data import make
from xvlm.data.files import shard_cache, storage
from xvlm.data.files.limits import temporary_limits
from xvlm.data.files.shard_cache import IN_USE_SECONDS, SUFFIX, ShardCache
from xvlm.data.loading.loader import StepDataset
from xvlm.data.loading.order import Order
from xvlm.data.loading.streams import DataStream
from xvlm.data.sources.tar import TarSource

URL = "memory://bucket/{}.tar"
CONTENT = {name: bytes([number]) * 1000 for number, name in enumerate("abc")}


@pytest.fixture(autouse=True)
def bucket() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    for name, data in CONTENT.items():
        fs.pipe(URL.format(name), data)
    yield fs
    fs.rm("/bucket", recursive=True)
    shard_cache._caches.clear()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for a background thread, for at most ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "nothing happened within ten seconds"
        time.sleep(0.01)


def copies(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def test_reads_do_not_wait_for_the_copy(tmp_path: Path, bucket: Any) -> None:
    cache = ShardCache(tmp_path / "cache", 10**6)
    assert cache.read_range(URL.format("b"), 10, 5) == CONTENT["b"][10:15]
    wait_for(lambda: copies(tmp_path / "cache"))
    wait_for(lambda: cache._copies)
    bucket.rm(URL.format("b"))
    assert cache.read_range(URL.format("b"), 990, 50) == CONTENT["b"][990:], "from the copy"
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_new_version_is_copied_anew(tmp_path: Path, bucket: Any) -> None:
    first = ShardCache(tmp_path, 10**6)
    first.prefetch(URL.format("a"))
    wait_for(lambda: first._copies)
    bucket.pipe(URL.format("a"), b"new" * 400)
    second = ShardCache(tmp_path, 10**6)
    second.prefetch(URL.format("a"))
    wait_for(lambda: second._copies)
    assert second.read_range(URL.format("a"), 0, 3) == b"new" and len(copies(tmp_path)) == 2


def test_the_oldest_copy_makes_room_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    cache = ShardCache(tmp_path, 2500)
    for name in "ab":
        cache.prefetch(URL.format(name))
        wait_for(lambda name=name: URL.format(name) in cache._copies)
    old = time.time() - 2 * IN_USE_SECONDS
    os.utime(cache._copies[URL.format("a")], (old, old))
    cache.prefetch(URL.format("c"))
    wait_for(lambda: URL.format("c") in cache._copies)
    assert not cache._copies[URL.format("a")].exists() and cache._copies[URL.format("b")].exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert cache.read_range(URL.format("a"), 0, 3) == CONTENT["a"][:3], "from the file itself again"


def test_too_little_room_and_failures_are_said(
    tmp_path: Path, bucket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ShardCache(tmp_path, 1500)
    cache.prefetch(URL.format("a"))
    wait_for(lambda: cache._copies)
    with caplog.at_level(logging.WARNING):
        assert cache.read_range(URL.format("b"), 0, 3) == CONTENT["b"][:3]
        wait_for(lambda: "shard_cache_gb is 1.5e-06, and the shards in use need 2e-06" in caplog.text)
        cache.prefetch("memory://bucket/none.tar")
        wait_for(lambda: "No such file: memory://bucket/none.tar" in caplog.text)
    cache.prefetch(URL.format("b"))
    assert caplog.text.count("b.tar is read by range") == 1, "it is tried again after a minute"


def test_what_a_killed_process_left_is_written_anew(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10**6)
    cache.prefetch(URL.format("a"))
    wait_for(lambda: cache._copies)
    (path,) = copies(tmp_path)
    path.rename(path.with_suffix(".partial"))
    path.with_suffix(".partial").write_bytes(b"half")
    again = ShardCache(tmp_path, 10**6)
    again.prefetch(URL.format("a"))
    wait_for(lambda: again._copies)
    assert path.read_bytes() == CONTENT["a"] and not list(tmp_path.glob("*.partial"))


def read_in_child(folder: str, seconds: float, results: Any) -> None:
    """Copy a file whose download takes a while, and count the downloads of this process."""
    count = 0
    original = storage.download

    def slow(url: str, path: str) -> None:
        nonlocal count
        count += 1
        time.sleep(seconds)
        original(url, path)

    storage.download = slow  # type: ignore[assignment]
    cache = ShardCache(Path(folder), 10**6)
    cache.prefetch(URL.format("a"))
    wait_for(lambda: cache._copies)
    results.put((count, cache.read_range(URL.format("a"), 0, 1000) == CONTENT["a"]))


def test_one_process_copies_for_all(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # so that they have the files of this process
    results = context.Queue()
    children = [context.Process(target=read_in_child, args=(str(tmp_path), 0.5, results)) for _ in range(3)]
    for child in children:
        child.start()
    found = [results.get(timeout=30) for _ in children]
    for child in children:
        child.join()
    assert sum(count for count, _ in found) == 1 and all(right for _, right in found)


def test_the_window_after_is_copied_ahead() -> None:
    """Every sample of a window is named once while the window before is read."""
    sizes = [7] * 12
    order = Order([84], shards=[sizes], window=3)
    for start in range(0, 63, 21):
        later = {order.a_window_later(position).index for position in range(start, start + 21)}
        assert later == {order[position].index for position in range(start + 21, start + 42)}
    assert order.a_window_later(83).epoch == 1
    mixed = Order([84, 10], shards=[sizes, None], window=3)
    for position in range(200):
        assert mixed.a_window_later(position).source == mixed[position].source


def test_the_same_samples_as_from_files(tmp_path: Path, bucket: Any) -> None:
    """With and without copies, and at a later step alone, as a run that goes on reads it."""
    names = []
    for shard in range(4):
        samples = {
            f"{shard}-{number}": {
                "jpg": make.encoded(make.photo(30 + shard, 20 + number), "PNG"),
                "json": b'{"caption": "a dog"}',
            }
            for number in range(5)
        }
        path = make_tar(tmp_path / f"{shard}.tar", samples)
        bucket.pipe(f"memory://bucket/shards/{shard}.tar", path.read_bytes())
        names.append(str(path))

    def steps(paths: Any, numbers: range) -> list[Any]:
        stream = DataStream("pairs", [TarSource(paths)], 4, size_of, window=2)
        data = StepDataset([stream], lambda streams: streams["pairs"], seed=3)
        return [data[number].batches for number in numbers]

    expected = steps(names, range(15))
    assert steps("memory://bucket/shards/*.tar", range(15)) == expected
    with temporary_limits(shard_cache=str(tmp_path / "cache"), shard_cache_gb=1.0):
        assert steps("memory://bucket/shards/*.tar", range(15)) == expected
        wait_for(lambda: len(copies(tmp_path / "cache")) == 4)
        bucket_reads = count_reads(bucket)
        assert steps("memory://bucket/shards/*.tar", range(7, 15)) == expected[7:]
        assert not [one for one in bucket_reads if one[1] is not None], "no part is read from the bucket"


def size_of(record: Any, rng: np.random.Generator) -> tuple[int, bytes]:
    """A sample that tells the record."""
    return len(record.image), record.image[-60:]


def make_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """A tar of samples."""
    import io
    import tarfile

    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def count_reads(fs: Any) -> list[tuple[str, Any]]:
    """A list that gets (path, start) of every read of parts."""
    reads: list[tuple[str, Any]] = []
    original = type(fs).cat_file

    def cat_file(self: Any, path: str, start: Any = None, end: Any = None, **options: Any) -> Any:
        reads.append((path, start))
        return original(self, path, start=start, end=end, **options)

    fs.cat_file = cat_file.__get__(fs)
    return reads
