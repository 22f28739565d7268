"""Pre-training: four losses on images with captions and images with regions, both in every step.

A step has two parts (X-VLM, section 4): *pairs*, whole images with a caption each, and *regions*, images with
several concepts each.  All passes of both parts go through each encoder in one call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from xvlm import dist
from xvlm.boxes import xyxy_to_cxcywh
from xvlm.data.loader import Feed, Part, View
from xvlm.data.mirror import MirrorRule
from xvlm.data.stem_views import StemPairs, StemRegions, StemViews
from xvlm.data.transforms import PairsTransform, RegionsTransform
from xvlm.data.views import PairsView, RegionsView, TextView
from xvlm.dist import Ring
from xvlm.errors import InputError
from xvlm.losses.box import box_losses
from xvlm.losses.contrastive import Positives, contrastive_loss, published_positives, same_thing
from xvlm.losses.matching import draw_negatives, matching_loss
from xvlm.losses.mlm import masked_language_loss
from xvlm.model.everyone import Everyone, everyones
from xvlm.model.fusion import Read
from xvlm.model.xvlm import XVLM, ModelConfig
from xvlm.ranges import NonNegativeFloat, Probability
from xvlm.run import Run
from xvlm.tasks._batch import PARTS, Collate, PretrainBatch, first_texts
from xvlm.tasks._build import (
    Built,
    Init,
    StemPlan,
    build_loaded,
    build_tokenizer,
    mixture,
    open_parts,
)
from xvlm.tasks._conflicts import check_positions, pretraining_conflicts
from xvlm.tasks._data import DataConfig
from xvlm.tasks._dev import DevConfig, Evaluation, measured_zero_shot


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses in the sum; a loss of weight 0 is not computed.

    Attributes:
        easy_negatives: share of the matching loss's negatives that are drawn from all alike.  With none
            (published), a new cross-modal encoder on well-aligned towers learns nothing for long: every
            negative is one that the towers cannot tell (measured in docs/results.md).
        global_negatives: whether negatives are drawn from all ranks' rows instead of this rank's own
            (published): harder ones, for all ranks' patches and text states on every rank.
    """

    itc: NonNegativeFloat = 1.0
    itm: NonNegativeFloat = 1.0
    mlm: NonNegativeFloat = 1.0
    bbox: NonNegativeFloat = 1.0
    giou: NonNegativeFloat = 1.0
    easy_negatives: Probability = 0.0
    global_negatives: bool = False


@dataclass
class Passes:
    """The rows of the one cross-modal call of a step: which text with which concept, pass by pass."""

    text: list[Tensor] = field(default_factory=list)
    concept: list[Tensor] = field(default_factory=list)

    def add(self, text_R: Tensor, concept_R: Tensor) -> slice:
        """Add a pass of (R,) rows; returns where its rows stand among all."""
        start = sum(part.shape[0] for part in self.text)
        self.text.append(text_R)
        self.concept.append(concept_R)
        return slice(start, start + text_R.shape[0])


