"""A scheme that adds absent phrases to the records of any source: `absent:SPEC?absent_texts=12`.

The phrases are those of other records of the source, or changed ones of the record's own, that nothing in the
record's texts speaks for (`data/text/absent.py`).  They are a function of the record's key alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlencode

import numpy as np

from xvlm.common.errors import InputError
from xvlm.data.samples.text_rows import hash_text
from xvlm.data.sources.source import Opener, Source, WrappedSource
from xvlm.data.text.absent import MAX_RECORDS, AbsentPhrases, cleaned
from xvlm.records import BadRecord, Record

DEFAULT_COUNT = 12


class WithAbsentTexts(WrappedSource):
    """A source whose records have absent texts; a record that has some already keeps them.

    Args:
        source: the records.
        count: maximum number of absent texts of a record.
    """

    def __init__(self, source: Source, count: int = DEFAULT_COUNT) -> None:
        super().__init__(source)
        self.count = count
        texts: list[str] = []
        step = max(1, len(source) // MAX_RECORDS)
        for index in range(0, len(source), step):
            try:
                record = source[index]
            except BadRecord:  # counted when it is read for its own sake
                continue
            for concept in record.concepts:
                if concept.box_xyxy is not None:
                    texts += cleaned(concept.texts)
        self.phrases = AbsentPhrases.of(texts)

    def __getitem__(self, index: int, /) -> Record:
        """Return a record with absent texts."""
        record = self.source[index]
        if record.absent_texts:
            return record
        rng = np.random.default_rng(hash_text(record.key) % 2**64)
        return replace(record, absent_texts=self.phrases.sample(record, self.count, rng))


def _open_absent(rest: str, options: Mapping[str, str], image_root: str | None = None) -> Source:
    from xvlm.data.sources.open import open_source  # imported here, since it imports every scheme

    others = dict(options)
    count = others.pop("absent_texts", str(DEFAULT_COUNT))
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"absent_texts is {count!r}; it must be a whole number from 1")
    query = f"?{urlencode(others)}" if others else ""
    return WithAbsentTexts(open_source(f"{rest}{query}", image_root), int(count))


SCHEMES: dict[str, Opener] = {"absent": _open_absent}
