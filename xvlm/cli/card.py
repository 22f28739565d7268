"""`xvlm card`: the card of a model, as a hub shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from xvlm.publish.options import CardOptions


def command(
    model: Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]],
    card: OmitArgPrefixes[CardOptions],
    out: Path = Path("card"),
    repo: str = "",
) -> None:
    """Write the card of a model: README.md, and thumbnail.jpg if there is an image.

    Args:
        model: model folder, or a run's folder, whose card then says how the model was trained.
        card: what it says that is in no file of the model.
        out: folder for the card.
        repo: name of the repository, for the example; by default that of the folder.
    """
    from xvlm.common.atomic import atomic_file
    from xvlm.common.errors import OutputError
    from xvlm.common.terminal import print_notice
    from xvlm.publish.push import CARD, card_files

    if (out / CARD).is_file() and b"\nlibrary_name: xvlm\n" not in (out / CARD).read_bytes():
        raise OutputError(f"{out / CARD} was not written by `xvlm card`; name another folder")
    for name, content in card_files(model, repo or model.absolute().name, card).items():
        with atomic_file(out / name) as path:
            path.write_bytes(content)
    print_notice(f"card: {out / CARD}")
