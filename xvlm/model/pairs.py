"""Statements about pairs of images (NLVR2)."""

from __future__ import annotations

import torch
from torch import Tensor

from xvlm.batch import Concepts, Images, Texts
from xvlm.model.xvlm import XVLM


def judge(model: XVLM, images: Images, statements: Texts) -> Tensor:
    """Q statements about 2 Q images, the left ones first -> (Q, 2) logits of (false, true)."""
    device = statements.ids_T.device
    concepts, _ = model.encode_concepts(model.encode_images(images), Concepts.none(device))
    texts = model.encode_texts(statements)
    pair_Q = torch.arange(len(statements), device=device)
    return model.judge_pairs(model.fuse(texts, pair_Q, concepts, pair_Q).cls_RD)
