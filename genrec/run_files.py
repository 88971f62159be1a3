"""Run files: `data/runs/NAME.json` holds one row of a table: its configuration and, for each seed, its artifacts and metrics.

A name stands for one configuration. Running another configuration under the same name is refused (`check_rows`), unless the row is to
be replaced; artifacts are kept. `outcomes` reads the rows back as `genrec.evaluation.compare.Run`, with the rank of every user.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from genrec import hashed_json, pipeline, run_file_format, studies, tuning_record
from genrec.data.corpus import Corpus
from genrec.data.corpus_statistics import protocol_of
from genrec.environment import joined
from genrec.errors import ArtifactError, UsageError
from genrec.evaluation.compare import METRICS, Run
from genrec.evaluation.comparison.settings_in_words import differences_in_words, label, setting_in_words
from genrec.evaluation.statistics.paired_tests import seeds_in_words
from genrec.experiment import MAX_NAME, Experiment, is_name
from genrec.progress import say
from genrec.row_results import Records, SeedResult, runs_of, stored
from genrec.row_settings import (
    configuration,
    planned_configuration,
    training_hash,
    with_metrics_of,
    without_metrics,
)
from genrec.stage_names import is_training_stage
from genrec.storage_errors import check_folder
from genrec.store import Artifact, hash_of, locked_file, now, write_json
from genrec.target_seeds import check_target_seeds
from genrec.workspace import runs_folder, store

ENVIRONMENT = ("processor", "instructions", "threads", "gpu", "precision", "torch", "genrec")  # of `genrec.environment.environment`
SHOWN = 4  # differences, and rows, that a message lists
_KEEP_OR_REPLACE = (
    "keep both with --name OTHER (a prefix of the names if the list has several rows), or start these rows again, without their "
    "earlier results, with --replace"
)


def protocol(experiment: Experiment, artifacts: dict[str, Artifact]) -> dict[str, Any]:
    """Return the protocol: what two rows must have in common to stand in one table."""
    data, spec = artifacts["data"], experiment.evaluate
    step = pipeline.Step("data", data.key, data.manifest["specification"], data.manifest["parents"])
    corpus = Corpus.load(data.folder)
    tested = corpus.statistics["users_tested"]
    return {
        "data": artifact_label(data, "source"),
        "split": artifact_label(data, "split"),
        "data key": pipeline.key_for_all_seeds(step, data.manifest["version"]),
        "users tested": f"{spec.max_users}, sampled from {tested}" if 0 < spec.max_users < tested else tested,
        **protocol_of(corpus),
        "ranking": "full catalog, item level",
        "history": experiment.history_length,
        "filter_seen": spec.filter_seen,
        "selection": experiment.selection.protocol,
        "cutoffs": list(spec.cutoffs),
    }


def artifact_label(artifact: Artifact, field: str) -> str:
    """Return the component that an artifact was made with in words, with the names of its files when it was made."""
    files = artifact.manifest["file_names"].get(field, ())
    return label(artifact.manifest["specification"][field], files)


def environment_of(artifacts: dict[str, Artifact]) -> dict[str, str]:
    """Return where a seed was trained, or evaluated if nothing was trained: its processor, threads and versions as short texts.

    Values that differ between SFT and alignment are joined by ' / '.
    """
    trained = [artifact for stage, artifact in artifacts.items() if is_training_stage(stage)] or [artifacts["evaluate"]]
    together = joined([artifact.manifest["environment"] | _precision_of(artifact) for artifact in trained])
    return {name: together[name] for name in ENVIRONMENT if name in together}


def _precision_of(artifact: Artifact) -> dict[str, str]:
    """Return the precision that a training took, which "auto" leaves to the hardware. An evaluation has none."""
    path = artifact.folder / "recipe.json"
    return {"precision": json.loads(path.read_text(encoding="utf-8"))["precision"]} if path.is_file() else {}


def check_rows(experiments: Sequence[Experiment], replace: bool = False) -> None:
    """Raise UsageError, before anything is trained, if a row would hold the results of different settings.

    Either two experiments of the list have one name, or the row's run file has other settings or other data than the experiment.
    `replace` allows the latter. Also raised if a baseline lacks a seed with targets of its own (`genrec.target_seeds`). A run file
    that cannot be read raises ArtifactError.
    """
    check_target_seeds(experiments)
    rows: dict[str, dict[str, Any]] = {}
    for name, settings in _planned(experiments):
        known = rows.setdefault(name, settings)
        if hash_of(known) != hash_of(settings):
            raise UsageError(
                f"two experiments of the list have the name {name!r} and different settings: "
                f"{_differences(known, settings, 'in one', 'in the other')}; give each row a name of its own, and one row the same "
                "settings for all of its seeds"
            )
    if not replace:
        _refuse_changed(rows)


def changed_rows(experiments: Sequence[Experiment]) -> dict[str, str]:
    """Return the rows that have other settings or other data in their run file, each with the differences in words."""
    return _changed(dict(_planned(experiments)))


def _planned(experiments: Sequence[Experiment]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the experiments' names and the settings that their rows would have."""
    for experiment in experiments:
        yield experiment.name, planned_configuration(pipeline.plan(experiment))


