"""What teaches matching anything that contrastive scores do not know: a study over frozen encoders.

The outputs of the image encoder for several crops of every training image are computed once.  A new
cross-modal encoder and matching head then learn from them, with each of several seeds, and rerank images
that were not trained on.  Printed are, in both directions, R@1 and the negative log-likelihood of the true
candidates (`evaluation/score_weights.py`), by contrastive scores alone and with matching at its fitted
weight.  One hypothesis of docs/results.md is one command, for example:

    python benchmarks/matching_study.py --model runs/photos/align/model --root photos --negatives neighbours
        --train runs/photos/split1000/train.jsonl --held-out runs/photos/split1000/choose.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
import tyro
from frozen_encoders import EncodedPhotos, candidate_scores, encode_photos, log_odds, match
from torch import Tensor, nn

from xvlm.common.memory import keep_freed_memory
from xvlm.common.progress import Progress
from xvlm.config import OptimConfig
from xvlm.data.sources.json import JsonSource
from xvlm.data.text.phrases import split_phrases
from xvlm.evaluation.retrieval import text_ids
from xvlm.evaluation.score_weights import fit_score_weights
from xvlm.experiments.chosen_weights import recalls_at_1
from xvlm.experiments.seeds import over_seeds
from xvlm.inference.model import InferenceModel
from xvlm.losses.contrastive import all_pairs_loss, same_concept_or_text, soft_cross_entropy
from xvlm.losses.matching import matching_loss
from xvlm.losses.negatives import sample_negatives
from xvlm.models.text.attention import CrossAttention, SelfAttention
from xvlm.models.text.dropout import Dropout
from xvlm.models.xvlm import init_bert
from xvlm.training.optimizer import lr_factor

NEIGHBOURS = 24
"""Nearest images that a group's other images are drawn from."""


@dataclass(frozen=True)
class Study:
    """What is trained.

    Attributes:
        model: model whose contrastive scores are reranked.
        train, held_out: JSON lines with captions, to train and to evaluate on.
        root: folder of the images.
        patches: model whose encoders matching reads; by default `model`.
        negatives: "sampled" takes one negative text and one image for each pair, half of them uniformly;
            "all_pairs" compares all texts of a batch with all its images; "neighbours" does so within groups
            of images that the contrastive scores find similar; "swapped" adds to "all_pairs" each image's own
            caption with one phrase of another caption.
        init: "new" weights, or "aligned": cross-attention that begins as the contrastive comparison.
        soft_targets: share of the labels that a momentum teacher gives, the average of the weights so far, as
            in ALBEF (Li et al., NeurIPS 2021, section 3.3); not with "sampled" negatives.
        dropout: dropout probability of the cross-modal layers.
        images: number of training images; 0 for all.
        crops: number of crops of each training image.
        steps: number of training steps.
        batch_size: images of a step.
        group: images of a group of neighbours.
        candidates: number of candidates that are reranked.
        lr: peak of the learning rate.
        seeds: number of runs.
    """

    model: Path
    train: Path
    held_out: Path
    root: Path
    patches: Path | None = None
    negatives: Literal["sampled", "all_pairs", "neighbours", "swapped"] = "all_pairs"
    init: Literal["new", "aligned"] = "new"
    soft_targets: float = 0.0
    dropout: float = 0.1
    images: int = 0
    crops: int = 3
    steps: int = 300
    batch_size: int = 32
    group: int = 8
    candidates: int = 16
    lr: float = 1e-3
    seeds: int = 3


def begin_anew(read: InferenceModel, photos: EncodedPhotos, study: Study) -> list[nn.Parameter]:
    """Give the cross-modal encoder and the matching head new weights; freeze all others, and return these."""
    model = read.model
    for module in model.fusion.modules():
        if isinstance(module, Dropout):
            module.probability = study.dropout
        elif isinstance(module, SelfAttention | CrossAttention):
            module.dropout = study.dropout
    model.requires_grad_(False)
    for part in (model.fusion, model.matching):
        part.apply(init_bert)
        for module in part.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        part.requires_grad_(True)
    if study.init == "aligned":
        align_cross_attention(read, photos)
    return [*model.fusion.parameters(), *model.matching.parameters()]


