"""Packed tokens are padded in buckets and packed again."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xvlm.models.text.packing import Packing, _single_bucket, select_segments

lengths = st.lists(st.integers(0, 40), min_size=1, max_size=8)


def packed(sizes: list[int]) -> tuple[Packing, Tensor]:
    """Return a packing, and (T, 1) tokens that are all different."""
    total = sum(sizes)
    x_TD = torch.arange(1.0, total + 1)[:, None]
    return Packing.from_lengths(torch.tensor(sizes), total, max(sizes)), x_TD


@given(lengths)
def test_positions_and_first_tokens(sizes: list[int]) -> None:
    packing, _ = packed(sizes)
    assert packing.segment_T.tolist() == [s for s, size in enumerate(sizes) for _ in range(size)]
    assert packing.position_T.tolist() == [position for size in sizes for position in range(size)]
    assert packing.start_S.tolist() == [sum(sizes[:s]) for s in range(len(sizes))]


@given(lengths, st.booleans())
def test_every_segment_with_tokens_is_padded_once(sizes: list[int], single_bucket: bool) -> None:
    packing, x_TD = packed(sizes)
    padding = packing.padding
    if single_bucket:  # as on a GPU
        padding = _single_bucket(packing, max(sizes))
        assert len(padding.masks) == 1
    parts = padding.tokens_by_bucket(x_TD)
    torch.testing.assert_close(padding.from_buckets([part * 2 for part in parts]), x_TD * 2)
    segments = padding.segments_by_bucket(torch.arange(len(sizes)), 0)
    actual = {}
    for part, mask_sl, segment_s in zip(parts, padding.masks, segments, strict=True):
        for row, mask, segment in zip(part[..., 0], mask_sl, segment_s.tolist(), strict=True):
            assert torch.isin(row, x_TD).all()
            assert segment not in actual
            actual[segment] = row[mask].tolist()
    expected = {s: part[:, 0].tolist() for s, part in enumerate(x_TD.split(sizes))}
    assert {s: tokens for s, tokens in actual.items() if tokens} == {
        s: tokens for s, tokens in expected.items() if tokens
    }


@given(lengths, st.data())
def test_segments_are_selected_in_order(sizes: list[int], data: st.DataObject) -> None:
    selected = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=12))
    selected_R = torch.tensor(selected, dtype=torch.int64)
    packing, _ = packed(sizes)
    token_T, chosen = select_segments(packing, selected_R)
    parts = torch.arange(sum(sizes)).split(sizes)
    expected = [token for r in selected for token in parts[r].tolist()]
    assert token_T.tolist() == expected
    assert chosen.lengths_S.tolist() == [sizes[r] for r in selected]
    assert chosen.total == len(token_T)
    # An upper bound of the number adds filler, which nobody reads, behind the tokens.
    if expected:
        token_T, filled = select_segments(packing, selected_R, len(expected) + 3)
        assert token_T[: len(expected)].tolist() == expected and len(token_T) == len(expected) + 3
        assert (token_T >= 0).all() and (token_T < sum(sizes)).all()
        x_TD = torch.arange(1.0, len(token_T) + 1)[:, None]
        for padding in (filled.padding, _single_bucket(filled, max(sizes))):
            back_TD = padding.from_buckets(padding.tokens_by_bucket(x_TD))
            assert torch.equal(back_TD[: len(expected)], x_TD[: len(expected)])