def _changed(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the differences of the rows, given by their new settings, that have others in their run file."""
    old = {name: read(name)["configuration"] for name in rows if _path(name).is_file()}
    return {
        name: _differences(settings, rows[name], "there", "now")
        for name, settings in old.items()
        if hash_of(without_metrics(settings)) != hash_of(without_metrics(rows[name]))
    }


def _refuse_changed(rows: dict[str, dict[str, Any]]) -> None:
    """Raise UsageError if a row, given by its new settings, has others in its run file."""
    changed = [f"  {_path(name)}: {differences}" for name, differences in _changed(rows).items()]
    if changed:
        more = [f"  and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
        listed = "\n".join([*changed[:SHOWN], *more])
        raise UsageError(f"the settings differ from those of rows that exist:\n{listed}\n{_KEEP_OR_REPLACE}")


def _differences(one: dict[str, Any], other: dict[str, Any], in_one: str, in_other: str) -> str:
    """Return the first settings that differ, with both values."""
    found = differences_in_words(one, other)
    shown = [
        f"the data files have changed ({path})"
        if path == "source.fingerprint" and "absent" not in values
        else f"{path} is {values[0]} {in_one}, {values[1]} {in_other}"
        for path, values in found.items()
    ][:SHOWN]
    return "; ".join([*shown, *([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])])


def record(experiment: Experiment, artifacts: dict[str, Artifact], replace: bool = False) -> None:
    """Write the result of one seed into the row's run file.

    Other `Evaluate.metrics` keep the row. A row with other settings or another protocol starts
    again if `replace` is true, else UsageError is raised. After `check_rows`
    other settings can only be found if another process has written the row in the meantime. Another protocol with the same settings
    means that the data stage does not give the same data each time.
    """
    path = _path(experiment.name)
    settings, evaluated = configuration(artifacts), protocol(experiment, artifacts)
    with locked_file(path):
        content: dict[str, Any] = {"format": run_file_format.FORMAT, "name": experiment.name, "configuration": settings, "seeds": {}}
        if path.is_file():
            old = run_file_format.read(path)
            kept, new = without_metrics(old["configuration"]), without_metrics(settings)
            if hash_of([kept, _figures(old["protocol"])]) == hash_of([new, _figures(evaluated)]):
                content["seeds"] = old["seeds"]
            elif replace:
                say(f"{experiment.name}: the configuration has changed; {path} starts again without its earlier seeds")
            else:
                _refuse_changed({experiment.name: settings})
                differences = _differences(_figures(old["protocol"]), _figures(evaluated), "there", "now")
                raise UsageError(f"{path} has the same settings and another protocol: {differences}; {_KEEP_OR_REPLACE}")
        content["protocol"] = evaluated
        content["seeds"][str(experiment.seed)] = {
            "recorded": now(),
            "artifacts": {name: artifact.key for name, artifact in artifacts.items()},
            "seconds": {name: artifact.manifest["seconds"] for name, artifact in artifacts.items()},
            "environment": environment_of(artifacts),
            "metrics": json.loads((artifacts["evaluate"].folder / "metrics.json").read_text(encoding="utf-8")),
        }
        write_json(path, hashed_json.add_hash(content))


def say_other_metrics(name: str) -> None:
    """Log which seeds of a row were evaluated with other further metrics than the seed that was run last."""
    content, artifacts = read(name), store()
    settings = content["configuration"]
    keys = {int(number): entry["artifacts"]["evaluate"] for number, entry in content["seeds"].items()}
    evaluated = {number: artifacts.get("evaluate", key) for number, key in keys.items() if artifacts.has("evaluate", key)}
    other = sorted(number for number, each in evaluated.items() if hash_of(with_metrics_of(settings, each)) != hash_of(settings))
    if other:
        were, seeds = ("was", "this seed") if len(other) == 1 else ("were", "these seeds")
        say(
            f"{name}: {seeds_in_words(other)} {were} evaluated with other {METRICS} than the last run, "
            f"{setting_in_words(settings.get(METRICS, []))}; run {seeds} again, which trains nothing"
        )


def _figures(protocol: dict[str, Any]) -> dict[str, Any]:
    """Return a protocol without its labels: the name of a file may change."""
    return {name: value for name, value in protocol.items() if name not in ("data", "split")}


def read(name: str, folder: Path | None = None, advice: str = run_file_format.AGAIN) -> dict[str, Any]:
    """Return a run file (see `run_file_format.SHAPE`). Raises UsageError if there is none, ArtifactError if it is damaged.

    `folder` holds the run files; by default it is that of the data folder. `advice` says what to do about a damaged file.
    """
    if not is_name(name) or not _path(name, folder).is_file():
        known = names_of_rows(folder)
        close = difflib.get_close_matches(name, known, 1)
        nearest = f"did you mean {close[0]!r}? " if close else ""
        where = runs_folder() if folder is None else folder
        raise UsageError(f"there is no run {name[:MAX_NAME]!r} in {where}; {nearest}there are: {', '.join(known) or 'none'}")
    return run_file_format.read(_path(name, folder), advice)


def names_of_rows(folder: Path | None = None) -> list[str]:
    """Return the names of all rows that have a run file. Raises UsageError if a file is in the place of the folder."""
    folder = runs_folder() if folder is None else folder
    check_folder(folder)
    return sorted(path.stem for path in folder.glob("[!.]*.json") if is_name(path.stem) and path.is_file())


def odd_files() -> list[str]:
    """Return a message for each entry of the folder that looks like a run file and can be none."""
    messages = []
    for path in sorted(runs_folder().glob("[!.]*.json")):
        if not path.is_file():
            messages.append(f"{path} is not a file that can be read; move it away")
        elif not is_name(path.stem):
            messages.append(f"{path} has a name that no row can have; move it away")
    return messages


def check_extendable(name: str, write: bool = True) -> None:
    """Raise an error if the row's run file can't be read or written, before anything is trained.

    With `write=False` nothing is written, and the file's lock is not taken.
    """
    path = _path(name)
    with locked_file(path) if write else nullcontext():
        if os.path.lexists(path) and not path.is_file():
            raise UsageError(f"{path} is not a file; move it away and run the same command again")
        if path.is_file():
            run_file_format.read(path)


def by_protocol(names: Sequence[str]) -> list[list[str]]:
    """Return the names grouped by protocol, in order: each group is one table."""
    tables: dict[str, list[str]] = {}
    for name in names:
        tables.setdefault(hash_of(read(name)["protocol"]), []).append(name)
    return list(tables.values())


def outcomes(names: Sequence[str], only_seeds: dict[str, set[int]] | None = None, metric: str | None = None) -> list[Run]:
    """Return the runs of these rows with the rank of every user: all seeds, or those given for each name.

    Of `user_metrics.parquet` the column `metric` is read, if it is there.
    """
    artifacts, records = store(), Records(studies.read_all(), tuning_record.read_all(), cache(present_settings))

    def result(content: dict[str, Any], seed: str) -> SeedResult:
        return stored(content["seeds"][seed]["artifacts"], artifacts, metric)

    return runs_of({name: read(name) for name in dict.fromkeys(names)}, result, records, only_seeds)


def present_settings(name: str, folder: Path | None = None) -> str | None:
    """Return the hash of a row's settings (`training_hash`), or None if it has no run file that can be read."""
    path = _path(name, folder)
    try:
        return training_hash(run_file_format.read(path)["configuration"]) if path.is_file() else None
    except ArtifactError:
        return None


def _path(name: str, folder: Path | None = None) -> Path:
    return (runs_folder() if folder is None else folder) / f"{name}.json"