@torch.no_grad()
def align_cross_attention(read: InferenceModel, photos: EncodedPhotos, attention_std: float = 2.0) -> None:
    """Let cross-attention begin as the contrastive comparison: a token attends to the patches that fit it.

    Queries and keys are the contrastive projections of token and patch, turned at random, and scaled so that
    attention scores have the deviation `attention_std`; values are the patch's projection, taken back to the
    text's width at half the deviation of the text states.  The other sublayers are the text encoder's last.
    """
    model, heads = read.model, read.model.config.text.heads
    text_ED, image_EC = model.contrastive.text.weight, model.contrastive.vision.weight
    state_TD = read.encode_texts(photos.texts[:200]).states_TD
    patch_PC = photos.patch_IVPD[:50, 0].flatten(0, 1).float()
    dim, width = text_ED.shape
    text_layers = list(model.text.layers)[-len(model.fusion.layers) :]
    for layer, text_layer in zip(model.fusion.layers, text_layers, strict=True):
        missing, unexpected = layer.load_state_dict(text_layer.state_dict(), strict=False)
        assert not unexpected
        assert all(name.startswith("cross") for name in missing)  # the sublayers that a text layer lacks
        turn_DE = torch.linalg.qr(torch.randn(width, dim))[0]
        q_TD, k_PD = state_TD @ (turn_DE @ text_ED).T, patch_PC @ (turn_DE @ image_EC).T
        split = (-1, heads, width // heads)
        score_HTP = torch.einsum("thk,phk->htp", q_TD[:500].view(split), k_PD[:2000].view(split))
        factor = (attention_std * (width // heads) ** 0.5 / score_HTP.std()) ** 0.5
        cross = cast(CrossAttention, layer.cross)
        cross.q.weight.copy_(factor * turn_DE @ text_ED)
        value_DC, out_DD = turn_DE @ image_EC, text_ED.T @ turn_DE.T
        mixed_PD = (patch_PC - patch_PC.mean(0)) @ value_DC.T @ out_DD.T
        cross.kv.weight.copy_(torch.cat((factor * turn_DE @ image_EC, value_DC)))
        cross.kv.bias[width:] = -(patch_PC.mean(0) @ value_DC.T)
        cross.out.weight.copy_(out_DD * (0.5 * state_TD.std() / mixed_PD.std()))


def neighbours(photos: EncodedPhotos) -> Tensor:
    """Return (I, NEIGHBOURS) the images whose captions and patches are most like those of each image."""
    sum_IE = torch.zeros_like(photos.embedding_IE).index_add(0, photos.image_N, photos.embedding_NE)
    joint_IE = nn.functional.normalize(photos.embedding_IE + nn.functional.normalize(sum_IE), dim=1)
    return (joint_IE @ joint_IE.T).topk(NEIGHBOURS + 1, 1).indices[:, 1:]


def swapped_phrase(text: str, other: str, rng: np.random.Generator) -> str:
    """Return a caption with one of its phrases replaced by one of another caption."""
    phrases, others = split_phrases(text), split_phrases(other)
    if not (phrases and others):
        return other
    phrases[rng.integers(len(phrases))] = others[rng.integers(len(others))]
    return " ".join(phrases)


class MomentumTeacher:
    """The average of the weights so far, whose predictions are soft labels."""

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.99) -> None:
        self.parameters, self.momentum = parameters, momentum
        self.averages = [parameter.detach().clone() for parameter in parameters]

    def update(self, step: int) -> None:
        """Average the weights after a step; early ones count for less."""
        momentum = min(self.momentum, (step + 1) / (step + 10))
        current = [parameter.detach() for parameter in self.parameters]
        torch._foreach_lerp_(self.averages, current, 1 - momentum)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the average weights, without gradients."""
        current = [parameter.data for parameter in self.parameters]
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            parameter.data = average
        with torch.no_grad():
            yield
        for parameter, data in zip(self.parameters, current, strict=True):
            parameter.data = data


class MatchingBatches:
    """Draws images and captions, and computes the matching loss of a step."""

    def __init__(
        self, study: Study, read: InferenceModel, photos: EncodedPhotos, teacher: MomentumTeacher, seed: int
    ) -> None:
        self.study, self.read, self.photos, self.teacher = study, read, photos, teacher
        self.rng = np.random.default_rng(seed)
        self.near_IK = neighbours(photos) if study.negatives == "neighbours" else None
        self.texts_of: list[list[int]] = [[] for _ in photos.embedding_IE]
        for text, image in enumerate(photos.image_N.tolist()):
            self.texts_of[image].append(text)

    def draw_images(self) -> Tensor:
        """Return (B,) images; in groups of neighbours, if these are the negatives."""
        count, size = len(self.texts_of), self.study.batch_size
        if self.near_IK is None:
            return torch.from_numpy(self.rng.choice(count, size, replace=False))
        others = self.study.group - 1
        groups = []
        for image in self.rng.choice(count, size // self.study.group, replace=False):
            drawn = self.rng.choice(NEIGHBOURS, others, replace=False)
            groups.append(torch.cat((torch.tensor([image]), self.near_IK[image, drawn])))
        return torch.cat(groups)

    def loss(self, temperature: Tensor) -> Tensor:
        """Return the loss of one batch, a scalar."""
        photos, kind = self.photos, self.study.negatives
        image_B = self.draw_images()
        text_B = torch.tensor([int(self.rng.choice(self.texts_of[image])) for image in image_B.tolist()])
        crop_B = torch.from_numpy(self.rng.integers(photos.patch_IVPD.shape[1], size=len(image_B)))
        patch_BPD = photos.patch_IVPD[image_B, crop_B]
        texts = [photos.texts[text] for text in text_B.tolist()]
        own_B = torch.arange(len(image_B))
        keys = image_B, text_ids(texts, shared=True)
        positive_BB = same_concept_or_text(*keys, *keys)
        if kind == "sampled":
            embeddings = photos.embedding_IE[image_B], photos.embedding_NE[text_B]
            drawn = sample_negatives(*embeddings, temperature, positive_BB, own_B, uniform_ratio=0.5)
            text_R = torch.cat((own_B, drawn.text_Q, drawn.row_Q))
            image_R = torch.cat((own_B, drawn.row_Q, drawn.concept_Q))
            logits_R2 = match(self.read, photos, patch_BPD, texts, torch.stack((text_R, image_R)))
            return matching_loss(logits_R2, torch.arange(len(text_R)) < len(own_B))
        group = self.study.group if kind == "neighbours" else len(own_B)
        index_Ggg = own_B.view(-1, group)[:, None, :].expand(-1, group, -1)
        pairs = torch.stack((index_Ggg.flatten(), index_Ggg.transpose(1, 2).flatten()))
        if kind == "swapped":
            others = self.rng.permutation(len(photos.texts))[: len(texts)]
            pieces = zip(texts, others, strict=True)
            texts += [swapped_phrase(text, photos.texts[other], self.rng) for text, other in pieces]
            pairs = torch.cat((pairs, torch.stack((len(own_B) + own_B, own_B))), 1)
        odds_R = log_odds(match(self.read, photos, patch_BPD, texts, pairs))
        square_Ggg = odds_R[: index_Ggg.numel()].view(-1, group, group)
        losses = [
            all_pairs_loss(odds_gg, positive_BB[rows][:, rows])
            for odds_gg, rows in zip(square_Ggg, own_B.view(-1, group), strict=True)
        ]
        if share := self.study.soft_targets:
            with self.teacher.in_place():
                taught_R = log_odds(match(self.read, photos, patch_BPD, texts, pairs[:, : index_Ggg.numel()]))
            taught_Ggg = taught_R.view_as(square_Ggg)
            soft = [
                (soft_cross_entropy(a_gg, b_gg.softmax(1)) + soft_cross_entropy(a_gg.T, b_gg.T.softmax(1)))
                / 2
                for a_gg, b_gg in zip(square_Ggg, taught_Ggg, strict=True)
            ]
            losses = [torch.lerp(own, one.mean(), share) for own, one in zip(losses, soft, strict=True)]
        if kind == "swapped":
            own_and_swapped_B2 = torch.stack((square_Ggg[0].diagonal(), odds_R[index_Ggg.numel() :]), 1)
            losses.append(nn.functional.cross_entropy(own_and_swapped_B2, torch.zeros_like(own_B)))
        return torch.stack(losses).mean()


def run_seed(
    study: Study,
    read: InferenceModel,
    train: EncodedPhotos,
    held_out: EncodedPhotos,
    temperature: Tensor,
    seed: int,
) -> dict[str, float]:
    """Train with one seed, and return the figures of the held-out images."""
    torch.manual_seed(seed)
    parameters = begin_anew(read, train, study)
    optimizer = torch.optim.AdamW(parameters, lr=study.lr, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = OptimConfig(steps=study.steps, warmup_steps=min(60, study.steps // 5), schedule="cosine")
    teacher = MomentumTeacher(parameters)
    batches = MatchingBatches(study, read, train, teacher, seed)
    losses: list[float] = []
    progress = Progress(f"seed {seed}", study.steps)
    for step in range(study.steps):
        optimizer.param_groups[0]["lr"] = study.lr * lr_factor(schedule, step)
        read.model.fusion.train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = batches.loss(temperature)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        teacher.update(step)
        losses.append(loss.item())
        progress.update(step + 1, f"loss {np.mean(losses[-50:]):.3f}")
    progress.close()
    with torch.autocast("cpu", torch.bfloat16):
        tables = candidate_scores(read, held_out, temperature, study.candidates)
    fitted = fit_score_weights(tables, ("matching",))
    figures = {f"{name}_contrastive": value for name, value in recalls_at_1(tables).items()}
    figures |= recalls_at_1(tables, fitted) | {"matching_weight": fitted.matching}
    for direction, table in zip(("i2t", "t2i"), tables, strict=True):
        one = fit_score_weights([table], ("matching",))
        figures |= {f"{direction}_nll_contrastive": one.nll_contrastive, f"{direction}_nll": one.nll}
        figures[f"{direction}_nll_gain"] = one.nll_contrastive - one.nll
    return figures | {"loss": float(np.mean(losses[-50:]))}


def main(study: Study) -> None:
    """Encode, train with each seed, and print the means."""
    keep_freed_memory()
    scored = InferenceModel.load(study.model)
    read = InferenceModel.load(study.patches or study.model)
    temperature = scored.model.contrastive.temperature.detach()
    with torch.autocast("cpu", torch.bfloat16):
        train, held_out = (
            encode_photos(scored, read, JsonSource(lines, str(study.root)), images, crops)
            for lines, images, crops in (
                (study.train, study.images, study.crops),
                (study.held_out, 0, 0),
            )
        )
    runs = [run_seed(study, read, train, held_out, temperature, seed) for seed in range(study.seeds)]
    for name, values in over_seeds(runs).items():
        print(f"{name:22} {values.mean:8.4f} ± {values.deviation:.4f}")


if __name__ == "__main__":
    main(tyro.cli(Study, description=__doc__))
