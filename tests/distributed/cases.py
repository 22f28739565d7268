"""Computations for one process and for two, in float64 and from fixed seeds."""

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
from xvlm import distributed
from xvlm.config import OptimConfig
from xvlm.data.samples.builders import Sample
from xvlm.losses.box import box_losses
from xvlm.losses.contrastive import Positives, contrastive_loss
from xvlm.losses.detection import centre_heat, objectness_loss, presence_loss
from xvlm.losses.language import masked_language_loss
from xvlm.losses.matching import matching_loss
from xvlm.losses.negatives import Negatives
from xvlm.models.vision.batch_norm import synchronize_batch_norms
from xvlm.models.xvlm import PRETRAINING
from xvlm.tasks import pretrain
from xvlm.tasks.common.pretraining_batch import PretrainBatch, collate
from xvlm.tasks.common.pretraining_data import without_stream
from xvlm.tasks.pretrain import LossConfig
from xvlm.training.loop import on_any_rank
from xvlm.training.train import train

Values = dict[str, Tensor]


def numbers(seed: int, *shape: int) -> Tensor:
    """Return normal float64 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def local_rows(rows: Sequence[int]) -> slice:
    """Return this rank's rows, of which rank r has rows[r]; on one process, all rows."""
    if distributed.world_size() == 1:
        return slice(0, sum(rows))
    start = sum(rows[: distributed.rank()])
    return slice(start, start + rows[distributed.rank()])


def with_gradients(loss: Tensor, *inputs: Tensor) -> Values:
    """Return the global loss and its gradient for each of this rank's inputs, averaged as by DDP."""
    loss.backward()
    grads = {
        f"grad{i}": x.grad / distributed.world_size() for i, x in enumerate(inputs) if x.grad is not None
    }
    return {"loss": distributed.mean_over_ranks(loss), **grads}


# Keys of 8 rows: rows 1 and 6 share a text, rows 0, 2 and 7 a concept, on the same rank or not.
TEXT_KEY = torch.tensor([10, 11, 12, 13, 14, 15, 11, 17])
CONCEPT_KEY = torch.tensor([20, 21, 20, 23, 24, 25, 26, 20])


def contrastive(rows: Sequence[int], faithful: bool = False, published: Positives = "diagonal") -> Values:
    here = local_rows(rows)
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
    here = local_rows(rows)
    logits = numbers(3, 8, 2)[here].requires_grad_()
    return with_gradients(matching_loss(logits, (torch.arange(8) % 3 == 0)[here]), logits)


def mlm(rows: Sequence[int]) -> Values:
    here = local_rows(rows)
    logits = numbers(4, 8, 30)[here].requires_grad_()
    return with_gradients(masked_language_loss(logits, torch.arange(8)[here]), logits)


def box(rows: Sequence[int]) -> Values:
    here = local_rows(rows)
    predicted = numbers(5, 8, 4).sigmoid()[here].requires_grad_()
    l1, giou = box_losses(predicted, numbers(6, 8, 4).sigmoid()[here])
    return with_gradients(l1 + 2 * giou, predicted)


def presence(rows: Sequence[int]) -> Values:
    here = local_rows(rows)
    logits = numbers(7, 8)[here].requires_grad_()
    return with_gradients(presence_loss(logits, (torch.arange(8) % 3 == 0)[here]), logits)


def objectness(rows: Sequence[int]) -> Values:
    """Rows 0, 3 and 6 have a target each."""
    here = local_rows(rows)
    logits = numbers(8, 8, 12)[here].requires_grad_()
    row_X = torch.tensor([0, 3, 6])
    heat = centre_heat(numbers(9, 3, 4).sigmoid(), row_X, 8, (3, 4))[here]
    own = int(((row_X >= here.start) & (row_X < here.stop)).sum())
    return with_gradients(objectness_loss(logits, heat, own), logits)


LOSSES = {
    "contrastive": contrastive,
    "matching": matching,
    "mlm": mlm,
    "box": box,
    "presence": presence,
    "objectness": objectness,
}
SPLITS = {"even": (4, 4), "uneven": (3, 5), "nothing on rank 1": (8, 0)}


