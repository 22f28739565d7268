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


class WorkerDiedError(XVLMError, RuntimeError):
    """A data worker was ended from outside: by the system for want of memory, or by a person."""


class DistributedError(XVLMError, RuntimeError):
    """The processes of a job cannot be joined."""


class NotFiniteError(XVLMError, FloatingPointError):
    """A loss or a weight is not a finite number."""


class TooManyBadRecordsError(XVLMError, RuntimeError):
    """More records cannot be used than `max_bad` allows."""


class MissingPackageError(XVLMError, ImportError):
    """A Python package that is not installed by default is needed; the message names the extra."""


_JOINERS = "\u200c\u200d"  # written in Persian, Hindi and emoji; they change no other character
_UNSHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: object, lines: bool = False) -> str:
    """Foreign text for a terminal or a log: characters that would act on it are shown as their escapes.

    These are control characters (escape sequences, carriage returns), marks that turn the direction of
    writing, line separators and halves of characters that cannot be encoded.

    Args:
        lines: line feeds and tabs stay, for texts of several lines.
    """
    kept = _JOINERS + ("\n\t" if lines else "")
    return "".join(
        one.encode("unicode_escape").decode()
        if one not in kept and unicodedata.category(one) in _UNSHOWN
        else one
        for one in str(text)
    )
