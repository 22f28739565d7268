"""Statements about pairs of images (NLVR2)."""

from __future__ import annotations

import torch
from torch import Tensor

from xvlm.batch import Images, Texts
from xvlm.model.xvlm import XVLM


def judge(model: XVLM, images: Images, statements: Texts, pair_N: Tensor) -> Tensor:
    """N statements -> (N, 2) logits of (false, true).

    Args:
        images: both of each pair, all the left ones first.
        pair_N: (N,) int64 the pair that each statement is about.
    """
    device = statements.ids_T.device
    concepts, _ = model.encode_whole(model.encode_images(images))
    texts = model.encode_texts(statements)
    statement_N = torch.arange(len(statements), device=device)
    return model.judge_pairs(model.fuse_cls(texts, statement_N, concepts, pair_N))
