"""X-VLM: a vision encoder, a text encoder, a cross-modal encoder, and heads.  Built parts are passed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from xvlm.batch import Concepts, Images, Texts
from xvlm.boxes import cxcywh_to_xyxy, patch_centres
from xvlm.errors import InputError, XVLMError
from xvlm.model.attention import ConceptTokens
from xvlm.model.decoder import Decoder
from xvlm.model.fusion import CrossEncoder, Fused, PairEncoder, Read
from xvlm.model.heads import (
    BOX_HEADS,
    AssignmentHead,
    BoxHead,
    ContrastiveHead,
    LabelHead,
    LanguageHead,
    MLPHead,
    PointingBoxHead,
    at_least_float,
    full_precision,
)
from xvlm.model.text import TextConfig, TextEncoder, TextFeatures
from xvlm.model.vision import ImageFeatures, VisionConfig, VisionEncoder, build_vision
from xvlm.ranges import PositiveFloat, PositiveInt, validate

Part = Literal[
    "contrastive", "matching", "box", "masked", "pairs", "assignment", "answers", "captions", "labels"
]
PRETRAINING: tuple[Part, ...] = ("contrastive", "matching", "box", "masked")
ABOUT_PAIRS: tuple[Part, ...] = ("pairs", "assignment")


@dataclass(frozen=True)
class ModelConfig:
    """Everything that is needed to build the model again.

    Attributes:
        embed_dim: E, width of the contrastive space (published: 256).
        temperature: where the contrastive temperature starts.
        box_head: "mlp" (published) or "point"; see `model/heads.py`.
        parts: what the model can be asked: the four of pre-training; "pairs" (is a statement true of two
            images) and "assignment" (which of two images is described), whose cross-modal encoder looks at
            two images and serves nothing else; "answers" and "captions", which have decoders of their own;
            "labels" (which of `labels` a text with an image has).
        labels: names, in the order of the head's outputs.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embed_dim: PositiveInt = 256
    temperature: PositiveFloat = 0.07
    box_head: Literal["mlp", "point"] = "mlp"
    parts: tuple[Part, ...] = PRETRAINING
    labels: tuple[str, ...] = ()

    def conflicts(self) -> Iterator[str]:
        """What does not fit together, see `validate`."""
        chosen = set(self.parts)
        about_pairs = chosen & set(ABOUT_PAIRS)
        if about_pairs and chosen - about_pairs:
            yield (
                f"parts is {self.parts}; a cross-modal encoder that looks at pairs serves only "
                f"{' and '.join(ABOUT_PAIRS)}"
            )
        if "labels" in chosen and len(set(self.labels)) < max(2, len(self.labels)):
            yield f"labels is {self.labels}; it must name at least two, each once"


class MissingPart(XVLMError, AttributeError, ValueError):
    """The model has no such head; the message says what it has."""


