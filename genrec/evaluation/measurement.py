"""Measuring an evaluation: the metrics that are always computed, and those of `Evaluate.metrics`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame
from torch import Tensor

from genrec.errors import InputError, counted
from genrec.evaluation.evaluate import Evaluate, Evaluation
from genrec.evaluation.scored_lists import lists_of
from genrec.evaluation.user_metrics import standard_metrics
from genrec.plugin_source import is_plugin_class, name_with_place
from genrec.progress import say
from genrec.types import Evaluated, EvaluationMetric, HeldOutItems, Recommender, SequenceBatch
from genrec.unchanged_values import unchanged

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(@[1-9][0-9]*)?(\[[^\[\]\n]{1,60}\])?")


class Measured(NamedTuple):
    """The figures of an evaluation beyond those of `metrics_of`. A figure that counts no user is in none of them."""

    per_user: DataFrame  # user int64, and a column float64 for each metric with a value per user; NaN for a user who is not counted
    means: dict[str, float]  # all figures by name: means over the counted users, and figures of all lists
    counts: dict[str, int]  # number of users that each metric with a value per user counts


def measure(evaluated: Evaluated, metrics: Sequence[EvaluationMetric], taken: Sequence[str] = ()) -> Measured:
    """Return the figures of `user_metrics.standard_metrics` and of `metrics`.

    `taken` are names that a metric must not use. Logs how many users a figure of `metrics` counts if it does not count all. Raises
    InputError if a metric breaks the contract of `EvaluationMetric`, or returns a name that is taken.
    """
    found = standard_metrics(evaluated)
    for metric in metrics:
        name = name_with_place(type(metric))
        shared = partial(shared_values, evaluated)
        with unchanged(name, shared, "metrics", InputError) if is_plugin_class(type(metric)) else nullcontext():
            figures = checked_figures(metric, evaluated)
        for key, values in figures.items():
            if key in found or key in taken:
                raise InputError(
                    f"{name}: measure returned {key!r}, the name of another metric of this evaluation; give it another name"
                )
            if values.isnan().any():
                users = len(values)
                say(f"evaluate: {key} of {name} counts {counted(users - int(values.isnan().sum()), 'user')} of {users:,}")
        found |= figures
    kept = {key: values for key, values in found.items() if not bool(values.isnan().all())}
    per_user = {key: values for key, values in kept.items() if values.ndim == 1}
    columns = {"user": evaluated.user.numpy()} | {key: values.numpy() for key, values in per_user.items()}
    means = {key: float(values[~values.isnan()].mean()) for key, values in kept.items()}
    return Measured(pd.DataFrame(columns), means, {key: int((~values.isnan()).sum()) for key, values in per_user.items()})


def shared_values(evaluated: Evaluated) -> dict[str, Tensor | DataFrame]:
    """Return the tensors and tables that all metrics of an evaluation read, by name."""
    names = ("user", "target", "rank", "items", "history_length", "popularity", "ranks", "catalog")
    found = {f"evaluated.{name}": getattr(evaluated, name) for name in names}
    for place, batch in enumerate(evaluated.batches):
        found |= {f"evaluated.batches[{place}].{name}": getattr(batch, name) for name in ("user", "items", "target")}
    return found


def with_users(measured: Measured, user: Tensor, figures: dict[str, Tensor]) -> Measured:
    """Return the figures of an evaluation with those of further users, int64 [V], float64 [V] each: users without a target."""
    more = pd.DataFrame({"user": user.numpy()} | {name: values.numpy() for name, values in figures.items()})
    per_user = pd.concat([measured.per_user, more], ignore_index=True).sort_values("user", ignore_index=True)
    changed = {name: per_user[name] for name in figures if per_user[name].notna().any()}
    means = measured.means | {name: float(values.mean()) for name, values in changed.items()}
    return Measured(per_user, means, measured.counts | {name: int(values.notna().sum()) for name, values in changed.items()})


def checked_figures(metric: EvaluationMetric, evaluated: Evaluated) -> dict[str, Tensor]:
    """Return the figures of one metric; raise InputError unless they keep the contract of `EvaluationMetric`."""
    name, users = name_with_place(type(metric)), len(evaluated.user)
    with torch.no_grad():
        figures = metric.measure(evaluated)
    if not isinstance(figures, dict):
        raise InputError(f"{name}: measure must return a dictionary of tensors by name, got {type(figures).__name__}")
    for key, value in figures.items():
        if not isinstance(key, str) or NAME.fullmatch(key) is None or key == "user":
            raise InputError(
                f"{name}: a figure must be named like novelty, novelty@10 or novelty@10[new users], and not 'user', got {key!r}"
            )
        right = isinstance(value, Tensor) and value.dtype == torch.float64 and tuple(value.shape) in ((users,), ())
        if not right or value.device.type != "cpu":
            got = (
                f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            )
            on = f" on {value.device}" if right else ""
            raise InputError(f"{name}: {key!r} must be float64 [{users}], a value per user, or float64 [], on the CPU, got {got}{on}")
        if bool(value.isinf().any()):
            raise InputError(f"{name}: {key!r} must be finite, or NaN for a user who is not counted, got an infinite value")
        if value.ndim == 0 and bool(value.isnan()):
            raise InputError(f"{name}: {key!r}, one figure of all lists, is NaN; leave out a figure that is not defined")
    return figures


def evaluated_of(
    result: Evaluation, spec: Evaluate, popularity: Tensor, train: Callable[[], DataFrame], catalog: DataFrame,
    recommender: Recommender, batches: Sequence[SequenceBatch], seen: Callable[[Tensor], Tensor],
    shared: Tensor | None = None, greedy: Callable[[Tensor], Tensor] | None = None,
    held_out: Callable[[Tensor], HeldOutItems] | None = None,
) -> Evaluated:  # fmt: skip
    """Return the results of `evaluate` with the data that metrics need; for the arguments see the fields of `Evaluated`.

    The batches are cut to the size that fitted into memory in `evaluate`.
    """
    column = {name: torch.from_numpy(result.ranks[name].to_numpy(dtype=np.int64, copy=True)) for name in ("user", "target", "rank")}
    parts = [part for batch in batches for part in _cut(batch, result.batch_size)]
    evaluated = Evaluated(
        **column, items=lists_of(result.ranks, result.recommendations, spec.cutoffs[-1]), ranks=result.ranks, cutoffs=spec.cutoffs,
        history_length=torch.zeros_like(column["user"]), popularity=popularity, train=cache(train), catalog=catalog,
        recommender=recommender, batches=parts, seen=seen, filter_seen=spec.filter_seen, shared=shared, greedy=greedy,
        held_out=held_out,
    )  # fmt: skip
    return replace(evaluated, history_length=evaluated.by_user(lambda batch: (seen(batch.user.cpu()) > 0).sum(1)))


def _cut(batch: SequenceBatch, size: int) -> Iterator[SequenceBatch]:
    """Yield the batch in parts of at most `size` users."""
    for begin in range(0, len(batch.user), size):
        yield SequenceBatch(*(column[begin : begin + size] for column in batch))
