"""The weights of scores that held-out images choose, and what each score gains by its own weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from xvlm.data.sources.source import Source
from xvlm.distributed import run_on_main
from xvlm.evaluation.common.candidates import CandidateScores
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.evaluation.score_weights import Term, fit_score_weights
from xvlm.inference.model import InferenceModel
from xvlm.metrics.recall import rank_of_first_true, recall_at
from xvlm.models.checkpoints.folder import load_model, set_score_weights
from xvlm.training.train import log_on_main

TERMS: tuple[Term, ...] = ("matching", "phrases")


@dataclass(frozen=True)
class ChosenWeights:
    """What the held-out images chose.

    Attributes:
        matching, phrases: weights of both scores, which the model is given.
        parts: weights of both if only one of them is used, by its name.
        metrics: recalls on the held-out images, their names beginning with `choose_`.
    """

    matching: float
    phrases: float
    parts: dict[str, tuple[float, float]]
    metrics: dict[str, float]


def choose_score_weights(run: Path, captions: Source) -> ChosenWeights:
    """Fit the weights of scores on held-out images, and write them into the model of a run."""
    log_on_main(f"choosing the weights of scores on {len(captions)} images that were held out")
    bundle = load_model(run)
    _, result = evaluate_retrieval(InferenceModel(bundle), captions, matching_weight=1.0, phrase_weight=1.0)
    fitted = fit_score_weights(result.scores)
    parts: dict[str, tuple[float, float]] = {}
    for term in TERMS:
        alone = fit_score_weights(result.scores, (term,))
        parts[term] = (alone.matching, alone.phrases)
    run_on_main(lambda: set_score_weights(run, fitted.matching, fitted.phrases))
    recalls = recalls_at_1(result.scores, {"": (fitted.matching, fitted.phrases), "_contrastive": (0.0, 0.0)})
    metrics = {f"choose_{name}": value for name, value in recalls.items()}
    metrics |= {f"choose_{name}": value for name, value in asdict(fitted).items() if name.startswith("nll")}
    return ChosenWeights(fitted.matching, fitted.phrases, parts, metrics)


def recalls_at_1(
    scores: Sequence[CandidateScores], weights: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Return R@1 in both directions by weights of matching and phrases, by the suffix of its name."""
    metrics = {}
    for suffix, (matching, phrases) in weights.items():
        for direction, one in zip(("i2t", "t2i"), scores, strict=True):
            rank_Q3 = rank_of_first_true(one.combined(matching, phrases), one.true_Qk)
            metrics[f"{direction}_r1{suffix}"] = recall_at(rank_Q3, 1).mean().item()
    return metrics
