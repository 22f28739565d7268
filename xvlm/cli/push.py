"""`xvlm push`: upload a model and its card to a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import Flag


def command(
    model: Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]],
    repo: Positional[Annotated[str, tyro.conf.arg(metavar="REPO")]],
    title: str = "",
    licence: str = "",
    results: tuple[Path, ...] = (),
    image: Path | None = None,
    phrase: str = "the dog on the left",
    branch: str = "",
    message: str = "",
    private: Flag = False,
) -> None:
    """Upload a model and its card to a hub, by one commit; the repository is made unless it exists.

    HF_TOKEN or `hf auth login` says who uploads, HF_ENDPOINT names another hub.  `xvlm card` writes the card
    alone, to look at before.

    Args:
        model: model folder or run folder.
        repo: ORGANISATION/NAME.
        title: heading of the card; by default the last part of the repository's name.
        licence: a licence of the hub's list, such as apache-2.0.
        results: folders of results of xvlm eval, whose metrics and commands the card shows.
        image: photo of the thumbnail.
        phrase: phrase of the example, whose box is drawn on the thumbnail.
        branch: branch that gets the commit; by default the main one.
        message: message of the commit.
        private: a new repository is private.
    """
    from xvlm.publish.card import CardOptions
    from xvlm.publish.push import card_files, push

    card = card_files(model, repo, CardOptions(title, licence, results, phrase), image)
    print(push(model, repo, card, private, branch, message))
