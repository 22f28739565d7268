"""The score of a caption's phrases is what a loop over phrases, images and patches says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_loaded, write_photos
from xvlm.data.images.decode import open_image
from xvlm.data.sources.json import JsonSource
from xvlm.data.text.phrases import split_phrases
from xvlm.evaluation.common import phrase_scores
from xvlm.evaluation.common.phrase_scores import PhraseScorer
from xvlm.inference.model import InferenceModel

TEXTS = ("a red ring left of a blue box", "zero", "a blue box", "... in the")


@pytest.mark.parametrize("at_once", [1, 2048])
def test_scores_equal_those_of_a_loop(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrase_scores, "PHRASES_AT_ONCE", at_once)
    predictor = InferenceModel(tiny_loaded())
    photos = JsonSource(write_photos(tmp_path, 3))
    files = [open_image(photos[i].image, key=photos[i].key) for i in range(len(photos))]
    with torch.no_grad():
        features = predictor.encode_images([predictor.pixels(file) for file in files])
        concepts = predictor.whole_images(features)
        scorer = PhraseScorer(predictor, TEXTS)
        assert scorer.add_images(concepts)
        scorer.finish()
        image_R, text_R = torch.arange(3).repeat_interleave(4), torch.arange(4).repeat(3)
        found = scorer.score(concepts, image_R, text_R).view(3, 4)

        head = predictor.model.contrastive
        patch_SPE = head.embed_concepts(concepts.tokens_SPD)
        assert found.abs().max() > 0.01
        for n, text in enumerate(TEXTS):
            expected = [0.0, 0.0, 0.0]
            for phrase in split_phrases(text):
                if phrase == "zero":  # no token that the tiny model knows
                    continue
                vector_E = head.embed_texts(predictor.encode_texts([phrase]).cls_ND)[0]
                best = [float((patch_PE @ vector_E).max() / head.temperature) for patch_PE in patch_SPE]
                mean = math.log(sum(map(math.exp, best)) / 3)
                expected = [total + one - mean for total, one in zip(expected, best, strict=True)]
            torch.testing.assert_close(found[:, n], torch.tensor(expected), atol=1e-4, rtol=1e-4)
