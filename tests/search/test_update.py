"""Updates of an index: whatever happened to the photos, it ends as one that was made anew."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.search.collection import NAMES, tiny_index, write_collection
from tests.small_disk import fill, small_disk
from tests.tiny import photo, tiny_loaded
from xvlm.common.errors import DamagedIndexError, InputError, MissingFileError, OutputError
from xvlm.common.lock import folder_lock
from xvlm.models.checkpoints.folder import save_model
from xvlm.search import update
from xvlm.search.index import Index
from xvlm.search.rows import PhotoRow

__all__ = ["small_disk"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "photos")


@pytest.fixture
def index(tmp_path: Path, photos: Path) -> Index:
    return tiny_index(tmp_path, photos=photos)


def rows(index: Index) -> dict[str, PhotoRow]:
    return {row.path: row for row in index.table.rows("path", index.table.versions())}


def assert_same(a: Index, b: Index) -> None:
    """The same photos with the same versions of their files, and vectors equal within half precision."""
    first, second = rows(a), rows(b)
    assert first.keys() == second.keys()
    for path, row in first.items():
        other = second[path]
        assert (row.file, row.time, row.width, row.height) == (
            other.file,
            other.time,
            other.width,
            other.height,
        )
        np.testing.assert_allclose(
            row.vectors_CE.astype(float), other.vectors_CE.astype(float), atol=2e-3, err_msg=path
        )


def test_the_first_update_adds_everything(index: Index, photos: Path) -> None:
    found = rows(index)
    assert sorted(found) == sorted(str(photos / name) for name in NAMES)
    row = found[str(photos / "b.png")]
    assert (row.width, row.height, row.file.root) == (70, 50, str(photos))
    assert row.file.size == (photos / "b.png").stat().st_size
    assert row.vectors_CE.shape == (5, 16)
    assert np.linalg.norm(row.vectors_CE.astype(float), axis=1) == pytest.approx(1, abs=2e-3)


def test_an_update_over_unchanged_photos_reads_nothing(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xvlm.search.encode.read_photo", lambda path: pytest.fail(f"{path} was read"))
    again = index.update([str(photos)])
    assert (again.unchanged, again.added, again.changed, again.removed) == (len(NAMES), 0, 0, 0)


def test_known_contents_are_not_encoded(index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved, copied and touched photos keep their vectors."""
    before = rows(index)
    (photos / "a.jpg").rename(photos / "moved.jpg")
    shutil.copy(photos / "b.png", photos / "copy.png")
    os.utime(photos / "e.jpg", ns=(1, 10**18))
    monkeypatch.setattr(index.predictor, "encode_images", lambda pixels: pytest.fail("encoded"))
    done = index.update([str(photos)])
    assert (done.added, done.changed, done.removed, done.reused) == (2, 1, 1, 3)
    after = rows(index)
    for old, new in (("a.jpg", "moved.jpg"), ("b.png", "copy.png"), ("e.jpg", "e.jpg")):
        assert (after[str(photos / new)].vectors_CE == before[str(photos / old)].vectors_CE).all()
    assert after[str(photos / "e.jpg")].file.mtime_ns == 10**18


