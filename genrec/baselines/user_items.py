"""The binary matrix of users and items, which the linear baselines are fitted on."""

from __future__ import annotations

import numpy as np
from numpy import ndarray
from pandas import DataFrame
from scipy import sparse
from torch import Tensor

from genrec.baselines.dense_ranking import check_items


def user_item_matrix(interactions: DataFrame, item_count: int) -> sparse.csr_array:
    """Return 1 where a user has an item, sparse float64 [max user + 1, N], from interactions (user, item).

    Row u belongs to user number u, column i to item i + 1. Repeated interactions count once; the columns of a row are ascending.
    """
    user, item = (interactions[name].to_numpy(dtype=np.int64) for name in ("user", "item"))
    return _binary(user, item - 1, (int(user.max(initial=0)) + 1, item_count))


def known_items(matrix: sparse.csr_array, user: Tensor | None, history: Tensor) -> sparse.csr_array:
    """Return the union of each user's row of `matrix` and of the history, binary sparse float64 [B, N].

    `user` int64 [B] are row numbers, and numbers outside the matrix have an empty row; None: no user has one. `history` is int64
    [B, T], padded with 0.
    """
    items = history.cpu().numpy()
    check_items(items, matrix.shape[1], "history")
    row, place = items.nonzero()
    column = items[row, place] - 1
    if user is not None:
        users = user.cpu().numpy()
        inside = np.flatnonzero((users >= 0) & (users < matrix.shape[0]))
        taken = matrix[users[inside]].tocoo()
        row, column = np.concatenate([row, inside[taken.row]]), np.concatenate([column, taken.col])
    return _binary(row, column, (len(items), matrix.shape[1]))


def _binary(row: ndarray, column: ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    matrix = sparse.csr_array((np.ones(len(row)), (row, column)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
