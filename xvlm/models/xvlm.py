"""X-VLM: a vision encoder, a text encoder, a cross-modal encoder, and heads (X-VLM, figure 2).

From top to bottom: the configuration of a model, the table of heads, the model, and `build_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from xvlm import registry
from xvlm.batch import Concepts, Images, Texts
from xvlm.common.errors import InputError, MissingHead
from xvlm.common.ranges import PositiveFloat, PositiveInt, validate
from xvlm.models.detection import DetectionHead, Detections
from xvlm.models.generation.decoder import Decoder
from xvlm.models.heads import (
    AssignmentHead,
    BoxHead,
    Classifier,
    ContrastiveHead,
    LanguageHead,
    MLPHead,
    PointingBoxHead,
    build_box_head,
    in_full_precision,
)
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.text.cross_encoder import CrossEncoder, FusedTexts, OutputPositions, PairEncoder
from xvlm.models.text.encoder import TextConfig, TextEncoder, TextFeatures
from xvlm.models.vision.build import build_vision
from xvlm.models.vision.encoder import ImageFeatures, VisionConfig, VisionEncoder

M = TypeVar("M", bound=nn.Module)

PRETRAINING = ("contrastive", "matching", "box", "mlm")
"""The heads of pre-training."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and heads of a model.

    Attributes:
        vision: the vision encoder.
        text: sizes of the text layers and the cross-modal layers.
        embed_dim: E, width of the contrastive space (published: 256).
        temperature: initial temperature of the contrastive similarities.
        box_head: "mlp" (published) or "point"; see `models/heads.py`.
        heads: names of the heads, from `HEADS` or a task.
        labels: class names of a classifier, in the order of its outputs.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embed_dim: PositiveInt = 256
    temperature: PositiveFloat = 0.07
    box_head: Literal["mlp", "point"] = "mlp"
    heads: tuple[str, ...] = PRETRAINING
    labels: tuple[str, ...] = ()

    def conflicts(self) -> Iterator[str]:
        """Yield a sentence for each pair of settings that exclude each other; see `validate`."""
        specs = {name: find_head(name) for name in self.heads}
        over_pairs = [name for name, spec in specs.items() if spec.encoder == "pair"]
        if over_pairs and len(over_pairs) < len(specs):
            yield (
                f"heads is {self.heads}; {' and '.join(over_pairs)} need a cross-modal encoder over image "
                "pairs, which serves no other head"
            )
        are_distinct = len(set(self.labels)) >= max(2, len(self.labels))
        if any(spec.uses_labels for spec in specs.values()) and not are_distinct:
            yield f"labels is {self.labels}; it must name at least two, each once"


@dataclass(frozen=True)
class HeadSpec:
    """How a head is built, and what it needs from the model.

    Attributes:
        build: builds the head from the model configuration and the vision encoder, whose widths it may need.
        encoder: the cross-modal encoder that the head needs: "single" over one image, "pair" over image
            pairs, or none (`None`).
        init_bert: whether the head's weights are initialized as in BERT.
        initial: prefixes of the head's tensors, each with the prefix of the pre-trained tensors that
            initialize them.
        uses_labels: whether the head's outputs are `ModelConfig.labels`.
    """

    build: Callable[[ModelConfig, VisionEncoder], nn.Module]
    encoder: Literal["single", "pair"] | None = "single"
    init_bert: bool = False
    initial: Mapping[str, str] = field(default_factory=dict)
    uses_labels: bool = False


_DECODER_INITIAL = {"text.": "text.", "cross.": "fusion.", "head.": "mlm."}

