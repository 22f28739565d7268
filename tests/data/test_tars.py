"""Tars and their index files are not trusted: sizes, kinds of members, names, and the claims of an index."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import stat
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data import make
from xvlm.common.errors import InputError
from xvlm.data.sources.tar import TarSource
from xvlm.data.sources.tar_index import build_tar_index, load_tar_index
from xvlm.records import BadRecord

JPEG = make.encoded(make.photo(32, 24))


def write(path: Path, *infos: tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> str:
    """Write headers without content before two complete samples."""
    with tarfile.open(path, "w", format=format) as tar:
        for info in infos:
            tar.addfile(info)
        for name, data in (("a.jpg", JPEG), ("a.txt", b"one"), ("b.jpg", JPEG), ("b.txt", b"two")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def info(name: str, **fields: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def captions(source: TarSource) -> list[str]:
    return [source[index].concepts[0].texts[0] for index in range(len(source))]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        *((kind, "1 links") for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE)),
        *((kind, "1 devices, pipes or other members") for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE)),
        (tarfile.GNUTYPE_SPARSE, "1 sparse members"),
    ],
)
def test_members_that_are_not_files_are_counted(
    kind: bytes, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.tar", info("c.jpg", type=kind, linkname="/etc/passwd"))
    assert captions(TarSource(path)) == ["one", "two"]
    assert f"{message} are not read" in caplog.text


def test_absolute_and_non_latin_names_are_only_names(tmp_path: Path) -> None:
    members = [("/etc/passwd.txt", b"x"), ("../up.txt", b"y"), ("73-கரிக்கோல்.txt", b"z")]
    pairs = [member for name, data in members for member in ((name[:-3] + "jpg", JPEG), (name, data))]
    source = TarSource(make.write_tar(tmp_path / "a.tar", pairs))
    assert captions(source) == ["x", "y", "z"]
    assert source[0].image == JPEG and source[2].key.endswith(":73-கரிக்கோல்")


def test_a_name_that_is_not_unicode_is_shown_as_escapes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", info("c\udcff.jpg"))
    assert make.bad_record(TarSource(path).__getitem__, 0).key == f"{path}:c\\xff"


@pytest.mark.parametrize("size", [2**33, 2**60, 2**80])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_huge_sizes_are_not_allocated(size: int, format: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        small = info("a.txt", size=3)
        tar.addfile(small, io.BytesIO(b"one"))
    with path.open("r+b") as file:
        file.seek(1024)
        file.write(info("b.txt", size=size).tobuf(format) + b"two")
        file.truncate()
    tracemalloc.start()
    source = TarSource(str(path))
    assert len(source) == 2
    error = make.bad_record(source.__getitem__, 1)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert error.reason == "tar member is truncated"


def test_a_size_that_leads_backwards_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write(path)
    data = bytearray(path.read_bytes())
    header = bytearray(info("a.jpg").tobuf(tarfile.GNU_FORMAT)[:512])
    header[124:136] = (256**12 - 2048).to_bytes(12, "big")  # base-256, negative
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[:512] = header
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"damaged|not an uncompressed tar"):
        TarSource(str(path))
    assert time.monotonic() - start < 5


def test_very_long_names_are_not_indexed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = build_tar_index(write(tmp_path / "a.tar", info("d/" * 5000 + "c.jpg")))
    assert len(index) == 2 and index.names.itemsize < 100
    assert "1 members whose name is longer than 1024 bytes" in caplog.text


def test_the_naming_rule_is_in_the_message(tmp_path: Path) -> None:
    members = [(f"p.v{n}.{end}", data) for n in range(3) for end, data in (("jpg", JPEG), ("json", b"{}"))]
    with pytest.raises(InputError, match=r"found p\.v0\.jpg, p\.v0\.json.* and 2 more; .*first dot.*rename"):
        TarSource(make.write_tar(tmp_path / "a.tar", members))
    mixed = TarSource(make.write_tar(tmp_path / "b.tar", [("a.jpg", JPEG), ("a.txt", b"one"), *members]))
    assert mixed[0].concepts
    with pytest.raises(BadRecord, match=r"unknown fields \(found p\.v0\.jpg, .*first dot"):
        mixed[1]


def test_texts_in_other_encodings(tmp_path: Path) -> None:
    members = [("a.jpg", JPEG), ("a.txt", "\ufeffÄhre".encode()), ("b.jpg", JPEG), ("b.txt", b"\xc4hre")]
    members += [("c.jpg", JPEG), ("c.json", json.dumps({"caption": "two"}).encode("utf-16"))]
    source = TarSource(make.write_tar(tmp_path / "a.tar", members))
    assert source[0].concepts[0].texts == ("Ähre",) and source[2].concepts[0].texts == ("two",)
    with pytest.raises(BadRecord, match="text is not valid Unicode"):
        source[1]


def test_a_tar_without_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no sample"):
        TarSource(make.write_tar(tmp_path / "a.tar", []))


# the index file ---------------------------------------------------------------------------------------

Columns = dict[str, np.ndarray]


def swap_offsets(columns: Columns) -> None:
    columns["offsets"][[0, 2]] = columns["offsets"][[2, 0]]


def read_columns(path: str) -> Columns:
    with np.load(path + ".idx") as stored:
        return {name: stored[name] for name in stored}


WRONG: dict[str, Callable[[Columns], None]] = {
    "no column": lambda columns: columns.__delitem__("sizes"),
    "texts as numbers": lambda columns: columns.update(offsets=columns["offsets"].astype(str)),
    "fractions": lambda columns: columns.update(sizes=columns["sizes"] + 0.5),
    "a table": lambda columns: columns.update(offsets=columns["offsets"][None]),
    "fewer": lambda columns: columns.update(sizes=columns["sizes"][:-1]),
    "backwards": lambda columns: columns.update(first=columns["first"][::-1].copy()),
    "beyond": lambda columns: columns.update(offsets=columns["offsets"] + (1 << 40)),
    "before": lambda columns: columns.update(offsets=columns["offsets"] - 4096),
    "negative sizes": lambda columns: columns.update(sizes=-columns["sizes"]),
    "a sample of two": lambda columns: columns.update(first=np.array([0, 4])),
    "other members": swap_offsets,
    "other names": lambda columns: columns.update(names=np.array([b"x.jpg", b"x.txt", b"y.jpg", b"y.txt"])),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_index_is_rebuilt(fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.tar")
    correct = build_tar_index(path)
    columns = read_columns(path)
    WRONG[fault](columns)
    with open(path + ".idx", "wb") as file:
        np.savez(file, **columns)
    assert captions(TarSource(path)) == ["one", "two"]
    assert "damaged" in caplog.text
    assert np.array_equal(load_tar_index(path).offsets, correct.offsets)


def test_a_bomb_in_the_index_is_not_decompressed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar")
    build_tar_index(path)
    columns = read_columns(path) | {"names": np.zeros(8_000_000, "S4")}
    with open(path + ".idx", "wb") as file:
        np.savez_compressed(file, **columns)
    del columns
    tracemalloc.start()
    assert captions(TarSource(path)) == ["one", "two"]
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_wrong_member_is_found_when_it_is_read(tmp_path: Path) -> None:
    numbers = range(40)
    members = [m for n in numbers for m in ((f"{n:02}.jpg", JPEG), (f"{n:02}.txt", b"text %d" % n))]
    path = make.write_tar(tmp_path / "a.tar", members)
    index = build_tar_index(path)
    index.offsets[[3, 5]] = index.offsets[[5, 3]]  # samples 01 and 02, which are not checked on opening
    columns = read_columns(path) | {"offsets": index.offsets}
    with open(path + ".idx", "wb") as file:
        np.savez(file, **columns)
    with pytest.raises(BadRecord, match=r"tar index does not fit \(found 02.txt in place of 01.txt; remove"):
        TarSource(path)[1]


def test_the_index_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar")
    before = os.umask(0o027)
    try:
        build_tar_index(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path + ".idx").st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.idx"]


def test_two_processes_may_index_at_once(tmp_path: Path) -> None:
    path = make.write_tar(tmp_path / "a.tar", [(f"{n}.jpg", JPEG) for n in range(200)])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        indexes = pool.map(build_tar_index, [path] * 8)
    assert {len(index) for index in indexes} == {200} and len(load_tar_index(path)) == 200
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.idx"]
