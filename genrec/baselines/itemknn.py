"""ItemKNN: items that share many training users with the history's last items.

    cos(i, j) = |users of i and j| / sqrt(|users of i| |users of j|),  cos(i, i) = 0     (binary user-item matrix, training only)
    score(j)  = sum over the last `last` items i of the history of decay^age(i) cos(i, j),  age 0 for the most recent

An item that occurs twice in the history counts at each of its ages; it can be recommended through the others (seen items are
kept unless `exclude` holds them). Source: Sarwar et al. 2001 (item-based collaborative filtering, cosine), with weights that decay
over the sequence.

On Amazon Beauty (leave-one-out, the validation item in the history) all neighbors give R@10 .0551 and N@10 .0308 with seen items
kept, .0642 and .0385 without, as published; 1,000 of them give .0550, .0308, .0641 and .0385 and bound the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from pandas import DataFrame
from scipy import sparse
from torch import Tensor

from genrec.baselines.dense_ranking import best, check_items, item_counts, precedence
from genrec.errors import UsageError
from genrec.types import Ranking

BLOCK = 1024  # items whose similarities are computed at once


@dataclass(frozen=True)
class ItemKNN:
    """A `genrec.types.Baseline`. Equal scores (0 without a neighbor in the history) by popularity in training, then lower id."""

    num_neighbors: int = 1000  # most similar items kept for each item (equal ones: the lower id); 0 keeps all, up to N^2 of them
    decay: float = 0.8  # weight of an item of the history relative to the one after it, in (0, 1]
    max_history: int = 50  # items of the history that count

    def __post_init__(self) -> None:
        if self.num_neighbors < 0:
            raise UsageError(f"neighbors must be 0 (all) or more, got {self.num_neighbors}")
        if not 0 < self.decay <= 1:
            raise UsageError(f"decay must lie in (0, 1], got {self.decay}")
        if self.max_history < 1:
            raise UsageError(f"last must be at least 1, got {self.max_history}")

    def fit(self, interactions: DataFrame, item_count: int) -> FittedItemKNN:
        """Training interactions (user, item) -> what recommends items 1..item_count."""
        counts = item_counts(interactions, item_count)
        return FittedItemKNN(self, cosine(interactions, item_count, self.num_neighbors), precedence(counts))


class FittedItemKNN:
    """A `genrec.types.Recommender` from similarities, sparse float64 [N, N]; an empty history gets the popular items."""

    def __init__(self, specification: ItemKNN, similarities: sparse.csr_array, first: ndarray) -> None:
        self.specification, self.similarities, self.first = specification, similarities, first

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Histories int64 [B, T], left-padded with 0 -> the `n` best items of each that `exclude` int64 [B, E] allows."""
        recent = history[:, -self.specification.max_history :].cpu().numpy()
        check_items(recent, self.similarities.shape[0], "history")
        user, place = recent.nonzero()
        weight = self.specification.decay ** (recent.shape[1] - 1.0 - place)
        shape = (len(recent), self.similarities.shape[0])
        weights = sparse.csr_array((weight, (user, recent[user, place] - 1)), shape=shape)
        # Summed in float64: what is equal on paper is then equal in float32, whatever the order of the sum.
        scores = (weights @ self.similarities).toarray().astype(np.float32)
        ranking = best(scores, self.first, n, exclude)
        return Ranking(ranking.items.to(history.device), ranking.scores.to(history.device))


def cosine(interactions: DataFrame, item_count: int, neighbors: int) -> sparse.csr_array:
    """Interactions (user, item) -> cosine similarities of items, float64 [N, N], row i its `neighbors` best (0: all)."""
    user = interactions["user"].to_numpy(dtype=np.int64)
    item = interactions["item"].to_numpy(dtype=np.int64) - 1
    shape = (int(user.max(initial=0)) + 1, item_count)
    taken = sparse.csr_array((np.ones(len(user)), (user, item)), shape=shape)
    taken.sum_duplicates()
    taken.data[:] = 1.0
    norms = np.sqrt(np.maximum(taken.sum(axis=0), 1.0))
    taken.data /= norms[taken.indices]
    columns = taken.tocsc()
    rows = [_nearest(columns[:, begin : begin + BLOCK].T @ taken, begin, neighbors) for begin in range(0, item_count, BLOCK)]
    return sparse.csr_array(sparse.vstack(rows, format="csr"))


def _nearest(block: sparse.csr_array, begin: int, neighbors: int) -> sparse.csr_array:
    """Similarities [items, N] of the items from column `begin` on: without each item itself, and only the best of each row."""
    entries = block.tocoo()
    row, column, value = entries.row, entries.col, entries.data
    other = column != row + begin
    row, column, value = row[other], column[other], value[other]
    if neighbors:
        order = np.lexsort((column, -value, row))
        row, column, value = row[order], column[order], value[order]
        kept = np.arange(len(row)) - np.searchsorted(row, row) < neighbors
        row, column, value = row[kept], column[kept], value[kept]
    return sparse.csr_array((value, (row, column)), shape=block.shape)
