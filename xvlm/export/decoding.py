"""Texts from the graphs of a decoder: the best one by beam search, and how probable given ones are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xvlm.common.errors import InputError
from xvlm.models.generation.search import ContextSearch, Generation, LengthLimits

Run = Callable[[str, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Runs a graph by name: arrays by input to arrays by output."""


class Rows:
    """Rows that are decoded together for one context, each with the keys and values of its tokens.

    Args:
        run: runs the graphs.
        name: "answer" or "caption".
        context: (1, P, D) what the decoder attends to.
        count: number of rows.
        layers: layers of the decoder, those that attend to text alone included.
    """

    def __init__(self, run: Run, name: str, context: np.ndarray, count: int, layers: int) -> None:
        self._run, self._name = run, name
        keys_values = run(f"{name}_context", {"context": context})["keys_values"]
        self._keys_values = np.repeat(keys_values, count, axis=2)
        self._seen = np.ones((count, context.shape[1]), bool)
        heads, width = keys_values.shape[3], keys_values.shape[5]
        self._cache = np.zeros((layers, 2, count, heads, 0, width), np.float32)

    def step(self, ids_RL: np.ndarray) -> np.ndarray:
        """Append (R, L) tokens, and return the (R, V) log-probabilities of the next one."""
        inputs = {
            "ids": ids_RL,
            "cached": self._cache,
            "keys_values": self._keys_values,
            "seen": self._seen,
        }
        found = self._run(f"{self._name}_step", inputs)
        self._cache = found["cache"]
        logits = found["logits"].astype(np.float64)
        return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)  # type: ignore[no-any-return]

    def reorder(self, row_R: np.ndarray) -> None:
        """Continue row `row_R[r]` in row r."""
        self._cache = self._cache[:, :, row_R]


def beam_search(rows: Rows, prompt: Sequence[int], limits: LengthLimits, num_beams: int) -> Generation:
    """Return the best text of a context, as `models/generation/beam_search.py` does."""
    if len(prompt) >= limits.max_length:
        raise InputError(f"max_tokens is {limits.max_length}; the prompt alone has {len(prompt)}")
    search = ContextSearch(0, num_beams, 1.0, limits.end)
    ids_RL = np.repeat(np.array([prompt], np.int64), num_beams, 0)
    total_R = np.full(num_beams, -1e9)
    total_R[0] = 0.0
    scores_RV = rows.step(ids_RL)
    while True:
        if ids_RL.shape[1] < limits.min_length:
            scores_RV[:, limits.end] = -np.inf
        candidates = (scores_RV + total_R[:, None]).ravel()
        top = np.argsort(-candidates, kind="stable")[: 2 * num_beams]
        beams = search.step(candidates[top].tolist(), top.tolist(), scores_RV.shape[1], ids_RL)
        row_R = np.array([beam.row for beam in beams])
        token_R1 = np.array([[beam.token] for beam in beams], np.int64)
        ids_RL = np.concatenate((ids_RL[row_R], token_R1), 1)
        total_R = np.array([beam.total for beam in beams])
        if search.is_done or ids_RL.shape[1] >= limits.max_length:
            break
        rows.reorder(row_R)
        scores_RV = rows.step(ids_RL[:, -1:])
    if not search.is_done:
        for row, total in zip(ids_RL.tolist(), total_R.tolist(), strict=True):
            search.add(row, total)
    return max(search.finished, key=lambda one: one[0])[1]


def answer_scores(rows: Rows, answers: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the (A,) log-probabilities of answers, the first token counted twice, as published.

    Args:
        rows: as many as answers.
        answers: token ids of each, with that of the beginning and that of the end.
    """
    longest = max(map(len, answers))
    ids_AL = np.zeros((len(answers), longest), np.int64)
    for number, ids in enumerate(answers):
        ids_AL[number, : len(ids)] = ids
    lengths = np.array([len(ids) for ids in answers])
    total_A = np.zeros(len(answers))
    for place in range(1, longest):
        scores_AV = rows.step(ids_AL[:, place - 1 : place])
        score_A = np.take_along_axis(scores_AV, ids_AL[:, place : place + 1], 1)[:, 0]
        total_A += np.where(place < lengths, score_A, 0.0) * (2 if place == 1 else 1)
    return total_A
