"""The weights of scores that held-out images choose, and what each score gains by its own weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xvlm.data.sources.source import Source
from xvlm.distributed import run_on_main
from xvlm.evaluation.common.candidates import CandidateScores
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.evaluation.score_weights import ScoreWeights, Term, fit_score_weights
from xvlm.inference.model import InferenceModel
from xvlm.metrics.recall import rank_of_first_true, recall_at
from xvlm.models.checkpoints.folder import ModelBundle, set_score_weights
from xvlm.training.train import log_on_main

TERMS: dict[str, tuple[Term, ...]] = {
    "matching": ("matching",),
    "phrases": ("phrases",),
    "both": ("matching", "phrases"),
}
"""Scores that are added to the contrastive one, alone and together."""


@dataclass(frozen=True)
class ChosenWeights:
    """What the held-out images chose.

    Attributes:
        fitted: weights of the scores in each entry of `TERMS`.
        recalls: `i2t_r1` and `t2i_r1` on the held-out images, by the scores in each entry of `TERMS`, and by
            "contrastive" scores alone.
    """

    fitted: dict[str, ScoreWeights]
    recalls: dict[str, dict[str, float]]

    @property
    def metrics(self) -> dict[str, float]:
        """The weights, and what they reach on the held-out images."""
        both = self.fitted["both"]
        metrics = {"matching_weight": both.matching, "phrase_weight": both.phrases}
        for suffix, name in (("", "both"), ("_contrastive", "contrastive")):
            metrics |= {f"choose_{key}{suffix}": value for key, value in self.recalls[name].items()}
        return metrics | {"choose_nll": both.nll, "choose_nll_contrastive": both.nll_contrastive}

    def table(self) -> str:
        """Return a table of recalls, weights and likelihoods in Markdown."""
        rows = [
            "| scores | image to text, R@1 | text to image, R@1 | weight of matching | of phrases | nats |",
            "|---|---|---|---|---|---|",
        ]
        for name, recalls in self.recalls.items():
            one = self.fitted.get(name)
            weights = "| |" if one is None else f"{one.matching:.2f} | {one.phrases:.2f} |"
            nll = self.fitted["both"].nll_contrastive if one is None else one.nll
            shares = " | ".join(f"{100 * recall:.1f} %" for recall in recalls.values())
            label = name if one is None else f"contrastive + {name}"
            rows.append(f"| {label} | {shares} | {weights} {nll:.3f} |")
        return "\n".join(rows)


def choose_score_weights(
    bundle: ModelBundle, folder_or_run: Path, captions: Source
) -> tuple[ModelBundle, ChosenWeights]:
    """Fit the weights of scores on held-out images, and write them into the folder of a model or a run.

    Args:
        bundle: the model, on the device to evaluate it on.
        folder_or_run: folder that holds the same model.
    Returns:
        the model with its new weights, and what was chosen.
    """
    log_on_main(f"choosing the weights of scores on {len(captions)} images that were held out")
    predictor = InferenceModel(bundle)
    _, result = evaluate_retrieval(predictor, captions, matching_weight=1.0, phrase_weight=1.0)
    fitted = {name: fit_score_weights(result.scores, terms) for name, terms in TERMS.items()}
    recalls = {"contrastive": recalls_at_1(result.scores)}
    recalls |= {name: recalls_at_1(result.scores, one) for name, one in fitted.items()}
    chosen = ChosenWeights(fitted, recalls)
    both = fitted["both"]
    run_on_main(lambda: set_score_weights(folder_or_run, both.matching, both.phrases))
    log_on_main(chosen.table())
    return replace(bundle, matching_weight=both.matching, phrase_weight=both.phrases), chosen


def recalls_at_1(scores: Sequence[CandidateScores], weights: ScoreWeights | None = None) -> dict[str, float]:
    """Return R@1 in both directions by weighted scores, or by contrastive ones alone."""
    matching, phrases = (0.0, 0.0) if weights is None else (weights.matching, weights.phrases)
    metrics = {}
    for direction, one in zip(("i2t", "t2i"), scores, strict=True):
        rank_Q3 = rank_of_first_true(one.combined(matching, phrases), one.true_Qk)
        metrics[f"{direction}_r1"] = recall_at(rank_Q3, 1).mean().item()
    return metrics
