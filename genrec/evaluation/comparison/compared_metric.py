"""The metric that a comparison tests: a value per user from ranks or from `Run.user_metrics`, or one figure of all lists together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame
from pyarrow import parquet

from genrec.errors import ArtifactError, UsageError, counted, did_you_mean
from genrec.evaluation import metrics
from genrec.evaluation.shared_id_ties import per_user
from genrec.types import Metric

if TYPE_CHECKING:
    from genrec.evaluation.compare import Run

PER_USER: dict[str, Metric] = {"recall": metrics.recall, "ndcg": metrics.ndcg, "mrr": metrics.mrr}
SHOWN = 12  # names of metrics that a message lists


class ComparedMetric(NamedTuple):
    """A metric and how to read it from a run."""

    name: str  # such as `ndcg@10`
    per_user: bool  # False: one figure of all lists, which is tested over seeds alone
    values: Callable[[Run], ndarray]  # run -> float64 [U] by ascending user, NaN for a user who is not counted; or float64 [1]


def ranked_metric(name: str) -> tuple[str, int] | None:
    """Split 'ndcg@10' into ('ndcg', 10). None for a metric that does not follow from the rank of the target."""
    found = re.fullmatch(rf"({'|'.join(PER_USER)})@([1-9]\d*)", name)
    return (found[1], int(found[2])) if found else None


def compared_metric(name: str, runs: Sequence[Run]) -> ComparedMetric:
    """Return the metric with this name.

    Recall, NDCG and MRR follow from the ranks at any cut-off up to the length of the lists. A column of `Run.user_metrics` has a value
    per user, any other figure of `Run.metrics` one value per run. Raises UsageError if the runs do not have the metric.
    """
    ranked = ranked_metric(name)
    if ranked is not None:
        kind, cutoff = ranked
        _check_length(name, cutoff, runs)
        return ComparedMetric(name, True, lambda run: _from_ranks(run, kind, cutoff))
    if name != "user" and all(run.user_metrics is not None and name in run.user_metrics for run in runs):
        _check_same_users(name, runs)
        return ComparedMetric(name, True, lambda run: _from_column(run, name))
    if all(name in run.metrics for run in runs):
        return ComparedMetric(name, False, lambda run: np.array([run.metrics[name]], dtype=np.float64))
    raise UsageError(_absent(name, runs))


def read_user_metric(path: Path, name: str | None) -> DataFrame | None:
    """Return the columns `user` and `name` of a file of metrics per user. None without the file, or if it has no such column."""
    if name is None or name == "user" or not path.is_file() or name not in parquet.read_schema(path).names:
        return None
    return pd.read_parquet(path, columns=["user", name])


def read_user_counts(path: Path) -> dict[str, int]:
    """Return the number of users that each metric with a value per user counts; empty without the file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _absent(name: str, runs: Sequence[Run]) -> str:
    """Return the message about a metric that not all runs have."""
    without = [run for run in runs if name not in run.metrics]
    if len(without) < len(runs):
        return (
            f"metric {name} is missing from {_label(without[0])}; evaluate all rows with the same metrics (Evaluate.metrics), or "
            "compare the rows that have it"
        )
    common = [key for key in runs[0].metrics if all(key in run.metrics for run in runs)]
    others = list({key.partition("@")[0]: key for key in common if ranked_metric(key) is None}.values())  # each at its last cut-off
    also = f"; these rows also have {', '.join(others[:SHOWN])}{', ...' if len(others) > SHOWN else ''}" if others else ""
    nearest = did_you_mean(name, [*common, *(f"{kind}@{cutoff}" for kind in PER_USER for cutoff in (5, 10))])
    expected = "metric must be recall, ndcg or mrr with a cut-off, such as ndcg@10, or another metric of all rows"
    return f"{expected}, got {name!r}{also}{nearest}"


def _check_length(name: str, cutoff: int, runs: Sequence[Run]) -> None:
    """Raise UsageError if the stored lists of a run are shorter than the cut-off."""
    for run in runs:
        longest = max((ranked[1] for key in run.metrics if (ranked := ranked_metric(key)) and ranked[0] == "recall"), default=0)
        if cutoff > longest:
            raise UsageError(
                f"{name} needs lists of {counted(cutoff, 'item')}, those of {_label(run)} have {longest}; "
                "evaluate again with a larger last cut-off (--evaluate.cutoffs)"
            )


def _check_same_users(name: str, runs: Sequence[Run]) -> None:
    """Raise ArtifactError if two runs have a metric of other users. A metric may count users beside those with a target."""
    tables = [run.user_metrics for run in runs if run.user_metrics is not None]
    users = [np.sort(table["user"].to_numpy()) for table in tables]
    for run, found in zip(runs, users, strict=True):
        if not np.array_equal(found, users[0]):
            raise ArtifactError(
                f"{name} of {_label(runs[0])} is of {counted(len(users[0]), 'user')}, that of {_label(run)} of "
                f"{counted(len(found), 'user')}, which are not the same; evaluate again (genrec run ... --refresh evaluate)"
            )


def _from_ranks(run: Run, name: str, cutoff: int) -> ndarray:
    """Return the metric of every user, float64 [U], by ascending user; its expectation if Semantic IDs are shared."""
    values: ndarray = per_user(PER_USER[name], run.ranks.sort_values("user"), cutoff).numpy()
    return values


def _from_column(run: Run, name: str) -> ndarray:
    """Return a column of the user metrics, float64 [U], by ascending user; U may exceed the users with a target."""
    assert run.user_metrics is not None
    table, users = run.user_metrics.sort_values("user"), run.ranks["user"].to_numpy()
    if table["user"].duplicated().any() or not np.isin(users, table["user"]).all():
        raise ArtifactError(
            f"the metrics per user of {_label(run)} are of {counted(len(table), 'user')}, expected each of the {len(users)} test "
            "users once; evaluate again (genrec run ... --refresh evaluate)"
        )
    values: ndarray = table[name].to_numpy(dtype=np.float64)
    return values


def _label(run: Run) -> str:
    return f"{run.name} (seed {run.seed})"
