"""Find phrases in photos, and write what was found in the forms of annotation tools.

`found.jsonl` gets a line for each photo as soon as it is done, so that an interrupted command goes on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from xvlm import registry
from xvlm.annotate.photos import AnnotatedPhoto, FoundBox, path_from
from xvlm.common.atomic import AppendFile
from xvlm.common.errors import InputError, OutputError
from xvlm.common.json_file import json_text, read_json, to_json, write_json, write_text
from xvlm.common.lock import folder_lock
from xvlm.common.progress import progress_bar
from xvlm.config import from_json
from xvlm.data.files.json_parser import parse_value
from xvlm.data.files.storage import absolute, is_remote
from xvlm.data.images.decode import open_image
from xvlm.predict import Photo, Predictor
from xvlm.records import BadRecord
from xvlm.search.manifest import fingerprint
from xvlm.search.photos import PhotoFile, list_photos, read_photo

ROOM = "annotate.forms"
FOUND, SETTINGS = "found.jsonl", "annotate.json"


@dataclass
class Annotated:
    """What was annotated.

    Attributes:
        photos: photos with their boxes.
        bad: photos that cannot be used.
        folder: the folder below which photos are named; empty if all are URLs.
    """

    photos: list[AnnotatedPhoto]
    bad: list[BadRecord]
    folder: str

    def summary(self, phrases: Sequence[str]) -> str:
        """Return how many boxes each phrase has, in words."""
        counts = Counter(box.phrase for photo in self.photos for box in photo.boxes)
        below = f" below {self.folder}" if self.folder else ""
        lines = [f"{len(self.photos):,} photos{below}, {counts.total():,} boxes"]
        lines += [f"  {counts[number]:,} x {phrase}" for number, phrase in enumerate(phrases)]
        lines += [f"  not used: {error}" for error in self.bad[:3]]
        return "\n".join(lines + ([f"  and {len(self.bad) - 3} more"] if len(self.bad) > 3 else []))


def annotate(
    photos: Sequence[str],
    phrases: Sequence[str],
    predictor: Predictor,
    model: str,
    out: Path,
    forms: Sequence[str],
    threshold: float,
) -> Annotated:
    """Annotate photos.

    Args:
        photos: folders, tars, lists or photos, as for an index.
        phrases: what is looked for.
        predictor: the model; with a detection head it finds any number of things, else one for each phrase.
        model: its name, which a later call must repeat to go on.
        out: folder that gets `found.jsonl` and the forms.
        forms: see `forms/`.
        threshold: smallest probability of a box.
    Raises:
        InputError: a phrase occurs twice or has no known token, or no photo can be used.
        OutputError: the folder holds something else, or other phrases or another model.
        UnknownNameError: there is no such form.
    """
    if not phrases or len(set(phrases)) < len(phrases):
        raise InputError(f"phrases are {', '.join(phrases) or 'missing'}; each must be named once")
    writers = [registry.find(ROOM, form).write for form in forms]
    if unknown := [one for one in phrases if not predictor.is_known(one)]:
        raise InputError(f"phrases contains {unknown[0]!r}, of which the model knows no token")
    settings: dict[str, object] = {"photos": [absolute(one) for one in photos], "phrases": list(phrases)}
    settings |= {"model": model, "weights": fingerprint(predictor.model), "threshold": threshold}
    # A photo that several folders or lists lead to is annotated once.
    listed = list({getattr(one, "path", str(one)): one for one in list_photos(photos)}.values())
    folder = _common_folder([one for one in listed if isinstance(one, PhotoFile)])
    with folder_lock(out):
        _check_out(out, settings)
        done = {one.path: one for one in _read_found(out / FOUND)}
        result = Annotated([], [], folder)
        # Nothing is written before there is something, so that a mistake leaves no folder behind.
        with ExitStack() as files:
            file: AppendFile | None = None
            for photo in progress_bar(listed, "annotating photos", len(listed)):
                try:
                    if isinstance(photo, BadRecord):
                        raise photo
                    name = path_from(photo.path, folder)
                    found = done.get(photo.path)
                    if found is None or found.version != (photo.size, photo.mtime_ns):
                        found = _annotate(photo, name, phrases, predictor, threshold)
                        file = file or _begin(out, settings, done, files)
                        file.write((json_text(to_json(found)) + "\n").encode())
                except BadRecord as error:
                    result.bad.append(error)
                else:
                    # A list may have grown, and its photos be named below another folder.
                    result.photos.append(replace(found, name=name))
        if not result.photos:
            first = f"; first problem: {result.bad[0]}" if result.bad else ""
            raise InputError(f"no photo of {', '.join(photos)} can be used{first}")
        for write in writers:
            write(out, result.photos, phrases)
    return result


def _begin(
    out: Path, settings: dict[str, object], done: dict[str, AnnotatedPhoto], files: ExitStack
) -> AppendFile:
    """Write the settings and what is done, without half a line of a killed process, and go on there."""
    write_json(out / SETTINGS, settings)
    write_text(out / FOUND, "".join(json_text(to_json(one)) + "\n" for one in done.values()))
    file = AppendFile(out / FOUND)
    files.callback(file.close)
    return file


def _annotate(
    photo: PhotoFile, name: str, phrases: Sequence[str], predictor: Predictor, threshold: float
) -> AnnotatedPhoto:
    opened = open_image(read_photo(photo.path), key=photo.path)
    boxes = tuple(_boxes(predictor.photo(opened), phrases, threshold))
    version = (photo.size, photo.mtime_ns)
    return AnnotatedPhoto(photo.path, version, name, opened.width, opened.height, boxes)


def _boxes(photo: Photo, phrases: Sequence[str], threshold: float) -> Iterator[FoundBox]:
    if "detection" in photo.predictor.model.config.heads:
        for number, own in enumerate(photo.find_many(phrases, threshold)):
            yield from (FoundBox.rounded(number, one.box_xyxy, one.score) for one in own)
        return
    for number, answer in enumerate(photo.ground_many(phrases)):
        if answer.score is not None and answer.score >= threshold:
            yield FoundBox.rounded(number, answer.box_xyxy, answer.score)


def _common_folder(photos: Sequence[PhotoFile]) -> str:
    """Return the longest path that all folders and tars have in common, and the folders of single photos."""
    inside = {
        one.root if one.path.startswith(f"{one.root}/") else os.path.dirname(one.path)
        for one in photos
        if not is_remote(one.path)
    }
    return os.path.commonpath(inside) if inside else ""


def _check_out(out: Path, settings: dict[str, object]) -> None:
    inside = sorted(one.name for one in out.glob("[!.]*"))
    if not inside:
        return
    if not (out / SETTINGS).is_file():
        raise OutputError(
            f"{out} holds {inside[0]}, which `xvlm annotate` did not write; name another folder"
        )
    before = read_json(out / SETTINGS)
    for name, value in settings.items():
        if before.get(name) != value:
            raise OutputError(f"{out} was annotated with other {name}; name another folder")


def _read_found(path: Path) -> Iterator[AnnotatedPhoto]:
    """Yield the photos that are done; a process that was killed may have left half a line."""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            yield from_json(AnnotatedPhoto, parse_value(line))
        except BadRecord:
            continue
