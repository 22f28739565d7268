"""Pre-training: the content of a batch, the losses that are computed, and what is never a negative."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts import toys
from tests.tiny import tiny_model, tiny_task, toy_batch, toy_parts
from xvlm.data.text.phrases import split_phrases
from xvlm.losses.contrastive import all_pairs_loss
from xvlm.losses.negatives import Negatives, sample_negatives
from xvlm.models.text.dropout import Dropout
from xvlm.tasks import pretrain
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.pretraining_batch import PretrainCollate, collate, first_texts
from xvlm.tasks.common.task import find_task
from xvlm.tasks.pretrain import LossConfig, freeze_unused
from xvlm.training.train import train


def test_a_batch_holds_pairs_then_regions_in_order() -> None:
    parts = toy_parts(pairs=2, regions=(3, 1))
    batch = collate(parts)
    rows = [row for name in ("pairs", "regions") for sample in parts[name] for row in sample.rows]
    assert (len(batch.images), len(batch.concepts), batch.pairs) == (4, 6, 2)
    assert batch.concepts.image_N.tolist() == [0, 1, 2, 2, 2, 3]
    assert batch.concepts.has_box_N.tolist() == [row.box_xyxy is not None for row in rows]
    texts = [part.tolist() for part in batch.texts.ids_T.split(batch.texts.lengths_N.tolist())]
    assert texts == [list(row.ids) for row in rows] + [list(row.masked_ids) for row in rows]
    assert batch.concept_key_N.tolist() == [row.concept_key for row in rows]
    hidden = zip(batch.masked_row_M.tolist(), batch.masked_position_M.tolist(), strict=True)
    assert [rows[row].ids[place] for row, place in hidden] == batch.masked_target_M.tolist()


def test_fused_texts_of_an_image_may_be_limited() -> None:
    batch = PretrainCollate(fused_per_image=2)(toy_parts(pairs=1, regions=(3, 1, 4)))
    assert batch.fused_F.tolist() == [0, 1, 2, 4, 5, 6]
    assert len(batch.texts) == 9 + 6


@pytest.mark.parametrize("count", [1, 5, 8, 11, 30])
def test_a_fixed_number_of_rows(count: int) -> None:
    """As in published region batches, texts are dropped or repeated, and each stays with its image."""
    parts = toy_parts(pairs=2, regions=(3, 1, 4))
    rows = [row for sample in parts["regions"] for row in sample.rows]
    image_of = {id(row): 2 + n for n, sample in enumerate(parts["regions"]) for row in sample.rows}
    batch = PretrainCollate(region_texts=count)(parts)
    assert len(batch.concepts) - batch.pairs == count and len(batch.images) == 5
    seen = batch.concepts.image_N[2:].tolist()
    found = [
        [row for row in rows if row.text_key == key and image_of[id(row)] == image]
        for key, image in zip(batch.text_key_N[2:].tolist(), seen, strict=True)
    ]
    assert all(found), "a text belongs to another image"
    kinds = {one[0].concept_key for one in found}
    assert len(kinds) <= min(count, 8) and (count < 8 or len(kinds) >= 7)
    again = PretrainCollate(region_texts=count)(parts)
    assert torch.equal(batch.texts.ids_T, again.texts.ids_T)


def test_faithful_runs_have_separate_steps_for_regions(tmp_path: Path) -> None:
    run = toys.pretrain()
    data = replace(run.data, region_step_ratio=0.5, region_texts_per_batch=6)
    shared = pretrain.build(replace(run, data=data), tmp_path / "shared").steps
    assert [shared[step].optimizer_steps for step in range(4)] == [1] * 4
    assert len(shared[0].keys["regions"]) == 2, "half of the images in every step"
    own = pretrain.build(replace(run, data=data, faithful=True), tmp_path / "own").steps
    assert [own[step].optimizer_steps for step in range(4)] == [1, 2, 1, 2]
    regions, pairs = own[1].batches
    assert regions.pairs == 0 and len(regions.concepts) == 6 and len(regions.images) == 4
    assert pairs.pairs == len(pairs.concepts) == 4


def test_an_empty_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        collate({"pairs": [], "regions": []})


def test_a_second_stage_has_its_own_dropout(tmp_path: Path) -> None:
    """Sizes come from the model of the first stage; dropout of patches and activations does not."""
    run = toys.pretrain()
    train(run, tmp_path / "first", minutes=0.0)
    second = replace(
        run.model,
        vision=replace(run.model.vision, patch_dropout=0.25),
        text=replace(run.model.text, dropout=0.35),
    )
    init = InitConfig(model=str(tmp_path / "first" / "model"))
    model = pretrain.build(replace(run, init=init, model=second), tmp_path / "second").bundle.model
    assert model.config.embed_dim == model.contrastive.text.out_features == run.model.embed_dim
    assert model.config.vision.patch_dropout == model.vision.config.patch_dropout == 0.25
    assert {m.probability for m in model.modules() if isinstance(m, Dropout)} == {0.35}


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        ({"mlm": 0.0}, {"itc", "itm", "region_itc", "region_itm", "bbox", "giou"}),
        ({"itm": 0.0, "mlm": 0.0, "bbox": 0.0, "giou": 0.0}, {"itc", "region_itc"}),
        ({"itc": 0.0, "itm": 0.0, "mlm": 0.0, "bbox": 0.0}, {"bbox", "giou"}),
    ],
)
def test_a_loss_of_weight_0_is_not_computed(weights: dict[str, float], names: set[str]) -> None:
    task = tiny_task(losses=replace(LossConfig(), **weights))
    losses = task(toy_batch())
    assert set(losses) == names <= set(task.loss_weights())
    everything = tiny_task()(toy_batch())
    for name in names - {"itm", "region_itm"}:  # their negatives are sampled
        assert losses[name].item() == pytest.approx(everything[name].item(), rel=1e-4), name


@pytest.mark.parametrize(
    ("pairs", "regions", "names"),
    [(3, (), {"itc", "itm", "mlm"}), (0, (2, 3), {"region_itc", "region_itm", "region_mlm", "bbox", "giou"})],
)
def test_an_absent_stream_has_no_losses(pairs: int, regions: tuple[int, ...], names: set[str]) -> None:
    losses = tiny_task()(toy_batch(pairs, regions))
    assert set(losses) == names
    assert all(value.isfinite() for value in losses.values())


def test_no_loss_at_all_is_an_error() -> None:
    nothing = LossConfig(0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="every loss has weight 0"):
        freeze_unused(tiny_model(), nothing, boxes=True)
    with pytest.raises(ValueError, match="no boxes"):
        freeze_unused(tiny_model(), replace(nothing, bbox=1.0), boxes=False)


@pytest.mark.parametrize("faithful", [False, True])
def test_the_same_text_is_a_negative_in_faithful_mode_only(
    faithful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of two equal texts has no other negative."""
    drawn: list[Negatives] = []

    def remember(*arguments: Any) -> Negatives:
        drawn.append(sample_negatives(*arguments))
        return drawn[-1]

    monkeypatch.setattr(pretrain, "sample_negatives", remember)
    batch = toy_batch(2, ())
    batch = replace(batch, text_key_N=torch.zeros_like(batch.text_key_N))
    losses = tiny_task(faithful=faithful)(batch)
    assert drawn[0].concept_Q.tolist() == ([1, 0] if faithful else [])
    assert losses["itm"].isfinite()