class Pretrain(nn.Module):
    """The model with its losses; DDP wraps this, so that no call bypasses gradient synchronisation.

    In faithful mode `published` says what is positive; where it is "image", as in retrieval and weak
    grounding, the temperature is not clamped either: the published code clamps it in pre-training only.
    """

    def __init__(
        self,
        model: XVLM,
        losses: LossConfig,
        faithful: bool = False,
        published: Positives = "diagonal",
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = losses
        self.faithful = faithful
        self.published = published

    def loss_weights(self) -> dict[str, float]:
        """Weight in the sum of every loss that `forward` may return, by name."""
        w = self.weights
        names = {"itc": w.itc, "itm": w.itm, "mlm": w.mlm}
        return {
            **names,
            **{f"region_{name}": weight for name, weight in names.items()},
            "bbox": w.bbox,
            "giou": w.giou,
        }

    def forward(self, batch: PretrainBatch) -> dict[str, Tensor]:
        """Named losses (), each this rank's part of the global mean.

        `itc`, `itm`, `mlm` of the pairs part, `region_itc`, `region_itm`, `region_mlm`, `bbox`, `giou` of the
        regions part.
        """
        model, w = self.model, self.weights
        rows = len(batch.concepts)
        parts = {"": slice(0, batch.pairs), "region_": slice(batch.pairs, rows)}
        parts = {name: part for name, part in parts.items() if part.start < part.stop}

        # Texts first: the backward pass then comes to them last, and their gradients lie where images' states
        # lay, instead of beside them (docs/performance.md).
        texts = model.encode_texts(batch.texts if w.mlm else first_texts(batch.texts, rows))
        features = model.encode_images(batch.images)
        concepts, cls_CD = model.encode_concepts(features, batch.concepts)

        seen = everyones(texts, concepts, alone=not (w.itm and w.global_negatives))

        losses: dict[str, Tensor] = {}
        passes = Passes()
        matching: dict[str, tuple[slice, slice]] = {}
        if w.itc or w.itm:
            if not self.faithful or self.published == "diagonal":
                model.contrastive.clamp_temperature()
            concept_NE = model.contrastive.embed_concepts(cls_CD[:rows])
            text_NE = model.contrastive.embed_texts(texts.summary_ND[:rows])
        for name, part in parts.items():
            if w.itc:
                losses[name + "itc"] = contrastive_loss(
                    concept_NE[part],
                    text_NE[part],
                    model.contrastive.temperature,
                    batch.concept_key_N[part],
                    batch.text_key_N[part],
                    self.faithful,
                    self.published,
                )
            if w.itm:
                matching[name] = self.add_matching_passes(passes, batch, part, seen, concept_NE, text_NE)
        if w.mlm:
            fused_F = batch.fused_F
            masked = passes.add(rows + torch.arange(len(fused_F), device=fused_F.device), fused_F)
        boxed_N = batch.concepts.has_box_N.nonzero()[:, 0]
        if w.bbox or w.giou:
            # The box is sought in the whole image; whole images stand after the N concepts.
            whole_image = rows + batch.concepts.image_N[boxed_N]
            box = passes.add(boxed_N, whole_image)
        if not passes.text:
            return losses

        text_R, concept_R = torch.cat(passes.text), torch.cat(passes.concept)
        looked_at = seen.concepts
        if looked_at is not concepts:  # of all ranks' images few are looked at here
            looked_at, concept_R = (
                looked_at.looked_at(concept_R),
                torch.arange(len(concept_R), device=concept_R.device),
            )
        hidden = Read.nothing(text_R)
        if w.mlm:
            hidden = Read(masked.start + batch.masked_row_M, batch.masked_place_M)
        fused = model.fuse(seen.texts, text_R, looked_at, concept_R, read=hidden)
        cls_RD = fused.cls_RD
        for name, (positive, negative) in matching.items():
            logits = model.match(torch.cat((cls_RD[positive], cls_RD[negative])))
            is_match = torch.arange(logits.shape[0], device=logits.device) < positive.stop - positive.start
            losses[name + "itm"] = matching_loss(logits, is_match)
        if w.mlm:
            row_M = batch.fused_F[batch.masked_row_M]
            for name, part in parts.items():
                chosen_M = (row_M >= part.start) & (row_M < part.stop)
                x_MD = fused.states_TD.index_select(0, fused.read_M[chosen_M])
                logits_MV = model.masked(x_MD, texts.token_VD)
                losses[name + "mlm"] = masked_language_loss(logits_MV, batch.masked_target_M[chosen_M])
        if (w.bbox or w.giou) and "region_" in parts:
            losses["bbox"], losses["giou"] = box_losses(
                model.predict_box(cls_RD[box], concepts, whole_image),
                xyxy_to_cxcywh(batch.concepts.box_xyxy_N4[boxed_N]),
                self.faithful,
            )
        return losses

    def add_matching_passes(
        self,
        passes: Passes,
        batch: PretrainBatch,
        part: slice,
        seen: Everyone,
        concept_NE: Tensor,
        text_NE: Tensor,
    ) -> tuple[slice, slice]:
        """Draw negatives within one part; add its positives and twice as many negatives.

        Args:
            seen: where the texts and concepts of the M rows stand that negatives are drawn from: this rank's
                of the part, then perhaps those of the other ranks.
            concept_NE, text_NE: (N, E) of this rank and all parts.
        Returns:
            where positives and negatives stand among all passes.
        """
        own = torch.arange(part.start, part.stop, device=concept_NE.device)
        ring = Ring.of(len(own), own, alone=not self.weights.global_negatives)
        text_M, concept_M = seen.text_ring.places(own, ring), seen.concept_ring.places(own, ring)
        asked_F = batch.fused_F[(batch.fused_F >= part.start) & (batch.fused_F < part.stop)]
        keys = batch.concept_key_N, batch.text_key_N
        same_FM = same_thing(*(key[asked_F] for key in keys), *(ring.gather(key[part]) for key in keys))
        if self.faithful:
            key_N = batch.concept_key_N
            same_FM = published_positives(
                key_N[asked_F], ring.gather(key_N[part]), asked_F - part.start, self.published
            )
        drawn = draw_negatives(
            ring.gather(concept_NE[part].detach()),
            ring.gather(text_NE[part].detach()),
            self.model.contrastive.temperature,
            same_FM,
            asked_F - part.start,
            self.weights.easy_negatives,
        )
        row_F = part.start + drawn.row_N
        positive = passes.add(asked_F, asked_F)
        negative_concept = passes.add(row_F, concept_M[drawn.concept_N])
        negative_text = passes.add(text_M[drawn.text_N], row_F)
        return positive, slice(negative_concept.start, negative_text.stop)


def freeze_unused(model: XVLM, losses: LossConfig, boxes: bool) -> None:
    """No gradient is expected of what no loss reaches; DDP would wait for it.

    Raises InputError if every loss has weight 0.
    """
    box = boxes and bool(losses.bbox or losses.giou)
    fused = bool(losses.itm or losses.mlm) or box
    if not (losses.itc or fused):
        raise InputError(f"every loss has weight 0, or there are no boxes for it: {losses}")
    used = {
        "contrastive": losses.itc,
        "matching": losses.itm,
        "masked": losses.mlm,
        "box": box,
        "fusion": fused,
    }
    for name, weight in used.items():
        if not weight and hasattr(model, name):
            getattr(model, name).requires_grad_(False)


@dataclass(frozen=True)
class PretrainRun(Run):
    """A pre-training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    init: Init = field(default_factory=Init)
    data: DataConfig = field(default_factory=DataConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    dev: DevConfig = field(default_factory=DevConfig)

    def batches(self) -> dict[str, int]:
        """Images of each part in a global batch of a step."""
        data = self.data
        regions = data.regions_batch
        if data.pairs and not self.faithful:
            regions = max(1, round(regions * data.region_turns))
        batches = {"pairs": data.pairs_batch if data.pairs else 0, "regions": regions if data.regions else 0}
        return {name: batch for name, batch in batches.items() if batch}

    def conflicts(self) -> Iterator[str]:
        """What does not fit together, see `validate`."""
        yield from pretraining_conflicts(self)


RUN = PretrainRun


def build(
    run: PretrainRun, out: Path, published: Positives = "diagonal", published_mirror: MirrorRule = "always"
) -> Built:
    """The task, its data and its model, from a run's configuration.

    Args:
        published: as in `Pretrain`; published_mirror: which images faithful mode mirrors.

    Raises InputError if neither part has a source.
    """
    data = run.data
    configs = {"pairs": data.pairs, "regions": data.regions}
    sources = open_parts(configs)
    if not any(sources.values()):
        raise InputError("the run has no data: data.pairs and data.regions are both empty")
    tokenizer = build_tokenizer(run.init, [s for part in sources.values() for s in part], out)
    loaded, given = build_loaded(run.model, run.init, tokenizer, run.seed)
    check_positions(loaded.model.config.text, data.max_tokens)
    loaded = replace(loaded, max_words=data.max_words, max_tokens=data.max_tokens)
    model = loaded.model
    freeze_unused(model, run.losses, boxes=bool(data.regions))
    text = TextView(
        tokenizer,
        data.max_words,
        data.max_tokens,
        mask_probability=0.25 if run.losses.mlm else 0.0,
        max_masks=data.max_masks,
        faithful=run.faithful,
        word_dropout=data.word_dropout,
    )
    size, augment = loaded.model.config.vision.image_hw, (2, 7) if data.rand_augment else None
    pairs: PairsTransform | StemPairs
    regions: RegionsTransform | StemRegions
    mirror: MirrorRule = published_mirror if run.faithful else "exact"
    pairs = PairsTransform(size, data.scale, data.crop, data.flip, augment, mirror=mirror)
    regions = RegionsTransform(size, crop=data.crop, flip=data.flip, rand_augment=augment, mirror=mirror)
    stem: StemPlan | None = None
    if data.stem_views:
        folder = Path(data.stem_cache) if data.stem_cache else out / "stem"
        pairs, regions = (
            StemPairs(StemViews(folder), data.flip, mirror),
            StemRegions(StemViews(folder), flip=data.flip, mirror=mirror),
        )
        by_name = {source.name: source for part in sources.values() for source in part}
        stem = StemPlan(folder, list(by_name.values()), data.stem_views, data.stem_scale)
    views: dict[str, View] = {
        "pairs": PairsView(pairs, text, data.captions, data.boxes_as_captions),
        "regions": RegionsView(regions, text, data.max_regions, data.region_texts, data.region_captions),
    }
    batches, turns, rows = run.batches(), {}, 0
    if run.faithful:
        turns = {"regions": data.region_turns} if sources["pairs"] else {}
        rows = data.region_rows // (dist.world() * run.accumulate)
    parts = [
        Part(
            name,
            sources[name],
            batches[name],
            views[name],
            mixture(configs[name], sources[name]),
            own_turns=turns.get(name, 0.0),
        )
        for name in PARTS
        if sources[name]
    ]
    feed = Feed(
        parts, Collate(data.fused_per_image, rows), run.seed, dist.rank(), dist.world(), run.accumulate
    )
    return Built(Pretrain(model, run.losses, run.faithful, published), feed, loaded, given, stem)


def evaluation(run: PretrainRun) -> Evaluation | None:
    """What the run asks to be measured while it trains; see `measured_zero_shot`."""
    return measured_zero_shot(run.dev)
