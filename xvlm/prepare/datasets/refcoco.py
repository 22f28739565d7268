"""RefCOCO (Yu et al., ECCV 2016): sentences that pick out one object; split of UNC."""

from __future__ import annotations

from xvlm.prepare.referring import referring

DATASET = referring("RefCOCO", "refcoco", "unc", ("train", "val", "testA", "testB"), "19,994", "142,210")