def losses(_: Path) -> dict[str, Values]:
    """Compute every loss, with every split of 8 rows."""
    computed = {f"{name}, {split}": LOSSES[name](rows) for name in LOSSES for split, rows in SPLITS.items()}
    computed["faithful by image"] = contrastive((4, 4), True, "image")
    return {**computed, "faithful": contrastive((4, 4), faithful=True)}


# Images of both data streams for each rank: rank 1 has no box, and different numbers of rows.
RANK_SAMPLES: list[dict[str, list[Sample]]] = [
    {"pairs": toy_samples([1, 1], 1, boxes=False), "regions": toy_samples([3, 2], 2)},
    {"pairs": toy_samples([1], 3, boxes=False), "regions": toy_samples([2, 3, 1], 4, boxes=False)},
]


def next_row_sampler(block_sizes: list[int], global_negatives: bool) -> Any:
    """Replace `sample_negatives`: the negative of a row is the next row of its rank, or of all ranks."""

    def sample(concept_NE: Tensor, *_: Any) -> Negatives:
        if global_negatives:  # local rows come first, then those of the next rank
            own = torch.arange(sum(block_sizes))
            return Negatives(own, (own + 1) % len(concept_NE), (own + 1) % len(concept_NE))
        rows: list[int] = []
        for size in block_sizes:
            rows += [len(rows) + (i + 1) % size for i in range(size)]
        assert len(rows) == len(concept_NE)
        return Negatives(torch.arange(len(rows)), torch.tensor(rows), torch.tensor(rows))

    return sample


def part_batch(name: str) -> tuple[PretrainBatch, list[int]]:
    """Return a batch of one data stream, of this rank or on one process of both, and the rows per rank."""
    ranks = [distributed.rank()] if distributed.world_size() > 1 else [0, 1]
    samples = [RANK_SAMPLES[rank][name] for rank in ranks]
    if name == "regions":  # the absent texts of an image are as many as its number
        samples = [
            [replace(one, absent=([2, 9, 8],) * place) for place, one in enumerate(part)] for part in samples
        ]
    return collate({name: [one for part in samples for one in part]}), [
        sum(len(sample.rows) for sample in part) for part in samples
    ]


def whole_task(
    kind: str, global_negatives: bool, parts: Sequence[str] = ("pairs", "regions")
) -> dict[str, Values]:
    """Compute `Pretrain.forward` and the gradients of all parameters, for each data stream by itself."""
    task = tiny_task(kind, heads=(*PRETRAINING, "detection")).double().train()
    task.weights = replace(task.weights, global_negatives=global_negatives, detection=1.0)
    if distributed.world_size() > 1:
        synchronize_batch_norms(task)
    wrapped = DistributedDataParallel(task) if distributed.world_size() > 1 else task
    computed = {}
    for name in parts:
        for module in task.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()  # each stream by itself
        batch, blocks = part_batch(name)
        real, pretrain.sample_negatives = (
            pretrain.sample_negatives,
            next_row_sampler(blocks, global_negatives),
        )
        try:
            values = wrapped(batch)
        finally:
            pretrain.sample_negatives = real
        # DDP requires a gradient of every parameter, also of those that no loss of this stream uses.
        zero = sum(p.sum() * 0 for p in task.parameters())
        (sum(values.values()) + zero).backward()
        computed[name] = {f"loss {n}": distributed.mean_over_ranks(v) for n, v in values.items()}
        computed[name] |= {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}
        computed[name] |= {n: b.clone() for n, b in task.named_buffers() if b.is_floating_point()}
        task.zero_grad()
    return computed


