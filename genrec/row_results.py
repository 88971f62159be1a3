"""What is stored of each seed of a row beside its run file, and the runs of a comparison made of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from pandas import DataFrame

from genrec import studies, tuning_record
from genrec.evaluation.compare import Run
from genrec.evaluation.comparison.compared_metric import read_user_counts, read_user_metric
from genrec.kept_steps import kept_steps
from genrec.row_settings import file_names, metrics_of, training_hash, without_metrics
from genrec.store import Store
from genrec.tuning_record import Record

RANKS, USER_METRICS = "ranks.parquet", "user_metrics.parquet"  # files of an evaluation


class SeedResult(NamedTuple):
    """The result of one seed of a row."""

    ranks: DataFrame  # see `Run.ranks`
    user_metrics: DataFrame | None  # the users, and the column that is compared; see `Run.user_metrics`
    settings: dict[str, Any]  # `row_settings.metrics_of`
    kept_steps: Mapping[str, int]
    user_counts: Mapping[str, int]
    file_names: Mapping[str, tuple[str, ...]]


class Records(NamedTuple):
    """The records of what was tried."""

    studies: Sequence[dict[str, Any]]  # `studies.read_all`
    tunings: Sequence[Record]  # `tuning_record.read_all`
    current: Callable[[str], str | None]  # name of a row -> hash of its present settings, see `studies.of_run`


def stored(keys: Mapping[str, str], artifacts: Store, metric: str | None) -> SeedResult:
    """Return the result of a seed from its artifacts. `keys` holds the key of each stage; `metric` is the column that is read."""
    evaluated = artifacts.get("evaluate", keys["evaluate"])
    return SeedResult(
        ranks=pd.read_parquet(evaluated.folder / RANKS),
        user_metrics=read_user_metric(evaluated.folder / USER_METRICS, metric),
        settings=metrics_of(evaluated),
        kept_steps=kept_steps(keys, artifacts),
        user_counts=read_user_counts(evaluated.folder / "user_counts.json"),
        file_names=file_names(keys, artifacts),
    )


def runs_of(
    rows: Mapping[str, dict[str, Any]],
    results: Callable[[dict[str, Any], str], SeedResult],
    records: Records,
    only_seeds: Mapping[str, Collection[int]] | None = None,
) -> list[Run]:
    """Return the runs of rows, with ascending seeds.

    Args:
        rows: the content of the run file of each row, by name.
        results: returns the result of a seed, given the content of the run file and the seed as it is written there.
        records: what was tried.
        only_seeds: the seeds to return for each name; by default all.

    """
    compared = {training_hash(content["configuration"]): name for name, content in rows.items()}
    runs = []
    for name, content in rows.items():
        configuration = content["configuration"]
        selected = tuning_record.selections(records.tunings, configuration)
        starts = studies.starts_of(records.studies, configuration)
        for seed, entry in sorted(content["seeds"].items(), key=lambda item: int(item[0])):
            if only_seeds is not None and int(seed) not in only_seeds[name]:
                continue
            result = results(content, seed)
            settings = without_metrics(configuration) | result.settings
            trained = training_hash(settings)
            run = Run(
                name,
                int(seed),
                result.ranks,
                entry["metrics"],
                content["protocol"],
                settings,
                entry["environment"],
                user_metrics=result.user_metrics,
                studies=studies.of_run(records.studies, name, trained, int(seed), records.current, compared),
                first_run=studies.first_run(records.studies, trained, int(seed)),
                tunings=selected,
                kept_steps=result.kept_steps,
                user_counts=result.user_counts,
                starts=starts,
                file_names=result.file_names,
            )
            runs.append(run)
    return runs
