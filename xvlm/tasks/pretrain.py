"""Pre-training: four losses on images with captions and on images with regions, both in every step.

A step has two data streams (X-VLM, section 4): *pairs*, whole images with a caption each, and *regions*,
images with several concepts each.  Each encoder runs once over both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from xvlm import distributed
from xvlm.boxes import xyxy_to_cxcywh
from xvlm.common.errors import InputError
from xvlm.data.text.flip import FlipRule
from xvlm.distributed import RankLayout
from xvlm.losses.box import box_losses
from xvlm.losses.contrastive import (
    Positives,
    all_pairs_loss,
    contrastive_loss,
    published_positives,
    same_concept_or_text,
)
from xvlm.losses.language import masked_language_loss
from xvlm.losses.matching import matching_loss
from xvlm.losses.negatives import sample_negatives
from xvlm.losses.phrases import phrase_loss
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.text.cross_encoder import FusedTexts, OutputPositions
from xvlm.models.text.gathered import GatheredFeatures, gather_features
from xvlm.models.xvlm import XVLM
from xvlm.tasks.common.checks import check_positions, pretraining_conflicts
from xvlm.tasks.common.detection_losses import DETECTION_WEIGHTS, detection_losses
from xvlm.tasks.common.fusion_passes import FusionPasses
from xvlm.tasks.common.init import ModelRun, build_bundle, build_tokenizer
from xvlm.tasks.common.loss_config import LossConfig
from xvlm.tasks.common.loss_module import LossModule
from xvlm.tasks.common.pretraining_batch import (
    PretrainBatch,
    StepCounts,
    first_texts,
    is_slow_to_ask,
    part_of_stream,
)
from xvlm.tasks.common.pretraining_data import DataConfig, cached_features_of, step_dataset
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.sources import open_sources
from xvlm.tasks.common.task import Task
from xvlm.tasks.common.validation import ZeroShotValidation, zero_shot_validation


class Pretrain(LossModule):
    """The four losses of pre-training: contrastive, matching, masked language modelling and box.

    The `published` positives are those of faithful mode.  With "image" (retrieval and weak grounding) the
    temperature is not clamped in faithful mode: the published code clamps it in pre-training only.
    """

    def __init__(
        self, model: XVLM, losses: LossConfig, faithful: bool = False, published: Positives = "diagonal"
    ) -> None:
        super().__init__(model)
        self.weights = losses
        self.faithful = faithful
        self.published = published

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of every loss in the total, by name."""
        w = self.weights
        names = {"itc": w.itc, "itm": w.itm, "mlm": w.mlm}
        regions = {f"region_{name}": weight for name, weight in names.items()}
        found = {name: w.detection * weight for name, weight in DETECTION_WEIGHTS.items()}
        return {**names, **regions, "bbox": w.bbox, "giou": w.giou, **found, "phrases": w.phrases}

    def forward(self, batch: PretrainBatch) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Returns:
            scalars (), each this rank's part of the global mean: `itc`, `itm`, `mlm` and `phrases` of the
            pairs stream, `region_itc`, `region_itm`, `region_mlm`, `bbox`, `giou` and those of detection of
            the regions stream.
        """
        model, w = self.model, self.weights
        rows = len(batch.concepts)
        streams = {"": slice(0, batch.pairs), "region_": slice(batch.pairs, rows)}
        streams = {name: stream for name, stream in streams.items() if stream.start < stream.stop}
        counts = batch.counted()

        # Texts first: the backward pass then reaches them last, and their gradients reuse the memory of the
        # images' activations (docs/performance.md).
        used = batch.texts if w.mlm else first_texts(batch.texts, rows + batch.absent, counts.clean_tokens)
        texts = model.encode_texts(used)
        phrase_QD = None
        if w.phrases and batch.phrases is not None:
            phrase_QD = model.encode_texts(batch.phrases).cls_ND
        concepts, cls_CD = model.encode_concepts(model.encode_images(batch.images), batch.concepts)
        gathered = gather_features(texts, concepts, local_only=not (w.itm and w.global_negatives))

        losses: dict[str, Tensor] = {}
        passes = FusionPasses()
        matching: dict[str, tuple[slice, slice]] = {}
        all_pairs: tuple[slice, Tensor] | None = None
        if w.itc or w.itm or w.phrases:
            if not self.faithful or self.published == "diagonal":
                model.contrastive.clamp_temperature()
            concept_NE = model.contrastive.embed_concepts(cls_CD[:rows])
            text_NE = model.contrastive.embed_texts(texts.cls_ND[:rows])
        if w.phrases and "" in streams:
            losses["phrases"] = self.phrase_loss(batch, concepts, phrase_QD)
        for name, stream in streams.items():
            if w.itc:
                losses[name + "itc"] = contrastive_loss(
                    concept_NE[stream],
                    text_NE[stream],
                    model.contrastive.temperature,
                    batch.concept_key_N[stream],
                    batch.text_key_N[stream],
                    self.faithful,
                    self.published,
                )
            if w.itm and w.all_pairs and stream.stop <= batch.pairs:
                all_pairs = self.add_all_pairs(passes, batch, counts)
            elif w.itm:
                matching[name] = self.add_matching_passes(
                    passes, batch, counts, stream, gathered, concept_NE, text_NE
                )
        if w.mlm:
            fused_F = batch.fused_F
            masked_F = rows + batch.absent + torch.arange(len(fused_F), device=fused_F.device)
            masked = passes.add(masked_F, fused_F)
        boxed_N = batch.concepts.boxed_rows()
        if w.bbox or w.giou or w.detection:
            # The box is predicted from the whole image; whole images follow the N concepts.
            image_R = rows + batch.concepts.image_N[boxed_N]
            box = passes.add(boxed_N, image_R)
        if w.detection and batch.targets is not None:
            absent_A = rows + torch.arange(batch.absent, device=boxed_N.device)
            absent = passes.add(absent_A, rows + batch.targets.absent_image_A)
        if not passes.text:
            return losses

        fused = self.fuse(passes, gathered, concepts, batch, counts, masked if w.mlm else None)
        cls_RD = fused.cls_RD
        for name, (positive, negative) in matching.items():
            logits_R2 = model.match(torch.cat((cls_RD[positive], cls_RD[negative])))
            index_R = torch.arange(logits_R2.shape[0], device=logits_R2.device)
            losses[name + "itm"] = matching_loss(logits_R2, index_R < positive.stop - positive.start)
        if all_pairs is not None:
            rows_R, positive_BB = all_pairs
            logits_R2 = model.match(cls_RD[rows_R])
            log_odds_BB = (logits_R2[:, 1] - logits_R2[:, 0]).view_as(positive_BB)
            losses["itm"] = all_pairs_loss(log_odds_BB, positive_BB)
        if w.mlm:
            for name, stream in streams.items():
                own = part_of_stream(batch, stream, counts.masked_pairs)
                x_MD = fused.states_TD.index_select(0, fused.output_index_M[own])
                logits_MV = model.mlm(x_MD, texts.token_VD)
                losses[name + "mlm"] = masked_language_loss(logits_MV, batch.masked_target_M[own])
        if (w.bbox or w.giou) and "region_" in streams:
            losses["bbox"], losses["giou"] = box_losses(
                model.predict_box(cls_RD[box], concepts, image_R),
                xyxy_to_cxcywh(batch.concepts.box_xyxy_N4[boxed_N]),
                self.faithful,
            )
        if w.detection and batch.targets is not None:
            own_RD = torch.cat((cls_RD[box], cls_RD[absent]))
            whole_R = torch.cat((image_R, rows + batch.targets.absent_image_A))
            losses |= detection_losses(model, own_RD, concepts, whole_R, batch.targets)
        return losses

    def phrase_loss(self, batch: PretrainBatch, concepts: ConceptTokens, phrase_QD: Tensor | None) -> Tensor:
        """Return the loss of the captions of the pairs stream by their phrases, a scalar.

        Args:
            phrase_QD: (Q, D) w_cls of the phrases; `None` if no caption has any.
        """
        head, rows = self.model.contrastive, slice(0, batch.pairs)
        if phrase_QD is None or batch.phrase_row_Q is None:  # other ranks may have some
            return distributed.global_mean(head.temperature.new_zeros(()), batch.pairs)
        phrase_QE = head.embed_texts(phrase_QD)
        patch_NPE = head.embed_concepts(concepts.patches_SPD).index_select(0, concepts.set_C[rows])
        keys = batch.concept_key_N[rows], batch.text_key_N[rows]
        positive_NN = same_concept_or_text(*keys, *keys)
        return phrase_loss(patch_NPE, phrase_QE, batch.phrase_row_Q, positive_NN, head.temperature)

    def fuse(
        self,
        passes: FusionPasses,
        gathered: GatheredFeatures,
        concepts: ConceptTokens,
        batch: PretrainBatch,
        counts: StepCounts,
        masked: slice | None,
    ) -> FusedTexts:
        """Run the cross-modal encoder once over the R rows of all passes.

        Args:
            concepts: the concepts of this rank.
            counts: the numbers of `batch`.
            masked: the rows of the masked texts, whose masked tokens are needed; `None` without them.
        """
        text_R, concept_R = torch.cat(passes.text), torch.cat(passes.concept)
        context = gathered.concepts
        if context is not concepts:  # few of the images of all ranks are used here
            context = context.select_used(concept_R)
            concept_R = torch.arange(len(concept_R), device=concept_R.device)
        outputs = OutputPositions.none(text_R)
        if masked is not None:
            outputs = OutputPositions(masked.start + batch.masked_row_M, batch.masked_position_M)
        total = self.token_bound(counts, batch.texts.longest) if is_slow_to_ask(text_R) else None
        return self.model.fuse(gathered.texts, text_R, context, concept_R, outputs=outputs, total=total)

    def token_bound(self, counts: StepCounts, longest: int) -> int | None:
        """Return an upper bound of the tokens of all passes; `None` if only the device knows one.

        How long the sampled texts are is known on the device alone, and a GPU need not wait for the host to
        ask: some hundred tokens of filler cost less.
        """
        w = self.weights
        if w.itm and not self.has_local_negatives():
            return None
        boxed = counts.boxed_tokens if w.bbox or w.giou or w.detection else 0
        absent = counts.absent_tokens if w.detection else 0
        masked = counts.masked_tokens if w.mlm else 0
        pairs, regions = counts.matching_tokens
        if w.all_pairs:
            pairs = min(w.all_pairs, counts.fused_pairs) ** 2 * longest
        return (pairs + regions if w.itm else 0) + masked + boxed + absent

    def has_local_negatives(self) -> bool:
        """Return whether negatives are known on the host: rows of this rank, by the rules of today."""
        return not (self.faithful or self.weights.global_negatives)

    def add_all_pairs(
        self, passes: FusionPasses, batch: PretrainBatch, counts: StepCounts
    ) -> tuple[slice, Tensor]:
        """Add every pair of the first `all_pairs` texts of the pairs stream and their images.

        Returns:
            their slice among the rows of all passes, image by image, and (B, B) True where image i matches
            text j.
        """
        row_B = batch.fused_F[: min(self.weights.all_pairs, counts.fused_pairs)]
        keys = batch.concept_key_N[row_B], batch.text_key_N[row_B]
        rows = passes.add(row_B.repeat(len(row_B)), row_B.repeat_interleave(len(row_B)))
        return rows, same_concept_or_text(*keys, *keys)

    def add_matching_passes(
        self,
        passes: FusionPasses,
        batch: PretrainBatch,
        counts: StepCounts,
        stream: slice,
        gathered: GatheredFeatures,
        concept_NE: Tensor,
        text_NE: Tensor,
    ) -> tuple[slice, slice]:
        """Sample negatives within a data stream, and add its positives and twice as many negatives.

        Args:
            counts: the numbers of `batch`.
            stream: the rows of the stream.
            gathered: texts and concepts that negatives are sampled from.
            concept_NE: (N, E) embeddings of this rank's concepts, of all streams.
            text_NE: (N, E) embeddings of this rank's texts, of all streams.
        Returns:
            the slices of positives and negatives among the rows of all passes.
        """
        own_N = torch.arange(stream.start, stream.stop, device=concept_NE.device)
        layout = RankLayout.for_count(len(own_N), own_N, local_only=not self.weights.global_negatives)
        text_G = gathered.text_layout.local_to_global(own_N, layout)
        concept_G = gathered.concept_layout.local_to_global(own_N, layout)
        row_F = batch.fused_F[part_of_stream(batch, stream, counts.fused_pairs)]
        candidate_F = row_F
        if self.has_local_negatives():
            candidate_F = counts.negative_Q[part_of_stream(batch, stream, counts.negative_pairs)]
        keys = batch.concept_key_N, batch.text_key_N
        positive_FG = same_concept_or_text(
            *(key[candidate_F] for key in keys), *(layout.gather(key[stream]) for key in keys)
        )
        if self.faithful:
            key_N = batch.concept_key_N
            positive_FG = published_positives(
                key_N[row_F], layout.gather(key_N[stream]), row_F - stream.start, self.published
            )
        negatives = sample_negatives(
            layout.gather(concept_NE[stream].detach()),
            layout.gather(text_NE[stream].detach()),
            self.model.contrastive.temperature,
            positive_FG,
            candidate_F - stream.start,
            self.weights.uniform_negative_ratio,
            self.has_local_negatives(),
        )
        row_Q = stream.start + negatives.row_Q
        positive = passes.add(row_F, row_F)
        negative_concept = passes.add(row_Q, concept_G[negatives.concept_Q])
        negative_text = passes.add(text_G[negatives.text_Q], row_Q)
        return positive, slice(negative_concept.start, negative_text.stop)


def freeze_unused(model: XVLM, losses: LossConfig, boxes: bool) -> None:
    """Freeze the modules that no loss reaches, whose gradients DistributedDataParallel would wait for.

    Raises InputError if every loss has weight 0.
    """
    box = boxes and bool(losses.bbox or losses.giou)
    detection = boxes and bool(losses.detection)
    fused = bool(losses.itm or losses.mlm) or box or detection
    contrastive = bool(losses.itc or losses.phrases)
    if not (contrastive or fused):
        raise InputError(f"every loss has weight 0, or there are no boxes for it: {losses}")
    used = {
        "contrastive": contrastive,
        "matching": losses.itm,
        "mlm": losses.mlm,
        "box": box,
        "detection": detection,
        "fusion": fused,
    }
    for name, weight in used.items():
        if not weight and hasattr(model, name):
            getattr(model, name).requires_grad_(False)


@dataclass(frozen=True)
class PretrainRun(ModelRun):
    """A pre-training run.

    Attributes:
        data: data of a step.
        losses: weights of the losses.
        validation: data that the model is evaluated on during training.
    """

    data: DataConfig = field(default_factory=DataConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    validation: ZeroShotValidation = field(default_factory=ZeroShotValidation)

    def batch_sizes(self) -> dict[str, int]:
        """Return the number of images of each data stream in a global batch."""
        data = self.data
        regions = data.regions_batch_size
        if data.pairs and not self.faithful:
            regions = max(1, round(regions * data.region_step_ratio))
        sizes = {
            "pairs": data.pairs_batch_size if data.pairs else 0,
            "regions": regions if data.regions else 0,
        }
        return {name: size for name, size in sizes.items() if size}

    def conflicts(self) -> Iterator[str]:
        """Yield a sentence for each pair of settings that exclude each other; see `validate`."""
        yield from pretraining_conflicts(self)


def build(
    run: PretrainRun, out: Path, published: Positives = "diagonal", published_flip_rule: FlipRule = "always"
) -> TrainingSetup:
    """Build the model, the losses and the data of a run.

    Args:
        out: folder of the run.
        published: positives of the contrastive loss in faithful mode.
        published_flip_rule: which images are flipped in faithful mode.
    Raises:
        InputError: neither data stream has a source.
    """
    data = run.data
    sources = open_sources({"pairs": data.pairs, "regions": data.regions})
    if not any(sources.values()):
        raise InputError("the run has no data: data.pairs and data.regions are both empty")
    tokenizer = build_tokenizer(run.init, [source for several in sources.values() for source in several], out)
    bundle, pretrained_names = build_bundle(run, tokenizer)
    check_positions(bundle.model.config.text, data.max_tokens)
    bundle = replace(bundle, max_words=data.max_words, max_tokens=data.max_tokens)
    freeze_unused(bundle.model, run.losses, boxes=bool(data.regions))
    flip_rule: FlipRule = published_flip_rule if run.faithful else "exact"
    return TrainingSetup(
        Pretrain(bundle.model, run.losses, run.faithful, published),
        step_dataset(run, sources, bundle, out, flip_rule),
        bundle,
        pretrained_names,
        cached_features_of(data, sources, out),
    )


TASK = Task(PretrainRun, build, validation=lambda run: zero_shot_validation(run.validation))
