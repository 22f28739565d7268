"""A pre-trained model becomes a task's model as in the published loaders."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.golden import files
from xvlm.models.checkpoints.adapt import adapt_model

NEW = {"nlvr224": ("pair_classifier.",), "vqa224": ("vqa_decoder.cross.",), "caption224": ()}


@pytest.mark.parametrize("name", NEW)
def test_is_initialized_as_the_published_task_model(name: str) -> None:
    before, published = files.model("swin224", torch.float32), files.model(name, torch.float32)
    config = replace(before.config, heads=published.config.heads)
    assert (config.vision, config.text) == (published.config.vision, published.config.text)
    model, pretrained = adapt_model(before, config)
    own, theirs = model.state_dict(), published.state_dict()
    assert own.keys() == theirs.keys()
    other = [key for key in own if not torch.equal(own[key], theirs[key])]
    new = [key for key in own if key not in pretrained]
    assert set(other) <= set(new), "initialized from the pre-trained model, unlike in the published loader"
    assert all(key.startswith(NEW[name]) for key in new), new
    assert name == "caption224" or new, "the published task has new parameters"