class XVLM(nn.Module):
    """One model that aligns texts with objects, regions and whole images (X-VLM, figure 2).

    A fine-tuned model has the parts that its task needs, and no others; asking for another raises
    `MissingPart`.
    """

    vision: VisionEncoder
    text: TextEncoder
    fusion: CrossEncoder
    contrastive: ContrastiveHead
    matching: MLPHead
    box: BoxHead | PointingBoxHead
    masked: LanguageHead
    pairs: MLPHead
    assignment: AssignmentHead
    answers: Decoder
    captions: Decoder
    labels: LabelHead

    def __init__(self, config: ModelConfig, parts: Mapping[str, nn.Module]) -> None:
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
        has = ", ".join(self.config.parts)
        raise MissingPart(f"this model has no {name!r}, so it cannot do that; it has {has}")

    def encode_images(self, images: Images) -> ImageFeatures:
        """B images, once each, whatever is asked about them."""
        return self.vision(images)

    def encode_concepts(self, features: ImageFeatures, concepts: Concepts) -> tuple[ConceptTokens, Tensor]:
        """N concepts, then the B whole images: what texts look at, and v_cls (N + B, D)."""
        return self.vision.concepts(features, concepts)

    def encode_whole(self, features: ImageFeatures) -> tuple[ConceptTokens, Tensor]:
        """The B whole images alone: what texts look at, and v_cls (B, D)."""
        return self.encode_concepts(features, Concepts.none(features.tokens_BPD.device))

    def encode_texts(self, texts: Texts) -> TextFeatures:
        """N packed texts -> packed states (T, D) and w_cls (N, D)."""
        return self.text(texts)

    def fuse(
        self,
        texts: TextFeatures,
        text_R: Tensor,
        concepts: ConceptTokens,
        concept_R: Tensor,
        keys_values: list[Tensor] | None = None,
        read: Read | None = None,
    ) -> Fused:
        """Rows (R,), each any text with any concept, in one call; see `CrossEncoder`.

        In a model about pairs, each any text with any pair of images; see `PairEncoder`.
        """
        if isinstance(self.fusion, PairEncoder):
            return self.fusion(texts, text_R, concepts, concept_R, read=read)
        return self.fusion(texts, text_R, concepts, concept_R, keys_values, read=read)

    def fuse_cls(
        self,
        texts: TextFeatures,
        text_R: Tensor,
        concepts: ConceptTokens,
        concept_R: Tensor,
        keys_values: list[Tensor] | None = None,
    ) -> Tensor:
        """As `fuse`, but only x_cls (R, D) of each row: all that matching, boxes and labels read."""
        return self.fuse(texts, text_R, concepts, concept_R, keys_values, Read.nothing(text_R)).cls_RD

    def match(self, cls_RD: Tensor) -> Tensor:
        """(R, D) x_cls -> (R, 2) logits of (no match, match), never in half precision."""
        with full_precision(cls_RD):
            return self.matching(at_least_float(cls_RD))

    def judge_pairs(self, cls_RD: Tensor) -> Tensor:
        """(R, D) x_cls of statements about pairs -> (R, 2) logits of (false, true)."""
        with full_precision(cls_RD):
            return self.pairs(at_least_float(cls_RD))

    def predict_box(self, cls_RD: Tensor, concepts: ConceptTokens, concept_R: Tensor) -> Tensor:
        """(R, D) x_cls of texts with whole images `concept_R` (R,) -> (R, 4) (cx, cy, w, h) in [0, 1]."""
        patches_SPD = concepts.tokens_SPD if concepts.mean_summary else concepts.tokens_SPD[:, 1:]
        patches_RPD = patches_SPD.index_select(0, concepts.set_C[concept_R])
        place_P2 = patch_centres(concepts.grid_hw).to(cls_RD.device)
        with full_precision(cls_RD):
            return self.box.logits(at_least_float(cls_RD), at_least_float(patches_RPD), place_P2).sigmoid()

    def predict_box_xyxy(self, cls_RD: Tensor, concepts: ConceptTokens, concept_R: Tensor) -> Tensor:
        """As `predict_box`, but (R, 4) corners, clipped to the image."""
        return cxcywh_to_xyxy(self.predict_box(cls_RD, concepts, concept_R)).clamp(0, 1)


def build_model(config: ModelConfig, pretrained_vision: bool = False) -> XVLM:
    """The model with new weights: BERT's initialisation, and timm's in the vision encoder.

    Raises InputError for parts that do not go together, and settings that do not exist.
    """
    validate(config)
    if config.box_head not in BOX_HEADS:
        raise InputError(f"box_head is {config.box_head!r}; it may be {' or '.join(BOX_HEADS)}")
    chosen = set(config.parts)
    vision = build_vision(config.vision, pretrained=pretrained_vision)
    text = config.text
    parts: dict[str, nn.Module] = {"vision": vision}
    if chosen != {"captions"}:
        encoder = PairEncoder if chosen & set(ABOUT_PAIRS) else CrossEncoder
        parts |= {"text": TextEncoder(text), "fusion": encoder(text, vision.width)}
    builders = {
        "contrastive": lambda: ContrastiveHead(
            vision.width, text.width, config.embed_dim, config.temperature
        ),
        "matching": lambda: MLPHead(text.width, 2),
        "box": lambda: BOX_HEADS[config.box_head](text.width, vision.width),
        "masked": lambda: LanguageHead(text.width, text.vocab_size, text.norm_eps),
        "pairs": lambda: MLPHead(text.width, 2),
        "assignment": lambda: AssignmentHead(text.width, vision.width, config.embed_dim),
        "answers": lambda: Decoder(replace(text, text_layers=0), text.width),
        "captions": lambda: Decoder(text, vision.width),
        "labels": lambda: LabelHead(text.width, config.labels),
    }
    parts |= {name: build() for name, build in builders.items() if name in chosen}
    for name, part in parts.items():
        if name in ("text", "fusion", "masked", "answers", "captions"):
            part.apply(init_bert)
    return XVLM(config, parts)


def init_bert(module: nn.Module) -> None:
    """Normal(0, 0.02) for matrices and tables, zero biases (BERT)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
