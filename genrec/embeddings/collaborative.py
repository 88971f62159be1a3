"""Item vectors from the users of each item, for catalogs with little text (MovieLens).

Source: PureSVD (Cremonesi et al. 2010) of the normalized matrix of GF-CF (Shen et al. 2021, 2108.07567).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.embeddings.truncated_svd import check_dim_and_seed, svd_vectors
from genrec.embeddings.vector_checks import training_items

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Collaborative:
    """Truncated SVD of D_item^-1/2 R' D_user^-1/2, where R [users, items] is 1 if the user has the item (repeats count once).

    Dividing by the degrees D removes popularity, which would otherwise dominate the first dimensions. Rows have length 1. Items
    without training interactions get the mean vector of the others, with a warning. If there are fewer than `dim` users or items, the
    vectors are narrower, with a warning. `Item2Vec` also encodes interactions.
    """

    dim: int = 64  # number of dimensions, at least 1
    seed: int = 0  # seed of the randomized SVD, 0..2**32-1

    def __post_init__(self) -> None:
        check_dim_and_seed(self, self.dim, self.seed)

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Return vectors float32 [N, D] from training interactions with the columns user and item (1..N)."""
        matrix = normalized_matrix(interactions, len(items))
        return svd_vectors(matrix, self.dim, self.seed, reason="without training interactions")


def normalized_matrix(interactions: DataFrame, num_items: int) -> csr_matrix[Any]:
    """Return a sparse matrix [N, users] with 1 / sqrt(degree of the item * degree of the user) for every pair that interacted."""
    import pandas as pd
    from scipy.sparse import csr_matrix

    item = training_items(interactions, num_items, "Collaborative")
    user, users = pd.factorize(interactions["user"])
    pairs = np.unique(np.stack([item - 1, user]), axis=1)
    degree_item = np.bincount(pairs[0], minlength=num_items)
    degree_user = np.bincount(pairs[1], minlength=len(users))
    weight = 1.0 / np.sqrt(degree_item[pairs[0]] * degree_user[pairs[1]])
    return csr_matrix((weight, (pairs[0], pairs[1])), shape=(num_items, len(users)))
