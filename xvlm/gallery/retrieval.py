"""Ranked texts of pictures, and ranked pictures of texts."""

from __future__ import annotations

from collections.abc import Sequence

from xvlm.evaluate._candidates import Ranked
from xvlm.evaluate.retrieval import Retrieval
from xvlm.gallery._show import drawn, picture
from xvlm.report import ImageRanking, Section, TextRanking

TILES = {
    "t2i_r1": "text to image: right image first",
    "i2t_r1": "image to text: right text first",
    "t2i_r1_contrastive": "text to image, before reranking",
    "i2t_r1_contrastive": "image to text, before reranking",
    "r_mean": "mean recall at 1, 5 and 10, both directions",
}
"""Shares that stand at the top of the page."""


def sections(found: Retrieval) -> list[Section]:
    """Queries of both directions, drawn blindly."""
    share = "a bar is the share among those reranked" if found.top else "nothing was reranked"
    return [
        Section("Which text fits?", f"✓ belongs to the picture; {share}.", text_rankings(found, 12)),
        Section("Which picture fits?", "The best first.", image_rankings(found, 12)),
    ]


def text_rankings(retrieval: Retrieval, count: int, first: int = 5, seed: int = 1) -> list[TextRanking]:
    """For a few images the best texts, and the first true one if it is not among them."""
    rankings = []
    for i in drawn(range(len(retrieval.images)), count, seed):
        shown = listed(retrieval.i2t, i, retrieval.texts_of(i), retrieval.top, first)
        texts = [(retrieval.texts[t], share, true) for t, share, true in shown]
        rankings.append(TextRanking(picture(retrieval.image(i)), texts))
    return rankings


def image_rankings(retrieval: Retrieval, count: int, first: int = 4, seed: int = 2) -> list[ImageRanking]:
    """For a few texts the best images, and the true one if it is not among them."""
    rankings = []
    for t in drawn(range(len(retrieval.texts)), count, seed):
        shown = listed(retrieval.t2i, t, retrieval.images_of(t), retrieval.top, first)
        images = [(picture(retrieval.image(i)), share, true) for i, share, true in shown]
        rankings.append(ImageRanking(retrieval.texts[t], images))
    return rankings


def listed(
    ranked: Ranked, query: int, true: Sequence[int], top: int, first: int
) -> list[tuple[int, float, bool]]:
    """The first candidates of a query, and the best true one behind them: (which, share, whether it is true).

    Shares are probabilities among those reranked; the others have none.
    """
    index = ranked.index_Qk[query].tolist()
    share = ranked.score_Qk[query, : top or None].double().softmax(0).tolist()
    shares = dict(zip(index[: len(share)], share, strict=True))
    shown = index[:first]
    if not set(shown) & set(true):
        shown.append(next((one for one in index if one in true), true[0]))
    return [(one, shares.get(one, 0.0), one in true) for one in shown]
