"""Turn a pre-trained model into a task's model, as the published loaders do.

Decoders are initialized from the text stack, pairs of cross-modal layers from one layer each, and position
embeddings are interpolated.  The other parts that a task adds are initialized randomly.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from xvlm.models.checkpoints.initial_weights import load_tensors
from xvlm.models.checkpoints.position_resize import fit_positions
from xvlm.models.text.cross_encoder import PairEncoder
from xvlm.models.xvlm import XVLM, ModelConfig, build_model, find_head


def adapt_model(source: XVLM, config: ModelConfig) -> tuple[XVLM, set[str]]:
    """Build a model of `config` that is initialized from `source` as far as possible.

    Returns:
        the model, and the names of the parameters that came from `source`.
    Raises:
        InputError: the sizes of the two disagree; the message names the first such tensor.
    """
    model = build_model(config)
    state = source.state_dict()
    doubled = isinstance(getattr(model, "fusion", None), PairEncoder) and not isinstance(
        source.fusion, PairEncoder
    )
    other_context_dim = source.vision.width != config.text.width
    other_labels = source.config.labels != config.labels
    label_heads = {name for name in config.heads if find_head(name).uses_labels}
    tensors: dict[str, Tensor] = {}
    for name in model.state_dict():
        key = _source_key(name, state, doubled, config.heads)
        if other_context_dim and key != name and _depends_on_context_dim(name):
            continue
        if key in state and not (other_labels and name.partition(".")[0] in label_heads):
            tensors[name] = state[key]
    load_tensors(model, fit_positions(model, tensors), "the pre-trained model")
    return model, tensors.keys() & {name for name, _ in model.named_parameters()}


def _source_key(name: str, state: Mapping[str, Tensor], doubled: bool, heads: Collection[str]) -> str:
    """Return the key in the pre-trained `state` that initializes a tensor of the task's model."""
    layer = re.fullmatch(r"fusion\.layers\.(\d+)\.(.+)", name)
    if layer and doubled:
        return f"fusion.layers.{int(layer[1]) // 2}.{layer[2]}"
    if name in state:
        return name
    head, _, rest = name.partition(".")
    for prefix, source in find_head(head).initial.items() if head in heads else ():
        if rest.startswith(prefix):
            return source + rest.removeprefix(prefix)
    return name


def _depends_on_context_dim(name: str) -> bool:
    """Return whether a tensor projects the context, which for VQA is question states instead of patches."""
    return name.startswith("vqa_decoder.") and ".cross.kv." in name
