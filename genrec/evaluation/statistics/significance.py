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
DECIMALS = 12  # values that are equal to so many decimals are one value; the mean over seeds may round them differently
ENTRIES = 2**22  # maximum entries of a table of resamples in memory
MAX_DRAWN = 2048  # users with a rare value that are drawn one by one; more are drawn in groups of neighboring values
EXTREMES = 32  # rare values at each end that stay groups of their own
GROUPS = 64  # groups of the rare values between the extremes
FREQUENT = 16  # users with one value from which on the value is counted; rarer values are drawn user by user, which is faster for them


def bootstrap_means(values: ndarray, resamples: int, seed: int) -> ndarray:
    """Return the means of `resamples` bootstrap samples of per-user `values` float64 [U], float64 [resamples].

    The result depends on the multiset of values, `resamples` and `seed` only, not on the order of users or on other rows of a table.
    Users with equal values are exchangeable: how often a frequent value occurs in a sample is a multinomial count, and the users with
    rare values are drawn one by one. The distribution is that of drawing U users with replacement, and sampling is much faster,
    because a rank metric has few distinct values. If more than `MAX_DRAWN` users have rare values, these are drawn in groups (see
    `_means_of_groups`).
    """
    users = len(values)
    groups, sizes = np.unique(np.round(values, DECIMALS) + 0.0, return_counts=True)  # + 0.0: no negative zero
    frequent = sizes >= FREQUENT
    rare = np.repeat(groups[~frequent], sizes[~frequent])  # float64 [users with a rare value]
    if len(rare) > MAX_DRAWN:
        return _means_of_groups(groups[frequent], sizes[frequent], rare, resamples, seed)
    shares = np.append(sizes[frequent], len(rare)) / users
    rng = np.random.default_rng(seed)
    chunk = max(1, ENTRIES // max(len(shares), len(rare)))
    totals = []
    for begin in range(0, resamples, chunk):
        counts = rng.multinomial(users, shares, size=min(chunk, resamples - begin))  # int64 [chunk, frequent values + 1]
        total = counts[:, :-1] @ groups[frequent]
        totals.append(total + _sums_of_draws(rare, counts[:, -1], rng) if len(rare) else total)
    means: ndarray = np.concatenate(totals) / users
    return means


def _means_of_groups(frequent: ndarray, sizes: ndarray, rare: ndarray, resamples: int, seed: int) -> ndarray:
    """Return the means of bootstrap samples, float64 [resamples], of frequent values with their numbers of users, and of rare values.

    `rare` float64 [R], ascending, is cut into groups of neighboring values. How often a group occurs is a multinomial count, and the
    deviations of its draws from the group's mean add up to a normal number with their variance. The samples have the exact mean and
    variance of the bootstrap; the extreme values, which shape its tails, are groups of their own.
    """
    middle = np.array_split(rare[EXTREMES:-EXTREMES], GROUPS)
    means = np.concatenate([frequent, rare[:EXTREMES], [part.mean() for part in middle], rare[-EXTREMES:]])
    variances = np.zeros(len(means))
    variances[len(frequent) + EXTREMES :][:GROUPS] = [part.var() for part in middle]
    counts_of = np.concatenate([sizes, np.ones(EXTREMES), [len(part) for part in middle], np.ones(EXTREMES)])
    users, rng = counts_of.sum(), np.random.default_rng(seed)
    chunk = max(1, ENTRIES // len(means))
    totals = []
    for begin in range(0, resamples, chunk):
        counts = rng.multinomial(int(users), counts_of / users, size=min(chunk, resamples - begin))  # int64 [chunk, groups]
        totals.append(counts @ means + np.sqrt(counts @ variances) * rng.standard_normal(len(counts)))
    found: ndarray = np.concatenate(totals) / users
    return found


def _sums_of_draws(values: ndarray, counts: ndarray, rng: np.random.Generator) -> ndarray:
    """Return the sum of `counts[i]` draws with replacement from `values` for each i, float64 [len(counts)]."""
    drawn = np.append(values[rng.integers(0, len(values), int(counts.sum()))], 0.0)  # the end of the last sums may be this entry
    sums: ndarray = np.add.reduceat(drawn, np.cumsum(counts) - counts)
    return np.where(counts > 0, sums, 0.0)  # reduceat returns an entry, not 0, for an empty range


def paired_means(differences: ndarray, resamples: int, seed: int) -> ndarray:
    """Return `bootstrap_means` of per-user differences float64 [U]. Opposite differences (the two rows swapped) have opposite means.

    Differences that are symmetric around 0 are their own opposite; their p is 1 in both orders.
    """
    sign = 1.0 if np.sort(differences).tolist() >= np.sort(-differences).tolist() else -1.0
    return sign * bootstrap_means(sign * differences, resamples, seed)


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


def holm(p_values: Sequence[float], size: int | None = None) -> list[float]:
    """Return p-values with Holm's step-down correction, in the given order.

    The i-th smallest of the p-values becomes max over j <= i of min(1, (m - j + 1) p_(j)), where m is `size`, the number of tests in
    the family, by default that of the p-values. With a larger m, the tests with an unknown p take the last places: no place of theirs
    corrects the known p-values more.
    """
    count = len(p_values) if size is None else size
    assert count >= len(p_values)
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (count - place) * p_values[index]))
        corrected[index] = highest
    return corrected
