"""RefCOCOg (Mao et al., CVPR 2016): longer sentences; split of UMD, whose parts share no image."""

from __future__ import annotations

from xvlm.prepare.referring import referring

DATASET = referring("RefCOCOg", "refcocog", "umd", ("train", "val", "test"), "25,799", "95,010")
