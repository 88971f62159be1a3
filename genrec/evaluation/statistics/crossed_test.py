"""The test of two methods over users and seeds, which are crossed: every user is evaluated under every seed.

D[u, s] is the difference of two rows for user u at seed s, with U users and S seeds. Both users and seeds are samples, so the variance
of the mean difference has a part of each (Clark 1973, quasi-F; Bouthillier et al. 2021, MLSys):

    S2_users = var_u(mean_s D)                                                        variance over users, divisor U - 1
    S2_seeds = var_s(mean_u D)                                                        variance over seeds, divisor S - 1
    MS_error = sum (D - mean_s D - mean_u D + mean D)^2 / ((U - 1)(S - 1))
    V        = max(S2_users / U + S2_seeds / S - MS_error / (U S), S2_users / U)
    t        = mean D / sqrt(V)

Few seeds estimate S2_seeds badly, so it is pooled, with MS_error, over all trained rows of a table that are compared with the same
reference. With df degrees of freedom in the pool, S - 1 of each row, t has by Satterthwaite's approximation

    V^2 / ((S2_seeds / S)^2 / df + (S2_users / U)^2 / (U - 1))     degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from scipy.special import stdtr, stdtrit  # Student's t as in scipy.stats, which takes a second to import

CONFIDENCE = 0.95  # of the interval
POWER = 0.8  # with which a test at the level 1 - CONFIDENCE finds the minimum detectable difference
ROUNDING = 1e-12  # a smaller standard error, or a smaller difference without one, is rounding


class SeedVariance(NamedTuple):
    """Variances over seeds, pooled over rows."""

    seeds: float  # S2_seeds, variance over seeds of the mean difference
    error: float  # MS_error, interaction of users and seeds
    degrees_of_freedom: int  # sum over the rows of S - 1; 0 if no row has two seeds
    rows: tuple[str, ...]  # names of the rows

    @property
    def deviation(self) -> float:
        """The standard deviation over seeds of a mean difference."""
        return math.sqrt(self.seeds)


class CrossedTest(NamedTuple):
    """The result of a test."""

    difference: float  # mean over users and seeds
    standard_error: float  # sqrt(V)
    degrees_of_freedom: float
    p: float  # two-sided
    interval: tuple[float, float]  # 95 % confidence interval of the difference
    detectable: float  # difference that a test at level 0.05 finds with probability 0.8, about; without Holm's correction


def pooled_variance(differences: Mapping[str, ndarray]) -> SeedVariance:
    """Return the variances over seeds of differences float64 [U, S] by row, pooled with S - 1 as weights.

    Rows with one seed, or with one user, add nothing.
    """
    seeds = error = 0.0
    degrees, names = 0, []
    for name, difference in differences.items():
        users, count = difference.shape
        if count < 2 or users < 2:
            continue
        by_user, by_seed = difference.mean(1, keepdims=True), difference.mean(0, keepdims=True)
        seeds += float(np.square(by_seed - difference.mean()).sum())
        error += float(np.square(difference - by_user - by_seed + difference.mean()).sum()) / (users - 1)
        degrees += count - 1
        names.append(name)
    divisor = max(1, degrees)
    return SeedVariance(seeds / divisor, error / divisor, degrees, tuple(names))


def crossed_test(difference: ndarray, pooled: SeedVariance) -> CrossedTest | None:
    """Return the test of the mean difference over users and seeds, with the formulas at the top of this file.

    Returns None if the standard error is 0 and the mean difference is not: there is nothing to test it with.

    Args:
        difference: float64 [U, S], row minus reference of each user at each seed; U is at least 2.
        pooled: the variances over seeds, from `pooled_variance`, with at least one degree of freedom.

    """
    users, seeds = difference.shape
    of_users = float(np.var(difference.mean(1), ddof=1)) / users
    of_seeds, of_error = pooled.seeds / seeds, pooled.error / (users * seeds)
    variance = max(of_users + of_seeds - of_error, of_users)
    parts = of_seeds**2 / pooled.degrees_of_freedom + of_users**2 / (users - 1)
    return _t_test(float(difference.mean()), variance, variance**2 / parts if parts > 0 else users - 1.0)


def seeds_test(difference: ndarray, pooled: float, degrees_of_freedom: int) -> CrossedTest | None:
    """Return the t-test over seeds of differences float64 [S] of a metric without values per user, such as coverage.

    `pooled` is the variance over seeds with `degrees_of_freedom`, at least 1 (see `variance_over_seeds`). The order of the seeds
    does not matter. Returns None if the variance is 0 and the mean is not.
    """
    return _t_test(float(difference.mean()), pooled / len(difference), float(degrees_of_freedom))


def variance_over_seeds(differences: Mapping[str, ndarray]) -> SeedVariance:
    """Return the variance over seeds of differences float64 [S] by row, pooled with S - 1 as weights."""
    several = {name: difference for name, difference in differences.items() if len(difference) > 1}
    total = sum(float(np.square(difference - difference.mean()).sum()) for difference in several.values())
    degrees = sum(len(difference) - 1 for difference in several.values())
    return SeedVariance(total / max(1, degrees), 0.0, degrees, tuple(several))


def _t_test(mean: float, variance: float, degrees_of_freedom: float) -> CrossedTest | None:
    if variance <= ROUNDING**2:
        return CrossedTest(0.0, 0.0, degrees_of_freedom, 1.0, (0.0, 0.0), 0.0) if abs(mean) <= ROUNDING else None
    error = math.sqrt(variance)
    quantile = float(stdtrit(degrees_of_freedom, (1 + CONFIDENCE) / 2))
    detectable = (quantile + float(stdtrit(degrees_of_freedom, POWER))) * error
    p = 2 * float(stdtr(degrees_of_freedom, -abs(mean) / error))
    return CrossedTest(mean, error, degrees_of_freedom, p, (mean - quantile * error, mean + quantile * error), detectable)
