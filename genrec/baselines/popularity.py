"""Popularity: everybody is shown the items that occur most often in training.

On Amazon Beauty (leave-one-out, seen items kept) R@10 .01118, N@10 .00527; the published .01145 and .00535 also count the
validation interactions, which a recommender fitted on training data does not know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from pandas import DataFrame
from torch import Tensor

from genrec.baselines.dense_ranking import best, item_counts, precedence
from genrec.types import Ranking


@dataclass(frozen=True)
class Popularity:
    """A `genrec.types.Baseline`: score = the number of training events of the item; equal scores by lower item id."""

    def fit(self, interactions: DataFrame, item_count: int) -> FittedPopularity:
        """Training interactions (item) -> what recommends items 1..item_count, those without an event last."""
        return FittedPopularity(item_counts(interactions, item_count))


class FittedPopularity:
    """A `genrec.types.Recommender` from counts int64 [N]."""

    def __init__(self, counts: ndarray) -> None:
        self.scores, self.first = counts.astype(np.float32), precedence(counts)

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """The same list for everybody, but for what `exclude` int64 [B, E] takes out."""
        scores = np.tile(self.scores, (len(history), 1))
        ranking = best(scores, self.first, n, exclude)
        return Ranking(ranking.items.to(history.device), ranking.scores.to(history.device))
