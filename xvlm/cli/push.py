"""`xvlm push`: upload a model and its card to a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from xvlm.cli.common.options import Flag
from xvlm.publish.options import CardOptions


def command(
    model: Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]],
    repo: Positional[Annotated[str, tyro.conf.arg(metavar="REPO")]],
    card: OmitArgPrefixes[CardOptions],
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
        card: what its card says that is in no file of the model.
        branch: branch that gets the commit; by default the main one.
        message: message of the commit.
        private: a new repository is private.
    """
    from xvlm.publish.push import card_files, push

    print(push(model, repo, card_files(model, repo, card), private, branch, message))
