"""Read pickles of plain values safely: a hostile pickle can neither run code nor exhaust memory.

The opcodes are checked before the pickle is loaded.  Only those that make lists, dicts, tuples, texts and
numbers are allowed, so nothing is imported or called.  No opcode may claim more memory than the file has
bytes, and no tuple may be used twice: a key of tuples that repeat one another takes exponential time to hash.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

from xvlm.common.errors import InputError
from xvlm.data.files import storage

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
_LINE, _LENGTH_BYTES = -1, {"L1": 1, "L4": 4, "L8": 8}


def _argument_sizes() -> list[int | str | None]:
    """Return the size of the argument of every opcode.

    It is a number of bytes, `_LINE` for a line, "L4" for a length of 4 bytes followed by that many bytes, or
    `None` for an opcode that is not allowed.
    """
    special: dict[int, int | str] = {
        pickletools.UP_TO_NEWLINE: _LINE,
        pickletools.TAKEN_FROM_ARGUMENT1: "L1",
        pickletools.TAKEN_FROM_ARGUMENT4: "L4",
        pickletools.TAKEN_FROM_ARGUMENT4U: "L4",
        pickletools.TAKEN_FROM_ARGUMENT8U: "L8",
    }
    sizes: list[int | str | None] = [None] * 256
    for opcode in pickletools.opcodes:
        if opcode.name in _ALLOWED:
            size = opcode.arg.n if opcode.arg else 0
            sizes[ord(opcode.code)] = special.get(size, size)
    return sizes


_SIZES = _argument_sizes()
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_TUPLES = frozenset(code for code, name in _NAMES.items() if "TUPLE" in name and name != "EMPTY_TUPLE")
_PUTS = {code: name for code, name in _NAMES.items() if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")}
_GETS = {code: name for code, name in _NAMES.items() if name in ("GET", "BINGET", "LONG_BINGET")}
_STOP = ord(pickle.STOP)


def read_plain_pickle(path: str) -> Any:
    """Read a pickle of plain values; texts of Python 2 are decoded as Latin-1.

    Raises MissingFileError, or InputError if the pickle holds anything but plain values.
    """
    data = storage.read_all(path)
    try:
        check_plain(data)
        return pickle.Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged or hostile pickle raises almost any type
        detail = " ".join(str(error)[:200].split()) or type(error).__name__
        raise InputError(f"{path} is not a pickle of plain values: {detail}") from error


def check_plain(data: bytes) -> None:
    """Raise UnpicklingError unless the opcodes of a pickle make only plain values."""
    if len(data) > MAX_BYTES:
        raise pickle.UnpicklingError(f"it has {len(data):,} bytes; at most {MAX_BYTES:,} are allowed")
    position, puts, end = 0, 0, len(data)
    tuples: set[int] = set()  # memo indices that hold a tuple
    top_is_tuple = False
    while position < end:
        code = data[position]
        size = _SIZES[code]
        if size is None:
            raise pickle.UnpicklingError(f"it uses {_NAMES.get(code, code)}; only plain values are read")
        start = position + 1
        if size == _LINE:
            position = data.find(b"\n", start) + 1 or end
        elif isinstance(size, str):
            width = _LENGTH_BYTES[size]
            position = start + width + int.from_bytes(data[start : start + width], "little")
        else:
            position = start + size
        if code in _PUTS:
            index = puts if _PUTS[code] == "MEMOIZE" else _integer(data[start:position], size)
            puts += 1
            if not 0 <= index <= puts:  # the memo is an array that would grow to this index
                raise pickle.UnpicklingError(f"value {puts} has the memo index {index}")
            if top_is_tuple:
                tuples.add(index)
            else:
                tuples.discard(index)
        elif code in _GETS:
            if _integer(data[start:position], size) in tuples:
                raise pickle.UnpicklingError("it uses one tuple twice")
            top_is_tuple = False
        elif code == _STOP:
            return
        else:
            top_is_tuple = code in _TUPLES
    raise pickle.UnpicklingError("it ends without STOP")


def _integer(argument: bytes, size: int | str) -> int:
    return int(argument) if size == _LINE else int.from_bytes(argument, "little")
