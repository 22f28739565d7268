"""`xvlm prepare`: from releases of data sets, or people's own annotations, to shards that training reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import Flag, first_word, returning_call
from xvlm.common.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from xvlm.common.terminal import escaped_output, print_notice

Paths = Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="DATA ...")]]


def command(words: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="WHAT ...")]] = ()) -> None:
    """Prepare data: xvlm prepare DATASET RELEASE --out O; or own annotations, a mix, a check of leaks.

    WHAT is a public data set (docs/datasets.md lists them), `import` for annotations of one's own, `leaks`,
    `mix`, or a Python file that defines DATASET.

    Args:
        words: what to prepare, then its arguments; `xvlm prepare WHAT --help` lists them.
    """
    command_for(words)()


def command_for(words: Sequence[str]) -> Callable[[], object]:
    """Parse what to prepare and its options, and return the call."""
    name, rest = first_word(words, "prepare", "what", _known)
    function = OTHERS[name] if name in OTHERS else release_command(name)
    with escaped_output():
        return tyro.cli(returning_call(function), args=rest, prog=f"xvlm prepare {name}")  # type: ignore[no-any-return]


def _known() -> list[str]:
    from xvlm import registry

    return [*sorted(OTHERS), *registry.names("prepare.datasets")]


def release_command(name: str) -> Callable[..., None]:
    """Return the command of a data set."""
    from xvlm.prepare.shard import find_dataset

    dataset = find_dataset("prepare.datasets", name)

    def prepare_release(
        release: Positional[str],
        out: str,
        split: str = dataset.splits[0],
        resize: PositiveInt | None = None,
        quality: PositiveInt = 90,
        filters: tuple[str, ...] = (),
        max_repeats: NonNegativeInt = 0,
        exclude: str = "",
        per_shard: PositiveInt = 1000,
        engine: Literal["local", "ray"] = "local",
        workers: PositiveInt = 2,
        max_pixels: PositiveInt = 100_000_000,
        allow_remote: Flag = False,
    ) -> None:
        """Prepare."""
        from xvlm.data.files.limits import change_limits
        from xvlm.prepare.prepare import prepare
        from xvlm.prepare.settings import Settings

        change_limits(max_pixels=max_pixels, allow_remote=allow_remote)
        settings = Settings(resize, quality, filters, max_repeats, exclude)
        done = prepare(name, release, out, split, settings, per_shard, engine, workers)
        print(done.summary())

    prepare_release.__doc__ = f"""Prepare {dataset.title}.

    Args:
        release: folder or URL with the files as they were downloaded from {dataset.link} (docs/datasets.md).
        out: folder or URL of the shards; an interrupted command goes on.
        split: {", ".join(dataset.splits)}.
        resize: shorter side in pixels of larger images, which become JPEGs; by default all stay as they are.
        quality: quality of these JPEGs, 1 to 95.
        filters: filters of texts and images: length:min_words=2, my_filter.py.
        max_repeats: leave out captions that occur more often; 0 leaves out none.
        exclude: list of images that `xvlm prepare leaks --out` wrote, which are left out.
        per_shard: samples of a shard, unless the release has shards.
        engine: local: processes of this machine; ray: a Ray cluster (RAY_ADDRESS, else a local one).
        workers: number of processes or Ray workers.
        max_pixels: maximum width x height of an image.
        allow_remote: annotations may name images by URL.
    """
    return prepare_release


def import_annotations(
    annotations: Positional[str],
    out: str,
    form: str = "",
    images: str | None = None,
    resize: PositiveInt | None = None,
    quality: PositiveInt = 90,
    filters: tuple[str, ...] = (),
    max_repeats: NonNegativeInt = 0,
    exclude: str = "",
    per_shard: PositiveInt = 1000,
    engine: Literal["local", "ray"] = "local",
    workers: PositiveInt = 2,
    max_pixels: PositiveInt = 100_000_000,
    allow_remote: Flag = False,
    no_sheet: Flag = False,
    split: str = "",
) -> None:
    """Prepare annotations of one's own: COCO, labelme, Label Studio, CVAT, YOLO, Pascal VOC and others.

    Args:
        annotations: file or folder of annotations.
        out: folder or URL of the shards, and of a page with samples and their boxes, _look.html.
        form: form of the annotations; by default it is recognised.
        images: folder of the images; by default where the annotations say.
        resize: shorter side in pixels of larger images, which become JPEGs; by default all stay as they are.
        quality: quality of these JPEGs, 1 to 95.
        filters: filters of texts and images: length:min_words=2, my_filter.py.
        max_repeats: leave out captions that occur more often; 0 leaves out none.
        exclude: list of images that `xvlm prepare leaks --out` wrote, which are left out.
        per_shard: samples of a shard.
        engine: local: processes of this machine; ray: a Ray cluster (RAY_ADDRESS, else a local one).
        workers: number of processes or Ray workers.
        max_pixels: maximum width x height of an image.
        allow_remote: annotations may name images by URL.
        no_sheet: write no page.
        split: part of the annotations, such as train; by default all parts together.
    """
    from xvlm.data.files.limits import change_limits
    from xvlm.prepare.importing import import_annotations as run
    from xvlm.prepare.settings import Settings

    change_limits(max_pixels=max_pixels, allow_remote=allow_remote)
    settings = Settings(resize, quality, filters, max_repeats, exclude)
    done = run(annotations, out, form, images, settings, per_shard, workers, not no_sheet, split, engine)
    print(done.summary())


def check_leaks(
    train: Paths,
    against: tuple[str, ...] = (),
    out: str = "",
    duplicates: Flag = False,
    workers: PositiveInt = 2,
    allow_unread: Flag = False,
) -> None:
    """Look for images of evaluation data in training data; exit with 2 if there are some.

    Args:
        train: folders of shards that `xvlm prepare` made.
        against: evaluation data: such folders, or any data that xvlm reads.
        out: file for a JSON line an image; `xvlm prepare DATASET --exclude FILE` leaves these images out.
        duplicates: also look for copies within the training data.
        workers: number of processes that read evaluation images.
        allow_unread: of images that cannot be read ids alone are compared; else that is an error.
    """
    from xvlm.common.errors import InputError
    from xvlm.prepare.leaks import find_leaks, raise_leaks, write_leaks

    if not train or not (against or duplicates):
        raise InputError("xvlm prepare leaks needs training data, and --against DATA or --duplicates")
    found = find_leaks(train, against, duplicates, workers)
    if out:
        write_leaks(out, found.leaks)
    raise_leaks(found, allow_unread)
    print_notice("no image of the training data is elsewhere")


def plan_mix(
    mix: Positional[str],
    images_per_second: PositiveFloat | None = None,
    no_leak_check: Flag = False,
    allow_unread: Flag = False,
) -> None:
    """Check that all sources of a mix exist, count them, look for leaks, and print steps and hours.

    Args:
        mix: a TOML file, see docs/data.md.
        images_per_second: rate of training, for the hours; by default that of the mix.
        no_leak_check: do not look for images of the evaluation data.
        allow_unread: of images that cannot be read ids alone are compared; else that is an error.
    """
    from xvlm.common.errors import printable
    from xvlm.prepare.mix import describe_mix

    print(printable(describe_mix(mix, images_per_second, not no_leak_check, allow_unread), lines=True))


OTHERS: dict[str, Callable[..., None]] = {
    "import": import_annotations,
    "leaks": check_leaks,
    "mix": plan_mix,
}
"""Commands beside those of the data sets."""
