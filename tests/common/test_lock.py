"""A folder has one process; the error of a second names the first; the kernel ends the lock."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from xvlm.common.errors import OutputError
from xvlm.common.lock import LOCK, folder_lock

HOLD = """
import sys, time, os
from pathlib import Path
from xvlm.common.lock import folder_lock
with folder_lock(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    if sys.argv[3:] != ["fork"] or os.fork() == 0:  # a fork prints after it has closed the lock
        print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_error_of_a_second_process_names_the_first(tmp_path: Path) -> None:
    process = hold(tmp_path, "alone")
    message = rf"is in use by process {process.pid} on {socket.gethostname()} since \d{{4}}-\d\d-\d\d \d\d:"
    with pytest.raises(OutputError, match=message), folder_lock(tmp_path):
        pass
    with pytest.raises(OutputError, match=message), folder_lock(tmp_path, shared=True):
        pass
    end(process)
    with folder_lock(tmp_path):  # nothing remains of a killed process
        pass
    assert list(tmp_path.iterdir()) == []


def test_workers_of_a_killed_process_do_not_hold_the_lock(tmp_path: Path) -> None:
    process = hold(tmp_path, "alone", "fork")
    process.kill()
    process.wait()
    with folder_lock(tmp_path):
        pass
    end(process)


def test_several_processes_may_share(tmp_path: Path) -> None:
    process = hold(tmp_path, "shared")
    with folder_lock(tmp_path, shared=True) as lock, pytest.raises(OutputError, match="is in use by"):
        lock.make_exclusive()
    end(process)
    with folder_lock(tmp_path, shared=True) as lock:
        lock.make_exclusive()
        second = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path), "shared"], capture_output=True, text=True
        )
        assert f"in use by process {os.getpid()}" in second.stderr
        lock.make_shared()
        end(hold(tmp_path, "shared"))


def test_a_process_may_lock_a_folder_twice(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "new"):
        with folder_lock(tmp_path / "new"):
            pass
        assert (tmp_path / "new" / LOCK).exists()
    assert not (tmp_path / "new").exists()
    with folder_lock(tmp_path / "used"):
        (tmp_path / "used" / "file").write_text("")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["file"]


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="file/out cannot be written"),
        folder_lock(tmp_path / "file" / "out"),
    ):
        pass
