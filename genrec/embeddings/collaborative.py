"""Stage 2: vectors of items from who took them, for catalogs with little text (MovieLens).

In: *training* interactions. Out: float32 [N, D], rows of length 1.
Source: PureSVD (Cremonesi et al. 2010) of the normalized matrix of GF-CF (Shen et al. 2021, 2108.07567).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.embeddings.truncated_svd import check_svd_fields, svd_vectors
from genrec.embeddings.vector_checks import training_items

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Collaborative:
    """Truncated SVD of D_item^-1/2 R' D_user^-1/2, where R [users, items] is 1 where a user took an item (repeats count once).

    The degrees D take popularity out: without them the first dimensions only say how popular an item is. Items without a training
    interaction get the mean vector of the others, and a warning counts them. Where there are fewer users or items than `width`,
    the vectors are narrower, and a warning says so. `Item2Vec` is the other encoder of interactions.
    """

    dim: int = 64  # dimensions, at least 1
    seed: int = 0  # of the randomized SVD, 0..2**32-1

    def __post_init__(self) -> None:
        check_svd_fields(self, self.dim, self.seed)

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Items (row i is item i+1) and training interactions (user, item; item in 1..N) -> float32 [N, D]."""
        matrix = normalized_matrix(interactions, len(items))
        return svd_vectors(matrix, self.dim, self.seed, lacking="without training interactions")


def normalized_matrix(interactions: DataFrame, item_count: int) -> csr_matrix[Any]:
    """Interactions -> sparse [N, users] with 1 / sqrt(degree of the item * degree of the user) where the user took the item."""
    import pandas as pd
    from scipy.sparse import csr_matrix

    item = training_items(interactions, item_count, "Collaborative")
    user, users = pd.factorize(interactions["user"])
    taken = np.unique(np.stack([item - 1, user]), axis=1)
    degree_item = np.bincount(taken[0], minlength=item_count)
    degree_user = np.bincount(taken[1], minlength=len(users))
    weight = 1.0 / np.sqrt(degree_item[taken[0]] * degree_user[taken[1]])
    return csr_matrix((weight, (taken[0], taken[1])), shape=(item_count, len(users)))
