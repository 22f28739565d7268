"""A cache within a number of bytes."""

from __future__ import annotations

from xvlm.common.byte_cache import ByteCache


def test_what_was_used_longest_ago_is_dropped() -> None:
    cache = ByteCache[str](10)
    cache.put("a", "A", 4)
    cache.put("b", "B", 4)
    assert cache.get("a") == "A"
    cache.put("c", "C", 4)
    assert ("a" in cache, "b" in cache, "c" in cache, cache.bytes, len(cache)) == (True, False, True, 8, 2)
    assert cache.get("b") is None


def test_a_value_that_is_put_again_counts_once() -> None:
    cache = ByteCache[str](10)
    cache.put("a", "A", 4)
    cache.put("a", "AA", 6)
    assert (cache.get("a"), cache.bytes) == ("AA", 6)


def test_a_value_that_does_not_fit_is_not_there() -> None:
    cache = ByteCache[str](10)
    cache.put("a", "A", 11)
    assert (len(cache), cache.bytes) == (0, 0)
