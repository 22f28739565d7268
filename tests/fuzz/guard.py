"""What a case must not do: write outside its folder, start a program, reach the network."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# event -> which of its arguments are paths that are changed, and which the folders that these begin in
PATHS = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "shutil.rmtree": ((0, None),),
    "shutil.move": ((0, None), (1, None)),
}  # fmt: skip
PROGRAMS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile")
ALLOWED = ("/dev/null", "/dev/shm/", "/dev/tty")


class Violation(BaseException):
    """Something that no input may bring about; no `except Exception` catches it."""


class Guard:
    """An audit hook: refuses what is outside of `root`, and remembers it in a file.

    Only Python's own calls are seen; `snapshot` sees the rest.
    """

    def __init__(self, root: Path, log: Path, network: bool = False) -> None:
        self.root = os.path.realpath(root) + "/"
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.network = network
        self.active = False

    def install(self) -> None:
        """For ever: a hook cannot be taken away."""
        self.active = True
        sys.addaudithook(self.look)

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raises Violation, also into code that means well."""
        if not self.active:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES and not isinstance(path, int):
                self.check(event, path, None)
        elif event in PATHS:
            for at, folder in PATHS[event]:
                begin = arguments[folder] if folder is not None and folder < len(arguments) else None
                self.check(event, arguments[at], begin)
        elif event in PROGRAMS and arguments[0] != "/sbin/ldconfig":  # ctypes looks for a library
            self.refuse(f"{event} {str(arguments[:2])[:200]}")
        elif event == "socket.connect" and not self.network:
            if not isinstance(arguments[1], str | bytes):  # a path: a socket of this machine
                self.refuse(f"{event} {arguments[1]!r}")
        elif event == "socket.getaddrinfo" and not self.network and arguments[0] != "127.0.0.1":
            self.refuse(f"{event} {arguments[0]!r}")

    def check(self, event: str, path: Any, folder: Any) -> None:
        """Raises Violation for a path outside of the root."""
        if isinstance(path, int) or path is None:
            return
        begin = os.getcwd()
        if isinstance(folder, int) and folder >= 0:
            begin = os.readlink(f"/proc/self/fd/{folder}")
        whole = os.path.join(begin, os.fsdecode(path))
        # A link itself is what is removed, not what it points to.
        real = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
        if event == "open":
            real = os.path.realpath(real)
        if not f"{real}/".startswith(self.root) and not real.startswith(ALLOWED):
            self.refuse(f"{event} {real}")

    def refuse(self, what: str) -> None:
        """Notes it and raises Violation."""
        os.write(self.log, f"{what}\n".encode("utf-8", "backslashreplace"))
        raise Violation(what)


def snapshot(folder: Path, without: tuple[str, ...] = ()) -> dict[str, tuple[Any, ...]]:
    """What there is below a folder, and what it holds; `without` some of the names in it."""
    found: dict[str, tuple[Any, ...]] = {}
    for root, folders, files in os.walk(folder):
        if root == str(folder):
            folders[:] = [name for name in folders if name not in without]
            files = [name for name in files if name not in without]
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            state = os.lstat(path)
            content = hashlib.sha1(Path(path).read_bytes()).hexdigest() if stat.S_ISREG(state.st_mode) else ""
            changed = 0 if stat.S_ISDIR(state.st_mode) else state.st_mtime_ns
            found[os.path.relpath(path, folder)] = (state.st_mode, state.st_ino, changed, content)
    return found


def difference(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]]) -> list[str]:
    """What was added, removed or changed."""
    found = [f"made {name}" for name in sorted(after.keys() - before.keys())]
    found += [f"removed {name}" for name in sorted(before.keys() - after.keys())]
    found += [f"changed {name}" for name in sorted(before) if after.get(name, before[name]) != before[name]]
    return found
