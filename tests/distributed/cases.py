"""What both one process and two processes compute.  Everything is float64, and built from seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.tiny import tiny_run, tiny_task, toy_samples
from xvlm import dist
from xvlm.data.views import Sample
from xvlm.losses.box import box_losses
from xvlm.losses.contrastive import Positives, contrastive_loss
from xvlm.losses.matching import Negatives, matching_loss
from xvlm.losses.mlm import masked_language_loss
from xvlm.model.batch_norm import synchronise_batch_norms
from xvlm.run import OptimConfig
from xvlm.tasks import pretrain
from xvlm.tasks._batch import PretrainBatch, collate
from xvlm.tasks.pretrain import LossConfig
from xvlm.train.loop import on_any_rank
from xvlm.train.start import train

Values = dict[str, Tensor]


def numbers(seed: int, *shape: int) -> Tensor:
    """Float64, normal."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mine(rows: Sequence[int]) -> slice:
    """This rank's rows, where rank r has rows[r]; all of them on one process."""
    if dist.world() == 1:
        return slice(0, sum(rows))
    start = sum(rows[: dist.rank()])
    return slice(start, start + rows[dist.rank()])


def with_gradients(loss: Tensor, *inputs: Tensor) -> Values:
    """The global loss, and the gradient of it for each of this rank's inputs, as DDP would average them."""
    loss.backward()
    grads = {f"grad{i}": x.grad / dist.world() for i, x in enumerate(inputs) if x.grad is not None}
    return {"loss": dist.mean_over_ranks(loss), **grads}


# Keys of 8 rows: rows 1 and 6 share a text, rows 0, 2 and 7 a concept, whichever rank they are on.
TEXT_KEY = torch.tensor([10, 11, 12, 13, 14, 15, 11, 17])
CONCEPT_KEY = torch.tensor([20, 21, 20, 23, 24, 25, 26, 20])


def contrastive(rows: Sequence[int], faithful: bool = False, published: Positives = "diagonal") -> Values:
    here = mine(rows)
    concept = numbers(1, 8, 6)[here].requires_grad_()
    text = numbers(2, 8, 6)[here].requires_grad_()
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    loss = contrastive_loss(
        F.normalize(concept, dim=-1),
        F.normalize(text, dim=-1),
        temperature,
        CONCEPT_KEY[here],
        TEXT_KEY[here],
        faithful,
        published,
    )
    return with_gradients(loss, concept, text, temperature)


def matching(rows: Sequence[int]) -> Values:
    here = mine(rows)
    logits = numbers(3, 8, 2)[here].requires_grad_()
    return with_gradients(matching_loss(logits, (torch.arange(8) % 3 == 0)[here]), logits)


def mlm(rows: Sequence[int]) -> Values:
    here = mine(rows)
    logits = numbers(4, 8, 30)[here].requires_grad_()
    return with_gradients(masked_language_loss(logits, torch.arange(8)[here]), logits)


def box(rows: Sequence[int]) -> Values:
    here = mine(rows)
    predicted = numbers(5, 8, 4).sigmoid()[here].requires_grad_()
    l1, giou = box_losses(predicted, numbers(6, 8, 4).sigmoid()[here])
    return with_gradients(l1 + 2 * giou, predicted)


LOSSES = {"contrastive": contrastive, "matching": matching, "mlm": mlm, "box": box}
SPLITS = {"even": (4, 4), "uneven": (3, 5), "nothing on rank 1": (8, 0)}


def losses(_: Path) -> dict[str, Values]:
    """Every loss, with every split of 8 rows."""
    found = {f"{name}, {split}": LOSSES[name](rows) for name in LOSSES for split, rows in SPLITS.items()}
    found["faithful by image"] = contrastive((4, 4), True, "image")
    return {**found, "faithful": contrastive((4, 4), faithful=True)}


# Images of both parts for each rank: rank 1 has no box at all, and other numbers of rows.
RANK_SAMPLES: list[dict[str, list[Sample]]] = [
    {"pairs": toy_samples([1, 1], 1, boxes=False), "regions": toy_samples([3, 2], 2)},
    {"pairs": toy_samples([1], 3, boxes=False), "regions": toy_samples([2, 3, 1], 4, boxes=False)},
]


def next_row(block_sizes: list[int], everyones: bool) -> Any:
    """Stands in for the draw: the negative of each row is the next one of its rank's rows, or of all."""

    def draw(concept_NE: Tensor, *_: Any) -> Negatives:
        if everyones:  # this rank's own come first, then those of the rank behind it
            own = torch.arange(sum(block_sizes))
            return Negatives(own, (own + 1) % len(concept_NE), (own + 1) % len(concept_NE))
        rows: list[int] = []
        for size in block_sizes:
            rows += [len(rows) + (i + 1) % size for i in range(size)]
        assert len(rows) == len(concept_NE)
        return Negatives(torch.arange(len(rows)), torch.tensor(rows), torch.tensor(rows))

    return draw


def part_batch(name: str) -> tuple[PretrainBatch, list[int]]:
    """This rank's batch of one part alone (all ranks' on one process), and the rows of each rank in it."""
    ranks = [dist.rank()] if dist.world() > 1 else [0, 1]
    samples = [RANK_SAMPLES[rank][name] for rank in ranks]
    return collate({name: [one for part in samples for one in part]}), [
        sum(len(sample.rows) for sample in part) for part in samples
    ]


