"""A pre-trained model for a task: its weights under the names that the task's parts have.

As the published loaders do it: a decoder begins as the layers that read, pairs of cross-modal layers as two
copies of one, positions are resized to the task's resolution, and what a task adds is new.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from xvlm.model.fusion import PairEncoder
from xvlm.model.resize import fit_positions
from xvlm.model.weights import put
from xvlm.model.xvlm import XVLM, ModelConfig, build_model

MOVED = (
    ("captions.text.", "text."),
    ("captions.cross.", "fusion."),
    ("captions.head.", "masked."),
    ("answers.text.", "text."),
    ("answers.cross.", "fusion."),
    ("answers.head.", "masked."),
    ("assignment.vision.", "contrastive.vision."),
)
"""Our names of what tasks add, and what it begins as."""


def adapted(source: XVLM, config: ModelConfig) -> tuple[XVLM, set[str]]:
    """A new model of `config` with what `source` has for it.

    Returns:
        the model, and the names of its parameters that came from `source`; the others are new.
    Raises:
        InputError: sizes of the two do not agree; the message names the first tensor.
    """
    model = build_model(config)
    state = source.state_dict()
    doubled = isinstance(getattr(model, "fusion", None), PairEncoder) and not isinstance(
        source.fusion, PairEncoder
    )
    given: dict[str, Tensor] = {}
    elsewhere = source.vision.width != config.text.width
    relabelled = source.config.labels != config.labels
    for name in model.state_dict():
        before = origin(name, state, doubled)
        if elsewhere and before != name and looks_elsewhere(name):
            continue
        if before in state and not (relabelled and name.startswith("labels.")):
            given[name] = state[before]
    put(model, fit_positions(model, given), "the pre-trained model")
    return model, given.keys() & {name for name, _ in model.named_parameters()}


def origin(name: str, state: Mapping[str, Tensor], doubled: bool) -> str:
    """The tensor of a pre-trained model that one of a task's model begins as."""
    found = re.fullmatch(r"fusion\.layers\.(\d+)\.(.+)", name)
    if found and doubled:
        return f"fusion.layers.{int(found[1]) // 2}.{found[2]}"
    if name in state:
        return name
    for new, old in MOVED:
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def looks_elsewhere(name: str) -> bool:
    """Whether a tensor projects what an answer looks at: a question's states, not an image's patches."""
    return name.startswith("answers.") and ".cross.kv." in name
