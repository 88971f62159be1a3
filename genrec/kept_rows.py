"""Kept rows: the results of rows in a small folder, from which `genrec compare --from FOLDER` makes the same table and tests.

    runs/NAME.json          the row's run file, unchanged
    results/NAME.json       what the comparison reads of artifacts beside ranks, the hashes of the other files, the row's studies
    ranks/NAME.parquet      the rank of every user at every seed
    user_metrics/NAME.parquet   further metrics with a value per user, where some were asked for
    studies/                the studies and tunings of these rows

Policies, lists and curves are not kept, so a kept row can be compared, but not shown, plotted or trained further.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from genrec import hashed_json, kept_studies, row_results, run_files, seed_tables
from genrec.command_lines import command_line
from genrec.errors import ArtifactError, UsageError, did_you_mean
from genrec.evaluation.compare import Run
from genrec.evaluation.statistics.paired_tests import seeds_in_words
from genrec.hashed_json import SHA256, Each, Listed, Matching, Optional, Shape
from genrec.row_results import Records, SeedResult
from genrec.row_settings import before_alignment, training_hash, without_metrics
from genrec.run_file_format import SEED_NUMBER
from genrec.storage_errors import check_folder
from genrec.store import Store, file_hash, hash_of, write_json
from genrec.workspace import store

FORMAT = 2  # files of format 1 do not name the studies of the row
KINDS = ("runs", "results", "ranks", "user_metrics")  # folders with a file for each row
_SEED: dict[str, Shape] = {
    "settings": dict,  # the fields of `SeedResult`
    "kept_steps": Each(int),
    "user_counts": Each(int),
    "file_names": Each(Listed(str)),
    "commits": Each(str),  # stage -> commit of the code that built it
}
SHAPE: dict[str, Shape] = {
    "format": int,
    "name": str,
    "run": Matching(SHA256),  # `sha256` of the run file
    "ranks": Matching(SHA256),  # of the file
    "user_metrics": Optional(Matching(SHA256)),
    "seeds": Each(_SEED, lambda seed: re.fullmatch(SEED_NUMBER, seed) is not None, at_least=1),
    **kept_studies.NAMED,
}


class Rows(Protocol):
    """Rows that can be compared: those of the data folder (the module `genrec.run_files`) or `KeptRows`."""

    def read(self, name: str, /) -> dict[str, Any]:
        """Return the content of a run file."""
        ...

    def outcomes(self, names: Sequence[str], only_seeds: dict[str, set[int]] | None, metric: str | None, /) -> list[Run]:
        """Return the runs of rows."""
        ...


@dataclass(frozen=True)
class KeptRows:
    """The rows that are kept in a folder."""

    folder: Path

    def file(self, kind: str, name: str) -> Path:
        """Return the file of a row: `kind` is one of `KINDS`."""
        return self.folder / kind / f"{name}.{'json' if kind in ('runs', 'results') else 'parquet'}"

    def read(self, name: str) -> dict[str, Any]:
        """Return the content of a row's run file. Raises UsageError if the row is not kept."""
        return run_files.read(name, self.folder / "runs", self.again(name))

    def again(self, name: str) -> str:
        """Return what to do about a file of a row that is missing or damaged."""
        return f"keep the row again: {command_line('keep', name, '--to', self.folder, '--replace')}"

    def outcomes(self, names: Sequence[str], only_seeds: dict[str, set[int]] | None = None, metric: str | None = None) -> list[Run]:
        """Return the runs of these rows: all seeds, or those given for each name. See `run_files.outcomes`."""
        kept = {name: _results(self, name) for name in dict.fromkeys(names)}
        return row_results.runs_of(
            {name: self.read(name) for name in kept},
            lambda content, seed: _result(self, kept[content["name"]], seed, metric),
            self.records,
            only_seeds,
        )

    @cached_property
    def records(self) -> Records:
        """The kept studies and tunings."""
        current = partial(run_files.present_settings, folder=self.folder / "runs")
        return Records(*kept_studies.read_all(self.folder), current)