def test_two_photos_that_changed_names(
    index: Index, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a commit: by the second commit the first has replaced the content that the second needs."""
    monkeypatch.setattr(update, "COMMIT_ROWS", 1)
    (photos / "a.jpg").rename(photos / "x")
    (photos / "e.jpg").rename(photos / "a.jpg")
    (photos / "x").rename(photos / "e.jpg")
    index.update([str(photos)])
    assert_same(index, fresh(tmp_path, photos))


def fresh(tmp_path: Path, photos: Path) -> Index:
    """An index of the photos as they are now, made at once."""
    shutil.rmtree(tmp_path / "anew", ignore_errors=True)
    index = Index.create(tmp_path / "anew", tmp_path / "model", levels=(2,))
    index.update([str(photos)])
    return index


@pytest.mark.parametrize("seed", range(4))
def test_any_changes_end_in_the_index_made_anew(
    index: Index, photos: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "COMMIT_ROWS", 2)
    rng = random.Random(seed)
    for step in range(4):
        for _ in range(rng.randint(1, 5)):
            change(rng, photos, 100 * seed + step)
        index.update([str(photos)])
        assert index.health().fragments <= 1, "an update leaves a compact table"
    assert_same(index, fresh(tmp_path, photos))


def change(rng: random.Random, photos: Path, number: int) -> None:
    """Make one change that a person could make."""
    there = sorted(path for path in photos.rglob("*") if path.is_file())
    some = rng.choice([path for path in there if path.name != "e.jpg"])  # one can always be used
    new = photos / rng.choice(["", "deep", "new"]) / f"{number}-{rng.randrange(1000)}.jpg"
    new.parent.mkdir(exist_ok=True)
    kind = rng.choice(["add", "replace", "move", "copy", "touch", "damage", "remove"])
    if kind == "add":
        photo(50, 40, rng.randrange(1000)).save(new)
    elif kind == "replace":
        photo(50, 40, rng.randrange(1000)).save(some.with_suffix(".jpg"))
    elif kind == "move":
        some.rename(new)
    elif kind == "copy":
        shutil.copy(some, new)
    elif kind == "touch":
        os.utime(some, ns=(1, 10**18 + rng.randrange(10**9)))
    elif kind == "damage":
        some.write_bytes(some.read_bytes()[: rng.randrange(1, 400)])
    elif len(there) > 2:
        some.unlink()


def test_photos_of_other_roots_stay(index: Index, photos: Path, tmp_path: Path) -> None:
    more = write_collection(tmp_path / "more", ("f.jpg",))
    assert index.update([str(more)]).added == 1
    assert len(index) == len(NAMES) + 1
    (more / "f.jpg").unlink()
    photo(20, 20, 9).save(more / "g.jpg")
    assert index.update([str(more)]).removed == 1


def test_photos_that_several_roots_lead_to(index: Index, photos: Path) -> None:
    done = index.update([str(photos), str(photos / "deep"), str(photos / "a.jpg")])
    assert (done.unchanged, done.removed) == (len(NAMES), 0)
    (photos / "deep" / "c.webp").unlink()
    assert index.update([str(photos), str(photos / "deep")]).removed == 1


def test_a_folder_above_an_indexed_one(tmp_path: Path, photos: Path) -> None:
    """Removed photos leave the index, whichever root led to them; what a folder does not list may stay."""
    index = tiny_index(tmp_path, photos=photos / "deep")
    write_collection(photos, (".hidden/x.jpg",))
    index.update([str(photos / ".hidden")])
    (photos / "deep" / "c.webp").unlink()
    done = index.update([str(photos)])
    assert (done.added, done.removed, done.unchanged) == (3, 1, 1)
    assert str(photos / ".hidden" / "x.jpg") in rows(index)


def test_a_root_without_photos_is_an_error(index: Index, photos: Path) -> None:
    for path in sorted(photos.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=r"holds no photo any more, and the index has 5.*mounted"):
        index.update([str(photos)])
    assert len(index) == len(NAMES)
    assert index.update([str(photos)], allow_empty=True).removed == len(NAMES)
    assert len(index) == 0
    assert index.search("a red dog") == []


def test_what_cannot_be_used_is_counted_and_listed(index: Index, photos: Path) -> None:
    (photos / "a.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    (photos / "noise.jpg").write_bytes(bytes(range(256)) * 8)
    done = index.update([str(photos)])
    assert sorted(Path(one.key).name for one in done.bad) == ["a.jpg", "noise.jpg"]
    assert done.reasons() == [("image does not decode", 2)]
    assert done.removed == 1, "the content of its row is gone"
    listed = index.bad_photos.read_text().splitlines()
    assert len(listed) == 2 and "noise.jpg" in "".join(listed)
    assert "2 cannot be used" in done.summary()
    (photos / "a.jpg").unlink()
    (photos / "noise.jpg").unlink()
    index.update([str(photos)])
    assert index.bad_photos.read_text() == ""


@pytest.mark.parametrize("what", ["folder", "photo"])
def test_rows_of_what_cannot_be_read_now_stay(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    scandir = os.scandir
    if what == "folder":

        def refuse(path: str) -> Iterator[os.DirEntry[str]]:
            if str(path).endswith("deep"):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr("xvlm.search.photos.os.scandir", refuse)
    else:
        os.utime(photos / "a.jpg", ns=(1, 10**18))
        (photos / "a.jpg").chmod(0)

        def refuse_photo(path: str) -> bytes:
            from xvlm.records import BadRecord

            raise BadRecord("image file unreadable", path, "Permission denied")

        monkeypatch.setattr("xvlm.search.encode.read_photo", refuse_photo)
    done = index.update([str(photos)])
    assert (done.removed, len(done.bad)) == (0, 1)
    assert len(index) == len(NAMES)


def test_ctrl_c_keeps_what_is_encoded(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tiny_index(tmp_path)
    encode, calls = index.predictor.encode_images, []

    def interrupt(pixels: list[object]) -> object:
        calls.append(len(pixels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(index.predictor, "encode_images", interrupt)
    with pytest.raises(KeyboardInterrupt):
        index.update([str(photos)], batch_size=2)
    assert len(index) == 2
    done = index.update([str(photos)], batch_size=2)
    assert (done.added, done.unchanged) == (3, 2)
    assert_same(index, fresh(tmp_path, photos))


def test_a_second_process_is_refused(index: Index, photos: Path) -> None:
    import subprocess
    import sys

    code = "import sys; from pathlib import Path; from xvlm.common.lock import folder_lock\n"
    code += "with folder_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(index.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="in use by process"):
            index.update([str(photos)])
        assert index.search("a red dog"), "searching goes on"
        holder.communicate()
    with folder_lock(index.folder):
        pass


def test_a_full_disk(tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence; the index can be searched, and goes on when there is room."""
    monkeypatch.setattr(update, "COMMIT_ROWS", 1)
    photos = write_collection(tmp_path / "photos")
    save_model(tiny_loaded(), tmp_path / "model")
    index = Index.create(small_disk / "index", tmp_path / "model", levels=(2,))
    index.update([str(photos)])
    write_collection(photos, (*NAMES, "new.jpg", "newer.jpg"))
    ballast = fill(small_disk, 8192)
    with pytest.raises(OutputError, match=r"index cannot be written: .*No space left.*goes on from there"):
        index.update([str(photos)])
    assert index.search("a red dog")
    ballast.unlink()
    index.update([str(photos)])
    assert_same(Index.open(small_disk / "index"), fresh(tmp_path, photos))


@pytest.mark.parametrize("how", ["cut", "zeros", "missing"])
def test_damaged_files_are_named(index: Index, how: str) -> None:
    for path in index.folder.rglob("*.lance"):
        if path.is_file():
            data = path.read_bytes()
            path.unlink() if how == "missing" else path.write_bytes(
                data[: len(data) // 2] if how == "cut" else bytes(len(data))
            )
    with pytest.raises(DamagedIndexError, match=r"index is damaged: .*index the photos again"):
        Index.open(index.folder).search("a red dog")


def test_a_root_that_does_not_exist(index: Index) -> None:
    with pytest.raises(MissingFileError, match="gone"):
        index.update(["gone"])
    assert len(index) == len(NAMES)
