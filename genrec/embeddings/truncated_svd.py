"""Stage 2: the step that the SVD encoders share. In: a sparse matrix [N, features]. Out: float32 [N, width], rows of length 1.

Source: latent semantic analysis (Deerwester et al. 1990), by the randomized algorithm of Halko et al. 2011 (0909.4061), whose signs
scikit-learn fixes, so that a seed gives the same vectors every time.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from genrec.embeddings.mean_fill import EMPTY, fill_with_mean
from genrec.errors import UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def check_svd_fields(owner: object, width: int, seed: int) -> None:
    """Refuse what the decomposition cannot take; the message names the specification and its field."""
    name = type(owner).__name__
    if isinstance(width, bool) or not isinstance(width, int):
        raise UsageError(f"{name}.width must be a whole number, got {width!r}")
    if width < 1:
        raise UsageError(f"{name}.width must be at least 1, got {width}")
    if not 0 <= seed < 2**32:
        raise UsageError(f"{name}.seed must lie in 0..2**32-1, got {seed}")


def svd_vectors(matrix: csr_matrix[Any], width: int, seed: int, lacking: str) -> ndarray:
    """Matrix [N, features] ~ U S V' -> the rows of U S scaled to length 1, float32 [N, min(width, N, features)].

    Rows without a direction (empty ones, or orthogonal to every component kept) get the mean direction of the others, with a
    warning that counts them: such items then collide, and nothing is said about them that was not known. `lacking` says in words
    what those items lack. No direction in any row is an InputError.
    """
    from sklearn.utils.extmath import randomized_svd

    kept = min(width, *matrix.shape)
    if kept < width:
        warnings.warn(
            f"vectors get {kept} dimensions instead of {width}: {matrix.shape[0]} items with {matrix.shape[1]} features have no more",
            stacklevel=3,
        )
    left, singular, _ = randomized_svd(matrix, kept, n_iter=7, random_state=seed)
    coordinates: ndarray = left * singular
    length = np.linalg.norm(coordinates, axis=1, keepdims=True)
    empty = length[:, 0] < EMPTY  # its projection is only rounding error
    vectors = coordinates / np.where(empty[:, None], 1.0, length)
    return fill_with_mean(vectors, empty, lacking).astype(np.float32)
