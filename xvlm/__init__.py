"""xvlm: multi-grained vision-language pre-training (X-VLM, ICML 2022).

Shape legend; names carry these letters as suffixes where tensors meet (`box_xyxy_N4`, `q_SHLK`):

    B  images in the batch
    N  texts, or text-concept rows: a text with the object, region or image that it describes
    C  concepts; channels in BCHW and CHW; cells of the detection head; windows of an index
    T  packed tokens: the tokens of all texts, one after another, without padding
    L  tokens of one padded text
    P  patches of an image in row-major order, or tokens of a context
    S  segments of packed tokens; token sets that texts attend to
    R  rows of one call of the cross-modal encoder or of a decoder
    F  rows that take part in matching and masked language modelling
    O  selected output tokens
    M  masked or predicted tokens
    G  rows gathered from all ranks
    D  width of a token
    H  attention heads; height in BCHW and CHW
    K  width of one head
    X  boxes that texts describe, or that were found for them
    W  windows of a Swin block; width in BCHW and CHW
    V  vocabulary
    E  width of the contrastive space
    Q  questions, queries or image pairs
    A  answers
    J  captions sampled for each image
    Y  classes
    I  images of an evaluation
    U  distinct texts of an evaluation
    Z  (query, candidate) pairs of a retrieval evaluation

Digits are sizes, h and w rows and columns of a grid, k candidates of a query, other lower-case letters the
same as upper-case ones within a bucket or block.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xvlm.annotate.supervision import to_supervision
    from xvlm.common.errors import InputError, MissingHead, XVLMError
    from xvlm.export.predictor import OnnxPredictor
    from xvlm.predict import Detection, GenerationConfig, Photo, Predictor
    from xvlm.records import BadRecord
    from xvlm.search.filters import Circle, PhotoFilter
    from xvlm.search.index import Index
    from xvlm.search.ranking import Hit

_MODULES = {
    "BadRecord": "records",
    "Circle": "search.filters",
    "Hit": "search.ranking",
    "Index": "search.index",
    "InputError": "common.errors",
    "MissingHead": "common.errors",
    "OnnxPredictor": "export.predictor",
    "to_supervision": "annotate.supervision",
    "PhotoFilter": "search.filters",
    "XVLMError": "common.errors",
}
"""Modules of the names that are not in `predict`."""
__all__ = [
    "BadRecord",
    "Circle",
    "Detection",
    "GenerationConfig",
    "Hit",
    "Index",
    "InputError",
    "MissingHead",
    "OnnxPredictor",
    "Photo",
    "PhotoFilter",
    "Predictor",
    "XVLMError",
    "to_supervision",
]


def __getattr__(name: str) -> Any:
    """Import `Predictor` and the others on first use, since torch takes seconds."""
    if name == "__version__":
        return metadata.version("xvlm")
    if name in __all__:
        return getattr(import_module(f"xvlm.{_MODULES.get(name, 'predict')}"), name)
    raise AttributeError(f"module 'xvlm' has no attribute {name!r}")
