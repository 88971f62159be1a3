"""EASE: a linear item-item model with a closed form, fitted to predict each item of a user from the user's other items.

    B = argmin ||X - X B||^2 + lambda ||B||^2  with diag(B) = 0         X: binary user-item matrix of training, lambda = `l2`
    P = (X^T X + lambda I)^-1,  B_ij = -P_ij / P_jj for i != j,  B_ii = 0                             (equation 8 of the paper)
    score of item j for user u = sum over the items i of u of B_ij

The items of a user are all items of the user's training interactions and those of the given history: at test time also the validation
item, which is not in X. Their order and repetitions do not count. Seen items can be recommended, through the user's other items,
unless `exclude` contains them. A user without training interactions gets the scores of the history alone, and with an empty history
the most popular items.

Source: H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (WWW 2019), arXiv 1905.03375.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy import ndarray
from pandas import DataFrame
from scipy import sparse
from scipy.linalg import lapack
from torch import Tensor

from genrec.baselines.dense_ranking import best, given_scores, item_counts, precedence
from genrec.baselines.user_items import known_items, user_item_matrix
from genrec.errors import NumericsError, ResourceError, UsageError
from genrec.store import NOT_IN_KEY
from genrec.types import Ranking
from genrec.types.specification import check_at_least, check_types

BLOCK = 1024  # items that are computed at once
NUM_CHECKED = 8  # columns of the inverse that are multiplied back
TOLERANCE = 1e-6  # of these products


@dataclass(frozen=True)
class EASE:
    """A `genrec.types.Baseline`; its recommender is a `genrec.types.UserRecommender`.

    The memory is 8 N^2 bytes for N items (1.2 GB for 12,101), the time of the fit grows with N^3. Equal scores are ordered by training
    interactions, then by the lower item id.
    """

    l2: float = 500.0  # the paper's lambda, weight of the squared norm of B, above 0; smaller data sets want smaller values
    max_items: int = field(default=40_000, metadata=NOT_IN_KEY)  # largest catalog that is fitted (12.8 GB); changes no result

    def __post_init__(self) -> None:
        check_types(self, "policy")
        if not 0 < self.l2 < float("inf"):
            raise UsageError(f"policy.l2 must be above 0 and finite, got {self.l2}")
        check_at_least(self, "policy", 1, "max_items")

    def fit(self, interactions: DataFrame, item_count: int) -> FittedEASE:
        """Return a recommender of items 1..item_count, fitted on training interactions (user, item).

        Raises ResourceError for more than `max_items` items, and NumericsError if `l2` is too small for the inverse to be accurate.
        """
        size = f"EASE needs 8 N^2 bytes, {8e-9 * item_count**2:,.1f} GB for {item_count:,} items"
        if item_count > self.max_items:
            raise ResourceError(
                f"{size}, but policy.max_items is {self.max_items:,}; filter the items (--split.item-core), use ItemKNN instead "
                f"(--policy ItemKNN), or set --policy.max-items {item_count} if the machine has the memory"
            )
        counts, matrix = item_counts(interactions, item_count), user_item_matrix(interactions, item_count)
        try:
            return FittedEASE(item_weights(matrix, self.l2), matrix, precedence(counts))
        except MemoryError as error:
            raise ResourceError(f"{size}, which this machine does not have; use ItemKNN instead (--policy ItemKNN)") from error

    def tensors(self, fitted: FittedEASE) -> dict[str, Tensor]:
        """Return the weights, float64 [N, N], and the precedence, int64 [N]; the items of the users stay behind."""
        return {"weights": torch.from_numpy(fitted.weights), "precedence": torch.from_numpy(fitted.precedence)}

    def restore(self, tensors: Mapping[str, Tensor]) -> FittedEASE:
        """Return the recommender of these tensors, which knows no user."""
        weights = tensors["weights"].numpy()
        return FittedEASE(weights, sparse.csr_array((0, len(weights))), tensors["precedence"].numpy())


class FittedEASE:
    """A `genrec.types.UserRecommender` built from weights B float64 [N, N] and the user-item matrix, sparse [users, N]."""

    def __init__(self, weights: ndarray, matrix: sparse.csr_array, precedence: ndarray) -> None:
        self.weights, self.matrix, self.precedence = weights, matrix, precedence

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items by the histories int64 [B, T] alone, without the items of `exclude` int64 [B, E]."""
        return self._ranking(None, history, n, exclude)

    def recommend_to(self, user: Tensor, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items by the training items of users int64 [B] and their histories int64 [B, T]."""
        return self._ranking(user, history, n, exclude)

    def score_items(self, user: Tensor, history: Tensor, items: Tensor) -> Tensor:
        """Return the scores of items int64 [B, M] by the training items of users int64 [B] and their histories: float32 [B, M]."""
        return given_scores(self._scores(user, history), items)

    def _ranking(self, user: Tensor | None, history: Tensor, n: int, exclude: Tensor | None) -> Ranking:
        ranking = best(self._scores(user, history), self.precedence, n, exclude)
        return Ranking(ranking.items.to(history.device), ranking.scores.to(history.device))

    def _scores(self, user: Tensor | None, history: Tensor) -> ndarray:
        """Return the scores of all items, float32 [B, N]."""
        # Summed in float64: scores that are equal on paper are then equal in float32, in whatever order they are summed.
        scores: ndarray = (known_items(self.matrix, user, history) @ self.weights).astype(np.float32)
        return scores


def item_weights(matrix: sparse.csr_array, l2: float) -> ndarray:
    """Return B float64 [N, N] (equation 8) of a binary user-item matrix [users, N]; raise NumericsError if it is inaccurate.

    The inverse is computed in place, by a Cholesky decomposition: one matrix of N^2 numbers is in memory.
    """
    inverse = _gram_matrix(matrix, l2)
    _, failed = lapack.dpotrf(inverse, lower=True, overwrite_a=True, clean=False)
    if not failed:
        _, failed = lapack.dpotri(inverse, lower=True, overwrite_c=True)
    weights = inverse.T  # the same memory by rows; the upper triangle is filled
    _copy_upper_triangle(weights)
    error = np.inf if failed else _error(matrix, l2, weights)
    if not error <= TOLERANCE:
        raise NumericsError(f"EASE: X^T X + lambda I can't be inverted with policy.l2 = {l2:g} (error {error:.0e}); raise policy.l2")
    weights /= -weights.diagonal()
    np.fill_diagonal(weights, 0.0)
    return weights


def _gram_matrix(matrix: sparse.csr_array, l2: float) -> ndarray:
    """Return X^T X + lambda I, float64 [N, N], stored by columns."""
    items = matrix.shape[1]
    gram, columns, rows = np.empty((items, items), order="F"), matrix.tocsc(), matrix.T.tocsr()
    for begin in range(0, items, BLOCK):
        gram[:, begin : begin + BLOCK] = (rows @ columns[:, begin : begin + BLOCK]).toarray()
    gram[np.diag_indices(items)] += l2
    return gram


def _copy_upper_triangle(matrix: ndarray) -> None:
    """Copy the entries above the diagonal below it, in place; the matrix is square."""
    for begin in range(0, len(matrix), BLOCK):
        end = begin + BLOCK
        block = np.triu(matrix[begin:end, begin:end])
        matrix[begin:end, begin:end] = block + np.triu(block, 1).T
        matrix[end:, begin:end] = matrix[begin:end, end:].T


def _error(matrix: sparse.csr_array, l2: float, inverse: ndarray) -> float:
    """Return the largest absolute entry of (X^T X + lambda I) P - I in some columns, NaN if an entry of P is."""
    chosen = np.unique(np.linspace(0, len(inverse) - 1, NUM_CHECKED).astype(np.int64))
    columns = inverse[:, chosen]
    product = matrix.T @ (matrix @ columns) + l2 * columns
    product[chosen, np.arange(len(chosen))] -= 1
    return float(np.abs(product).max())
