"""Packed tokens go into padded segments and come back."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xvlm.model.packing import Packing, _all_in_one, gather_segments

lengths = st.lists(st.integers(0, 40), min_size=1, max_size=8)


def packed(sizes: list[int]) -> tuple[Packing, Tensor]:
    total = sum(sizes)
    return Packing.of(torch.tensor(sizes), total, max(sizes)), torch.arange(1, total + 1)[:, None] * 1.0


@given(lengths)
def test_places_and_first_tokens(sizes: list[int]) -> None:
    packing, _ = packed(sizes)
    assert packing.segment_T.tolist() == [s for s, size in enumerate(sizes) for _ in range(size)]
    assert packing.place_T.tolist() == [place for size in sizes for place in range(size)]
    assert packing.first_S.tolist() == [sum(sizes[:s]) for s in range(len(sizes))]


@given(lengths, st.booleans())
def test_every_segment_with_tokens_is_padded_once_and_comes_back(sizes: list[int], one_bin: bool) -> None:
    packing, x_TD = packed(sizes)
    if one_bin:  # as on a GPU
        masks, token_P, slot_T, _ = _all_in_one(
            packing.lengths_S, packing.segment_T, packing.place_T, packing.longest
        )
        packing = replace(packing, masks=masks, token_P=token_P, slot_T=slot_T, by_bin_S=None)
        assert len(packing.masks) == 1
    parts = packing.tokens_by_bin(x_TD)
    torch.testing.assert_close(packing.from_bins([part * 2 for part in parts]), x_TD * 2)
    segments = packing.segments_by_bin(torch.arange(len(sizes)), 0)
    seen = {}
    for part, mask_sl, segment_s in zip(parts, packing.masks, segments, strict=True):
        for row, mask, segment in zip(part[..., 0], mask_sl, segment_s.tolist(), strict=True):
            assert torch.isin(row, x_TD).all()
            seen[segment] = row[mask].tolist()
    wanted = {s: part[:, 0].tolist() for s, part in enumerate(x_TD.split(sizes))}
    assert {s: tokens for s, tokens in seen.items() if tokens} == {
        s: tokens for s, tokens in wanted.items() if tokens
    }


@given(lengths, st.data())
def test_gathered_segments_are_the_chosen_ones_in_order(sizes: list[int], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=12))
    token_T, lengths_R, total = gather_segments(torch.tensor(sizes), torch.tensor(chosen, dtype=torch.int64))
    parts = torch.arange(sum(sizes)).split(sizes)
    assert token_T.tolist() == [token for r in chosen for token in parts[r].tolist()]
    assert lengths_R.tolist() == [sizes[r] for r in chosen]
    assert total == len(token_T)
