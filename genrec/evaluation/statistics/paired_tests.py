"""The test of one row of a results table against another.

Trained rows are tested over users and seeds (`genrec.evaluation.statistics.crossed_test`), a figure of all lists together over
seeds alone, and two baselines over users alone, by a paired bootstrap. Of rows that were trained, the bootstrap over users is kept
as a diagnostic: it says something about these trained models, not about the methods.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from genrec.evaluation.statistics.crossed_test import (
    CrossedTest,
    SeedVariance,
    crossed_test,
    pooled_variance,
    seeds_test,
    variance_over_seeds,
)
from genrec.evaluation.statistics.seed_pairs import SeedPairs
from genrec.evaluation.statistics.significance import EQUAL, bootstrap_p, paired_means, percentile_interval, undefined

LEAST_SEEDS = 3  # of a claim about a method
CONTROL = "Supervised"  # the objective of the control: further training without preferences
WITHOUT_PREFERENCES = ("Supervised", "ContinuedSFT")  # objectives and losses
DEFAULT_SEEDS = 5  # of a comparison


class UsersOnly(NamedTuple):
    """The paired bootstrap over users, with the seeds fixed."""

    interval: tuple[float, float]  # 95 % percentile interval of the mean difference
    p: float  # two-sided; 1 if no user differs


class PairedTest(NamedTuple):
    """A paired test of a row against the reference row."""

    difference: float | None  # mean over users and `seeds`, row minus reference; None if the rows have no seed in common
    interval: tuple[float, float] | None  # 95 % confidence interval of the difference; None if undefined
    p: float | None  # two-sided; 1 if nothing differs; None if undefined
    p_holm: float | None  # p with Holm's correction over its family (`genrec.evaluation.statistics.families`)
    reason: str  # why there is no p; empty if there is one
    wins: int  # users with a higher metric, averaged over `seeds`, than under the reference
    ties: int  # users with an equal metric
    losses: int  # users with a lower metric; wins, ties and losses are 0 for a figure of all lists
    seeds: tuple[int, ...]  # the seeds that are compared, ascending; of two baselines with one result each those of the row
    by_seed: tuple[float, ...] = ()  # mean difference at each of `seeds`; empty for two baselines with one result each
    users: int = 0  # users who are counted in both rows at all of `seeds`; 0 for a figure of all lists
    detectable: float | None = None  # difference that one test at the 5 % level finds with probability 0.8
    users_only: UsersOnly | None = None  # diagnostic of a pair with a trained row

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds of the differences at each seed, divisor n - 1; None for fewer than two seeds."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None


def pooled(pairs: Sequence[SeedPairs], per_user: bool) -> SeedVariance:
    """Return the variances over seeds of these pairs of rows, pooled; the order of the pairs does not matter."""
    return _variance(sorted((pair for pair in pairs if pair.seeds), key=lambda pair: pair.row), per_user)


def paired_test(pair: SeedPairs, pool: SeedVariance, per_user: bool, resamples: int, seed: int) -> PairedTest:
    """Return the test of a row against the reference, without Holm's correction.

    Two baselines are tested over users, all other pairs over users and seeds. `PairedTest.reason` says why a test has no p.

    Args:
        pair: the differences of the two rows.
        pool: the pooled variance over seeds. It is used if it names the row; any other row is tested with its own variance.
        per_user: whether the metric has a value per user. A figure of all lists together is tested over seeds alone.
        resamples: number of bootstrap samples over users.
        seed: seed of the bootstrap.

    """
    if not pair.seeds:
        return _untested(f"no seed in common with {pair.reference}, which has {seeds_in_words(pair.theirs)}")
    if not len(pair.difference):
        return _untested("no user is counted in both rows at every compared seed")._replace(seeds=pair.seeds)
    test = _described(pair, per_user)
    if not pair.trained:
        return _of_baselines(test, pair, per_user, resamples, seed)
    if per_user:
        test = test._replace(users_only=_users_only(pair.difference.mean(1), resamples, seed))
    reason = _without_sample(pair, per_user)
    if reason:
        return test._replace(reason=reason)
    if pair.identical:
        return test._replace(interval=(0.0, 0.0), p=1.0)
    found = _over_seeds(pair, pool if pair.row in pool.rows else _variance([pair], per_user), per_user)
    if found is None:
        return test._replace(reason=f"the difference does not vary over {'users and seeds' if per_user else 'seeds'}")
    return test._replace(interval=found.interval, p=found.p, detectable=found.detectable)


def _variance(pairs: Sequence[SeedPairs], per_user: bool) -> SeedVariance:
    differences = {pair.row: pair.difference for pair in pairs}
    return pooled_variance(differences) if per_user else variance_over_seeds({row: found[0] for row, found in differences.items()})


def _over_seeds(pair: SeedPairs, variance: SeedVariance, per_user: bool) -> CrossedTest | None:
    if per_user:
        return crossed_test(pair.difference, variance)
    return seeds_test(pair.difference[0], variance.seeds, variance.degrees_of_freedom)


def _untested(reason: str) -> PairedTest:
    return PairedTest(None, None, None, None, reason, 0, 0, 0, ())


def _described(pair: SeedPairs, per_user: bool) -> PairedTest:
    """Return the difference and its counts, without a test."""
    of_users = pair.difference.mean(1) if per_user else np.empty(0)
    wins, losses = int((of_users > EQUAL).sum()), int((of_users < -EQUAL).sum())
    by_seed = tuple(map(float, pair.difference.mean(0))) if pair.over_seeds else ()
    return PairedTest(
        float(pair.difference.mean()),
        None,
        None,
        None,
        "",
        wins,
        len(of_users) - wins - losses,
        losses,
        pair.seeds,
        by_seed,
        len(of_users),
    )


def _without_sample(pair: SeedPairs, per_user: bool) -> str:
    """Return why there is no test over seeds: too few seeds, one user, or one difference for all."""
    if len(pair.seeds) < 2:
        needs = "run at least three seeds, better five"
        return f"one seed in common; {needs}" if pair.trained == 2 else f"one seed; {needs}"
    if per_user and not pair.identical:
        return undefined(pair.difference)
    return ""


def _of_baselines(test: PairedTest, pair: SeedPairs, per_user: bool, resamples: int, seed: int) -> PairedTest:
    """Return the test of two baselines, over users alone."""
    if not per_user:
        if pair.identical:
            return test._replace(interval=(0.0, 0.0), p=1.0)
        return test._replace(reason="two baselines have no trainings to vary, and the metric has no value per user")
    of_users = pair.difference.mean(1)
    found = _users_only(of_users, resamples, seed)
    if found is None:
        return test._replace(reason=undefined(of_users))
    return test._replace(interval=found.interval, p=found.p)


def _users_only(differences: ndarray, resamples: int, seed: int) -> UsersOnly | None:
    """Return the bootstrap over users of differences float64 [U]; None if it is undefined."""
    if np.abs(differences).max() <= EQUAL:
        return UsersOnly((0.0, 0.0), 1.0)
    if undefined(differences):
        return None
    means = paired_means(differences, resamples, seed)
    return UsersOnly(percentile_interval(means), bootstrap_p(float(differences.mean()), means))


def loss_of(configuration: Mapping[str, object]) -> str:
    """Return the class name of what a row's alignment minimizes; `CONTROL` if it has no preferences; empty if it is not aligned.

    Of a chain of alignments it is that of the last stage with preferences.
    """
    classes = {path: str(value).rpartition(":")[2] for path, value in configuration.items() if path.endswith(".class")}
    stages = [path.removesuffix(".objective.class") for path in classes if re.fullmatch(r"align(-\d+)?\.objective\.class", path)]
    minimized = [classes.get(f"{stage}.objective.loss.class", classes[f"{stage}.objective.class"]) for stage in stages]
    preferences = [name for name in minimized if name not in WITHOUT_PREFERENCES]
    return preferences[-1] if preferences else CONTROL if minimized else ""


def is_trained(configuration: Mapping[str, object]) -> bool:
    """Return whether a row with these settings by key path was trained with a seed. A baseline has no stage that uses the seed."""
    return any(key.startswith("sft.") for key in configuration)


def enumerated(values: Iterable[object]) -> str:
    """Return values as in a sentence: '0, 1 and 2'."""
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def seeds_in_words(seeds: Collection[int]) -> str:
    """Return 'seed 0', or 'seeds 0, 1 and 2'."""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {enumerated(seeds)}"