def _results(rows: KeptRows, name: str) -> dict[str, Any]:
    """Return the content of a row's results after checking all of its files. Raises ArtifactError if one is missing or has changed."""
    run, path, again = rows.read(name), rows.file("results", name), rows.again(name)
    try:
        content = hashed_json.read_object(path, again)
    except FileNotFoundError:
        raise ArtifactError(f"there is no {path}; {again}") from None
    hashed_json.check_format(path, content, FORMAT, again)
    if content["format"] < FORMAT:
        raise ArtifactError(
            f"{path} was kept by an earlier version of genrec, which did not name the files in {rows.folder / 'studies'} that p "
            f"(Holm) needs, so a missing one would not be noticed; {again}"
        )
    hashed_json.check_object(path, content, SHAPE, again)
    if (content["name"], content["run"]) != (name, run["sha256"]) or content["seeds"].keys() != run["seeds"].keys():
        raise ArtifactError(f"{path} does not belong to {rows.file('runs', name)}; {again}")
    for kind in ("ranks", "user_metrics"):
        file = rows.file(kind, name)
        if kind in content and not (file.is_file() and file_hash(file) == content[kind]):
            raise ArtifactError(f"{file} is missing or has changed since it was written (sha256 {content[kind]}); {again}")
    kept_studies.check(name, content, rows.folder, again)
    return content


def _result(rows: KeptRows, content: Mapping[str, Any], seed: str, metric: str | None) -> SeedResult:
    """Return the result of a seed. Raises UsageError if `metric` has values per user that were not kept."""
    name, entry = content["name"], content["seeds"][seed]
    user_metrics: pd.DataFrame | None = None
    if "user_metrics" in content:
        table = seed_tables.read(rows.file("user_metrics", name), int(seed))
        user_metrics = table[["user", metric]] if metric in table and metric != "user" else None
    if user_metrics is None and metric in entry["user_counts"]:
        raise UsageError(
            f"the values per user of {metric} are not kept for {name} in {rows.folder}; compare by a metric of the ranks, such as "
            f"ndcg@10, or keep the row again with them: {command_line('keep', name, '--to', rows.folder, '--metrics', metric)}"
        )
    described = {kind: entry[kind] for kind in ("settings", "kept_steps", "user_counts")}
    names = {stage: tuple(files) for stage, files in entry["file_names"].items()}
    return SeedResult(seed_tables.read(rows.file("ranks", name), int(seed)), user_metrics, **described, file_names=names)


def keep(names: Sequence[str], folder: Path, metrics: Sequence[str] = (), replace: bool = False) -> KeptRows:
    """Keep rows of the data folder, with all of their seeds, in a folder; return all rows that are kept there.

    Args:
        names: names of the rows.
        folder: the folder; it may hold other rows.
        metrics: further metrics with a value per user, such as `tail_recall@10`, that can then be tested.
        replace: whether to replace a kept row that has other settings, other metrics (its training was repeated elsewhere, say),
            or seeds that the row of the data folder has not.

    Raises UsageError before anything is written if a row is unknown, lacks a metric or would be replaced.

    """
    rows = KeptRows(folder)
    contents = {name: run_files.read(name) for name in dict.fromkeys(names)}
    for name, content in contents.items():
        _check_metrics(content, metrics)
        if not replace and rows.file("runs", name).is_file():
            _refuse_loss(rows, content)
    for kind in (*KINDS, "studies"):
        check_folder(folder / kind)
        if kind != "user_metrics" or metrics:
            (folder / kind).mkdir(parents=True, exist_ok=True)
    kept_studies.keep(set().union(*map(_settings, contents.values())), folder)
    kept = kept_studies.read_all(folder)
    for content in contents.values():
        _write(rows, content, metrics, kept_studies.named(_settings(content), *kept))
    return rows


def _settings(content: Mapping[str, Any]) -> set[str]:
    """Return the hashes of a row's settings and of those of the SFT that it continues, which name its studies."""
    configuration = content["configuration"]
    return {training_hash(configuration), training_hash(before_alignment(configuration))}


