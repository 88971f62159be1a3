"""Measuring an evaluation: the metrics that are always computed, and those of `Evaluate.metrics`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame
from torch import Tensor

from genrec.errors import InputError
from genrec.evaluation.evaluate import Evaluate, Evaluation, lists_of
from genrec.evaluation.user_metrics import standard_metrics
from genrec.plugin_source import name_with_place
from genrec.types import Evaluated, EvaluationMetric, Recommender, SequenceBatch

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(@[1-9][0-9]*)?(\[[^\[\]\n]{1,60}\])?")


class Measured(NamedTuple):
    """The figures of an evaluation beyond those of `metrics_of`."""

    per_user: DataFrame  # user int64, and a column float64 for each metric with a value per user; NaN for a user who is not counted
    means: dict[str, float]  # all figures by name: means over the counted users, and figures of all lists; none without a counted user


def measure(evaluated: Evaluated, metrics: Sequence[EvaluationMetric], taken: Sequence[str] = ()) -> Measured:
    """Return the figures of `user_metrics.standard_metrics` and of `metrics`.

    `taken` are names that a metric must not use. Raises InputError if a metric returns a name that is taken or no name, or a figure of
    a wrong shape or type.
    """
    found = standard_metrics(evaluated)
    for metric in metrics:
        found |= _checked(metric, metric.measure(evaluated), len(evaluated.user), {*taken, *found})
    columns = {name: value.cpu().numpy() for name, value in found.items() if value.ndim == 1}
    means = {name: float(value.nanmean()) for name, value in found.items() if not bool(value.isnan().all())}
    return Measured(pd.DataFrame({"user": evaluated.user.numpy(), **columns}), means)


def evaluated_of(
    result: Evaluation, spec: Evaluate, popularity: Tensor, train: Callable[[], DataFrame], catalog: DataFrame,
    recommender: Recommender, batches: Sequence[SequenceBatch], seen: Callable[[Tensor], Tensor],
    greedy: Callable[[Tensor], Tensor] | None = None,
) -> Evaluated:  # fmt: skip
    """Return the results of `evaluate` with the data that metrics need; for the arguments see the fields of `Evaluated`."""
    column = {name: torch.from_numpy(result.ranks[name].to_numpy(dtype=np.int64, copy=True)) for name in ("user", "target", "rank")}
    lengths = torch.zeros(int(column["user"].max()) + 1, dtype=torch.int64)
    for batch in batches:
        lengths[batch.user.cpu()] = (seen(batch.user.cpu()) > 0).sum(1)
    return Evaluated(
        **column, items=lists_of(result.ranks, result.recommendations, spec.cutoffs[-1]), ranks=result.ranks, cutoffs=spec.cutoffs,
        history_length=lengths[column["user"]], popularity=popularity, train=train, catalog=catalog, recommender=recommender,
        batches=batches, seen=seen, filter_seen=spec.filter_seen, greedy=greedy,
    )  # fmt: skip


def _checked(metric: EvaluationMetric, figures: object, users: int, taken: set[str]) -> dict[str, Tensor]:
    """Return the figures of a metric; raise InputError unless they keep the contract of `EvaluationMetric`."""
    name = name_with_place(type(metric))
    if not isinstance(figures, dict):
        raise InputError(f"{name}: measure must return a dictionary of tensors by name, got {type(figures).__name__}")
    for key, value in figures.items():
        if not isinstance(key, str) or NAME.fullmatch(key) is None:
            raise InputError(f"{name}: the name of a figure must look like novelty, novelty@10 or novelty@10[new users], got {key!r}")
        if key in taken or key == "user":
            raise InputError(f"{name}: measure returned {key!r}, the name of another metric of this evaluation; give it another name")
        right = isinstance(value, Tensor) and value.dtype == torch.float64 and tuple(value.shape) in ((users,), ())
        if not right:
            got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name}: {key!r} must be float64 [{users}], a value per user, or float64 [], got {got}")
        if bool(value.isinf().any()):
            raise InputError(f"{name}: {key!r} must be finite, or NaN for a user who is not counted, got an infinite value")
    return figures
