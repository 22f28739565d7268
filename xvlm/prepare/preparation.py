"""What a folder of shards was made of: `_shards/preparation.json`."""

from __future__ import annotations

from typing import Any

from xvlm.common.errors import OutputError
from xvlm.common.json_file import json_text, parse_json
from xvlm.data.files import storage
from xvlm.data.files.output import join, write_bytes
from xvlm.data.files.storage import SIDECARS

_FILE = f"{SIDECARS}/preparation.json"


def check_out(out: str, preparation: dict[str, Any]) -> None:
    """Raise OutputError if a folder holds another preparation, or files that none has written."""
    path = join(out, _FILE)
    if not storage.exists(path):
        if others := storage.list_names(out):
            raise OutputError(f"{out} holds {others[0]} and no preparation; name another folder")
        return
    before = parse_json(storage.read_all(path), path)
    for name, value in parse_json(json_text(preparation).encode(), path).items():
        if name in before and before[name] != value:
            raise OutputError(
                f"{out} holds another preparation, with {name} {before[name]} instead of {value}; "
                "name another folder"
            )


def write_preparation(out: str, preparation: dict[str, Any]) -> None:
    """Write down what a folder of shards is made of."""
    write_bytes(join(out, _FILE), json_text(preparation, indent=1).encode())


def release_root(data: str) -> str:
    """Return the release that a folder of shards was made of; empty if that is unknown."""
    path = join(data, _FILE)
    if not storage.exists(path):
        return ""
    return str(parse_json(storage.read_all(path), path).get("root", ""))
