"""Atomic writes leave no partial content behind, and lose no content in between."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from tests.small_disk import fill, small_disk
from xvlm.common import atomic
from xvlm.common.atomic import AppendFile, atomic_file, atomic_folder, current_folder, restore_folder
from xvlm.common.errors import OutputError

__all__ = ["small_disk"]
FILES = ("a", "b")


def write(folder: Path, text: str) -> None:
    with atomic_folder(folder, FILES) as partial:
        for name in FILES:
            (partial / name).write_text(text)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no space left on device")])
def test_a_failed_write_leaves_the_old_content(error: BaseException, tmp_path: Path) -> None:
    write(tmp_path / "folder", "old")
    (tmp_path / "file").write_text("old")
    with pytest.raises(type(error)), atomic_folder(tmp_path / "folder", FILES) as partial:
        (partial / "a").write_text("half")
        raise error
    with pytest.raises(type(error)), atomic_file(tmp_path / "file") as partial:
        partial.write_text("half")
        raise error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "folder" / "a").read_text() == (tmp_path / "file").read_text() == "old"


def test_tensors_that_cannot_be_written_name_the_folder(tmp_path: Path) -> None:
    message = r"model cannot be written: .*No space left"
    with pytest.raises(OutputError, match=message), atomic_folder(tmp_path / "model", FILES):
        raise SafetensorError("I/O error: No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced(exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    write(tmp_path / "folder", "old")
    write(tmp_path / "folder", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    contents = {path.name: path.read_text() for path in (tmp_path / "folder").iterdir()}
    assert contents == {"a": "new", "b": "new"}


def test_a_file_that_was_added_to_the_old_folder_meanwhile_survives(tmp_path: Path) -> None:
    write(tmp_path / "folder", "old")
    with atomic_folder(tmp_path / "folder", FILES) as partial:
        (partial / "a").write_text("new")
        (tmp_path / "folder" / "diary").write_text("mine")
    assert [path.read_text() for path in tmp_path.rglob("diary")] == ["mine"]
    write(tmp_path / "folder", "newer")
    assert [path.read_text() for path in tmp_path.rglob("diary")] == ["mine"]
    assert (tmp_path / "folder" / "a").read_text() == "newer"


def test_killed_between_two_renames(tmp_path: Path) -> None:
    """If paths cannot be exchanged, readers find the old folder, and the next writer restores it."""
    host = atomic._temporary_path(tmp_path / "x", "y").name.split(".")[2]
    replaced = tmp_path / f".folder.{host}.{ended_process()}.0.replaced"
    write(replaced, "old")
    assert current_folder(tmp_path / "folder") == replaced
    restore_folder(tmp_path / "folder")
    assert (tmp_path / "folder" / "a").read_text() == "old" and not replaced.exists()


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_files_of_dead_processes_of_this_host_are_removed(tmp_path: Path) -> None:
    host = atomic._temporary_path(tmp_path / "x", "y").name.split(".")[2]
    dead = f".file.{host}.{ended_process()}.0.partial"
    others = [
        f".file.{host}.{os.getppid()}.0.partial",  # alive
        f".file.other-{host}.{ended_process()}.0.partial",  # on another host
        f".file.{host}.somebody.0.partial",
        f".other.{host}.{ended_process()}.0.partial",  # of another file
        "file.partial",
        "partial_17",
    ]
    for name in (dead, *others):
        (tmp_path / name).write_text("")
    with atomic_file(tmp_path / "file") as partial:
        partial.write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "file"])
    assert socket.gethostname()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell")
def test_a_number_that_another_process_has_now_keeps_nothing(tmp_path: Path) -> None:
    """Numbers of processes are used again: a run on a busy machine would leave its partial files for ever."""
    host = atomic._temporary_path(tmp_path / "x", "y").name.split(".")[2]
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        old, new = (tmp_path / f".file.{host}.{process.pid}.{number}.partial" for number in range(2))
        for path in (old, new):
            path.write_text("")
        os.utime(old, (time.time() - 60,) * 2)
        with atomic_file(tmp_path / "file") as partial:
            partial.write_text("new")
        assert not old.exists() and new.exists()
    finally:
        process.kill()
        process.wait()


SAVING = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from xvlm.common.atomic import atomic_folder
with atomic_folder(Path(sys.argv[1]), FILES) as partial:
    while True:
        save_file({"x": torch.zeros(30_000_000)}, partial / "model.safetensors")
""".replace("FILES", repr(("model.safetensors",)))


def test_nothing_is_left_of_a_process_that_was_killed_while_it_saved_tensors(tmp_path: Path) -> None:
    """`safetensors` writes to a file with a name of its own, which once kept the whole folder."""
    folder = tmp_path / "folder"
    process = subprocess.Popen([sys.executable, "-c", SAVING, str(folder)])
    try:
        end = time.monotonic() + 60
        while not list(tmp_path.rglob(".tmp*")) and time.monotonic() < end:
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    (left,) = tmp_path.rglob(".tmp*")
    (left.parent / ".tmpdiary").write_text("mine")
    with atomic_folder(folder, ("model.safetensors",)) as partial:
        (partial / "model.safetensors").write_text("new")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        ".tmpdiary",
        "model.safetensors",
    ]


REPLACING = """
import sys
from pathlib import Path
from tests.common.test_atomic import write
number = 0
while True:
    number += 1
    write(Path(sys.argv[1]), str(number) * 1000)
"""


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_folder(tmp_path: Path) -> None:
    """A reader opens the folder all the time, while writers are killed."""
    folder = tmp_path / "folder"
    write(folder, "0")
    for kill in range(6):
        process = subprocess.Popen([sys.executable, "-c", REPLACING, str(folder)])
        begun = (folder / "a").read_text()
        while (folder / "a").read_text() == begun:
            assert process.poll() is None
        end = time.monotonic() + 0.02 * (kill + 1)
        while time.monotonic() < end:
            handle = os.open(folder, os.O_RDONLY)  # it exists at every moment
            os.close(handle)
        process.send_signal(signal.SIGKILL)
        process.wait()
        texts = {path.name: path.read_text() for path in folder.iterdir()}
        assert texts.keys() == {"a", "b"} and len(set(texts.values())) == 1
    write(folder, "last")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_file_modes_follow_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "folder", "new")
        with atomic_file(tmp_path / "file") as partial:
            partial.write_text("new")
        AppendFile(tmp_path / "log").close()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    file, folder = 0o666 & ~umask, 0o777 & ~umask
    assert modes == {"folder": folder, "a": file, "b": file, "file": file, "log": file}


def test_a_full_disk_undoes_a_partial_append(small_disk: Path) -> None:
    log = AppendFile(small_disk / "log")
    log.write(b"first\n")
    fill(small_disk)
    with pytest.raises(OutputError, match=r"log cannot be written: No space left on device"):
        for _ in range(3):
            log.write(bytes(4000))
    log.close()
    assert (small_disk / "log").read_bytes().startswith(b"first\n")
    assert (len((small_disk / "log").read_bytes()) - 6) % 4000 == 0
    message = r"file cannot be written: No space left on device"
    with pytest.raises(OutputError, match=message), atomic_file(small_disk / "file") as partial:
        partial.write_bytes(bytes(10_000))
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "log"]
