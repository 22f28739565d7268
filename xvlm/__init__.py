"""xvlm: multi-grained vision-language pre-training (X-VLM, ICML 2022).

Shape legend; names carry these letters as suffixes where tensors meet (`box_xyxy_N4`, `q_THK`):

    B  images in the batch
    N  text-concept rows: one text with the concept (object, region, image) that it describes
    T  packed tokens: the tokens of all texts, one after another, no padding
    L  tokens of the longest text
    P  patches of an image, row-major
    D  width of a token, text or vision as the module says
    H  attention heads
    K  width of one head
    V  vocabulary
    M  masked tokens
    E  width of the shared contrastive space
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xvlm.predict import Decoding, Photo, Predictor

__all__ = ["Decoding", "Photo", "Predictor"]


def __getattr__(name: str) -> Any:
    """`from xvlm import Predictor`, without importing torch for those who do not ask."""
    if name in __all__:
        from xvlm import predict

        return getattr(predict, name)
    raise AttributeError(f"module 'xvlm' has no attribute {name!r}")
