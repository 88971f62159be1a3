"""Statistical significance: bootstrap over users, paired test, and Holm's correction.

Sources: Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, sections 13.3 (percentile interval) and 16.4 (one-sample test by
shifting to the null); Davison & Hinkley 1997, section 4.2 (the observed sample counts as one resample); Smucker, Allan & Carterette,
CIKM 2007 (the paired bootstrap in retrieval evaluation); Holm 1979.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

EQUAL = 1e-12  # metrics lie in [0, 1]; smaller differences are rounding
ENTRIES = 2**22  # maximum entries of the table of resample counts in memory


def bootstrap_means(values: ndarray, resamples: int, seed: int) -> ndarray:
    """Return the means of `resamples` bootstrap samples of U users, float64 [resamples, R].

    `values` float64 [U, R] holds one column per row of the results table. All columns use the same samples, so the difference of
    two columns is a paired resample. Users with equal values in all columns are exchangeable and are sampled as one group, from a
    multinomial over groups. The distribution is the same, and sampling is much faster because a rank metric has few distinct values.
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
    """Return the 95 % percentile interval of resampled means."""
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def undefined(differences: ndarray) -> str:
    """Return why a test of per-user differences float64 [U], not all 0, is undefined. Empty if it is defined."""
    if len(differences) == 1:
        return "one user"
    if np.ptp(differences) <= EQUAL:
        return "the difference is the same for every user"
    return ""


def bootstrap_p(observed: float, means: ndarray) -> float:
    """Return the two-sided p-value of the mean difference `observed`, given its resampled means.

    The resampled means are shifted to have the center 0 of the null hypothesis:
    p = (1 + #{b: |mean_b - observed| >= |observed|}) / (1 + resamples), which is never 0.
    """
    extreme = np.abs(means - observed) >= abs(observed) - EQUAL
    return float((1 + extreme.sum()) / (1 + len(means)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values with Holm's step-down correction, in the given order.

    The i-th smallest of m p-values becomes max over j <= i of min(1, (m - j + 1) p_(j)).
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected
