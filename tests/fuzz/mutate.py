"""Damage to bytes, to texts and to JSON, drawn from a seeded generator."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

ESCAPES = "\x1b]0;owned\x07\x1b[31m\x1b[2J"
"""A terminal's title, colour and screen; none may reach a terminal."""

TEXTS = (
    "", " ", "\0", "a\nb", "a\r\nb", "\t", "\ud83d", "x" * 5000, "é" * 300, "\u202egnp.exe", "..", "../x",
    "/", "a red dog", "черный треугольник", "🙂", "\ufeff", "NaN", "-1", "[MASK]", "%s%n", "{0}",
    "$(touch x)", "`touch x`", "*", "[a-", "a.b.c", "-", "--out",
    "~", "~root", f"{ESCAPES}x", "\u2028", "\x7f", "\x9b31m",
)  # fmt: skip

NUMBERS = (
    0, -1, 1, 2**31, 2**32 - 1, 2**63, 2**64, 10**9, -(10**9), 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"), True, False,
)  # fmt: skip

OTHERS: tuple[Any, ...] = (
    None,
    [],
    {},
    [[]],
    [None],
    {"": None},
    [0, 0, 0, 0],
    [1, 2, 3],
    ["a", 1],
    {"a": []},
)


def value(rng: random.Random) -> Any:
    """Any JSON value, mostly one that nobody expects."""
    kind = rng.randrange(10)
    if kind < 4:
        return rng.choice(TEXTS)
    if kind < 7:
        return rng.choice(NUMBERS)
    if kind < 9:
        return copy.deepcopy(rng.choice(OTHERS))
    return nested(rng.choice([5, 100, 400]))


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value below a JSON tree."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in list(inside):
        yield tree, key
        yield from places(below)


def mutated(rng: random.Random, tree: Any, times: int | None = None) -> Any:
    """A copy of a JSON tree, changed in some places: values, names, lengths."""
    whole = [copy.deepcopy(tree)]
    for _ in range(times or rng.choice([1, 1, 2, 4])):
        found = list(places(whole))
        container, key = rng.choice(found[1:] or found)
        how = rng.randrange(8)
        if how == 0 and container is not whole:
            del container[key]
        elif how == 1 and isinstance(container, dict):
            container[rng.choice(TEXTS)] = container.pop(key)
        elif how == 2:
            container[key] = [container[key]] * rng.choice([1, 2, 50])
        elif how == 3 and isinstance(container, list):
            container.insert(key, copy.deepcopy(rng.choice(container)))
        elif how in (4, 6, 7) and isinstance(container[key], str) and rng.random() < 0.7:
            container[key] = text(rng, container[key])
        elif how == 5 and isinstance(container[key], int | float):
            container[key] = rng.choice(NUMBERS)
        else:
            container[key] = value(rng)
    return whole[0]


def text(rng: random.Random, given: str) -> str:
    """A text with something put in, taken out or put around."""
    at = rng.randint(0, len(given))
    return rng.choice(
        [
            given[:at] + rng.choice(TEXTS) + given[at:],
            given[:at],
            given * rng.choice([2, 100]),
            given.upper(),
            rng.choice(TEXTS),
        ]
    )


def dumped(rng: random.Random, tree: Any) -> str:
    """JSON as Python writes it, NaN and half surrogates included; now and then a name stands twice."""
    found = json.dumps(tree, ensure_ascii=rng.random() < 0.8)
    if isinstance(tree, dict) and tree and rng.random() < 0.1:
        name = rng.choice(list(tree))
        found = f"{found[:-1]}, {json.dumps(name)}: {json.dumps(value(rng))}}}"
    return found


def encoded(given: str) -> bytes:
    """UTF-8, half surrogates and all."""
    return given.encode("utf-8", "surrogatepass")


def damaged(rng: random.Random, data: bytes, times: int | None = None) -> bytes:
    """Bytes that were cut, flipped, doubled, dropped or overwritten."""
    changed = bytearray(data)
    for _ in range(times or rng.choice([1, 1, 2, 5])):
        if not changed:
            break
        at = rng.randrange(len(changed))
        how = rng.randrange(6)
        if how == 0:
            del changed[at:]
        elif how == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            changed[at : at + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", rng.randbytes(4)])
        elif how == 3:
            part = changed[at : at + rng.choice([1, 16, 512])]
            changed[at:at] = part * rng.choice([1, 3])
        elif how == 4:
            del changed[at : at + rng.choice([1, 7, 512])]
        else:
            changed[at:at] = rng.randbytes(rng.choice([1, 8, 64]))
    return bytes(changed)
