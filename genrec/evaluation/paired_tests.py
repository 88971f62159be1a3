"""The paired test of one row of a results table against another, over users and the seeds that both have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from genrec.evaluation.significance import EQUAL, bootstrap_p, holm, paired_means, percentile_interval, undefined


class PairedTest(NamedTuple):
    """A paired test of a row against the reference row, over users.

    Two trained rows are compared at the seeds that both have. A baseline has one result for all seeds, so it is compared with all
    seeds of a trained row.
    """

    difference: float | None  # mean over users, row minus reference, at `seeds`; None if the rows have no seed in common
    interval: tuple[float, float] | None  # 95 % bootstrap interval over users; None if undefined
    p: float | None  # two-sided, paired bootstrap; 1 if no user differs; None if undefined
    p_holm: float | None  # p with Holm's correction over the defined tests of the table
    reason: str  # why the test is undefined; empty if it is defined
    wins: int  # users with a higher metric than under the reference
    ties: int  # users with an equal metric
    losses: int  # users with a lower metric; wins, ties and losses are 0 if the rows have no seed in common
    seeds: tuple[int, ...]  # the seeds that are compared, ascending; of two baselines those of the row


class SeedValues(NamedTuple):
    """The tested metric of a row by seed and user."""

    name: str  # of the row
    trained: bool  # False for a baseline, which has one result for all seeds
    by_seed: dict[int, ndarray]  # seed, ascending -> float64 [U], by ascending user

    def mean(self, seeds: Sequence[int]) -> ndarray:
        """Return each user's mean over these seeds, float64 [U]."""
        result: ndarray = np.mean([self.by_seed[seed] for seed in seeds], axis=0)
        return result


def is_trained(configuration: Mapping[str, object]) -> bool:
    """Return whether a row with these settings by key path was trained with a seed. A baseline has no stage that uses the seed."""
    return any(key.startswith("sft.") for key in configuration)


def _compared_seeds(row: SeedValues, reference: SeedValues) -> tuple[list[int], list[int]]:
    """Return the seeds over which the row and the reference are averaged: those in common if both are trained, else all."""
    if row.trained and reference.trained:
        common = sorted(row.by_seed.keys() & reference.by_seed.keys())
        return common, common
    return list(row.by_seed), list(reference.by_seed)


def paired_test(row: SeedValues, reference: SeedValues, resamples: int, seed: int) -> PairedTest:
    """Return the test of a row against the reference, without Holm's correction."""
    ours, theirs = _compared_seeds(row, reference)
    if not ours:
        reason = f"no seed in common with {reference.name}, which has {seeds_in_words(reference.by_seed)}"
        return PairedTest(None, None, None, None, reason, 0, 0, 0, ())
    differences = row.mean(ours) - reference.mean(theirs)
    seeds = tuple(theirs if reference.trained else ours)
    wins, losses = int((differences > EQUAL).sum()), int((differences < -EQUAL).sum())
    counts = (wins, len(differences) - wins - losses, losses, seeds)
    observed = float(differences.mean())
    if wins + losses == 0:
        return PairedTest(0.0, (0.0, 0.0), 1.0, None, "", *counts)
    reason = undefined(differences)
    if reason:
        return PairedTest(observed, None, None, None, reason, *counts)
    means = paired_means(differences, resamples, seed)
    return PairedTest(observed, percentile_interval(means), bootstrap_p(observed, means), None, "", *counts)


def with_holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """Return the tests with Holm's correction over those that are defined."""
    p_values = iter(holm([test.p for test in tests if test.p is not None]))
    return [test if test.p is None else test._replace(p_holm=next(p_values)) for test in tests]


def enumerated(values: Iterable[object]) -> str:
    """Return values as in a sentence: '0, 1 and 2'."""
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def seeds_in_words(seeds: Collection[int]) -> str:
    """Return 'seed 0', or 'seeds 0, 1 and 2'."""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {enumerated(seeds)}"
