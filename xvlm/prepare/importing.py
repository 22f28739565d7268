"""`xvlm prepare import`: people's own annotations, whose form is recognised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xvlm import registry
from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.terminal import print_notice
from xvlm.data.files import storage
from xvlm.data.files.json_parser import parse_value
from xvlm.data.sources.open import open_source
from xvlm.prepare.prepare import PER_SHARD, Engine, Prepared, prepare
from xvlm.prepare.release import ALL, Contents, Release
from xvlm.prepare.settings import Settings
from xvlm.prepare.shard import find_dataset
from xvlm.records import BadRecord

ROOM = "prepare.forms"
SHEET = "_look.html"
_HEAD = 1 << 16


def import_annotations(
    annotations: str,
    out: str,
    form: str = "",
    images: str | None = None,
    settings: Settings | None = None,
    per_shard: int = PER_SHARD,
    workers: int = 2,
    sheet: bool = True,
    split: str = "",
    engine: Engine = "local",
) -> Prepared:
    """Make shards of annotations, and a page of samples with their boxes.

    Args:
        annotations: file or folder.
        out: folder or URL of the shards.
        form: form of the annotations; empty: it is recognised.
        images: folder of the images; by default where the annotations say.
        settings, per_shard, workers, engine: see `prepare`.
        sheet: write `_look.html` into `out`, unless that is a URL.
        split: part of the annotations; empty: all parts together, which is said.
    Raises:
        MissingFileError: there are no such annotations.
        InputError: they have no known form, or several, no such part, or none can be used.
    """
    name = form or recognise(annotations)
    _check_split(find_dataset(ROOM, name).contents(Release(annotations, ALL, images)), annotations, split)
    done = prepare(name, annotations, out, split, settings, per_shard, engine, workers, ROOM, images)
    if sheet and not storage.is_remote(out):
        from xvlm.prepare.look import write_look

        write_look(Path(out) / SHEET, open_source(out), hint=done.box_hint())
    return done


def _check_split(contents: Contents, annotations: str, split: str) -> None:
    """Say what is read together.  Raises InputError if there is no such split."""
    splits = ", ".join(contents.splits)
    if split and (split not in contents.splits or "/" in split):
        has = f"the splits {splits}" if splits else "no splits"
        raise InputError(f"{annotations} has {has}; --split is {split!r}")
    if len(contents.splits) > 1 and not split:
        print_notice(f"{annotations} has the splits {splits}, which are merged; --split reads one of them")
    if len(contents.fields) > 1:
        print_notice(f"{annotations} has labels in {', '.join(contents.fields)}, which are read together")


def recognise(path: str) -> str:
    """Return the name of the form of annotations.

    Raises:
        MissingFileError: there are none.
        InputError: they have no known form, or several.
    """
    if not storage.exists(path):
        raise MissingFileError(f"No such file or folder: {path}")
    value = None if storage.is_folder(path) else _json_value(path)
    found = [name for name in registry.names(ROOM) if registry.find(ROOM, name).recognises(path, value)]
    if len(found) != 1:
        known = ", ".join(registry.names(ROOM))
        problem = f"may be {' or '.join(found)}" if found else "has none of the forms that are known"
        raise InputError(f"{path} {problem}; name one of them by --form ({known})")
    return found[0]


def _json_value(path: str) -> Any:
    """Return the content of a JSON file, or its first line; `None` for another file."""
    with storage.open_binary(path) as file:
        head = file.read(_HEAD)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):
        return None
    try:
        return parse_value(
            storage.read_all(path) if path.endswith(".json") else head.splitlines()[0], "file", path
        )
    except BadRecord:
        try:
            return parse_value(head.splitlines()[0], "line", path)
        except BadRecord:
            return None