@pytest.mark.parametrize("task", ["retrieval", "weak_grounding"])
def test_faithful_retrieval_never_samples_the_same_image(
    task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Published: texts of one image are positives of each other, equal texts are not; there is no clamp."""
    forbidden: list[torch.Tensor] = []

    def remember(*arguments: Any) -> Negatives:
        forbidden.append(arguments[3])
        return sample_negatives(*arguments)

    monkeypatch.setattr(pretrain, "sample_negatives", remember)
    run = replace(toys.RUNS[task](), faithful=True)
    built = find_task(task).build(run, tmp_path).loss_module
    batch = toy_batch(4, ())
    image, text = torch.tensor([5, 7, 7, 9]), torch.tensor([1, 2, 3, 1])
    batch = replace(batch, concept_key_N=image, text_key_N=text)
    with torch.no_grad():
        built.model.contrastive.temperature.fill_(0.8)
    losses = built(batch)
    expected = torch.eye(4, dtype=torch.bool)
    expected[1, 2] = expected[2, 1] = True
    assert torch.equal(forbidden[0], expected)
    assert built.model.contrastive.temperature.item() == pytest.approx(0.8)
    features = built.model.encode_concepts(built.model.encode_images(batch.images), batch.concepts)[1][:4]
    texts = built.model.encode_texts(first_texts(batch.texts, 4)).cls_ND
    head = built.model.contrastive
    logits = head.embed_concepts(features) @ head.embed_texts(texts).T / 0.8
    label = expected / expected.sum(1, keepdim=True)
    by_hand = sum(-(side.log_softmax(1) * label).sum(1).mean() / 2 for side in (logits, logits.T))
    assert losses["itc"].item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_the_temperature_stays_within_its_bounds() -> None:
    task = tiny_task()
    for outside, bound in ((2.0, 0.5), (-1.0, 0.001)):
        with torch.no_grad():
            task.model.contrastive.temperature.fill_(outside)
        task(toy_batch())
        assert task.model.contrastive.temperature.item() == pytest.approx(bound)


def test_all_pairs_are_those_of_the_first_captions() -> None:
    """The step's one cross-modal call gives each image with each text what a call of its own gives."""
    model, batch = tiny_model().eval(), toy_batch(pairs=4, regions=(2, 1))
    losses = pretrain.Pretrain(model, LossConfig(mlm=0.0, bbox=0.0, giou=0.0, all_pairs=3))(batch)
    assert losses.keys() == {"itc", "itm", "region_itc", "region_itm"}
    texts = model.encode_texts(first_texts(batch.texts, len(batch.concepts)))
    concepts, _ = model.encode_concepts(model.encode_images(batch.images), batch.concepts)
    log_odds = torch.zeros(3, 3)
    for image in range(3):
        for text in range(3):
            cls = model.fuse_cls(texts, torch.tensor([text]), concepts, torch.tensor([image]))
            log_odds[image, text] = model.match(cls)[0].diff()[0]
    expected = all_pairs_loss(log_odds, torch.eye(3, dtype=torch.bool))
    torch.testing.assert_close(losses["itm"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("all_pairs", [1, 5, 100])
def test_all_pairs_may_be_more_than_there_are(all_pairs: int) -> None:
    task = pretrain.Pretrain(tiny_model(), LossConfig(all_pairs=all_pairs))
    losses = task(toy_batch(pairs=4, regions=(2, 1)))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert task(toy_batch(pairs=0, regions=(2, 1))).keys() >= {"region_itm"}


def test_phrases_of_captions_are_in_the_batch_and_their_loss_trains_encoders(tmp_path: Path) -> None:
    run = toys.pretrain()
    weights = dict.fromkeys(("itc", "itm", "mlm", "bbox", "giou"), 0.0)
    run = replace(run, losses=LossConfig(**weights, phrases=0.5))
    built = pretrain.build(run, tmp_path)
    batch = built.steps[0].batches[0]
    assert batch.phrases is not None and batch.phrase_row_Q is not None
    decode = built.bundle.tokenizer.decode
    texts = [part.tolist() for part in batch.texts.ids_T.split(batch.texts.lengths_N.tolist())]
    phrases: list[list[str]] = [[] for _ in range(batch.pairs)]
    parts = batch.phrases.ids_T.split(batch.phrases.lengths_N.tolist())
    for row, ids in zip(batch.phrase_row_Q.tolist(), parts, strict=True):
        phrases[row].append(decode(ids.tolist()))
    for row, own in enumerate(phrases):
        assert " ".join(own) == decode(texts[row])
        assert all(split_phrases(phrase) == [phrase] for phrase in own)
    assert len(batch.phrases) > batch.pairs
    losses = built.loss_module(batch)
    assert losses.keys() == {"phrases"}
    losses["phrases"].backward()
    model = built.bundle.model
    for part in (model.vision, model.text, model.contrastive.vision, model.contrastive.text):
        assert any(parameter.grad is not None for parameter in part.parameters())
    assert not any(parameter.requires_grad for parameter in model.fusion.parameters())


def test_a_batch_without_phrases_has_a_loss_of_zero() -> None:
    losses = pretrain.Pretrain(tiny_model(), LossConfig(phrases=1.0))(toy_batch())
    assert float(losses["phrases"]) == 0.0
    assert "phrases" not in pretrain.Pretrain(tiny_model(), LossConfig())(toy_batch())
