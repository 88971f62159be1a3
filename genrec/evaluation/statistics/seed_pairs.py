"""The differences of two rows by user and seed: which seeds are compared, and which results of a baseline stand for all seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy import ndarray


class SeedValues(NamedTuple):
    """The tested metric of a row by seed and user."""

    name: str  # of the row
    trained: bool  # False for a baseline
    by_seed: dict[int, ndarray]  # seed, ascending -> float64 [U], by ascending user, NaN: not counted; [1] for a figure of all lists
    targets: dict[int, str]  # seed -> hash of users and targets; a split may have one order of tied events a seed

    @property
    def depends_on_seed(self) -> bool:
        """Whether the results may differ between seeds: the row is trained, or a baseline with several results."""
        first, *others = self.by_seed.values()
        return self.trained or any(not np.array_equal(first, other, equal_nan=True) for other in others)

    def at(self, seed: int) -> ndarray:
        """Return the values at a seed; of a baseline with one result, this result."""
        return self.by_seed[seed] if self.depends_on_seed else next(iter(self.by_seed.values()))


class SeedPairs(NamedTuple):
    """The differences of a row and the reference row, paired by user, and by seed where both depend on it."""

    row: str
    reference: str
    trained: int  # how many of the two rows are trained: 0, 1 or 2
    seeds: tuple[int, ...]  # compared seeds, ascending; of two baselines with one result each those of the row; empty: none in common
    difference: ndarray  # float64 [U, S], row minus reference, of the users who are counted in both rows at all compared seeds
    over_seeds: bool  # False for two baselines with one result each, which have one column of differences
    theirs: tuple[int, ...]  # the reference's seeds

    @property
    def identical(self) -> bool:
        """Whether all differences are exactly 0: the rows hold the same weights."""
        return bool(self.seeds) and not self.difference.any()


def paired(row: SeedValues, reference: SeedValues) -> SeedPairs:
    """Return the differences of two rows.

    Two trained rows are paired at the seeds that both have. A baseline has one result for all seeds and is compared with all seeds of
    a trained row, unless it was run with several seeds with different results, or its targets are not those of all seeds: then it is
    paired by seed too.
    """
    trained = row.trained + reference.trained
    same_targets = len({*row.targets.values(), *reference.targets.values()}) == 1
    over_seeds = row.depends_on_seed or reference.depends_on_seed or not same_targets
    if not over_seeds:  # two baselines with one result each
        seeds, columns = tuple(row.by_seed), [_first(row) - _first(reference)]
    else:
        seeds = _compared_seeds(row, reference, same_targets)
        columns = [row.at(seed) - reference.at(seed) for seed in seeds]
    difference = np.stack(columns, 1) if columns else np.empty((0, 0))
    counted = ~np.isnan(difference).any(1)
    return SeedPairs(row.name, reference.name, trained, seeds, difference[counted], over_seeds, tuple(reference.by_seed))


def _compared_seeds(row: SeedValues, reference: SeedValues, same_targets: bool) -> tuple[int, ...]:
    """Return the seeds in common; all of one row if the other has one result, for the same targets."""
    if same_targets and not row.depends_on_seed:
        return tuple(reference.by_seed)
    if same_targets and not reference.depends_on_seed:
        return tuple(row.by_seed)
    return tuple(sorted(row.by_seed.keys() & reference.by_seed.keys()))


def _first(row: SeedValues) -> ndarray:
    return next(iter(row.by_seed.values()))


def evaluated_otherwise(configuration: Mapping[str, object], reference: Mapping[str, object]) -> bool:
    """Return whether two rows have the same training settings and differ in those of the evaluation: the same trained policies."""
    keys = {key for key in {*configuration, *reference} - {"seed"} if configuration.get(key) != reference.get(key)}
    return bool(keys) and all(key.startswith(("evaluate.", "stages.evaluate.")) for key in keys)
