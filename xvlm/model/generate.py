"""Writing texts token by token with a decoder: greedy, beam search, draws from the likeliest tokens.

Keys and values of what has been written are kept, so that a step costs one token; those of what is looked at
are made once and shared by all rows that look at it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from xvlm.errors import InputError
from xvlm.model.attention import (
    ConceptTokens,
    CrossAttention,
    SelfAttention,
    attend,
    attend_with_mean,
    merge_heads,
    split_heads,
)
from xvlm.model.decoder import Decoder
from xvlm.model.decoding import Decoding
from xvlm.model.text import Layer

Pick = Callable[[Tensor], Tensor]
"""(R, V) log-probabilities -> (R,) the next token of each row."""


@dataclass(frozen=True)
class Limits:
    """When a text ends.

    Attributes:
        end: id of the token that ends a text.
        max_length, min_length: tokens, those of the prompt included and the end not.
        repetition_penalty: see `Decoding`; logits above 0 are divided by it, others multiplied (published).
    """

    end: int
    max_length: int
    min_length: int = 0
    repetition_penalty: float = 1.0


class Written(NamedTuple):
    """A text: token ids, prompt first, the end token left out; and its log-probability given the prompt."""

    ids: list[int]
    log_probability: float


class Writer:
    """R rows that are written at once: `rows_each` about each of S things, those of one thing together."""

    def __init__(
        self, decoder: Decoder, looked_at: ConceptTokens, concept_S: Tensor, rows_each: int = 1
    ) -> None:
        self.decoder = decoder
        self.things = concept_S.shape[0]
        self.rows = self.things * rows_each
        self.length = 0
        self.attention = attend_with_mean if looked_at.mean_summary else attend
        self.mask_S11P = looked_at.mask_CP.index_select(0, concept_S)[:, None, None]
        set_S = looked_at.set_C.index_select(0, concept_S)
        self.looked = [kv.index_select(1, set_S) for kv in decoder.cross.keys_values(looked_at)]
        layers = len(decoder.text.layers) + len(decoder.cross.layers)
        self.written: list[Tensor | None] = [None] * layers

    def require(self, tokens: int) -> None:
        """Raises InputError if texts of so many tokens are longer than the decoder's positions."""
        reach = self.decoder.longest
        if tokens > reach:
            raise InputError(
                f"a text of {tokens} tokens is asked for; this decoder's positions reach {reach}"
            )

    def step(self, ids_RL: Tensor) -> Tensor:
        """L further tokens (R, L) of every row -> (R, V) logits of the token after them.

        Raises InputError if the texts grow longer than the decoder's positions.
        """
        text = self.decoder.text.embedding
        end = self.length + ids_RL.shape[1]
        self.require(end)
        place_L = torch.arange(self.length, end, device=ids_RL.device) + text.first_position
        x_RLD = text.norm(text.token(ids_RL) + text.token_type.weight[0] + text.position(place_L))
        # A token sees what was written before and, of the new ones, itself and those before it.
        mask_LL = torch.ones(end - self.length, end, dtype=torch.bool, device=ids_RL.device)
        mask_LL = mask_LL.tril(diagonal=self.length)
        layers = [*self.decoder.text.layers, *self.decoder.cross.layers]
        looked = [None] * len(self.decoder.text.layers) + self.looked
        for number, (layer, kv) in enumerate(zip(layers, looked, strict=True)):
            x_RLD = self._layer(cast(Layer, layer), number, x_RLD, mask_LL, kv)
        self.length = end
        return self.decoder.predict(x_RLD[:, -1])

    def _layer(
        self, layer: Layer, number: int, x_RLD: Tensor, mask_LL: Tensor, looked: Tensor | None
    ) -> Tensor:
        x_RLD = layer.attention_norm(x_RLD + self._read(layer.attention, number, x_RLD, mask_LL))
        if looked is not None:
            x_RLD = layer.cross_norm(x_RLD + self._look(layer.cross, x_RLD, looked))
        return layer.mlp_norm(x_RLD + layer.mlp(x_RLD))

    def _read(self, attention: SelfAttention, number: int, x_RLD: Tensor, mask_LL: Tensor) -> Tensor:
        q, k, v = attention.qkv(x_RLD).unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
        kv, before = torch.stack((k, v)), self.written[number]
        kv = kv if before is None else torch.cat((before, kv), dim=3)
        self.written[number] = kv
        return attention.out(merge_heads(attend(q, kv[0], kv[1], mask_LL, 0.0)))

    def _look(self, cross: CrossAttention, x_RLD: Tensor, looked: Tensor) -> Tensor:
        # All rows of a thing ask its keys and values in one call, which thus need no copies.
        x_SQD = x_RLD.reshape(self.things, -1, x_RLD.shape[-1])
        q_SHQK = split_heads(cross.q(x_SQD), cross.heads)
        mixed = merge_heads(self.attention(q_SHQK, looked[0], looked[1], self.mask_S11P, 0.0))
        return cross.out(mixed).view_as(x_RLD)

    def reorder(self, row_R: Tensor) -> None:
        """Row r goes on from what row `row_R[r]` (R,), about the same thing, has written."""
        self.written = [kv.index_select(1, row_R) for kv in self.written if kv is not None]


