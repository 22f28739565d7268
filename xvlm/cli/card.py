"""`xvlm card`: the card of a model, as a hub shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional


def command(
    model: Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]],
    out: Path = Path("card"),
    repo: str = "",
    title: str = "",
    licence: str = "",
    results: tuple[Path, ...] = (),
    image: Path | None = None,
    phrase: str = "the dog on the left",
) -> None:
    """Write the card of a model: README.md, and thumbnail.jpg if there is an image.

    Args:
        model: model folder, or a run's folder, whose card then says how the model was trained.
        out: folder for the card.
        repo: name of the repository, for the example; by default that of the folder.
        title: heading; by default the last part of the repository's name.
        licence: a licence of the hub's list, such as apache-2.0.
        results: folders of results of xvlm eval, whose metrics and commands the card shows.
        image: photo of the thumbnail.
        phrase: phrase of the example, whose box is drawn on the thumbnail.
    """
    from xvlm.common.json_file import write_text
    from xvlm.common.terminal import print_notice
    from xvlm.publish.card import THUMBNAIL, CardOptions
    from xvlm.publish.push import CARD, card_files

    options = CardOptions(title, licence, results, phrase)
    files = card_files(model, repo or model.absolute().name, options, image)
    write_text(out / CARD, files[CARD].decode())
    if THUMBNAIL in files:
        (out / THUMBNAIL).write_bytes(files[THUMBNAIL])
    print_notice(f"card: {out / CARD}")
