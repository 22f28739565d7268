"""RefCOCO+ (Yu et al., ECCV 2016): sentences without words of place; split of UNC."""

from __future__ import annotations

from xvlm.prepare.referring import referring

DATASET = referring("RefCOCO+", "refcoco+", "unc", ("train", "val", "testA", "testB"), "19,992", "141,564")
