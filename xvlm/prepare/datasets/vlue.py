"""VLUE (Zhou et al., ICML 2022): out-of-distribution test sets of retrieval, captioning, NLVR2 and VQA.

The release is `itr_vlue_test.json`, `caption_vlue_test.json`, `nlvr2_vlue_test.json` and `vqa_vlue_test.json`
(also in `data`), whose images are those of MaRVL: `sw/images/...`, in the release or in its folder `images`.
"""

from __future__ import annotations

from dataclasses import replace

from xvlm.data.sources.json import JsonSource
from xvlm.prepare.records import samples_of_source
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples

FILES = {"retrieval": "itr", "captioning": "caption", "nlvr2": "nlvr2", "vqa": "vqa"}
LANGUAGES = ("id", "sw", "ta", "tr", "zh")
"""Folders of images, by language."""


def read(release: Release) -> Samples:
    """Yield each record of the file of a task, which has a published form."""
    name = f"{FILES[release.split]}_vlue_test.json"
    root = release.root if any(release.names(one) for one in LANGUAGES) else release.path("images")
    for one in samples_of_source(JsonSource(release.find(name, f"data/{name}"), root)):
        if isinstance(one, Sample) and "right" in one.fields:
            fields = {name: value for name, value in one.fields.items() if name != "right"}
            one = replace(one, fields={**fields, "images": [one.image, one.fields["right"]]})
        yield one


DATASET = Dataset(
    "VLUE",
    "https://github.com/MichaelZhouwang/VLUE",
    "texts as in the repository; images of MaRVL under their own licences",
    tuple(FILES),
    read,
    "lines",
    {"retrieval": "27,796 texts", "statements": "5,662", "questions": "11,942"},
)