def whole_task(
    kind: str, global_negatives: bool, parts: Sequence[str] = ("pairs", "regions")
) -> dict[str, Values]:
    """`Pretrain.forward` and the gradients of all parameters, one part after the other."""
    task = tiny_task(kind).double().train()
    task.weights = replace(task.weights, global_negatives=global_negatives)
    if dist.world() > 1:
        synchronise_batch_norms(task)
    wrapped = DistributedDataParallel(task) if dist.world() > 1 else task
    found = {}
    for name in parts:
        for module in task.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()  # each part by itself
        batch, blocks = part_batch(name)
        real, pretrain.draw_negatives = pretrain.draw_negatives, next_row(blocks, global_negatives)
        try:
            values = wrapped(batch)
        finally:
            pretrain.draw_negatives = real
        # no weight is zero: parameters that only some losses reach still get a gradient, as DDP demands
        idle = sum(p.sum() * 0 for p in task.parameters())
        (sum(values.values()) + idle).backward()
        found[name] = {f"loss {n}": dist.mean_over_ranks(v) for n, v in values.items()}
        found[name] |= {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}
        found[name] |= {n: b.clone() for n, b in task.named_buffers() if b.is_floating_point()}
        task.zero_grad()
    return found


def tasks(_: Path) -> dict[str, dict[str, Values]]:
    """Every kind of encoder, one with statistics of the batch, both sorts of matching negatives."""
    return {
        f"{kind}, {sort}": whole_task(kind, sort == "global")
        for kind in ("swin", "vit", "cnn")
        for sort in ("local", "global")
    }


NORMS: dict[str, Any] = {
    "2d": lambda: nn.BatchNorm2d(5),
    "1d": lambda: nn.BatchNorm1d(5),
    "without weights": lambda: nn.BatchNorm2d(5, affine=False),
    "mean of all batches": lambda: nn.BatchNorm2d(5, momentum=None),
    "timm": lambda: BatchNormAct2d(5, act_layer=nn.SiLU),
    "float32": lambda: nn.BatchNorm2d(5),
}


def norm_of(name: str, rows: Sequence[int]) -> Values:
    """Two training steps of a BatchNorm on this rank's rows of 8, its statistics, and one in evaluation."""
    torch.manual_seed(0)
    kind = torch.float32 if name == "float32" else torch.float64
    norm = NORMS[name]().to(kind).train()
    for parameter in norm.parameters():
        parameter.data.normal_()
    if dist.world() > 1:
        synchronise_batch_norms(norm)
    wrapped = DistributedDataParallel(norm) if dist.world() > 1 and list(norm.parameters()) else norm
    shape = (8, 5) if name == "1d" else (8, 5, 3, 4)
    x, found = numbers(1, *shape).to(kind)[mine(rows)], {}
    weight = numbers(2, *shape).to(kind)[mine(rows)]
    for step in range(2):
        given = (x * (step + 1) + step).requires_grad_()
        y = wrapped(given)
        loss = dist.global_mean((y * weight).sum() + y.square().sum() / 3, y.numel())
        loss.backward()
        found |= {f"loss {step}": dist.mean_over_ranks(loss), f"rows {step}": y.detach()}
        found[f"gradient {step}"] = given.grad / dist.world()
    found |= {f"parameter {n}": p.grad.clone() for n, p in norm.named_parameters()}
    found |= {f"buffer {n}": b.clone() for n, b in norm.named_buffers()}
    found["rows evaluated"] = norm.eval()(x)
    return found


def norms(_: Path) -> dict[str, Values]:
    """Every kind, with even and uneven splits."""
    return {f"{name}, {rows}": norm_of(name, rows) for name in NORMS for rows in ((4, 4), (3, 5))}


def run_of(name: str) -> Any:
    """Runs in which something is missing all the way."""
    tower = "cnn" if name == "batch norm" else "convnext"
    run = tiny_run(tower, steps=3, accumulate=2 if name == "accumulated" else 1)
    data = {
        "no regions": {"regions": ()},
        "no pairs": {"pairs": ()},
        "captions only": {"max_regions": 1},  # one region each, which is a caption: never a box
    }.get(name, {})
    weights = {
        "no box loss": LossConfig(bbox=0, giou=0),
        "contrastive alone": LossConfig(itm=0, mlm=0, bbox=0, giou=0),
        "no contrastive": LossConfig(itc=0),
        "masked words alone": LossConfig(itc=0, itm=0, bbox=0, giou=0),
        "boxes alone": LossConfig(itc=0, itm=0, mlm=0),
        "negatives of all ranks": LossConfig(global_negatives=True),
    }.get(name, LossConfig())
    return replace(run, data=replace(run.data, **data), losses=weights)


RUNS = [
    "everything",
    "accumulated",
    "no regions",
    "no pairs",
    "captions only",
    "no box loss",
    "contrastive alone",
    "no contrastive",
    "masked words alone",
    "boxes alone",
    "negatives of all ranks",
    "batch norm",
]


def runs(folder: Path) -> dict[str, float]:
    """Three steps of each run, from configuration to model folder."""
    last = {}
    for name in RUNS:
        run = run_of(name)
        _, state = train(run, folder / name.replace(" ", "_"))
        last[name] = float(state.step)
    return last


def stop_early(folder: Path) -> list[float]:
    """A budget that only rank 1's clock says is spent, of 40 steps; and how flags spread."""
    run = replace(tiny_run("swin"), optim=OptimConfig(steps=40, warmup=1), losses=LossConfig(itm=0, mlm=0))
    _, state = train(run, folder / "early", minutes=0.0 if dist.rank() else None)
    flags = [on_any_rank([dist.rank() == 1, False], step) for step in (19, 20)]
    return [float(state.step), *(float(flag) for pair in flags for flag in pair)]
