"""Expected failures, which a user can fix.  Each message is one sentence: name, value found, values allowed.

The command line prints the sentence and exits with code 2.  Every other exception is a bug and keeps its
traceback.  Each class also derives from the built-in exception that Python code would catch.
"""

from __future__ import annotations

import unicodedata


class XVLMError(Exception):
    """Base class of expected failures."""


class InputError(XVLMError, ValueError):
    """An option, a configuration, a file or an argument has a value that cannot be used."""


class WeightsError(InputError, RuntimeError):
    """Tensors do not fit the model or the optimiser that they are loaded into."""


class MissingFileError(XVLMError, FileNotFoundError):
    """A file, a folder or a hub repository does not exist, or is incomplete."""


class OutputError(XVLMError, OSError):
    """An output cannot be written: the folder is in use or not a folder of xvlm, or the disk is full."""


class DamagedIndexError(XVLMError, RuntimeError):
    """Files of an index are missing or cannot be read."""


class WorkerDiedError(XVLMError, RuntimeError):
    """A data worker was killed: by the system, for lack of memory, or by a user."""


class DistributedError(XVLMError, RuntimeError):
    """The ranks of a job cannot connect to each other."""


class NotFiniteError(XVLMError, FloatingPointError):
    """A loss or a weight is not a finite number."""


class TooManyBadRecordsError(XVLMError, RuntimeError):
    """The fraction of unusable records exceeds `max_bad`."""


class MissingHead(XVLMError, AttributeError, ValueError):
    """The model lacks the head that was used; the message lists its heads."""


class MissingPackageError(XVLMError, ImportError):
    """An optional Python package is not installed; the message names the extra that provides it."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters; its type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def describe_error(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


_JOINERS = "\u200c\u200d"  # Persian, Hindi and emoji need them, and they affect no other character
_ESCAPED_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: object, lines: bool = False) -> str:
    """Escape the characters of an untrusted text that would act on a terminal or a log.

    These are control characters (escape sequences, carriage returns), marks that change the direction of
    writing, line separators, and lone surrogates, which have no encoding.

    Args:
        lines: whether to keep line feeds and tabs, for a text of several lines.
    """
    unescaped = _JOINERS + ("\n\t" if lines else "")
    return "".join(
        one.encode("unicode_escape").decode()
        if one not in unescaped and unicodedata.category(one) in _ESCAPED_CATEGORIES
        else one
        for one in str(text)
    )
