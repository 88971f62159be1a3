"""Comparison of runs: means over seeds, confidence intervals, paired tests and configuration differences.

A row holds all runs with one name, one per seed. All runs in a table must have the same users, targets and protocol. The test of
two trained rows is over users and seeds, with the variance over seeds pooled over the trained rows of the table. Difference, interval
and p of a row depend on the row, on the reference and on this pooled variance; only Holm's correction depends on the other tests. The
interval of a row itself is over users alone, with each user's metric averaged over the row's seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.endpoints import Endpoint
from genrec.errors import ArtifactError, UsageError
from genrec.evaluation.comparison.comparable import ABSENT as ABSENT
from genrec.evaluation.comparison.comparable import check_same
from genrec.evaluation.comparison.compared_metric import ComparedMetric, compared_metric
from genrec.evaluation.comparison.configuration_differences import differences
from genrec.evaluation.comparison.settings_in_words import differences_in_words
from genrec.evaluation.statistics.crossed_test import SeedVariance
from genrec.evaluation.statistics.families import Family, families_of
from genrec.evaluation.statistics.named_endpoints import NamedEndpoint, named_endpoints
from genrec.evaluation.statistics.paired_tests import PairedTest, is_trained, paired_test, pooled
from genrec.evaluation.statistics.seed_pairs import SeedPairs, SeedValues, evaluated_otherwise, paired
from genrec.evaluation.statistics.significance import bootstrap_means, percentile_interval

METRICS = "evaluate.metrics"  # key path of the further metrics, which a row may get after its training
NOT_RECORDED: Mapping[str, str] = MappingProxyType({})  # environment of a run that records none
NOT_STORED: Mapping[str, int] = MappingProxyType({})  # kept steps of a run without stored trainings
NOT_COUNTED: Mapping[str, int] = MappingProxyType({})  # numbers of users of a run that records none
NO_COUNTS: Mapping[str, tuple[int, int]] = MappingProxyType({})
NO_FILES: Mapping[str, tuple[str, ...]] = MappingProxyType({})
NO_SEEDS: Mapping[str, tuple[int, ...]] = MappingProxyType({})


class Study(NamedTuple):
    """A list of rows that were run together, or one after the other from one function: the family that a row may be picked from."""

    name: str  # such as `experiments/movielens.py:grid_100k`
    rows: frozenset[str]  # names of all trained rows that were ever run in it, with the protocol of the table; `NAME (replaced)`, ...
    endpoints: tuple[tuple[Endpoint, str], ...] = ()  # all that it ever named, each with the time of its first record


class Run(NamedTuple):
    """One evaluated experiment."""

    name: str  # name of the row
    seed: int
    ranks: DataFrame  # `Evaluation.ranks` of `evaluate`
    metrics: dict[str, float]  # from `metrics_of`
    protocol: dict[str, object]  # data set, split, users, items, history, filter_seen, ...; the same for all rows
    configuration: dict[str, object]  # settings of the experiment by key path, such as `align.loss.beta`
    environment: Mapping[str, str] = NOT_RECORDED  # where it was trained: threads, processor, library versions, precision, ...
    user_metrics: DataFrame | None = None  # user, and a column float64 for each further metric with a value per user; NaN: not counted
    studies: tuple[Study, ...] = ()  # the studies in which this seed of the row was run
    first_run: str = ""  # when this seed was run first with these settings, such as `2026-01-31T23:59:59Z`; not recorded of a baseline
    tunings: tuple[str, ...] = ()  # tunings that selected these settings: `among 12 trials on validation (...)`
    kept_steps: Mapping[str, int] = NOT_STORED  # `sft` and `align`: the step that the training kept; 0 is before the first step
    user_counts: Mapping[str, int] = NOT_COUNTED  # metrics with a value per user: the number of users that are counted
    starts: frozenset[str] = frozenset()  # names of the rows that this row continues: those with its SFT settings and no alignment
    file_names: Mapping[str, tuple[str, ...]] = NO_FILES  # stage -> names of the files that it read, without folders


class Spread(NamedTuple):
    """A metric over the seeds of a row."""

    mean: float
    deviation: float | None  # sample standard deviation over seeds (divisor n - 1); None for one seed


class Row(NamedTuple):
    """One row of the table: the means of its metrics over seeds, the interval of the tested metric, and its test."""

    name: str
    seeds: tuple[int, ...]  # ascending
    configuration: dict[str, object]  # settings of its runs by key path
    metrics: dict[str, Spread]  # metrics that all its runs have
    value: float  # the tested metric, mean over users and seeds; NaN if no user is counted
    interval: tuple[float, float] | None  # its 95 % bootstrap interval over users; None for one user, or without values per user
    test: PairedTest | None  # None for the reference
    environments: dict[int, Mapping[str, str]]  # seed -> where it was trained, see `Run.environment`
    tunings: tuple[str, ...] = ()  # see `Run.tunings`
    kept_first: Mapping[str, tuple[int, ...]] = NO_SEEDS  # `sft` or `align` -> the seeds whose training kept step 0
    user_counts: Mapping[str, tuple[int, int]] = NO_COUNTS  # metric -> least and most users that it counts at a seed
    file_names: Mapping[str, tuple[str, ...]] = NO_FILES  # see `Run.file_names`; those of the first seed

    @property
    def trained(self) -> bool:
        """Whether the row was trained with a seed. A baseline has no such stage, and one result for all seeds."""
        return is_trained(self.configuration)


class Comparison(NamedTuple):
    """A results table."""

    metric: str  # the tested metric, such as `ndcg@10`
    reference: str  # name of the row that the others are tested against
    resamples: int  # bootstrap samples
    protocol: dict[str, object]
    rows: tuple[Row, ...]
    differences: dict[str, dict[str, object]]  # key path -> row -> value, for keys that differ; `ABSENT` if a row has no value
    per_user: bool  # False: the tested metric is a figure of all lists together, such as coverage
    users: int  # test users
    pool: SeedVariance  # of the differences of trained rows from a trained reference; no degrees of freedom if there is none
    unpooled: dict[str, str]  # trained row with a variance of its own -> why it is not in the pool
    families: tuple[Family, ...]  # of Holm's correction
    endpoints: tuple[NamedEndpoint, ...]  # of the rows' studies, of two rows of the table


def compare(
    runs: Sequence[Run], metric: str = "ndcg@10", reference: str | None = None, resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Group runs into rows by name, in the given order, and test each row against `reference` (default: the first row).

    `metric` is recall, ndcg or mrr at a cut-off up to the length of the stored lists, such as "ndcg@10", a column of
    `Run.user_metrics`, or another figure of `Run.metrics`, such as "coverage@10". `seed` is the seed of the bootstrap. Raises
    ArtifactError if the runs differ in their users, targets or protocol.
    """
    groups = _grouped(runs)
    names = list(groups)
    reference = names[0] if reference is None else reference
    if reference not in groups:
        raise UsageError(f"reference must be one of the rows {', '.join(names)}, got {reference!r}")
    if resamples < 1:
        raise UsageError(f"resamples must be at least 1, got {resamples}")
    tested = compared_metric(metric, runs)
    check_same(runs)
    values = {row: _values(row, group, tested) for row, group in groups.items()}
    pairs = {row: paired(values[row], values[reference]) for row in names if row != reference}
    unpooled = _unpooled(pairs, groups)
    pool = pooled([pair for row, pair in pairs.items() if pair.trained == 2 and row not in unpooled], tested.per_user)
    tests = {row: paired_test(pair, pool, tested.per_user, resamples, seed) for row, pair in pairs.items()}
    endpoints = named_endpoints(tests, groups, reference, metric)
    families = families_of(tests, groups, [row for row in names if values[row].trained], reference, endpoints)
    for family in families:
        tests |= family.correct(tests)
    rows = tuple(_row(group, values[row], tests.get(row), tested, resamples, seed) for row, group in groups.items())
    about = (tested.per_user, len(runs[0].ranks), pool, unpooled, tuple(families), endpoints)
    return Comparison(metric, reference, resamples, runs[0].protocol, rows, differences(rows), *about)


