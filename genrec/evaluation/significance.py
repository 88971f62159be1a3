"""Stage 6: how sure a difference is. The bootstrap over users, and Holm's correction.

Sources: Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, sections 13.3 (percentile interval) and 16.4 (one-sample test by
shifting to the null); Davison & Hinkley 1997, section 4.2 (the observed sample counts as one resample); Smucker, Allan & Carterette,
CIKM 2007 (the paired bootstrap in retrieval evaluation); Holm 1979.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

EQUAL = 1e-12  # metrics lie in [0, 1]; what differs by less differs by rounding
ENTRIES = 2**22  # of the table of resample counts that is held at once


def bootstrap_means(values: ndarray, resamples: int, seed: int) -> ndarray:
    """Per-user values float64 [U, R], a column a row of the table -> the means of `resamples` draws of U users, [resamples, R].

    All columns see the same draws, so the difference of two columns is a paired resample. Users with equal values in all columns
    are exchangeable and are drawn as one group, by a multinomial over the groups: the same distribution, and far fewer draws,
    since a rank metric has few values.
    """
    groups, sizes = np.unique(values, axis=0, return_counts=True)
    users = len(values)
    rng = np.random.default_rng(seed)
    chunk = max(1, ENTRIES // len(groups))
    parts = [
        rng.multinomial(users, sizes / users, size=min(chunk, resamples - begin)) @ groups / users
        for begin in range(0, resamples, chunk)
    ]
    return np.concatenate(parts)


def percentile_interval(means: ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled means."""
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def undefined(differences: ndarray) -> str:
    """Why a test of these per-user differences float64 [U], not all 0, says nothing; empty when it does."""
    if len(differences) == 1:
        return "one user"
    if np.ptp(differences) <= EQUAL:
        return "the difference is the same for every user"
    return ""


def bootstrap_p(observed: float, means: ndarray) -> float:
    """Two-sided p of the mean difference `observed` from its resampled means.

    The resamples are shifted so that their center is 0, as if there were no difference:
    p = (1 + #{b: |mean_b - observed| >= |observed|}) / (1 + resamples), hence never 0.
    """
    extreme = np.abs(means - observed) >= abs(observed) - EQUAL
    return float((1 + extreme.sum()) / (1 + len(means)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_(j)), in given order."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected
