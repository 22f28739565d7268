"""Parameter groups, schedule and running average of a run's weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from xvlm.errors import InputError
from xvlm.run import OptimConfig

POSITIONS = ("relative_position_bias_table", "pos_embed", "cls_token")
"""Of vision towers; they do not decay, though they are no vectors.  (Published: a ViT's do.)"""


def build_optimizer(
    model: nn.Module, config: OptimConfig, loaded: Collection[str], faithful: bool = False
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, grouped by rate and decay.

    Args:
        loaded: names of the parameters that came from a checkpoint.  The others are new and learn at
            `new_multiplier` times the rate, unless nothing was loaded at all (then nothing is special).
        faithful: the published grouping, by names: everything decays but what has "bias" or "norm" in its
            name, so a ViT's `pos_embed` and `cls_token` do.
    """
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            multiplier = _multiplier(name, config, loaded)
            decay = config.weight_decay if _decays(name, parameter, faithful) else 0.0
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


def _multiplier(name: str, config: OptimConfig, loaded: Collection[str]) -> float:
    if loaded and name not in loaded:
        return config.new_multiplier
    given = {
        "vision.": config.vision_multiplier,
        "text.": config.text_multiplier,
        "answers.": config.decoder_multiplier,
        "captions.": config.decoder_multiplier,
    }
    return next((rate for start, rate in given.items() if loaded and name.startswith(start)), 1.0)


def _decays(name: str, parameter: Tensor, faithful: bool) -> bool:
    """Whether a parameter of shape (...) decays."""
    if faithful:
        return "bias" not in name and "norm" not in name
    return parameter.ndim > 1 and not name.endswith(POSITIONS)


def rate(config: OptimConfig, step: int, faithful: bool = False) -> float:
    """Share of the peak learning rate at `step` (0 is the first): linear rise, then fall to `final_lr`.

    `faithful`: the rise begins at 0, so that the first update changes nothing (published).
    """
    if step < config.warmup:
        return (step + (not faithful)) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    left = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    if config.schedule not in left:
        raise InputError(f"schedule is {config.schedule!r}; it may be {' or '.join(left)}")
    return config.final_lr + (1 - config.final_lr) * left[config.schedule]


def set_rate(
    optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, faithful: bool = False
) -> float:
    """Set every group's rate for `step`, see `rate`; returns the rate of a group with multiplier 1."""
    base = config.lr * rate(config, step, faithful)
    for group in optimizer.param_groups:
        group["lr"] = base * group["multiplier"]
    return base


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """The norm of all gradients together, a scalar."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def step_clipped(optimizer: torch.optim.AdamW, norm: Tensor, clip: float) -> None:
    """A step as if gradients of this norm, a scalar, had been scaled to a norm of at most `clip` (0: any).

    AdamW's fused kernel divides by `grad_scale` while it reads a gradient; scaled beforehand, all gradients
    would go through memory twice more (docs/performance.md).
    """
    # 1e-6 as in `clip_grad_norm_`
    optimizer.grad_scale = ((norm + 1e-6) / clip).clamp(min=1.0) if clip else None  # type: ignore[attr-defined]
    optimizer.step()


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor holds NaN or infinity; `None` if none does.  Waits for the device once."""
    floating = {name: value.detach() for name, value in tensors.items() if value.is_floating_point()}
    norms = torch._foreach_norm(list(floating.values())) if floating else []
    if not norms or torch.stack([norm.float() for norm in norms]).isfinite().all():
        return None
    # A norm may overflow where every element is finite.
    return next((name for name, value in floating.items() if not value.isfinite().all()), None)


class Average:
    """Exponential running average of parameters and buffers, started late by a growing decay.

    The decay of update n is min(decay, (1 + n) / (10 + n)), so that early weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move a little towards the model's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        now = model.state_dict()
        floating = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.values[name] for name in floating], [now[name] for name in floating], 1 - decay
        )
        for name in self.values.keys() - set(floating):
            self.values[name].copy_(now[name])

    def swapped(self, model: nn.Module) -> Callable[[], None]:
        """Put the average into the model; call what is returned to put its own weights back."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.values)

        def back() -> None:
            model.load_state_dict(own)

        return back
