"""Pickles of plain values, read without running or building anything that a hostile one asks for.

Before a pickle is unpickled, its opcodes are looked at: only those that make lists, dicts, tuples, texts and
numbers are allowed, so nothing is imported or called, and none can ask for more memory than the file is long
or for a key whose hash takes for ever (a tuple that holds one tuple twice, and so on).
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

from xvlm.data import files
from xvlm.errors import InputError

MAX_BYTES = 1 << 28
_ALLOWED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("NONE", "NEWTRUE", "NEWFALSE", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    *("MARK", "PROTO", "FRAME", "STOP"),
}
_LINE, _MARKED = -1, {"L1": 1, "L4": 4, "L8": 8}


def _argument_sizes() -> list[int | str | None]:
    """By opcode: bytes of its argument, `_LINE` for a line, "L4" for a length of 4 bytes with so many behind
    it, `None` where the opcode is not allowed."""
    sizes: list[int | str | None] = [None] * 256
    for one in pickletools.opcodes:
        if one.name in _ALLOWED:
            size = one.arg.n if one.arg else 0
            known: dict[int, int | str] = {
                pickletools.UP_TO_NEWLINE: _LINE,
                pickletools.TAKEN_FROM_ARGUMENT1: "L1",
                pickletools.TAKEN_FROM_ARGUMENT4: "L4",
                pickletools.TAKEN_FROM_ARGUMENT4U: "L4",
                pickletools.TAKEN_FROM_ARGUMENT8U: "L8",
            }
            sizes[ord(one.code)] = known.get(size, size)
    return sizes


_SIZES = _argument_sizes()
_NAMES = {ord(one.code): one.name for one in pickletools.opcodes}
_TUPLES = frozenset(code for code, name in _NAMES.items() if "TUPLE" in name and name != "EMPTY_TUPLE")
_PUTS = {code: name for code, name in _NAMES.items() if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")}
_GETS = {code: name for code, name in _NAMES.items() if name in ("GET", "BINGET", "LONG_BINGET")}
_STOP = ord(pickle.STOP)


def read_plain_pickle(path: str) -> Any:
    """A pickle of plain values; texts of Python 2 are read as Latin-1.  Nothing in it is executed.

    Raises MissingFileError; InputError for anything but plain values.
    """
    data = files.read_all(path)
    try:
        check_plain(data)
        return pickle.Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged or hostile pickle raises almost any type
        detail = " ".join(str(error)[:200].split()) or type(error).__name__
        raise InputError(f"{path} is no pickle of plain values: {detail}") from error


def check_plain(data: bytes) -> None:
    """Raises UnpicklingError unless a pickle's opcodes only make plain values."""
    if len(data) > MAX_BYTES:
        raise pickle.UnpicklingError(f"it has {len(data):,} bytes, at most {MAX_BYTES:,} are allowed")
    at, puts, end = 0, 0, len(data)
    tuples: set[int] = set()  # places of the memo that hold a tuple
    top_is_tuple = False
    while at < end:
        code = data[at]
        size = _SIZES[code]
        if size is None:
            raise pickle.UnpicklingError(
                f"it asks for {_NAMES.get(code, code)}, and only plain values are read"
            )
        start = at + 1
        if size == _LINE:
            at = data.find(b"\n", start) + 1 or end
        elif isinstance(size, str):
            width = _MARKED[size]
            at = start + width + int.from_bytes(data[start : start + width], "little")
        else:
            at = start + size
        if code in _PUTS:
            place = puts if _PUTS[code] == "MEMOIZE" else _number(data[start:at], size)
            puts += 1
            if not 0 <= place <= puts:
                raise pickle.UnpicklingError(f"it numbers its {puts}th value {place}")
            if top_is_tuple:
                tuples.add(place)
            else:
                tuples.discard(place)
        elif code in _GETS:
            if _number(data[start:at], size) in tuples:
                raise pickle.UnpicklingError("it holds one tuple in several places")
            top_is_tuple = False
        elif code == _STOP:
            return
        else:
            top_is_tuple = code in _TUPLES
    raise pickle.UnpicklingError("it ends before its end")


def _number(argument: bytes, size: int | str) -> int:
    return int(argument) if size == _LINE else int.from_bytes(argument, "little")
