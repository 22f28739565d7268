"""Pairs of images and captions from the web: SBU, CC3M and CC12M, as people have them on disk.

Three layouts are read: tar shards in WebDataset's form, as img2dataset and the pixparse repositories make
them (`KEY.jpg`, `KEY.txt`, `KEY.json`); img2dataset's folders of the same files; and a table of addresses and
captions beside a folder of images that are named by their row.  What could not be downloaded is not there, or
has another status than success; it is counted, and nothing is fetched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from xvlm.common.errors import InputError
from xvlm.data.files import storage
from xvlm.data.files.json_parser import parse_value
from xvlm.data.sources.tar import IMAGE_SUFFIXES, read_member
from xvlm.data.sources.tar_index import DamagedTarError, load_tar_index, sample_name
from xvlm.prepare.common_ids import flickr_id
from xvlm.prepare.entries import list_in
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord

Table = tuple[str, str, str]
"""Glob of a table without a header, and the names of its two columns."""


def web_dataset(title: str, link: str, licence: str, published: Mapping[str, str], table: Table) -> Dataset:
    """Return a data set of pairs from the web.

    Args:
        table: of the release as it is published.
    """

    def read(release: Release) -> Samples:
        return read_web(release, table)

    return Dataset(title, link, licence, ("train",), read, published=published, tars=tars)


def tars(release: Release) -> list[str]:
    """Return the shards of a part of a release, sorted; pixparse has all parts in one folder."""
    names = (f"*{release.split}*.tar", "*.tar", f"{release.split}/*.tar")
    return next(filter(None, map(release.find_all, names)), [])


def read_web(release: Release, table: Table) -> Samples:
    """Yield the pairs of a release, or of one of its shards.

    Args:
        table: of the release as it is published.
    """
    if release.root.endswith(".tar"):
        yield from _read_tar(release.root)
    elif folders := _folders(release):
        for folder in folders:
            yield from _read_folder(release, folder)
    else:
        yield from _read_table(release, table)


def _read_tar(path: str) -> Samples:
    try:
        index, size = load_tar_index(path), storage.file_state(path).bytes
    except DamagedTarError as error:
        yield BadRecord("shard of the release is damaged", path.rpartition("/")[2], str(error))
        return
    for number in range(len(index)):
        members = index.members(number)
        by_suffix = {sample_name(index.name(member))[1]: member for member in members}
        key = sample_name(index.name(members[0]))[0]
        try:
            parts = {
                suffix: read_member(path, index, member, size, key) for suffix, member in by_suffix.items()
            }
            yield _sample(key, parts)
        except BadRecord as error:
            yield error


def _folders(release: Release) -> list[str]:
    """Return the folders of img2dataset: five digits each."""
    return [name for name in release.names("") if len(name) == 5 and name.isdigit()]


def _read_folder(release: Release, folder: str) -> Samples:
    by_key: dict[str, dict[str, str]] = {}
    for name in release.names(folder):
        key, suffix = sample_name(name)
        by_key.setdefault(key, {})[suffix] = release.path(f"{folder}/{name}")
    for key, paths in by_key.items():
        image = next((suffix for suffix in IMAGE_SUFFIXES if suffix in paths), None)
        texts = {
            suffix: storage.read_all(path) for suffix, path in paths.items() if suffix in ("json", "txt")
        }
        try:
            yield _sample(f"{folder}/{key}", texts, None if image is None else paths[image])
        except BadRecord as error:
            yield error


def _sample(key: str, parts: Mapping[str, bytes], image: str | None = None) -> Sample:
    """Return the sample of the files with the same key.  Raises BadRecord if it has no image or caption."""
    fields: Any = parse_value(parts["json"], "member", key) if "json" in parts else {}
    if not isinstance(fields, dict):
        raise BadRecord("not a JSON object", key)
    if fields.get("status", "success") != "success":
        raise BadRecord("not downloaded", key, str(fields.get("error_message") or fields["status"]))
    suffix = next((one for one in IMAGE_SUFFIXES if one in parts), None)
    data = image if suffix is None else parts[suffix]
    if data is None:
        raise BadRecord("image file missing", key)
    text = parts["txt"].decode("utf-8", "replace") if "txt" in parts else fields.get("caption")
    if not isinstance(text, str) or not text.strip():
        raise BadRecord("no text left", key)
    return Sample(key, data, {"caption": text.strip()}, flickr_id(fields.get("url")))


def _read_table(release: Release, table: Table) -> Samples:
    name, *columns = table
    images = {os.path.splitext(one)[0].partition("_")[0]: one for one in release.names("images")}
    for number, line in _rows(release, name, columns):
        key = f"row {number}"
        if line is None:
            yield BadRecord("row is not two columns", key)
            continue
        # Two programs that are used to download name the file by the row alone, or with a hash after it.
        image = images.get(str(number)) or images.get(f"{number:09}")
        if image is None:
            yield BadRecord("image file missing", key, line["url"][:100])
            continue
        yield Sample(
            image,
            release.path(f"images/{image}"),
            {"caption": line["caption"].strip()},
            flickr_id(line["url"]),
        )


def _rows(release: Release, name: str, columns: list[str]) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Yield (row from 0, values by column) of a table without a header, or of SBU's lists of both columns."""
    if name.endswith(".json"):
        value = release.json(name)
        urls, captions = (list_in(value, key, name) for key in ("image_urls", "captions"))
        if len(urls) != len(captions):
            raise InputError(f"{name} has {len(urls)} image_urls and {len(captions)} captions")
        for row, (url, caption) in enumerate(zip(urls, captions, strict=True)):
            yield row, {"url": str(url), "caption": str(caption or "")}
        return
    for number, line in release.lines(name):
        cells = line.split("\t")
        yield number - 1, dict(zip(columns, cells, strict=True)) if len(cells) == len(columns) else None