HEADS: dict[str, HeadSpec] = {
    "contrastive": HeadSpec(
        lambda config, vision: ContrastiveHead(
            vision.width, config.text.width, config.embed_dim, config.temperature
        )
    ),
    "matching": HeadSpec(lambda config, _: MLPHead(config.text.width, 2)),
    "box": HeadSpec(
        lambda config, vision: build_box_head(
            config.box_head, config.text.width, vision.width, vision.finer_width
        )
    ),
    "detection": HeadSpec(
        lambda config, vision: DetectionHead(config.text.width, vision.width, vision.finer_width)
    ),
    "mlm": HeadSpec(
        lambda config, _: LanguageHead(config.text.width, config.text.vocab_size, config.text.norm_eps),
        init_bert=True,
    ),
    "pair_classifier": HeadSpec(lambda config, _: MLPHead(config.text.width, 2), encoder="pair"),
    "text_assignment": HeadSpec(
        lambda config, vision: AssignmentHead(config.text.width, vision.width, config.embed_dim),
        encoder="pair",
        initial={"vision.": "contrastive.vision."},
    ),
    "vqa_decoder": HeadSpec(
        lambda config, _: Decoder(replace(config.text, text_layers=0), config.text.width),
        init_bert=True,
        initial=_DECODER_INITIAL,
    ),
    "caption_decoder": HeadSpec(
        lambda config, vision: Decoder(config.text, vision.width),
        encoder=None,
        init_bert=True,
        initial=_DECODER_INITIAL,
    ),
    "classifier": HeadSpec(lambda config, _: Classifier(config.text.width, config.labels), uses_labels=True),
}
"""The heads of the published checkpoints, a classifier for visual entailment, and detection; a task may add
others."""


def find_head(name: str) -> HeadSpec:
    """Return the head of this name, from `HEADS` or from a task that is registered or was loaded.

    Raises InputError for an unknown name.
    """
    known = dict(HEADS) if name in HEADS else {**registry.task_heads(), **HEADS}
    if name not in known:
        raise InputError(
            f"no head is called {name!r}; known are {', '.join(sorted(known))}.  A head that a file of your "
            "own defines is known once that file is named"
        )
    spec = known[name]
    assert isinstance(spec, HeadSpec)
    return spec


