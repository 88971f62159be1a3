"""ItemKNN: recommend items that share many training users with the last items of the history.

    cos(i, j) = |users of i and j| / sqrt(|users of i| |users of j|),  cos(i, i) = 0     (binary user-item matrix of training)
    score(j)  = sum over the last `max_history` items i of the history of decay^age(i) cos(i, j),  age 0 for the most recent item

An item that occurs twice in the history counts at both ages. Seen items can be recommended, through other items of the history, unless
`exclude` contains them.

On Amazon Beauty (leave-one-out, the validation item is part of the history), with all neighbors, R@10 is 0.0551 and N@10 0.0308
with seen items kept, 0.0642 and 0.0385 without, as published. With 1,000 neighbors, which bounds the memory, they are 0.0550,
0.0308, 0.0641 and 0.0385.

Source: Sarwar et al. 2001 (item-based collaborative filtering, cosine), with weights that decay over the sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray
from pandas import DataFrame
from scipy import sparse
from torch import Tensor

from genrec.baselines.dense_ranking import best, check_items, given_scores, item_counts, precedence
from genrec.baselines.user_items import user_item_matrix
from genrec.errors import UsageError
from genrec.types import Ranking

CSR = ("data", "indices", "indptr")  # arrays of a sparse matrix by rows
BLOCK = 1024  # items that are compared with all others at once


@dataclass(frozen=True)
class ItemKNN:
    """A `genrec.types.Baseline`.

    Equal scores (0 for an item without a neighbor in the history) are ordered by training interactions, then by the lower item id.
    """

    num_neighbors: int = 1000  # most similar items kept per item (equal ones: the lower id); 0 keeps all, up to N^2 in total
    decay: float = 0.8  # weight of an item of the history relative to the item after it, in (0, 1]
    max_history: int = 50  # most recent items of the history that are used, at least 1

    def __post_init__(self) -> None:
        if self.num_neighbors < 0:
            raise UsageError(f"policy.num_neighbors must be 0 (all) or more, got {self.num_neighbors}")
        if not 0 < self.decay <= 1:
            raise UsageError(f"policy.decay must lie in (0, 1], got {self.decay}")
        if self.max_history < 1:
            raise UsageError(f"policy.max_history must be at least 1, got {self.max_history}")

    def fit(self, interactions: DataFrame, item_count: int) -> FittedItemKNN:
        """Return a recommender of items 1..item_count, fitted on training interactions (user, item)."""
        counts = item_counts(interactions, item_count)
        return FittedItemKNN(self, cosine(interactions, item_count, self.num_neighbors), precedence(counts))

    def tensors(self, fitted: FittedItemKNN) -> dict[str, Tensor]:
        """Return the similarities, float64 and int64 by rows (CSR), and the precedence, int64 [N]."""
        parts = {name: torch.from_numpy(getattr(fitted.similarities, name)) for name in CSR}
        return {**parts, "precedence": torch.from_numpy(fitted.precedence)}

    def restore(self, tensors: Mapping[str, Tensor]) -> FittedItemKNN:
        """Return the recommender of these tensors."""
        count = len(tensors["precedence"])
        similarities = sparse.csr_array(tuple(tensors[name].numpy() for name in CSR), shape=(count, count))
        return FittedItemKNN(self, similarities, tensors["precedence"].numpy())


class FittedItemKNN:
    """A `genrec.types.Recommender` built from similarities, sparse float64 [N, N]; an empty history gets the most popular items."""

    def __init__(self, specification: ItemKNN, similarities: sparse.csr_array, precedence: ndarray) -> None:
        self.specification, self.similarities, self.precedence = specification, similarities, precedence

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items of histories int64 [B, T], left-padded with 0, without the items of `exclude` int64 [B, E]."""
        ranking = best(self._scores(history), self.precedence, n, exclude)
        return Ranking(ranking.items.to(history.device), ranking.scores.to(history.device))

    def score_items(self, user: Tensor, history: Tensor, items: Tensor) -> Tensor:
        """Return the scores of items int64 [B, M] by the histories int64 [B, T]: float32 [B, M]; the users are not read."""
        return given_scores(self._scores(history), items)

    def _scores(self, history: Tensor) -> ndarray:
        """Return the scores of all items, float32 [B, N]."""
        recent = history[:, -self.specification.max_history :].cpu().numpy()
        check_items(recent, self.similarities.shape[0], "history")
        user, place = recent.nonzero()
        weight = self.specification.decay ** (recent.shape[1] - 1.0 - place)
        shape = (len(recent), self.similarities.shape[0])
        weights = sparse.csr_array((weight, (user, recent[user, place] - 1)), shape=shape)
        # Summed in float64: scores that are equal on paper are then equal in float32, in whatever order they are summed.
        scores: ndarray = (weights @ self.similarities).toarray().astype(np.float32)
        return scores


def cosine(interactions: DataFrame, item_count: int, num_neighbors: int) -> sparse.csr_array:
    """Return the cosine similarities of items, sparse float64 [N, N], from interactions (user, item).

    Row i keeps the `num_neighbors` most similar items (0 keeps all).
    """
    matrix = user_item_matrix(interactions, item_count)
    norms = np.sqrt(np.maximum(matrix.sum(axis=0), 1.0))
    matrix.data /= norms[matrix.indices]
    columns = matrix.tocsc()
    rows = [
        _keep_neighbors(columns[:, begin : begin + BLOCK].T @ matrix, begin, num_neighbors) for begin in range(0, item_count, BLOCK)
    ]
    return sparse.csr_array(sparse.vstack(rows, format="csr"))


def _keep_neighbors(block: sparse.csr_array, begin: int, num_neighbors: int) -> sparse.csr_array:
    """Drop from similarities [items, N], of the items from column `begin` on, the items themselves and all but the nearest."""
    entries = block.tocoo()
    row, column, value = entries.row, entries.col, entries.data
    is_other = column != row + begin
    row, column, value = row[is_other], column[is_other], value[is_other]
    if num_neighbors:
        order = np.lexsort((column, -value, row))
        row, column, value = row[order], column[order], value[order]
        kept = np.arange(len(row)) - np.searchsorted(row, row) < num_neighbors
        row, column, value = row[kept], column[kept], value[kept]
    return sparse.csr_array((value, (row, column)), shape=block.shape)
