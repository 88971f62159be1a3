"""Stage 2: items that an encoder knows nothing of get the mean vector of the others, so that nothing is said about them.

In: float [N, D] and which rows lack. Out: the same array, filled, and a warning that counts the rows. Such items share one vector.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy import ndarray

from genrec.errors import InputError

EMPTY = 1e-6  # a direction shorter than this is none, only rounding error


def fill_with_mean(vectors: ndarray, lacking: ndarray, words: str, unit: bool = True) -> ndarray:
    """Fill rows `lacking`, bool [N], of `vectors` [N, D] in place; with `unit` the mean is scaled to length 1.

    `words` says in words what those items lack. An InputError where all rows lack.
    """
    if lacking.all():
        raise InputError(f"none of the {len(lacking)} items can be given a vector: all are {words}")
    if lacking.any():
        warnings.warn(f"{lacking.sum()} of {len(lacking)} items are {words}: they get the mean vector of the others", stacklevel=3)
        known = ~lacking[:, None]
        mean = vectors.mean(0, where=known, dtype=np.float64)
        vectors[lacking] = mean / max(float(np.linalg.norm(mean)), EMPTY) if unit else mean
    return vectors
