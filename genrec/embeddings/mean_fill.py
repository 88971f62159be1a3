"""Mean vectors for items about which an encoder knows nothing. All such items share one vector."""

from __future__ import annotations

import warnings

import numpy as np
from numpy import ndarray

from genrec.errors import InputError

MIN_LENGTH = 1e-6  # a shorter vector has no direction but rounding error


def fill_with_mean(vectors: ndarray, missing: ndarray, reason: str, unit: bool = True) -> ndarray:
    """Set the rows `missing`, bool [N], of `vectors`, float [N, D], to the mean of the others, in place, and warn.

    `reason` completes the warning "n of N items are ...". With `unit` the mean is scaled to length 1. Raise InputError if all rows
    are missing.
    """
    if missing.all():
        raise InputError(f"none of the {len(missing)} items can be given a vector: all are {reason}")
    if missing.any():
        one = missing.sum() == 1
        warnings.warn(
            f"{missing.sum()} of {len(missing)} items {'is' if one else 'are'} {reason}: {'it gets' if one else 'they get'} the mean "
            "vector of the others",
            stacklevel=3,
        )
        mean = vectors.mean(0, where=~missing[:, None], dtype=np.float64)
        vectors[missing] = mean / max(float(np.linalg.norm(mean)), MIN_LENGTH) if unit else mean
    return vectors
