"""Schemes of the procedural scenes, all of the form `scenes:SPLIT:SIZE?seed=0&image_size=128`.

`scenes` has captions and regions, `scene-cases` phrases with one box each, `scene-phrases` phrases with
several boxes, one or none.  `scene-questions` and `scene-pairs` also take `about=KIND,KIND`, the kinds of
questions or of statements about pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from xvlm.common.errors import InputError
from xvlm.data.sources.source import Opener, Source


def _open_scenes(rest: str, options: Mapping[str, str], image_root: str | None = None) -> Source:
    from xvlm.scenes import Scenes  # imported here, since most runs do not need it

    split, _, size = rest.partition(":")
    try:
        numbers = {name: int(value) for name, value in options.items()}
        return Scenes(split, int(size), **numbers)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"expected scenes:SPLIT:SIZE?seed=0&image_size=128; {error}") from error


def _open_scene_records(
    kind: str, rest: str, options: Mapping[str, str], image_root: str | None = None
) -> Source:
    from xvlm.scenes import Scenes
    from xvlm.scenes.records import (
        SceneDetectionRecords,
        SceneGroundingRecords,
        ScenePairRecords,
        SceneQuestionRecords,
    )

    numbers = dict(options)
    about = tuple(numbers.pop("about").split(",")) if "about" in options else ()
    scenes = _open_scenes(rest, numbers)
    assert isinstance(scenes, Scenes)
    sources = (SceneGroundingRecords, SceneDetectionRecords, SceneQuestionRecords, ScenePairRecords)
    return next(source for source in sources if source.kind == kind)(scenes, about)


_KINDS = ("scene-cases", "scene-phrases", "scene-questions", "scene-pairs")
SCHEMES: dict[str, Opener] = {
    "scenes": _open_scenes,
    **{kind: partial(_open_scene_records, kind) for kind in _KINDS},
}
