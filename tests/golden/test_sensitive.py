"""A small change in a layer makes the golden tests fail, so they are sensitive to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.golden import files, test_pretrain, test_tasks
from xvlm.models.vision import encoder as vision
from xvlm.models.xvlm import XVLM

IMAGES = partial(test_pretrain.test_every_tensor_of_the_image_batch, dtype=torch.float64, relative=1e-6)
REGIONS = test_pretrain.test_every_tensor_of_the_region_batch


def other_eps(part: str, eps: float) -> Callable[[XVLM], None]:
    """Return a change that sets the epsilon of every LayerNorm of a part."""

    def change(model: XVLM) -> None:
        norms = [one for one in getattr(model, part).modules() if isinstance(one, nn.LayerNorm)]
        assert norms
        for one in norms:
            one.eps = eps

    return change


def later_positions(model: XVLM) -> None:
    """Let texts begin one position later."""
    model.text.embedding.first_position += 1


def unshifted(model: XVLM) -> None:
    """Shift no window of a Swin."""
    blocks = [one for one in model.vision.modules() if any(getattr(one, "shift_size", ()))]
    assert blocks
    for one in blocks:
        one.shift_size = (0, 0)
        one.attn_mask = None


def plain_gelu(model: XVLM) -> None:
    """Replace CLIP's quick GELU by the exact one."""
    for name, one in model.vision.named_modules():
        if type(one).__name__ == "QuickGELU":
            model.vision.set_submodule(name, nn.GELU())


def swapped_corners(model: XVLM) -> None:
    """Swap the first two outputs of the box head."""
    last = model.box[-1]
    last.weight.data = last.weight.data[[1, 0, 2, 3]]
    last.bias.data = last.bias.data[[1, 0, 2, 3]]


CHANGES = {
    "norms of the text layers": (other_eps("text", 1e-5), lambda: IMAGES(name="swin224")),
    "norms of RoBERTa": (other_eps("text", 1e-12), lambda: IMAGES(name="swin224_roberta")),
    "norms of the cross layers": (other_eps("fusion", 1e-5), lambda: IMAGES(name="clipvit64")),
    "norms of the Swin": (other_eps("vision", 1e-3), lambda: IMAGES(name="swin224")),
    "norms of the ViT": (other_eps("vision", 1e-5), lambda: REGIONS("deit64")),
    "positions of BERT": (later_positions, lambda: IMAGES(name="deit64")),
    "positions of RoBERTa": (later_positions, lambda: IMAGES(name="swin224_roberta")),
    "shifted windows": (unshifted, lambda: IMAGES(name="swin224")),
    "windows at 384 pixels": (unshifted, test_tasks.test_grounding_at_384),
    "quick GELU": (plain_gelu, lambda: REGIONS("clipvit64")),
    "box head": (swapped_corners, lambda: REGIONS("swin224")),
    "norms of the pairs": (other_eps("fusion", 1e-5), test_tasks.test_reasoning_over_pairs),
    "norms of the answers": (other_eps("vqa_decoder", 1e-5), test_tasks.test_answers),
    "norms of the captions": (other_eps("caption_decoder", 1e-5), test_tasks.test_captions),
    "positions in the map": (later_positions, test_tasks.test_weak_grounding_map),
    "positions in retrieval": (later_positions, test_tasks.test_two_stage_scores),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_layer_is_detected(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, test = CHANGES[what]
    original = files.model

    def changed(*args: object, **sizes: object) -> XVLM:
        model = original(*args, **sizes)  # type: ignore[arg-type]
        change(model)
        return model

    monkeypatch.setattr(files, "model", changed)
    with pytest.raises(AssertionError, match="differs from the published"):
        test()


def test_an_approximate_gelu_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = F.gelu
    monkeypatch.setattr(F, "gelu", lambda x, **_: exact(x, approximate="tanh"))
    with pytest.raises(AssertionError, match="differs from the published"):
        IMAGES(name="swin224")


@pytest.mark.parametrize("name", ["swin224", "clipvit64", "deit64"])
def test_a_shifted_patch_rule_is_detected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = vision.patches_touched

    def shifted(box_N4: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        return right(box_N4, grid_hw).roll(1, dims=1)

    monkeypatch.setattr(vision, "patches_touched", shifted)
    with pytest.raises(AssertionError, match="differs from the published"):
        REGIONS(name)
