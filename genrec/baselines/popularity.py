"""Popularity: recommend the items with the most training interactions to every user.

Metrics on Amazon Beauty (leave-one-out, seen items kept):

    counted interactions             items of equal counts by    R@10      N@10
    training                         number in the corpus        0.01118   0.00527
    training and validation          number in the corpus        0.01145   0.00538    `count_validation=True`
    training                         number in S3-Rec's file     0.01145   0.00535    as published

Two items with 237 training interactions compete for the tenth place, with 12 and 18 test users. So the published R@10 equals that of
counting the validation interactions too, and its N@10 does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy import ndarray
from pandas import DataFrame
from torch import Tensor

from genrec.baselines.dense_ranking import best, given_scores, item_counts, precedence
from genrec.types import Ranking
from genrec.types.specification import check_types


@dataclass(frozen=True)
class Popularity:
    """A `genrec.types.PartsBaseline`: the score is the number of interactions; equal scores are ordered by the lower item id."""

    count_validation: bool = False  # also count validation, which no other row reads

    def __post_init__(self) -> None:
        check_types(self, "policy")

    def parts(self) -> tuple[Literal["train", "validation"], ...]:
        """Return the parts that are counted."""
        return ("train", "validation") if self.count_validation else ("train",)

    def fit(self, interactions: DataFrame, item_count: int) -> FittedPopularity:
        """Return a recommender of items 1..item_count; items without interactions come last."""
        counts = item_counts(interactions, item_count)
        return FittedPopularity(counts.astype(np.float32), precedence(counts))

    def tensors(self, fitted: FittedPopularity) -> dict[str, Tensor]:
        """Return the counts, float32 [N], and the precedence, int64 [N]."""
        return {"counts": torch.from_numpy(fitted.scores), "precedence": torch.from_numpy(fitted.precedence)}

    def restore(self, tensors: Mapping[str, Tensor]) -> FittedPopularity:
        """Return the recommender of these tensors."""
        return FittedPopularity(tensors["counts"].numpy(), tensors["precedence"].numpy())


class FittedPopularity:
    """A `genrec.types.Recommender` built from the counts, float32 [N], and the precedence of equal ones, int64 [N]."""

    def __init__(self, scores: ndarray, precedence: ndarray) -> None:
        self.scores, self.precedence = scores, precedence

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the same `n` items for every user, except for the items of `exclude` int64 [B, E]."""
        scores = np.tile(self.scores, (len(history), 1))
        ranking = best(scores, self.precedence, n, exclude)
        return Ranking(ranking.items.to(history.device), ranking.scores.to(history.device))

    def score_items(self, user: Tensor, history: Tensor, items: Tensor) -> Tensor:
        """Return the counts of items int64 [B, M], float32 [B, M]; users and histories are not read."""
        return given_scores(np.tile(self.scores, (len(items), 1)), items)
