"""Run files: `data/runs/NAME.json` says what one row of a table is: its configuration, and for every seed its artifacts and metrics.

A name stands for one configuration. A run of another configuration under the same name starts the file afresh and says so; the
artifacts stay. Outcomes are read back as `compare.Run`, ranks included.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock

from genrec.errors import ArtifactError, NetworkError, UsageError
from genrec.evaluation.compare import Run
from genrec.experiment import Experiment, flatten
from genrec.pipeline import VERSIONS, home, plan, store
from genrec.pipeline import run as build
from genrec.progress import say
from genrec.store import Artifact, hash_of, write_json

TRAINED = ("sft", "align")  # the stages that have curves


class Trained(NamedTuple):
    """One finished training."""

    name: str
    seed: int
    artifact: Artifact
    curves: pd.DataFrame  # `genrec.training.curves.table`


def run(experiments: Sequence[Experiment], refresh: str | None = None) -> None:
    """Run what is missing of each and record it; curves are drawn once a policy is trained. One line then says what stages took."""
    done: set[str] = set()
    made: dict[str, Artifact] = {}
    for experiment in experiments:
        before = {step.key: _dated(store().folder(step.stage, step.key)) for step in plan(experiment)}
        artifacts = build(experiment, refresh, done, ready=partial(_draw, experiment))
        record(experiment, artifacts)
        made |= {each.key: each for each in artifacts.values() if _dated(each.folder) != before[each.key]}
    if made:
        say(seconds_line(list(made.values())))


def _draw(experiment: Experiment, artifact: Artifact) -> None:
    """The curves of a training into reports/, unless a row that shares it drew them; nothing for other stages. A picture is no result:
    without one, go on.
    """
    from genrec.training import curve_plots

    if artifact.stage not in TRAINED:
        return
    reports, made = home() / "reports", _dated(artifact.folder) or 0
    if any(old.stat().st_mtime_ns >= made for old in reports.glob(f"*-{artifact.stage}-{artifact.key}.png")):
        return
    path = reports / f"{experiment.name}-seed-{experiment.seed}-{artifact.stage}-{artifact.key}.png"
    title = f"{experiment.name} (seed {experiment.seed}): {artifact.stage} {artifact.key}"
    try:
        curve_plots.draw({experiment.name: [pd.read_parquet(artifact.folder / "curves.parquet")]}, title, path)
    except (ImportError, OSError) as error:
        say(f"{title}: its curves could not be drawn ({error})")
    else:
        say(f"{title}: curves drawn in {path}")


def _dated(folder: Path) -> int | None:
    """When an artifact was made, in nanoseconds; None where there is none."""
    manifest = folder / "manifest.json"
    return manifest.stat().st_mtime_ns if manifest.is_file() else None


def seconds_line(artifacts: Sequence[Artifact]) -> str:
    """Seconds by stage, in the stages' order, summed where a stage was made for several rows or seeds."""
    parts = []
    for stage in VERSIONS:
        seconds = [artifact.manifest["seconds"] for artifact in artifacts if artifact.stage == stage]
        if seconds:
            parts.append(f"{stage} {sum(seconds):.1f}" + (f" ({len(seconds)} times)" if len(seconds) > 1 else ""))
    return f"seconds of what was made: {', '.join(parts)}"


def configuration(artifacts: dict[str, Artifact]) -> dict[str, Any]:
    """The specifications of the stages that were run, by key path, without the seed: what the manifests say."""
    merged: dict[str, Any] = {}
    for artifact in artifacts.values():
        merged |= artifact.manifest["specification"]
    merged.pop("seed", None)  # a row holds all of its seeds
    if "sft" in merged:
        merged.setdefault("tokenize", None)
        merged.setdefault("align", None)
    return flatten(merged)


def protocol(experiment: Experiment, artifacts: dict[str, Artifact]) -> dict[str, Any]:
    """What two rows must share to stand in one table."""
    statistics = json.loads((artifacts["data"].folder / "stats.json").read_text(encoding="utf-8"))
    spec = experiment.evaluate
    drawn = spec.max_users if 0 < spec.max_users < statistics["users_tested"] else None
    return {
        "data": label(artifacts["data"].manifest["specification"]["source"]),
        "data key": artifacts["data"].key,
        "split": label(artifacts["data"].manifest["specification"]["split"]),
        "users": statistics["users"],
        "users tested": statistics["users_tested"] if drawn is None else f"{drawn}, drawn of {statistics['users_tested']}",
        "items": statistics["items"],
        "interactions": statistics["interactions"],
        "ranking": "full catalog, item level",
        "history": experiment.history_length,
        "filter_seen": spec.filter_seen,
        "cutoffs": list(spec.cutoffs),
    }