def _unpooled(pairs: Mapping[str, SeedPairs], groups: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Return the trained rows that are left out of the pooled variance over seeds, each with the reason.

    Such a row holds the policies of the reference, so its difference does not vary as that of another training does. Rows that cannot
    be tested over seeds anyway are not listed.
    """
    reasons = {}
    for row, pair in pairs.items():
        if pair.trained < 2 or len(pair.seeds) < 2:
            continue
        if pair.identical:
            reasons[row] = "equal to the reference"
        elif evaluated_otherwise(groups[row][0].configuration, groups[pair.reference][0].configuration):
            reasons[row] = "the policies of the reference, evaluated in another way"
    return reasons


def _values(row: str, group: Sequence[Run], tested: ComparedMetric) -> SeedValues:
    by_seed = {run.seed: tested.values(run) for run in group}
    return SeedValues(row, is_trained(group[0].configuration), by_seed, {run.seed: _target_hash(run) for run in group})


def _target_hash(run: Run) -> str:
    """Return a hash of the users and their targets."""
    table = run.ranks[["user", "target"]].sort_values("user").to_numpy(dtype=np.int64)
    return hashlib.sha256(table.tobytes()).hexdigest()


def _row(group: Sequence[Run], values: SeedValues, test: PairedTest | None, tested: ComparedMetric, resamples: int, seed: int) -> Row:
    """Return a row of the table with the interval of its mean over all its seeds."""
    by_user = np.stack(list(values.by_seed.values()), 1)  # float64 [U, seeds]
    mean = by_user[~np.isnan(by_user).any(1)].mean(1)  # of the users who are counted at all seeds
    interval = percentile_interval(bootstrap_means(mean, resamples, seed)) if tested.per_user and len(mean) > 1 else None
    environments = {run.seed: run.environment for run in group}
    first, value = group[0], _mean_of_counted(by_user)
    about = (first.tunings, _kept_first(group), _user_counts(group), first.file_names)
    return Row(first.name, tuple(environments), first.configuration, _spreads(group), value, interval, test, environments, *about)


def _kept_first(group: Sequence[Run]) -> dict[str, tuple[int, ...]]:
    """Return the seeds whose training kept step 0, by stage."""
    found = {stage: tuple(run.seed for run in group if run.kept_steps.get(stage) == 0) for stage in ("sft", "align")}
    return {stage: seeds for stage, seeds in found.items() if seeds}


def _user_counts(group: Sequence[Run]) -> dict[str, tuple[int, int]]:
    """Return the least and the largest number of users that a metric counts at a seed, for metrics that all runs have."""
    shared = [key for key in group[0].user_counts if all(key in run.user_counts for run in group)]
    numbers = {key: [run.user_counts[key] for run in group] for key in shared}
    return {key: (min(found), max(found)) for key, found in numbers.items()}


def _mean_of_counted(by_user: ndarray) -> float:
    """Return the mean over seeds of the mean over the users who are counted at a seed; NaN if there is none."""
    counts = (~np.isnan(by_user)).sum(0)
    return float((np.nansum(by_user, 0) / counts).mean()) if counts.all() else float("nan")


def _grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs by name, with ascending seeds. Raise an error unless a row's seeds differ and its configuration is one."""
    if not runs:
        raise UsageError("compare needs at least one run, got none")
    groups: dict[str, list[Run]] = {}
    for run in runs:
        group = groups.setdefault(run.name, [])
        if any(other.seed == run.seed for other in group):
            raise UsageError(f"row {run.name} has seed {run.seed} twice; give each run once")
        group.append(run)
    for name, group in groups.items():
        group.sort(key=lambda run: run.seed)
        for run in group[1:]:
            found = differences_in_words(group[0].configuration, run.configuration)
            key = min(found.keys() - {"seed"}, default=None)
            if key == METRICS:
                raise ArtifactError(_different_metrics(group, run))
            if key is not None:
                here, there = found[key]
                raise ArtifactError(
                    f"row {name}: {key} is {here} for seed {group[0].seed} and {there} for seed {run.seed}; all seeds of a row must "
                    "have the same configuration; give the other configuration another name"
                )
    return groups


def _different_metrics(group: Sequence[Run], run: Run) -> str:
    """Return the message about a run with other further metrics than the first run of its row."""
    seeds = ",".join(str(each.seed) for each in group)
    return (
        f"row {run.name}: seeds {group[0].seed} and {run.seed} were evaluated with different {METRICS}; run the row again with all of "
        f"its seeds, which trains nothing (genrec run ... --seeds {seeds}), or compare some of the seeds (genrec compare ... "
        "--seeds)"
    )


def _spreads(group: Sequence[Run]) -> dict[str, Spread]:
    """Return mean and standard deviation over seeds of each metric that all runs have."""
    result = {}
    for key in group[0].metrics:
        if all(key in run.metrics for run in group):
            found = np.array([run.metrics[key] for run in group], dtype=np.float64)
            result[key] = Spread(float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else None)
    return result
