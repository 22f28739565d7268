"""Image encoders with a feature map (Swin, ConvNeXt, EfficientNet, ResNet, ...)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.batch import Concepts, Images
from xvlm.common.errors import InputError
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.vision.encoder import ImageFeatures, VisionConfig, VisionEncoder


class GridEncoder(VisionEncoder):
    """The cells of the final feature map are the patches; a concept's vector is the mean of its patches."""

    def __init__(self, model: nn.Module, config: VisionConfig) -> None:
        super().__init__(model, config)
        if hasattr(model, "head"):
            # Only timm's classifier uses it (ConvNeXt's has a norm); DDP would wait for its gradients.
            model.head.requires_grad_(False)
        self.width = int(model.num_features)  # type: ignore[arg-type]
        self.channels_last_output = getattr(model, "output_fmt", "NCHW") == "NHWC"
        # The map of a CNN is not normalized and has no position embeddings; that of a Swin is and has.
        self.norm = nn.Identity() if self.channels_last_output else nn.LayerNorm(self.width)
        self.adds_position = not self.channels_last_output
        self.finer_stage: int | None = None
        if not self.channels_last_output:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Images) -> ImageFeatures:
        """Encode B images into (B, P, D) tokens, P = rows * columns of the final map.

        Raises InputError if the model returns no map.
        """
        x_BCHW = self.normalize(images)
        finer_BChw = None
        if not self.channels_last_output:
            x, finer_BChw = self._convolve(x_BCHW, images.stem_applied)
        elif self.config.finer_map:
            x, finer_BChw = self._forward_stages(x_BCHW)
        else:
            x = self.run_blocks(x_BCHW)
        if x.ndim != 4:
            raise InputError(
                f"{self.config.name} gives features {tuple(x.shape)}; an encoder needs a map (B, D, h, w) or "
                "(B, h, w, D), or has to be a VisionTransformer with a class token"
            )
        x_BhwD = x if self.channels_last_output else x.permute(0, 2, 3, 1)
        return ImageFeatures(
            self.norm(x_BhwD.flatten(1, 2)), (x_BhwD.shape[1], x_BhwD.shape[2]), finer_BChw=finer_BChw
        )

    def forward_blocks(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) -> the final map (B, D, h', w') or (B, h', w', D)."""
        return self.model.forward_features(x)  # type: ignore[operator, no-any-return]

    def _forward_stages(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, h, w) -> the final map as in `forward_blocks`, and the finer map (B, C, h', w') if any."""
        if self.finer_stage is None:
            return self.forward_blocks(x), None
        final, maps = self.model.forward_intermediates(x, indices=[self.finer_stage])  # type: ignore[operator]
        return final, maps[0]

    def _convolve(self, x_BCHW: Tensor, stem_applied: bool) -> tuple[Tensor, Tensor | None]:
        """(B, C, H, W) -> the final map (B, D, h, w), and the finer map (B, C', h', w') if there is one.

        Channels last is the fastest format on CPU and GPU.  A CPU never uses bfloat16, in which the backward
        pass of convolutions is slower than in float32.
        """
        with torch.autocast(
            x_BCHW.device.type, enabled=torch.is_autocast_enabled(x_BCHW.device.type) and not x_BCHW.is_cpu
        ):
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
            if self.stem is not None and not stem_applied:
                with torch.no_grad():
                    x_BCHW = self.stem(x_BCHW)
            final, finer = self._forward_stages(x_BCHW)
            return final, x_BCHW if self.stem is not None and self.config.finer_map else finer

    def concepts(self, features: ImageFeatures, concepts: Concepts) -> tuple[ConceptTokens, Tensor]:
        """Encode concepts; those of one image share its (P, D) tokens, and so their keys and values."""
        tokens_BPD = features.tokens_BPD
        images = torch.arange(len(features), device=tokens_BPD.device)
        set_C = torch.cat((concepts.image_N, images))
        mask_CP = self.patch_mask(features, concepts)
        if self.training and self.config.patch_dropout:
            hidden_BP = torch.rand(tokens_BPD.shape[:2], device=mask_CP.device) < self.config.patch_dropout
            visible_CP = mask_CP & ~hidden_BP.index_select(0, set_C)
            # A concept whose patches are all hidden keeps all of them.
            mask_CP = torch.where(visible_CP.any(1, keepdim=True), visible_CP, mask_CP)
        weight_CP = mask_CP.to(tokens_BPD.dtype) / mask_CP.sum(-1, keepdim=True)
        weight_NP, weight_BP = weight_CP.split((len(concepts), len(features)))
        with torch.autocast(weight_CP.device.type, enabled=False):
            region_ND = (weight_NP[:, None] @ tokens_BPD.index_select(0, concepts.image_N))[:, 0]
            whole_BD = (weight_BP[:, None] @ tokens_BPD)[:, 0]
        cls_CD = torch.cat((region_ND, whole_BD))
        if self.adds_position:
            position_PD = sincos_position(features.grid_hw, self.width, tokens_BPD.device)
            tokens_BPD = tokens_BPD + position_PD.to(tokens_BPD.dtype)
        tokens = ConceptTokens(
            tokens_BPD,
            set_C,
            mask_CP,
            mean_summary=True,
            grid_hw=features.grid_hw,
            finer_SChw=features.finer_BChw,
        )
        return tokens, cls_CD


def sincos_position(grid_hw: tuple[int, int], width: int, device: torch.device | None = None) -> Tensor:
    """Return fixed 2-D position embeddings (rows * columns, width), about as large as normalized tokens.

    A quarter of the width each holds sine and cosine of the row and of the column, at wavelengths from 2
    patches to 20 times the grid; components are scaled to unit mean square.
    """
    quarter = width // 4
    frequency = torch.pi / torch.logspace(0, 1, quarter, base=20 * max(grid_hw) / 2, device=device)
    row, column = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float32, device=device) for side in grid_hw), indexing="ij"
    )
    angles = [index.flatten()[:, None] * frequency for index in (row, column)]
    parts = [function(angle) for angle in angles for function in (torch.sin, torch.cos)]
    return F.pad(torch.cat(parts, dim=1) * 2**0.5, (0, width - 4 * quarter))