def write_texts(
    decoder: Decoder,
    looked_at: ConceptTokens,
    prompt: Sequence[int],
    end: int,
    decoding: Decoding,
    seeds: Sequence[int] | None = None,
) -> list[list[Written]]:
    """Texts about each concept that is looked at, likeliest first: one, or as many as are drawn.

    Args:
        prompt: token ids that every text begins with.
        end: id of the token that ends a text.
        seeds: of the draws about each concept; by default `decoding.seed` for all: what is drawn about one
            never depends on the others.
    Raises:
        InputError: the prompt fills the texts, or they may be longer than the decoder's positions.
    """
    if len(prompt) >= decoding.max_tokens:
        raise InputError(f"max_tokens is {decoding.max_tokens}; the prompt alone has {len(prompt)}")
    limits = Limits(end, decoding.max_tokens, decoding.min_tokens, decoding.repetition_penalty)
    concept_S = torch.arange(len(looked_at.set_C), device=looked_at.set_C.device)
    writer = Writer(decoder, looked_at, concept_S, decoding.drawn or decoding.beams)
    if not decoding.drawn:
        return [[one] for one in beam_search(writer, prompt, limits, decoding.beams)]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or [decoding.seed] * writer.things]
    pick = sampler(decoding.top_k, decoding.top_p, decoding.temperature, generators)
    written = write(writer, prompt, limits, pick)
    groups = [written[at : at + decoding.drawn] for at in range(0, len(written), decoding.drawn)]
    return [sorted(group, key=lambda one: -one.log_probability) for group in groups]


def beam_search(
    writer: Writer, prompt: Sequence[int], limits: Limits, beams: int = 1, length_penalty: float = 1.0
) -> list[Written]:
    """The best text about each of S things.

    As transformers searches: 2 * `beams` continuations are looked at in a step, ended texts are kept with
    their log-probability over length ** `length_penalty`, and a search is over when no running text can
    become better than the worst of `beams` ended ones.

    Args:
        writer: with `beams` rows a thing.
        prompt: token ids that every text begins with.
    """
    writer.require(limits.max_length)
    things, device = writer.things, writer.mask_S11P.device
    ids_RL = torch.tensor([list(prompt)], device=device).expand(writer.rows, -1)
    total_SB = torch.full((things, beams), -1e9, device=device, dtype=torch.float64)
    total_SB[:, 0] = 0.0
    ended: list[list[tuple[float, Written]]] = [[] for _ in range(things)]
    over = [False] * things
    logits_RV = writer.step(ids_RL)
    while True:
        scores_RV = next_scores(logits_RV, ids_RL, limits)
        vocab = scores_RV.shape[1]
        candidates = (scores_RV + total_SB.view(-1, 1)).view(things, beams * vocab)
        top = candidates.topk(min(2 * beams, beams * vocab), dim=1)
        next_row, next_token, next_total = _choose(
            top, ids_RL, limits, beams, vocab, length_penalty, ended, over
        )
        row_R = torch.tensor(next_row, device=device)
        ids_RL = torch.cat((ids_RL[row_R], torch.tensor(next_token, device=device)[:, None]), dim=1)
        total_SB = torch.tensor(next_total, device=device, dtype=torch.float64).view(things, beams)
        if all(over) or ids_RL.shape[1] >= limits.max_length:
            break
        writer.reorder(row_R)
        logits_RV = writer.step(ids_RL[:, -1:])
    for thing in range(things):
        if not over[thing]:
            for beam in range(beams):
                row = ids_RL[thing * beams + beam].tolist()
                _keep(ended[thing], float(total_SB[thing, beam]), row, length_penalty, beams)
    return [max(texts, key=lambda one: one[0])[1] for texts in ended]


def _choose(
    top: torch.return_types.topk,
    ids_RL: Tensor,
    limits: Limits,
    beams: int,
    vocab: int,
    length_penalty: float,
    ended: list[list[tuple[float, Written]]],
    over: list[bool],
) -> tuple[list[int], list[int], list[float]]:
    """Of each thing's best continuations: those that end are kept, the others run on."""
    next_row: list[int] = []
    next_token: list[int] = []
    next_total: list[float] = []
    length = ids_RL.shape[1]
    for thing, (totals, places) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True)):
        first = thing * beams
        if over[thing]:
            next_row += [first] * beams
            next_token += [limits.end] * beams
            next_total += [0.0] * beams
            continue
        running = 0
        for rank, (total, place) in enumerate(zip(totals, places, strict=True)):
            row, token = first + place // vocab, place % vocab
            if token == limits.end:
                if rank < beams:
                    _keep(ended[thing], total, ids_RL[row].tolist(), length_penalty, beams)
                continue
            next_row.append(row)
            next_token.append(token)
            next_total.append(total)
            running += 1
            if running == beams:
                break
        if len(ended[thing]) >= beams:
            worst = min(score for score, _ in ended[thing])
            over[thing] = worst >= totals[0] / length**length_penalty
    return next_row, next_token, next_total


