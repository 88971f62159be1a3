"""Truncated SVD of a sparse matrix, which the encoders `TfidfSvd` and `Collaborative` share.

Source: latent semantic analysis (Deerwester et al. 1990), by the randomized algorithm of Halko et al. 2011 (0909.4061). scikit-learn
fixes the signs, so that a seed determines the vectors.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from genrec.embeddings.mean_fill import MIN_LENGTH, fill_with_mean
from genrec.errors import UsageError, counted

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def check_dim_and_seed(specification: object, dim: int, seed: int) -> None:
    """Raise UsageError, with the name of the specification and its field, if `dim` or `seed` is out of range."""
    name = type(specification).__name__
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise UsageError(f"{name}.dim must be a whole number, got {dim!r}")
    if dim < 1:
        raise UsageError(f"{name}.dim must be at least 1, got {dim}")
    if not 0 <= seed < 2**32:
        raise UsageError(f"{name}.seed must lie in 0..2**32-1, got {seed}")


def svd_vectors(matrix: csr_matrix[Any], dim: int, seed: int, reason: str) -> ndarray:
    """Return the rows of U S of the matrix [N, features] ~ U S V', scaled to length 1, float32 [N, min(dim, N, features)].

    Rows of length 0 (empty ones, or orthogonal to all kept components) get the mean direction of the others, with a warning that
    `reason` completes. Such items share one vector. Raise InputError if all rows have length 0.
    """
    from sklearn.utils.extmath import randomized_svd

    kept = min(dim, *matrix.shape)
    if kept < dim:
        items, features = counted(matrix.shape[0], "item"), counted(matrix.shape[1], "feature")
        warnings.warn(
            f"vectors get {counted(kept, 'dimension')} instead of {dim}: there are no more for {items} with {features}",
            stacklevel=3,
        )
    left, singular, _ = randomized_svd(matrix, kept, n_iter=7, random_state=seed)
    coordinates: ndarray = left * singular
    length = np.linalg.norm(coordinates, axis=1, keepdims=True)
    missing = length[:, 0] < MIN_LENGTH
    vectors = coordinates / np.where(missing[:, None], 1.0, length)
    return fill_with_mean(vectors, missing, reason).astype(np.float32)
