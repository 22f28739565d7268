"""Parameter groups, learning-rate schedule, clipped steps and running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from xvlm.common.errors import InputError
from xvlm.config import OptimConfig
from xvlm.training.sharding import local_part, norm_of_all

_POSITION_EMBEDDINGS = ("relative_position_bias_table", "pos_embed", "cls_token")
"""Parameters of vision towers without weight decay, although they are matrices (published: a ViT's decay)."""


def build_optimizer(
    model: nn.Module, config: OptimConfig, pretrained_names: Collection[str], faithful: bool = False
) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters, grouped by learning rate and weight decay.

    Parameters whose learning-rate multiplier is 0 are frozen: no gradient is computed for them.

    Args:
        pretrained_names: names of the parameters that a checkpoint provided.  The others are new, and their
            learning rate is multiplied by `new_lr_multiplier`.  Without names, all multipliers are 1.
        faithful: whether to group as published: every parameter decays unless its name contains "bias" or
            "norm", so a ViT's `pos_embed` and `cls_token` do.
    """
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            multiplier = _lr_multiplier(name, config, pretrained_names)
            if multiplier == 0:
                parameter.requires_grad_(False)
                continue
            decay = config.weight_decay if _has_decay(name, parameter, faithful) else 0.0
            groups.setdefault((multiplier, decay), []).append((name, parameter))
    return torch.optim.AdamW(
        [
            {
                "params": [parameter for _, parameter in members],
                "names": [name for name, _ in members],
                "multiplier": multiplier,
                "weight_decay": decay,
            }
            for (multiplier, decay), members in sorted(groups.items())
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def _lr_multiplier(name: str, config: OptimConfig, pretrained_names: Collection[str]) -> float:
    if not pretrained_names:
        return 1.0
    if name not in pretrained_names:
        return config.new_lr_multiplier
    by_module = {
        "vision": config.vision_lr_multiplier,
        "text": config.text_lr_multiplier,
        "vqa_decoder": config.decoder_lr_multiplier,
        "caption_decoder": config.decoder_lr_multiplier,
    }
    return by_module.get(name.partition(".")[0], 1.0)


def _has_decay(name: str, parameter: Tensor, faithful: bool) -> bool:
    if faithful:
        return "bias" not in name and "norm" not in name
    return parameter.ndim > 1 and not name.endswith(_POSITION_EMBEDDINGS)


def lr_factor(config: OptimConfig, step: int, faithful: bool = False) -> float:
    """Return the learning rate of a step, counted from 0, as a fraction of its peak.

    `faithful` begins the warm-up at 0, so that the first step changes no weight (published).
    """
    if step < config.warmup_steps:
        return (step + (not faithful)) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    left = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    if config.schedule not in left:
        raise InputError(f"schedule is {config.schedule!r}; it may be {' or '.join(left)}")
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * left[config.schedule]


def set_learning_rate(
    optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, faithful: bool = False
) -> float:
    """Set the learning rate of every group for a step, and return that of a group whose multiplier is 1."""
    base = config.lr * lr_factor(config, step, faithful)
    for group in optimizer.param_groups:
        group["lr"] = base * group["multiplier"]
    return base


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the norm of all gradients together, a scalar."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return norm_of_all([p.grad for p in parameters if p.grad is not None])


def step_clipped(
    optimizer: torch.optim.AdamW, norm: Tensor, max_norm: float, is_finite: Tensor | None = None
) -> None:
    """Take a step with gradients of the total norm `norm`, a scalar, clipped to `max_norm`; 0 does not clip.

    If `is_finite` (), a bool that may still be on its way, is False, the step changes nothing.

    AdamW's fused kernel divides each gradient by `grad_scale` while it reads it.  Scaling the gradients first
    would read and write all of them once more (docs/performance.md).
    """
    # clip_grad_norm_ adds 1e-6 too.
    scale = ((norm + 1e-6) / max_norm).clamp(min=1.0).float() if max_norm else None
    optimizer.grad_scale = scale  # type: ignore[attr-defined]
    optimizer.found_inf = None if is_finite is None else (~is_finite).float()  # type: ignore[attr-defined]
    optimizer.step()


def first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the first name whose tensor holds NaN or infinity, or `None`.

    Of sharded tensors it reads this rank's parts.  It waits for the device once.
    """
    floating = {
        name: local_part(value.detach()) for name, value in tensors.items() if value.is_floating_point()
    }
    norms = torch._foreach_norm(list(floating.values())) if floating else []
    if not norms or torch.stack([norm.float() for norm in norms]).isfinite().all():
        return None
    # A norm may overflow although every element is finite.
    return next((name for name, value in floating.items() if not value.isfinite().all()), None)


class ExponentialMovingAverage:
    """Exponential moving average of parameters and buffers.

    The decay of update n is min(decay, (1 + n) / (10 + n)), so that the initial weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the model's weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = model.state_dict()
        floating = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [local_part(self.values[name]) for name in floating],
            [local_part(current[name]) for name in floating],
            1 - decay,
        )
        for name in self.values.keys() - set(floating):
            self.values[name].copy_(current[name])

    def swap_in(self, model: nn.Module) -> Callable[[], None]:
        """Put the average into a model that is not sharded.

        Returns:
            a function that restores the model's own weights.
        """
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.values)

        def restore() -> None:
            model.load_state_dict(own)

        return restore
