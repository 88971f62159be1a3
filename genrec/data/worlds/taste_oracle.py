"""The best values of metrics on the world `Taste`, for a ranker that knows all latent parameters.

Nothing here is in the tables of the world: a recommender cannot read it. A table of results shows by how much preferences could help.

- Pairwise accuracy: of two events of a user, the one with the higher value z is liked with the higher odds, so ranking by z is best.
- NDCG of liked: the target is the user's first liked event in the held-out part. With the next cell's probabilities T (row: last cell)
  and the probability l of a liked rating, the target is an item of cell j after the last cell i with the probability

      sum_k (T diag(1 - l))^k T diag(l) [i, j],  k = 0 .. held-out events - 1

  times the item's probability within its cell. NDCG with one target is largest in expectation for the ranking by this probability.
  Events of a randomized period (`Taste.randomized`) have other T: all items are equally probable, whatever came before. If the whole
  part is randomized, the best ranking is by the probability l alone.
- Likelihood: rankings by what the likelihood of training events can learn at best, where the shop shows as it does in training. That
  of all events ranks by T, that of liked events by the sum above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from genrec.data.corpus import Corpus
from genrec.data.splits import BEGIN, END, TEST, VALIDATION
from genrec.data.worlds.taste import Taste, model_of
from genrec.data.worlds.taste_model import CELLS, TasteModel
from genrec.errors import UsageError
from genrec.types.data import DISLIKED, LIKED

HIGHEST = 5  # rating


class BestMetrics(NamedTuple):
    """The values that the best rankings reach on the held-out events of a corpus, and those of the likelihood of training events."""

    pairwise_accuracy: float  # mean over the users with a pair of a liked and a disliked event; NaN without such users
    ndcg: float  # NDCG@cutoff of the first liked events, seen items kept; NaN without such events
    likelihood_pairwise_accuracy: float  # the same two of the true probabilities of the next event as the shop shows, liked or not
    likelihood_ndcg: float
    liked_likelihood_pairwise_accuracy: float  # the same two of the true probabilities of the next liked event as the shop shows
    liked_likelihood_ndcg: float  # equals `ndcg` unless the held-out events are randomized
    pair_users: int  # users with a pair
    target_users: int  # users with a liked event


class Exposure(NamedTuple):
    """How the next event is drawn."""

    transitions: ndarray  # float64 [cells, cells]  probability of the next cell (column) after the last one (row)
    within_cell: ndarray  # float64 [N]  probability of every item in its cell


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
    uniform = uniform_exposure(model)
    rows = []
    for user, bounds in zip(users, corpus.bounds, strict=True):
        begin, end = (int(bounds[column]) for column in columns[part])
        if begin == end or begin == bounds[BEGIN]:
            continue  # no event to judge, or no history
        item, label = corpus.item[begin:end] - 1, corpus.label[begin:end]
        last = int(model.item_cell[number[corpus.item[begin - 1] - 1]])
        shop = Exposure(model.next_cell(np.full(CELLS, user), np.arange(CELLS)), model.within_cell)
        drawn = [uniform if int(bounds[END]) - place <= world.randomized else shop for place in range(begin, end)]
        value = model.value[user, model.item_cell][number]
        target = first_liked_item(drawn, like[user], last, model.item_cell)[number]
        following = (shop.transitions[last, model.item_cell] * shop.within_cell)[number]
        following_liked = first_liked_item([shop] * len(drawn), like[user], last, model.item_cell)[number]
        liked = item[label == LIKED]
        rows.append([
            accuracy_of_pairs(value[item], label), first_gain(target, liked, cutoff),
            accuracy_of_pairs(following[item], label), first_gain(following, liked, cutoff),
            accuracy_of_pairs(following_liked[item], label), first_gain(following_liked, liked, cutoff),
        ])  # fmt: skip
    table = np.array(rows).reshape(-1, 6)
    counts = (~np.isnan(table)).sum(0)
    means = np.where(counts > 0, np.nansum(table, 0) / np.maximum(counts, 1), np.nan)
    accuracy, ndcg, all_accuracy, all_ndcg, liked_accuracy, liked_ndcg = (float(mean) for mean in means)
    return BestMetrics(accuracy, ndcg, all_accuracy, all_ndcg, liked_accuracy, liked_ndcg, int(counts[0]), int(counts[1]))


def uniform_exposure(model: TasteModel) -> Exposure:
    """Return the exposure of a randomized period: every item has the same probability."""
    count = np.bincount(model.item_cell, minlength=CELLS)
    return Exposure(np.tile(count / model.num_items, (CELLS, 1)), 1 / count[model.item_cell])


def first_liked_item(exposures: Sequence[Exposure], like: ndarray, last: int, item_cell: ndarray) -> ndarray:
    """Return the probability of every item to be the first liked one of the next events, float64 [N].

    Events have one exposure each. `like` float64 [cells] is the probability of a liked rating, `last` the cell of the last event, and
    `item_cell` int64 [N] the cell of every item.
    """
    reached: ndarray = np.eye(len(like))[last]  # of each cell, where no event before is liked
    found: ndarray = np.zeros(len(item_cell))
    for exposure in exposures:
        reached = reached @ exposure.transitions
        found += (reached * like)[item_cell] * exposure.within_cell
        reached = reached * (1 - like)
    return found


def accuracy_of_pairs(scores: ndarray, label: ndarray) -> float:
    """Return the share of pairs of a liked and a disliked event with a higher score of the liked one, ties 1/2; NaN without a pair."""
    liked, disliked = scores[label == LIKED][:, None], scores[label == DISLIKED][None, :]
    if not liked.size or not disliked.size:
        return float("nan")
    return float(((liked > disliked) + (liked == disliked) / 2).mean())


def first_gain(scores: ndarray, liked: ndarray, cutoff: int) -> float:
    """Return NDCG@cutoff of the first of the liked items; NaN without one."""
    return gain(scores, int(liked[0]), cutoff) if len(liked) else float("nan")


def gain(scores: ndarray, target: int, cutoff: int) -> float:
    """Return NDCG@cutoff of one target in the ranking by scores float64 [N]; among ties the mean over their orders."""
    first = 1 + int((scores > scores[target]).sum())
    ranks = np.arange(first, first + int((scores == scores[target]).sum()))
    return float(np.where(ranks <= cutoff, 1 / np.log2(1 + ranks), 0.0).mean())
