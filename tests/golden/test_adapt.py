"""A pre-trained model becomes a task's as the published loaders make it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.golden import files
from xvlm.model.adapt import adapted

NEW = {"nlvr224": ("pairs.",), "vqa224": ("answers.cross.",), "caption224": ()}


@pytest.mark.parametrize("name", NEW)
def test_begins_as_the_published_task_model_does(name: str) -> None:
    before, published = files.model("swin224", torch.float32), files.model(name, torch.float32)
    config = replace(before.config, parts=published.config.parts)
    assert (config.vision, config.text) == (published.config.vision, published.config.text)
    model, given = adapted(before, config)
    own, theirs = model.state_dict(), published.state_dict()
    assert own.keys() == theirs.keys()
    other = [key for key in own if not torch.equal(own[key], theirs[key])]
    new = [key for key in own if key not in given]
    assert set(other) <= set(new), "taken over from the pre-trained model, but the published loader does not"
    assert all(key.startswith(NEW[name]) for key in new), new
    assert name == "caption224" or new, "the published task has new parameters"
