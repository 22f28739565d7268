"""What the card of a model says that is in no file of the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CardOptions:
    """What a card says that is in no file of the model.

    Attributes:
        title: heading; by default the last part of the repository's name.
        licence: a licence of the hub's list, such as apache-2.0.
        results: folders of results of xvlm eval, whose metrics and commands the card shows.
        image: photo of the thumbnail.
        phrase: phrase of the example, whose box is drawn on the thumbnail.
    """

    title: str = ""
    licence: str = ""
    results: tuple[Path, ...] = ()
    image: Path | None = None
    phrase: str = "the dog on the left"