def tasks(_: Path) -> dict[str, dict[str, Values]]:
    """Compute tasks with each kind of encoder, one of them with BatchNorm, and local and global negatives."""
    return {
        f"{kind}, {negatives}": whole_task(kind, negatives == "global")
        for kind in ("swin", "vit", "cnn")
        for negatives in ("local", "global")
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
    """Compute two training steps of a BatchNorm on this rank's share of 8 rows, and one evaluation."""
    torch.manual_seed(0)
    kind = torch.float32 if name == "float32" else torch.float64
    norm = NORMS[name]().to(kind).train()
    for parameter in norm.parameters():
        parameter.data.normal_()
    if distributed.world_size() > 1:
        synchronize_batch_norms(norm)
    wrapped = (
        DistributedDataParallel(norm) if distributed.world_size() > 1 and list(norm.parameters()) else norm
    )
    shape = (8, 5) if name == "1d" else (8, 5, 3, 4)
    x, computed = numbers(1, *shape).to(kind)[local_rows(rows)], {}
    weight = numbers(2, *shape).to(kind)[local_rows(rows)]
    for step in range(2):
        inputs = (x * (step + 1) + step).requires_grad_()
        y = wrapped(inputs)
        loss = distributed.global_mean((y * weight).sum() + y.square().sum() / 3, y.numel())
        loss.backward()
        computed |= {f"loss {step}": distributed.mean_over_ranks(loss), f"rows {step}": y.detach()}
        computed[f"gradient {step}"] = inputs.grad / distributed.world_size()
    computed |= {f"parameter {n}": p.grad.clone() for n, p in norm.named_parameters()}
    computed |= {f"buffer {n}": b.clone() for n, b in norm.named_buffers()}
    computed["rows evaluated"] = norm.eval()(x)
    return computed


def norms(_: Path) -> dict[str, Values]:
    """Compute every kind of BatchNorm, with even and uneven splits."""
    return {f"{name}, {rows}": norm_of(name, rows) for name in NORMS for rows in ((4, 4), (3, 5))}


def run_of(name: str) -> Any:
    """Return a run that lacks a data stream, a loss or boxes throughout."""
    tower = "cnn" if name == "batch norm" else "convnext"
    run = tiny_run(tower, steps=3, accumulation_steps=2 if name == "accumulated" else 1)
    data = {
        "no regions": without_stream(run.data, "regions"),
        "no pairs": without_stream(run.data, "pairs"),
        "captions only": replace(run.data, max_regions=1),  # the only region is a caption: no box
    }.get(name, run.data)
    weights = {
        "no box loss": LossConfig(bbox=0, giou=0),
        "contrastive alone": LossConfig(itm=0, mlm=0, bbox=0, giou=0),
        "no contrastive": LossConfig(itc=0),
        "masked words alone": LossConfig(itc=0, itm=0, bbox=0, giou=0),
        "boxes alone": LossConfig(itc=0, itm=0, mlm=0),
        "detection": LossConfig(detection=1.0),
        "detection alone": LossConfig(itc=0, itm=0, mlm=0, bbox=0, giou=0, detection=1.0),
        "negatives of all ranks": LossConfig(global_negatives=True),
    }.get(name, LossConfig())
    if weights.detection:
        heads = (*run.model.heads, "detection")
        run, data = replace(run, model=replace(run.model, heads=heads)), replace(data, absent_texts=2)
    return replace(run, data=data, losses=weights)


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
    "detection",
    "detection alone",
    "negatives of all ranks",
    "batch norm",
]


def runs(folder: Path) -> dict[str, float]:
    """Train three steps of each run, from configuration to model folder."""
    last = {}
    for name in RUNS:
        run = run_of(name)
        _, state = train(run, folder / name.replace(" ", "_"))
        last[name] = float(state.step)
    return last


def stop_early(folder: Path) -> list[float]:
    """Return the steps of a run of 40 whose time budget is spent on rank 1 only, and reduced flags."""
    run = replace(
        tiny_run("swin"), optim=OptimConfig(steps=40, warmup_steps=1), losses=LossConfig(itm=0, mlm=0)
    )
    _, state = train(run, folder / "early", minutes=0.0 if distributed.rank() else None)
    flags = [on_any_rank([distributed.rank() == 1, False], step) for step in (19, 20)]
    return [float(state.step), *(float(flag) for pair in flags for flag in pair)]
