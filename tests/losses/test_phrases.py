"""The phrase loss is what a loop over images, captions and phrases says, and finds what it should."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from xvlm.losses.phrases import PHRASE_WEIGHT, phrase_loss


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return patches of four images, five phrases, and the captions that these belong to."""
    generator = torch.Generator().manual_seed(seed)
    patches = F.normalize(torch.randn(4, 6, 8, generator=generator, dtype=torch.float64), dim=-1)
    phrases = F.normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64), dim=-1)
    return patches, phrases, torch.tensor([0, 0, 1, 3, 3])


def test_the_loss_equals_that_of_a_loop() -> None:
    patches, phrases, caption = drawn()
    positive = torch.eye(4, dtype=torch.bool)
    positive[0, 2] = positive[2, 0] = True
    temperature = 0.1
    best = [
        [max(float(patch @ phrase) for patch in image) / temperature for phrase in phrases]
        for image in patches
    ]
    score = torch.zeros(4, 4, dtype=torch.float64)
    for q, owner in enumerate(caption.tolist()):
        mean = sum(math.exp(best[i][q]) for i in range(4)) / 4
        for image in range(4):
            score[image, owner] += PHRASE_WEIGHT * (best[image][q] - math.log(mean))
    expected = 0.0
    for i in range(4):
        own = positive[i].double() / positive[i].sum()
        expected -= float((score[i].log_softmax(0) * own).sum() + (score[:, i].log_softmax(0) * own).sum())
    found = phrase_loss(patches, phrases, caption, positive, torch.tensor(temperature, dtype=torch.float64))
    assert float(found) == pytest.approx(expected / 8)


def test_gradients_draw_a_phrase_to_one_patch_of_its_own_image() -> None:
    patches, phrases, caption = drawn()
    patches.requires_grad_()
    temperature = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    phrase_loss(patches, phrases, caption, torch.eye(4, dtype=torch.bool), temperature).backward()
    assert temperature.grad is None and patches.grad is not None
    for image, phrase in ((0, 0), (0, 1), (1, 2), (3, 3), (3, 4)):
        best = int((patches[image] @ phrases[phrase]).argmax())
        assert float(patches.grad[image, best] @ phrases[phrase]) < 0
    touched = patches.grad.abs().sum(2) > 0
    assert touched.sum(1).max() <= len(phrases)