def _keep(
    ended: list[tuple[float, Written]], total: float, ids: list[int], length_penalty: float, beams: int
) -> None:
    """Add an ended text if it is among the best `beams`."""
    ended.append((total / len(ids) ** length_penalty, Written(ids, total)))
    if len(ended) > beams:
        ended.remove(min(ended, key=lambda one: one[0]))


def write(writer: Writer, prompt: Sequence[int], limits: Limits, pick: Pick) -> list[Written]:
    """One text for each row."""
    writer.require(limits.max_length)
    ids_RL = torch.tensor([list(prompt)], device=writer.mask_S11P.device).expand(writer.rows, -1)
    open_R = torch.ones(writer.rows, dtype=torch.bool, device=ids_RL.device)
    total_R = torch.zeros(writer.rows, dtype=torch.float64, device=ids_RL.device)
    newest = ids_RL
    while ids_RL.shape[1] < limits.max_length and open_R.any():
        scores_RV = next_scores(writer.step(newest), ids_RL, limits)
        token_R = torch.where(open_R, pick(scores_RV), limits.end)
        total_R += torch.where(open_R, scores_RV.gather(1, token_R[:, None])[:, 0], 0.0)
        open_R = open_R & (token_R != limits.end)
        newest = token_R[:, None]
        ids_RL = torch.cat((ids_RL, newest), dim=1)
    start = len(prompt)
    rows = [row[:start] + _until(row[start:], limits.end) for row in ids_RL.tolist()]
    return [Written(row, total) for row, total in zip(rows, total_R.tolist(), strict=True)]


def greedy(scores_RV: Tensor) -> Tensor:
    """(R, V) -> (R,) the likeliest token of each row."""
    return scores_RV.argmax(1)


def sampler(
    top_k: int = 0,
    top_p: float = 1.0,
    temperature: float = 1.0,
    generators: Sequence[torch.Generator] = (),
) -> Pick:
    """Draws from the `top_k` likeliest tokens, and of these from the first ones that together have `top_p` of
    their probability (Holtzman et al. 2020): (R, V) -> (R,).

    Args:
        generators: each draws for its share of the R rows, the first for the first ones; none: torch's own.
    """

    def pick(scores_RV: Tensor) -> Tensor:
        chance_RV, token_RV = (scores_RV / temperature).softmax(1), None
        if top_k or top_p < 1:
            chance_RV, token_RV = chance_RV.topk(min(top_k or chance_RV.shape[1], chance_RV.shape[1]), dim=1)
            chance_RV = chance_RV / chance_RV.sum(1, keepdim=True)
            before_RV = chance_RV.cumsum(1) - chance_RV
            chance_RV = chance_RV * (before_RV < top_p)
        up_to_RV = chance_RV.cumsum(1)
        # Below the whole sum, whatever is rounded: what has no chance is never drawn.
        drawn_R1 = uniform(len(chance_RV), generators).to(up_to_RV) * up_to_RV[:, -1:] * (1 - 1e-12)
        place_R1 = torch.searchsorted(up_to_RV, drawn_R1, right=True)
        return (place_R1 if token_RV is None else token_RV.gather(1, place_R1))[:, 0]

    return pick


def uniform(rows: int, generators: Sequence[torch.Generator]) -> Tensor:
    """(R, 1) numbers in [0, 1), for R rows that the generators share."""
    if not generators:
        return torch.rand(rows, 1, dtype=torch.float64)
    each = rows // len(generators)
    return torch.cat([torch.rand(each, 1, dtype=torch.float64, generator=one) for one in generators])


def next_scores(logits_RV: Tensor, ids_RL: Tensor, limits: Limits) -> Tensor:
    """(R, V) logits of what follows texts (R, L) -> log-probabilities (R, V) under the limits.

    Repeated tokens are less likely, and there is no end before the least length.
    """
    logits_RV = logits_RV.double()
    if limits.repetition_penalty != 1:
        seen_RL = logits_RV.gather(1, ids_RL)
        penalty = limits.repetition_penalty
        less_RL = torch.where(seen_RL > 0, seen_RL / penalty, seen_RL * penalty)
        logits_RV = logits_RV.scatter(1, ids_RL, less_RL)
    scores_RV = logits_RV.log_softmax(-1)
    if ids_RL.shape[1] < limits.min_length:
        scores_RV = scores_RV.index_fill(1, torch.tensor([limits.end], device=scores_RV.device), -math.inf)
    return scores_RV


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
