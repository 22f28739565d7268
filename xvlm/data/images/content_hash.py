"""The hash by which the content of an image file is known."""

from __future__ import annotations

import hashlib

CONTENT_BYTES = 16


def content_hash(data: bytes) -> bytes:
    """Return the hash of the bytes of an image."""
    return hashlib.blake2b(data, digest_size=CONTENT_BYTES).digest()
