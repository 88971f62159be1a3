"""The best values of metrics on the world `Taste`, for a ranker that knows all latent parameters.

Nothing here is in the tables of the world: a recommender cannot read it. A table of results shows by how much preferences could help.

- Pairwise accuracy: of two events of a user, the one with the higher value z is liked with the higher odds, so ranking by z is best.
- NDCG of liked: the target is the user's first liked event in the held-out part. With the next cell's probabilities T (row: last cell)
  and the probability l of a liked rating, the target is an item of cell j after the last cell i with the probability

      sum_k (T diag(1 - l))^k T diag(l) [i, j],  k = 0 .. held-out events - 1

  times the item's probability within its cell. NDCG with one target is largest in expectation for the ranking by this probability.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from genrec.data.corpus import Corpus
from genrec.data.splits import BEGIN, END, TEST, VALIDATION
from genrec.data.worlds.taste import Taste, model_of
from genrec.data.worlds.taste_model import CELLS
from genrec.errors import UsageError
from genrec.types.data import DISLIKED, LIKED

HIGHEST = 5  # rating


class BestMetrics(NamedTuple):
    """The values that the best rankings reach on the held-out events of a corpus, and the best ones that ignore ratings."""

    pairwise_accuracy: float  # mean over the users with a pair of a liked and a disliked event; NaN without such users
    ndcg: float  # NDCG@cutoff of the first liked events, seen items kept; NaN without such events
    likelihood_pairwise_accuracy: float  # the same two of the true probabilities of the next event, which the likelihood can learn
    likelihood_ndcg: float
    pair_users: int  # users with a pair
    target_users: int  # users with a liked event


def best_metrics(world: Taste, corpus: Corpus, part: str = "test", cutoff: int = 10) -> BestMetrics:
    """Return the best metrics on a held-out part of the corpus that was built from this world, as a table of results has them.

    Raises UsageError if the split of the corpus sets no bounds of ratings.
    """
    if corpus.label is None or corpus.feedback is None:
        raise UsageError("best_metrics needs labels; set split.liked and split.disliked, such as HoldOutLast(liked=4, disliked=2)")
    columns = {"validation": (VALIDATION, TEST), "test": (TEST, END)}
    if part not in columns:
        raise UsageError(f"best_metrics: part must be validation or test, got {part!r}")
    model = model_of(world)
    like = model.rating_probability(corpus.feedback.liked, HIGHEST)
    number = corpus.items["item_id"].str.removeprefix("item-").to_numpy(dtype=np.int64)  # of each item in the world
    users = np.array([int(user.removeprefix("user-")) for user in corpus.user_ids])
    rows = []
    for user, bounds in zip(users, corpus.bounds, strict=True):
        begin, end = (int(bounds[column]) for column in columns[part])
        if begin == end or begin == bounds[BEGIN]:
            continue  # no event to judge, or no history
        item, label = corpus.item[begin:end] - 1, corpus.label[begin:end]
        last = model.item_cell[number[corpus.item[begin - 1] - 1]]
        transitions = model.next_cell(np.full(CELLS, user), np.arange(CELLS))
        target, following = (
            (cells[last][model.item_cell] * model.within_cell)[number]
            for cells in (first_liked_cell(transitions, like[user], end - begin), transitions)
        )
        liked = item[label == LIKED]
        gains = [gain(scores, int(liked[0]), cutoff) if len(liked) else np.nan for scores in (target, following)]
        value = model.value[user, model.item_cell[number]]
        rows.append([accuracy_of_pairs(value[item], label), gains[0], accuracy_of_pairs(following[item], label), gains[1]])
    table = np.array(rows).reshape(-1, 4)
    counts = (~np.isnan(table)).sum(0)
    means = np.where(counts > 0, np.nansum(table, 0) / np.maximum(counts, 1), np.nan)
    accuracy, ndcg, likelihood_accuracy, likelihood_ndcg = (float(mean) for mean in means)
    return BestMetrics(accuracy, ndcg, likelihood_accuracy, likelihood_ndcg, int(counts[0]), int(counts[1]))


def first_liked_cell(transitions: ndarray, like: ndarray, steps: int) -> ndarray:
    """Return the probability that the first liked event within `steps` events is in each cell, float64 [cells, cells].

    `transitions` float64 [cells, cells] has the next cell's probabilities, `like` float64 [cells] that of a liked rating.
    """
    reached: ndarray = transitions  # the cell of step k, all events before which are not liked
    total: ndarray = reached * like
    for _ in range(steps - 1):
        reached = (reached * (1 - like)) @ transitions
        total = total + reached * like
    return total


def accuracy_of_pairs(scores: ndarray, label: ndarray) -> float:
    """Return the share of pairs of a liked and a disliked event with a higher score of the liked one, ties 1/2; NaN without a pair."""
    liked, disliked = scores[label == LIKED][:, None], scores[label == DISLIKED][None, :]
    if not liked.size or not disliked.size:
        return float("nan")
    return float(((liked > disliked) + (liked == disliked) / 2).mean())


def gain(scores: ndarray, target: int, cutoff: int) -> float:
    """Return NDCG@cutoff of one target in the ranking by scores float64 [N]; a tie counts half."""
    rank = 1 + (scores > scores[target]).sum() + ((scores == scores[target]).sum() - 1) / 2
    return float(1 / np.log2(1 + rank)) if rank <= cutoff else 0.0