def _check_metrics(content: Mapping[str, Any], metrics: Collection[str]) -> None:
    """Raise UsageError if a seed of the row has no values per user of a metric."""
    for seed, entry in content["seeds"].items():
        path = store().get("evaluate", entry["artifacts"]["evaluate"]).folder / row_results.USER_METRICS
        known = seed_tables.columns(path)[1:] if path.is_file() else []
        for metric in metrics:
            if metric not in known:
                raise UsageError(
                    f"--metrics {metric}: {content['name']} (seed {seed}) has no values per user of it; it has "
                    f"{', '.join(known) or 'none'}{did_you_mean(metric, known)}"
                )


def _refuse_loss(rows: KeptRows, content: Mapping[str, Any]) -> None:
    """Raise UsageError if a kept row has other settings, other metrics, or further seeds than the row of the data folder."""
    path, name = rows.file("runs", content["name"]), content["name"]
    kept = rows.read(name)
    lost = sorted(int(seed) for seed in kept["seeds"].keys() - content["seeds"].keys())
    if hash_of(without_metrics(kept["configuration"])) != hash_of(without_metrics(content["configuration"])):
        found = "other settings than in the data folder"
    elif lost:
        found = f"{seeds_in_words(lost)}, which the data folder has not"
    else:
        found = _other_metric(kept, content)
    if found:
        raise UsageError(f"{path} holds {name} with {found}; keep it in another folder, or replace it with --replace")


def _other_metric(kept: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Return a metric that has another value in the data folder, in words; empty if there is none.

    Trainings of the same settings on two machines may differ.
    """
    for seed in sorted(kept["seeds"].keys() & content["seeds"].keys(), key=int):
        before, now = (row["seeds"][seed]["metrics"] for row in (kept, content))
        for name, value in before.items():
            if name in now and not np.array_equal(value, now[name], equal_nan=True):
                return (
                    f"{name} {value:.6g} at seed {seed}, and the data folder has {now[name]:.6g} (it was trained or evaluated again)"
                )
    return ""


def _write(rows: KeptRows, content: Mapping[str, Any], metrics: Sequence[str], named: Mapping[str, Any]) -> None:
    """Write the files of a row, its results last; `named` is what they say of its studies and tunings."""
    name, artifacts = content["name"], store()
    keys = {seed: entry["artifacts"] for seed, entry in content["seeds"].items()}
    found = {seed: row_results.stored(each, artifacts, None) for seed, each in keys.items()}
    evaluated = {seed: artifacts.get("evaluate", each["evaluate"]).folder for seed, each in keys.items()}
    seed_tables.write(rows.file("ranks", name), {int(seed): result.ranks for seed, result in found.items()})
    kinds = ["ranks"]
    if metrics:
        kept = ["user", *dict.fromkeys(metrics)]
        read = {int(seed): pd.read_parquet(each / row_results.USER_METRICS, columns=kept) for seed, each in evaluated.items()}
        seed_tables.write(rows.file("user_metrics", name), read)
        kinds.append("user_metrics")
    else:
        rows.file("user_metrics", name).unlink(missing_ok=True)
    write_json(rows.file("runs", name), content)
    fields = ("settings", "kept_steps", "user_counts", "file_names")
    seeds = {
        seed: {**{kind: getattr(result, kind) for kind in fields}, "commits": _commits(keys[seed], artifacts)}
        for seed, result in found.items()
    }
    hashes = {kind: file_hash(rows.file(kind, name)) for kind in kinds}
    about = {"format": FORMAT, "name": name, "run": content["sha256"], **hashes, "seeds": seeds, **named}
    write_json(rows.file("results", name), hashed_json.add_hash(json.loads(json.dumps(about))))


def _commits(keys: Mapping[str, str], artifacts: Store) -> dict[str, str]:
    """Return the commit of the code that built each stage of a seed, for the stages that are stored."""
    return {stage: artifacts.get(stage, key).manifest["git"] for stage, key in keys.items() if artifacts.has(stage, key)}
