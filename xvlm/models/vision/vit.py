"""Image encoders with a class token (DeiT, CLIP, ...)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.batch import Concepts, Images
from xvlm.common.errors import InputError
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.vision.encoder import ImageFeatures, VisionConfig, VisionEncoder


class ViTEncoder(VisionEncoder):
    """The class token is the vector of an image or region.

    For each region, the last `local_depth` blocks run again, with attention limited to its patches and the
    class token (the published code's local attention).
    """

    def __init__(self, model: nn.Module, config: VisionConfig) -> None:
        super().__init__(model, config)
        self.width = int(model.num_features)  # type: ignore[arg-type]
        if model.num_prefix_tokens != 1:
            raise InputError(
                f"{config.name} has {model.num_prefix_tokens} tokens before its patches; "
                "this encoder needs exactly one, the class token"
            )
        if not 0 < config.local_depth <= len(model.blocks):  # type: ignore[arg-type]
            raise InputError(
                f"local_depth is {config.local_depth}; {config.name} has {len(model.blocks)} blocks"  # type: ignore[arg-type]
            )

    def forward(self, images: Images) -> ImageFeatures:
        """Encode B images into (B, 1 + P, D) tokens."""
        model: Any = self.model
        x_BCHW = self.normalize(images)
        before_local, tokens = self.run_blocks(x_BCHW).unbind()
        stride = model.patch_embed.feat_ratio()
        grid_hw = (x_BCHW.shape[2] // stride, x_BCHW.shape[3] // stride)
        return ImageFeatures(tokens, grid_hw, before_local)

    def forward_blocks(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) -> (2, B, 1 + P, D): tokens before the blocks that run again, and after all blocks."""
        model: Any = self.model
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
        shared = len(model.blocks) - self.config.local_depth
        for block in model.blocks[:shared]:
            x = block(x)
        before_local = x
        for block in model.blocks[shared:]:
            x = block(x)
        return torch.stack((before_local, model.norm(x)))

    def concepts(self, features: ImageFeatures, concepts: Concepts) -> tuple[ConceptTokens, Tensor]:
        """Encode concepts; the (1 + P, D) token sets of regions follow those of the B whole images."""
        model: Any = self.model
        assert features.before_local_BPD is not None
        images = torch.arange(len(features), device=features.tokens_BPD.device)
        mask_CP = F.pad(self.patch_mask(features, concepts), (1, 0), value=True)
        region_N = concepts.boxed_rows()
        x = features.before_local_BPD.index_select(0, concepts.image_N[region_N])
        # The mask is additive because timm's unfused attention adds masks, boolean ones too.
        mask = torch.zeros_like(mask_CP[region_N], dtype=x.dtype).masked_fill(
            ~mask_CP[region_N], torch.finfo(x.dtype).min
        )
        for block in model.blocks[len(model.blocks) - self.config.local_depth :]:
            x = block(x, attn_mask=mask[:, None, None, :])
        sets_SPD = torch.cat((features.tokens_BPD, model.norm(x)))
        set_N = concepts.image_N.index_copy(
            0, region_N, len(features) + torch.arange(len(region_N), device=region_N.device)
        )
        set_C = torch.cat((set_N, images))
        tokens = ConceptTokens(sets_SPD, set_C, mask_CP, mean_summary=False, grid_hw=features.grid_hw)
        return tokens, sets_SPD[:, 0].index_select(0, set_C)
