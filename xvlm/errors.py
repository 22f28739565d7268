"""Errors that a user can mend: each is one sentence that names the thing, what was found and what is allowed.

The command line prints the sentence and exits with code 2.  Every other exception is a fault of the program
and keeps its traceback.  Each class is also the built-in exception that Python code expects in its place.
"""

from __future__ import annotations

import unicodedata


class XVLMError(Exception):
    """Base class of all expected failures."""


class InputError(XVLMError, ValueError):
    """An option, a configuration, a file or an argument holds something that cannot be used."""


class WeightsError(InputError, RuntimeError):
    """Tensors do not fit the model or the optimiser that they are for."""


class MissingFileError(XVLMError, FileNotFoundError):
    """A file, a folder or a hub repository that was named does not exist, or lacks a part."""


class OutputError(XVLMError, OSError):
    """An output cannot be written: the folder is somebody else's or in use, or the disk is full."""


class NotFiniteError(XVLMError, FloatingPointError):
    """A loss or a weight is not a finite number."""


class TooManyBadRecordsError(XVLMError, RuntimeError):
    """More records cannot be used than `max_bad` allows."""


class MissingPackageError(XVLMError, ImportError):
    """A Python package that is not installed by default is needed; the message names the extra."""


class WorkerDiedError(XVLMError, RuntimeError):
    """A data worker was ended from outside: by the system for want of memory, or by a person."""


class DistributedError(XVLMError, RuntimeError):
    """The processes of a job cannot be joined, or another one of them has ended."""


def printable(text: str) -> str:
    """`text` on one line, as a terminal shows it: control, direction and half characters are escaped.

    Whatever comes from a file or from its name goes through this before it is printed, so that it cannot move
    the cursor, colour the screen or reverse what is read.
    """
    return "".join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
