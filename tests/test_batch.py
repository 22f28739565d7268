"""Batches: packing keeps every token, and `to` and `pin_memory` reach every tensor and nothing else."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xvlm.batch import Concepts, Images, TensorTree, Texts

token_lists = st.lists(st.lists(st.integers(0, 30521), min_size=1, max_size=9), min_size=1, max_size=6)


def unpack(texts: Texts) -> list[list[int]]:
    return [ids.tolist() for ids in texts.ids_T.split(texts.lengths_N.tolist())]


@given(token_lists)
def test_pack_keeps_every_token_in_order(ids: list[list[int]]) -> None:
    texts = Texts.pack(ids)
    assert unpack(texts) == ids
    assert len(texts) == len(ids)
    assert texts.longest == max(len(row) for row in ids) == int(texts.lengths_N.max())
    assert texts.ids_T.dtype == texts.lengths_N.dtype == torch.int64


def test_pack_of_nothing_is_empty() -> None:
    texts = Texts.pack([])
    assert len(texts) == 0 and texts.ids_T.shape == (0,) and texts.longest == 0


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="text 1 has no tokens"):
        Texts.pack([[101, 5], [], [101]])


@dataclass(frozen=True)
class Pair(TensorTree):
    """A tensor tree that holds two others and a plain value."""

    images: Images
    texts: Texts
    keys: tuple[str, ...]


@pytest.fixture
def pair() -> Pair:
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    return Pair(Images(pixels), Texts.pack([[101, 7], [101]]), ("a", "b"))


def test_to_moves_every_tensor_at_every_depth(pair: Pair) -> None:
    moved = pair.to("meta")
    for tensor in (moved.images.pixels_BCHW, moved.texts.ids_T, moved.texts.lengths_N):
        assert tensor.device.type == "meta"
    assert (moved.keys, moved.texts.longest) == (("a", "b"), 2)
    assert pair.images.pixels_BCHW.device.type == "cpu", "the original is unchanged"
    assert pair.images.pixels_BCHW.dtype == moved.images.pixels_BCHW.dtype == torch.uint8


def test_to_the_same_device_changes_nothing(pair: Pair) -> None:
    moved = pair.to("cpu")
    assert torch.equal(moved.images.pixels_BCHW, pair.images.pixels_BCHW)
    assert torch.equal(moved.texts.ids_T, pair.texts.ids_T)


def test_pin_memory_pins_every_tensor(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page-locked memory needs a GPU, so the calls are recorded instead."""
    pinned_shapes: list[tuple[int, ...]] = []

    def record(tensor: torch.Tensor) -> torch.Tensor:
        pinned_shapes.append(tuple(tensor.shape))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", record)
    pair.pin_memory()
    assert sorted(pinned_shapes) == [(2,), (2, 3, 4, 4), (3,)]


def test_lengths_count_images_and_rows() -> None:
    concepts = Concepts(
        image_N=torch.tensor([0, 0, 1]),
        box_xyxy_N4=torch.tensor([[0, 0, 1, 1], [0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]]),
        has_box_N=torch.tensor([False, True, False]),
    )
    assert len(concepts) == 3
    assert len(Images(torch.zeros(5, 3, 2, 2, dtype=torch.uint8))) == 5


def test_batches_are_frozen(pair: Pair) -> None:
    with pytest.raises(FrozenInstanceError):
        pair.texts.longest = 3  # type: ignore[misc]
