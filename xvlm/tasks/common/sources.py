"""Data sources of a run: their configuration, opened once each, and their texts for a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xvlm.common.ranges import NonNegativeFloat
from xvlm.data.files.json_parser import is_unicode
from xvlm.data.sources.cached import CachedSource
from xvlm.data.sources.open import open_source
from xvlm.data.sources.probe import check_image_paths
from xvlm.data.sources.record_fields import DEFAULT_FIELD_NAMES, FieldNames
from xvlm.data.sources.source import Source
from xvlm.data.sources.task_fields import answers_of
from xvlm.data.text.cleaning import clean_caption
from xvlm.records import BadRecord, Record


@dataclass(frozen=True)
class SourceConfig:
    """One data source, see `open_source`.

    Attributes:
        path: file, glob pattern, folder, or scheme.
        image_root: folder or URL that image paths are relative to; empty: the folder of the file.
        weight: sampling weight in a mixture; 0 uses the number of records.
        cache_in_memory: whether to keep every record in memory once it has been read.
        image_key: name of the field with the image; empty: the usual names.
        caption_key: name of the field with the captions; empty: the usual name.
        is_image_rpath: whether the image field is a path (else base64); `None` decides by its name.
        tokenized: whether texts are word pieces with spaces between them (the published 16M region files).
    """

    path: str
    image_root: str = ""
    weight: NonNegativeFloat = 0.0
    cache_in_memory: bool = False
    image_key: str = ""
    caption_key: str = ""
    is_image_rpath: bool | None = None
    tokenized: bool = False

    @property
    def field_names(self) -> FieldNames:
        """Names of the fields, in the form that `open_source` takes."""
        return FieldNames(
            self.image_key or None,
            self.is_image_rpath,
            self.caption_key or DEFAULT_FIELD_NAMES.caption_key,
            self.tokenized,
        )


def open_sources(streams: Mapping[str, Sequence[SourceConfig]]) -> dict[str, list[Source]]:
    """Open the sources of each data stream; streams with the same source share it.

    Raises MissingFileError or InputError if one cannot be opened, or if nearly all image files are missing.
    """
    opened: dict[SourceConfig, Source] = {}
    for config in dict.fromkeys(config for configs in streams.values() for config in configs):
        source = open_source(config.path, config.image_root or None, config.field_names)
        check_image_paths(source)
        opened[config] = CachedSource(source) if config.cache_in_memory else source
    return {name: [opened[config] for config in configs] for name, configs in streams.items()}


def mixture_weights(configs: Sequence[SourceConfig], sources: Sequence[Source]) -> list[float]:
    """Return the sampling weight of each source."""
    return [config.weight or float(len(source)) for config, source in zip(configs, sources, strict=True)]


def tokenizer_corpus(sources: Iterable[Source], limit: int) -> list[str]:
    """Return the cleaned texts of up to `limit` evenly spaced records of each source.

    Unusable records are skipped here without notice, for the loader counts them.
    """
    texts = []
    for source in sources:
        for index in range(0, len(source), max(1, len(source) // limit)):
            try:
                texts += [clean_caption(text) for text in texts_of(source[index])]
            except BadRecord:
                continue
    return texts


def texts_of(record: Record) -> list[str]:
    """Return all texts of a record: captions and phrases, questions with their answers, statements."""
    texts = [text for concept in record.concepts for text in concept.texts]
    objects = [record.extra, *record.extra.get("questions", ()), *record.extra.get("statements", ())]
    for fields in objects:
        if isinstance(fields, Mapping):
            texts += [str(fields[name]) for name in ("question", "sentence") if fields.get(name) is not None]
            texts += answers_of(fields, record.key)
    return [text for text in texts if text.strip() and is_unicode(text)]