class XVLM(nn.Module):
    """A model that aligns texts with objects, regions and whole images.

    Images and texts are encoded once each; `fuse` then combines any text with any concept, and heads predict
    from the `[CLS]` states.  A model has only the heads of its configuration; using another one raises
    `MissingHead`.
    """

    vision: VisionEncoder
    text: TextEncoder
    fusion: CrossEncoder
    contrastive: ContrastiveHead
    matching: MLPHead
    box: BoxHead | PointingBoxHead
    detection: DetectionHead
    mlm: LanguageHead
    pair_classifier: MLPHead
    text_assignment: AssignmentHead
    vqa_decoder: Decoder
    caption_decoder: Decoder
    classifier: Classifier

    def __init__(self, config: ModelConfig, parts: Mapping[str, nn.Module]) -> None:
        """Take the encoders and heads that `build_model` has built, by name."""
        super().__init__()
        self.config = config
        for name, part in parts.items():
            self.add_module(name, part)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in XVLM.__annotations__:
                raise
        raise self._missing(name)

    def head(self, name: str, kind: type[M]) -> M:
        """Return the head `name`, of type `kind`.  Raises MissingHead if the model has none."""
        found = self._modules.get(name)
        if not isinstance(found, kind):
            raise self._missing(name)
        return found

    def _missing(self, name: str) -> MissingHead:
        has = ", ".join(self.config.heads)
        return MissingHead(f"this model has no head {name!r}, so it cannot do that; it has {has}")

    def encode_images(self, images: Images) -> ImageFeatures:
        """Encode B images into (B, P, D) patch tokens."""
        return self.vision(images)

    def encode_concepts(self, features: ImageFeatures, concepts: Concepts) -> tuple[ConceptTokens, Tensor]:
        """Return the tokens and v_cls (N + B, D) of N concepts, followed by the B whole images."""
        return self.vision.concepts(features, concepts)

    def encode_whole(self, features: ImageFeatures) -> tuple[ConceptTokens, Tensor]:
        """Return the tokens and v_cls (B, D) of the B whole images."""
        return self.encode_concepts(features, Concepts.none(features.tokens_BPD.device))

    def encode_texts(self, texts: Texts) -> TextFeatures:
        """Encode N packed texts into states (T, D) and w_cls (N, D)."""
        return self.text(texts)

    def fuse(
        self,
        texts: TextFeatures,
        text_R: Tensor,
        concepts: ConceptTokens,
        concept_R: Tensor,
        keys_values: list[Tensor] | None = None,
        outputs: OutputPositions | None = None,
        total: int | None = None,
    ) -> FusedTexts:
        """Fuse text `text_R[r]` with concept `concept_R[r]` in each row r; see `CrossEncoder.forward`.

        With a cross-modal encoder over image pairs, `concept_R` are pairs; see `PairEncoder.forward`.
        """
        if isinstance(self.fusion, PairEncoder):
            return self.fusion(texts, text_R, concepts, concept_R, outputs=outputs)
        return self.fusion(texts, text_R, concepts, concept_R, keys_values, outputs=outputs, total=total)

    def fuse_cls(
        self,
        texts: TextFeatures,
        text_R: Tensor,
        concepts: ConceptTokens,
        concept_R: Tensor,
        keys_values: list[Tensor] | None = None,
    ) -> Tensor:
        """Return x_cls (R, D) of the rows of `fuse`, without the other states of the last layer."""
        return self.fuse(texts, text_R, concepts, concept_R, keys_values, OutputPositions.none(text_R)).cls_RD

    def match(self, cls_RD: Tensor) -> Tensor:
        """(R, D) x_cls -> (R, 2) logits of (no match, match), in full precision."""
        return in_full_precision(self.matching, cls_RD)

    def classify_pairs(self, cls_RD: Tensor) -> Tensor:
        """(R, D) x_cls of texts with image pairs -> (R, 2) logits of (false, true), in full precision."""
        return in_full_precision(self.pair_classifier, cls_RD)

    def predict_box(self, cls_RD: Tensor, concepts: ConceptTokens, image_R: Tensor) -> Tensor:
        """(R, D) x_cls of texts with whole images -> (R, 4) boxes (cx, cy, w, h) in [0, 1].

        Args:
            image_R: (R,) int64 index of each row's whole image among the concepts.
        """
        set_R = concepts.set_C[image_R]
        maps = [concepts.patches_SPD.index_select(0, set_R)]
        if concepts.finer_SChw is not None:
            maps.append(concepts.finer_SChw.index_select(0, set_R))
        logits = partial(self._box_logits, concepts.grid_hw)
        return in_full_precision(logits, cls_RD, *maps).sigmoid()

    def detect(self, cls_RD: Tensor, concepts: ConceptTokens, image_R: Tensor) -> Detections:
        """(R, D) x_cls of texts with whole images -> presence, objectness and boxes, in full precision.

        Args:
            image_R: (R,) int64 index of each row's whole image among the concepts.
        """
        set_R = concepts.set_C[image_R]
        return self.detection(cls_RD, concepts.patches_SPD, concepts.grid_hw, concepts.finer_SChw, set_R)

    def _box_logits(
        self, grid_hw: tuple[int, int], cls_RD: Tensor, patches_RPD: Tensor, finer_RChw: Tensor | None = None
    ) -> Tensor:
        """(R, D) x_cls, (R, P, D) patches of a grid, (R, C, h, w) finer map -> (R, 4) before the sigmoid."""
        return self.box.logits(cls_RD, patches_RPD, grid_hw, finer_RChw)


def build_model(config: ModelConfig, pretrained_vision: bool = False) -> XVLM:
    """Build a model with new weights, initialized as in timm (vision encoder) and BERT.

    Raises InputError for settings that do not exist or exclude each other.
    """
    validate(config)
    vision = build_vision(config.vision, pretrained=pretrained_vision)
    heads = {name: find_head(name) for name in config.heads}
    encoders = {spec.encoder for spec in heads.values()}
    parts: dict[str, nn.Module] = {"vision": vision}
    if encoders != {None}:
        encoder = PairEncoder if "pair" in encoders else CrossEncoder
        parts |= {"text": TextEncoder(config.text), "fusion": encoder(config.text, vision.width)}
    # In the order of the table, not of `config`, since the order decides which random numbers a head gets.
    ordered = [*(name for name in HEADS if name in heads), *(name for name in heads if name not in HEADS)]
    parts |= {name: heads[name].build(config, vision) for name in ordered}
    for name, part in parts.items():
        if name in ("text", "fusion") or (name in heads and heads[name].init_bert):
            part.apply(init_bert)
    return XVLM(config, parts)


def init_bert(module: nn.Module) -> None:
    """Initialize a module as in BERT: normal(0, 0.02) for matrices and tables, zero for biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
