"""X-VLM: a vision encoder, a text encoder, a cross-modal encoder, and heads.  Built parts are passed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from xvlm.batch import Concepts, Images, Texts
from xvlm.boxes import cxcywh_to_xyxy, patch_centres
from xvlm.model.attention import ConceptTokens
from xvlm.model.fusion import CrossEncoder, Fused
from xvlm.model.heads import (
    BOX_HEADS,
    BoxHead,
    ContrastiveHead,
    MaskedLanguageHead,
    MLPHead,
    PointingBoxHead,
    at_least_float,
    full_precision,
)
from xvlm.model.text import TextConfig, TextEncoder, TextFeatures
from xvlm.model.vision import ImageFeatures, VisionConfig, VisionEncoder, build_vision


@dataclass(frozen=True)
class ModelConfig:
    """Everything that is needed to build the model again.

    Attributes:
        embed_dim: E, width of the contrastive space (published: 256).
        temperature: where the contrastive temperature starts.
        box_head: "mlp" (published) or "point"; see `model/heads.py`.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embed_dim: int = 256
    temperature: float = 0.07
    box_head: Literal["mlp", "point"] = "mlp"


class XVLM(nn.Module):
    """One model that aligns texts with objects, regions and whole images (X-VLM, figure 2)."""

    def __init__(
        self,
        config: ModelConfig,
        vision: VisionEncoder,
        text: TextEncoder,
        fusion: CrossEncoder,
        contrastive: ContrastiveHead,
        matching: MLPHead,
        box: BoxHead | PointingBoxHead,
        masked: MaskedLanguageHead,
    ) -> None:
        super().__init__()
        self.config = config
        self.vision = vision
        self.text = text
        self.fusion = fusion
        self.contrastive = contrastive
        self.matching = matching
        self.box = box
        self.masked = masked

    def encode_images(self, images: Images) -> ImageFeatures:
        """B images, once each, whatever is asked about them."""
        return self.vision(images)

    def encode_concepts(self, features: ImageFeatures, concepts: Concepts) -> tuple[ConceptTokens, Tensor]:
        """N concepts, then the B whole images: what texts look at, and v_cls (N + B, D)."""
        return self.vision.concepts(features, concepts)

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
    ) -> Fused:
        """Rows (R,), each any text with any concept, in one call; see `CrossEncoder`."""
        return self.fusion(texts, text_R, concepts, concept_R, keys_values)

    def predict_masked(self, x_MD: Tensor) -> Tensor:
        """(M, D) states of masked tokens after the cross-modal encoder -> (M, V) logits."""
        return self.masked(x_MD, self.text.embedding.token.weight)

    def match(self, cls_RD: Tensor) -> Tensor:
        """(R, D) x_cls -> (R, 2) logits of (no match, match), never in half precision."""
        with full_precision(cls_RD):
            return self.matching(at_least_float(cls_RD))

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
    """The model with new weights: BERT's initialisation, and timm's in the vision encoder."""
    if config.box_head not in BOX_HEADS:
        raise ValueError(f"box_head is {config.box_head!r}; it may be {' or '.join(BOX_HEADS)}")
    vision = build_vision(config.vision, pretrained=pretrained_vision)
    text = TextEncoder(config.text)
    width = config.text.width
    model = XVLM(
        config,
        vision=vision,
        text=text,
        fusion=CrossEncoder(config.text, vision.width),
        contrastive=ContrastiveHead(vision.width, width, config.embed_dim, config.temperature),
        matching=MLPHead(width, 2),
        box=BOX_HEADS[config.box_head](width, vision.width),
        masked=MaskedLanguageHead(width, config.text.vocab_size, config.text.norm_eps),
    )
    for part in (model.text, model.fusion, model.masked):
        part.apply(init_bert)
    return model


def init_bert(module: nn.Module) -> None:
    """Normal(0, 0.02) for matrices and tables, zero biases (BERT)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