def label(description: dict[str, Any]) -> str:
    """A described component in words, without its paths: `MovieLens(variant=100k)`."""
    known = {
        name: value for name, value in description.items() if name not in ("class", "version", "fingerprint") and value is not None
    }
    values = [f"{name}={value}" for name, value in known.items()]
    return f"{description['class'].rpartition(':')[2]}({', '.join(values)})"


def record(experiment: Experiment, artifacts: dict[str, Artifact]) -> None:
    """Write the outcome of one seed into the row's run file."""
    path = _path(experiment.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = configuration(artifacts)
    with FileLock(path.with_name(f".{path.name}.lock")):
        content: dict[str, Any] = {"name": experiment.name, "configuration": settings, "seeds": {}}
        if path.is_file():
            old = _read(path)
            if hash_of(old["configuration"]) == hash_of(settings):
                content["seeds"] = old["seeds"]
            else:
                say(f"{experiment.name}: the configuration changed; {path} starts afresh (artifacts are kept)")
        content["protocol"] = protocol(experiment, artifacts)
        content["seeds"][str(experiment.seed)] = {
            "artifacts": {name: artifact.key for name, artifact in artifacts.items()},
            "seconds": {name: artifact.manifest["seconds"] for name, artifact in artifacts.items()},
            "metrics": json.loads((artifacts["evaluate"].folder / "metrics.json").read_text(encoding="utf-8")),
        }
        write_json(path, content)


def read(name: str) -> dict[str, Any]:
    """A run file's content."""
    path = _path(name)
    if not path.is_file():
        known = sorted(entry.stem for entry in path.parent.glob("*.json"))
        raise UsageError(f"there is no run {name!r} in {path.parent}; there are: {', '.join(known) or 'none'}")
    return _read(path)


def by_protocol(names: Sequence[str]) -> list[list[str]]:
    """The names of each table, in order: rows of other data or of another protocol stand in another table."""
    tables: dict[str, list[str]] = {}
    for name in names:
        tables.setdefault(hash_of(read(name)["protocol"]), []).append(name)
    return list(tables.values())


def outcomes(names: Sequence[str], only_seeds: dict[str, set[int]] | None = None) -> list[Run]:
    """The runs of these rows, every seed (or those given for a name), with the ranks of every user."""
    where, runs = store(), []
    for name in dict.fromkeys(names):
        content = read(name)
        for seed, entry in sorted(content["seeds"].items(), key=lambda item: int(item[0])):
            if only_seeds is not None and int(seed) not in only_seeds[name]:
                continue
            folder = where.get("evaluate", entry["artifacts"]["evaluate"]).folder
            ranks = pd.read_parquet(folder / "ranks.parquet")
            runs.append(Run(name, int(seed), ranks, entry["metrics"], content["protocol"], content["configuration"]))
    return runs


def trainings(names: Sequence[str], stage: str | None = None) -> list[Trained]:
    """Every seed's training of these rows: of one stage, alignment where all of them have it."""
    contents = {name: read(name) for name in dict.fromkeys(names)}
    kept = [entry["artifacts"] for content in contents.values() for entry in content["seeds"].values()]
    stage = stage or ("align" if all("align" in keys for keys in kept) else "sft")
    where, found = store(), []
    for name, content in contents.items():
        for seed, entry in sorted(content["seeds"].items(), key=lambda item: int(item[0])):
            if stage not in entry["artifacts"]:
                raise UsageError(f"{name} has no curves of a stage {stage!r}; it has the stages {', '.join(entry['artifacts'])}")
            artifact = where.get(stage, entry["artifacts"][stage])
            found.append(Trained(name, int(seed), artifact, pd.read_parquet(artifact.folder / "curves.parquet")))
    return found


def dry_run(experiment: Experiment) -> list[tuple[str, str, str]]:
    """The planned stages: name, key, and 'done' or 'to run'. Keys need the data set's files, and nothing is fetched."""
    where, before = store(), os.environ.get("GENREC_OFFLINE")
    os.environ["GENREC_OFFLINE"] = "1"
    try:
        return [(step.stage, step.key, "done" if where.has(step.stage, step.key) else "to run") for step in plan(experiment)]
    except NetworkError as error:
        raise NetworkError(f"a dry run fetches nothing, 'genrec data' does; {error}") from None
    finally:
        os.environ.pop("GENREC_OFFLINE")
        if before is not None:
            os.environ["GENREC_OFFLINE"] = before


def _path(name: str) -> Path:
    return home() / "runs" / f"{name}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); remove it and run the experiment again") from None
    return content
