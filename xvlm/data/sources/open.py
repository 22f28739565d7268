"""Open a data source by its specification: files, a scheme of xvlm or of a package, or a user's own file."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from xvlm import registry
from xvlm.common.errors import InputError
from xvlm.data.files import storage
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.record_fields import DEFAULT_FIELD_NAMES, FieldNames
from xvlm.data.sources.source import Opener, Source
from xvlm.data.sources.tar import TarSource

_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson", "")  # the published pre-training files have no suffix


@cache
def builtin_schemes() -> dict[str, Opener]:
    """Return the openers of the built-in schemes: the `SCHEMES` of every module in `xvlm/data/sources`."""
    modules = [registry.find("data.sources", name) for name in registry.names("data.sources")]
    return {scheme: opener for module in modules for scheme, opener in getattr(module, "SCHEMES", {}).items()}


def find_opener(spec: str) -> Opener | None:
    """Return the function that opens a specification with a scheme, or `None` if it names data files.

    Built-in schemes come first, then `FILE.py:REST`, then the entry points `xvlm.sources` of installed
    packages: the name of an entry point is a scheme, and its value a function like `open_source` of the file.

    Raises MissingFileError or InputError if the Python file does not exist or defines no `open_source`.
    """
    scheme, colon, _ = spec.partition(":")
    if not colon:
        return None
    if scheme in builtin_schemes():
        return builtin_schemes()[scheme]
    if scheme.endswith(".py"):
        opener: Opener | None = getattr(registry.find("sources", scheme), "open_source", None)
        if not callable(opener):
            raise InputError(f"{scheme} must define a function open_source(rest, options, image_root)")
        return opener
    entry_point = registry.installed("sources").get(scheme)
    return entry_point.load() if entry_point else None


def open_source(
    spec: str, image_root: str | None = None, field_names: FieldNames | None = None, **names: Any
) -> Source:
    """Open a data source.

    A `FILE.py` in the specification is run, so a specification must come from the user or from code, and
    never from a data file.

    Args:
        spec: `data/*.tar`; `data/train.json`; a folder of such files; a scheme such as
            `scenes:train:20000?seed=0&image_size=128`, `scene-questions:train:8000?about=count,relation` or
            `refcoco:FOLDER:unc:val` (see `refcoco.py`); or a user's file, `my_source.py:REST?option=value`,
            whose function `open_source(rest, options, image_root)` returns the source.
        image_root: folder or URL that image paths are relative to.
        field_names: names of the fields, if a file does not use the usual ones.
        names: fields of `FieldNames` that replace those of `field_names`.
    Raises:
        MissingFileError: a file does not exist.
        InputError: the specification cannot be opened; the message lists what is allowed.
    """
    field_names = replace(field_names or DEFAULT_FIELD_NAMES, **names)
    if opener := find_opener(spec):
        if field_names != DEFAULT_FIELD_NAMES:
            raise InputError(f"the field names of {spec} cannot be changed, found {field_names}")
        rest, _, query = spec.partition(":")[2].partition("?")
        return opener(rest, dict(parse_qsl(query, keep_blank_values=True)), image_root)
    suffixes = {os.path.splitext(path)[1].lower() for path in storage.expand(spec)}
    if suffixes == {".tar"}:
        return TarSource(spec, image_root, field_names)
    if suffixes <= set(_JSON_SUFFIXES):
        return JsonSource(spec, image_root, field_names)
    schemes = sorted({*builtin_schemes(), *registry.installed("sources")})
    raise InputError(
        f"{spec!r} names files with suffixes {sorted(suffixes)}; allowed are .tar, or .json, .jsonl, .ndjson "
        f"and none, or FILE.py:REST, or the schemes {schemes}"
    )
