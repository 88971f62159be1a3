"""Run files: `data/runs/NAME.json` holds one row of a table: its configuration and, for each seed, its artifacts and metrics.

A name stands for one configuration. Running another configuration under the same name starts the file again and logs this; artifacts
are kept. `outcomes` reads the rows back as `genrec.evaluation.compare.Run`, with the rank of every user.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock

from genrec import renamed
from genrec.errors import ArtifactError, UsageError
from genrec.evaluation.compare import Run
from genrec.experiment import Experiment
from genrec.progress import say
from genrec.store import Artifact, hash_of, write_json
from genrec.workspace import runs_folder, store

FORMAT = 2  # version of the run file; files of format 1 use former field names
TRAINING_STAGES = ("sft", "align")  # the stages that have training curves


class Training(NamedTuple):
    """One finished training."""

    name: str  # of the row
    seed: int
    artifact: Artifact
    curves: pd.DataFrame  # see `genrec.training.curves.table`


def configuration(artifacts: dict[str, Artifact]) -> dict[str, Any]:
    """Return the settings of all stages by key path, without the seed, as the manifests record them."""
    merged: dict[str, Any] = {}
    for artifact in artifacts.values():
        merged |= artifact.manifest["specification"]
    merged.pop("seed", None)  # a row holds all of its seeds
    if "sft" in merged:
        merged.setdefault("tokenize", None)
        merged.setdefault("align", None)
    return flatten(merged)


def flatten(description: object, path: str = "") -> dict[str, object]:
    """Return the leaves of a nested description by key path, named as on the command line: {'align.loss.beta': 1.0, ...}."""
    if isinstance(description, dict):
        result: dict[str, object] = {}
        for key, value in description.items():
            result |= flatten(value, f"{path}.{key}" if path else key)
        return result
    return {path: description}


def protocol(experiment: Experiment, artifacts: dict[str, Artifact]) -> dict[str, Any]:
    """Return the protocol: what two rows must have in common to stand in one table."""
    statistics = json.loads((artifacts["data"].folder / "stats.json").read_text(encoding="utf-8"))
    spec = experiment.evaluate
    sampled = spec.max_users if 0 < spec.max_users < statistics["users_tested"] else None
    return {
        "data": artifact_label(artifacts["data"], "source"),
        "data key": artifacts["data"].key,
        "split": artifact_label(artifacts["data"], "split"),
        "users": statistics["users"],
        "users tested": statistics["users_tested"] if sampled is None else f"{sampled}, sampled from {statistics['users_tested']}",
        "items": statistics["items"],
        "interactions": statistics["interactions"],
        "ranking": "full catalog, item level",
        "history": experiment.history_length,
        "filter_seen": spec.filter_seen,
        "cutoffs": list(spec.cutoffs),
    }


def artifact_label(artifact: Artifact, field: str) -> str:
    """Return the component that an artifact was made with in words, with the names of its files when it was made."""
    files = artifact.manifest.get("file_names", {}).get(field, ())
    return label(artifact.manifest["specification"][field], files)


def label(description: dict[str, Any], files: Sequence[str] = ()) -> str:
    """Return a described component in words, without its paths: `MovieLens(variant=100k)`, `Frames(events.csv, ...)`."""
    hidden = ("class", "version", "fingerprint", "source")  # `source` is the hash of a plug-in's code
    known = {name: value for name, value in description.items() if name not in hidden and value is not None}
    values = [*files, *(f"{name}={value}" for name, value in known.items())]
    return f"{description['class'].rpartition(':')[2]}({', '.join(values)})"


def record(experiment: Experiment, artifacts: dict[str, Artifact]) -> None:
    """Write the result of one seed into the row's run file."""
    path = _path(experiment.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = configuration(artifacts)
    with FileLock(path.with_name(f".{path.name}.lock")):
        content: dict[str, Any] = {"format": FORMAT, "name": experiment.name, "configuration": settings, "seeds": {}}
        if path.is_file():
            old = _read(path)
            if hash_of(old["configuration"]) == hash_of(settings):
                content["seeds"] = old["seeds"]
            else:
                say(f"{experiment.name}: the configuration has changed; {path} starts again without its earlier seeds")
        content["protocol"] = protocol(experiment, artifacts)
        content["seeds"][str(experiment.seed)] = {
            "artifacts": {name: artifact.key for name, artifact in artifacts.items()},
            "seconds": {name: artifact.manifest["seconds"] for name, artifact in artifacts.items()},
            "metrics": json.loads((artifacts["evaluate"].folder / "metrics.json").read_text(encoding="utf-8")),
        }
        write_json(path, content)


def read(name: str) -> dict[str, Any]:
    """Return the content of a run file. Raises UsageError if there is none, ArtifactError if it is damaged or of an earlier format."""
    path = _path(name)
    if not path.is_file():
        known = sorted(entry.stem for entry in path.parent.glob("*.json"))
        raise UsageError(f"there is no run {name!r} in {path.parent}; there are: {', '.join(known) or 'none'}")
    return _read(path)


def check_readable(name: str) -> None:
    """Raise ArtifactError if the row has a run file that cannot be extended, before anything is trained."""
    if _path(name).is_file():
        read(name)


def by_protocol(names: Sequence[str]) -> list[list[str]]:
    """Return the names grouped by protocol, in order: each group is one table."""
    tables: dict[str, list[str]] = {}
    for name in names:
        tables.setdefault(hash_of(read(name)["protocol"]), []).append(name)
    return list(tables.values())


def outcomes(names: Sequence[str], only_seeds: dict[str, set[int]] | None = None) -> list[Run]:
    """Return the runs of these rows with the rank of every user: all seeds, or those given for each name."""
    artifacts, runs = store(), []
    for name in dict.fromkeys(names):
        content = read(name)
        for seed, entry in sorted(content["seeds"].items(), key=lambda item: int(item[0])):
            if only_seeds is not None and int(seed) not in only_seeds[name]:
                continue
            folder = artifacts.get("evaluate", entry["artifacts"]["evaluate"]).folder
            ranks = pd.read_parquet(folder / "ranks.parquet")
            runs.append(Run(name, int(seed), ranks, entry["metrics"], content["protocol"], content["configuration"]))
    return runs


def trainings(names: Sequence[str], stage: str | None = None) -> list[Training]:
    """Return the training of every seed of these rows in one stage; without `stage`, in align if all rows have it, else in sft."""
    contents = {name: read(name) for name in dict.fromkeys(names)}
    keys = [entry["artifacts"] for content in contents.values() for entry in content["seeds"].values()]
    stage = stage or ("align" if all("align" in each for each in keys) else "sft")
    artifacts, found = store(), []
    for name, content in contents.items():
        for seed, entry in sorted(content["seeds"].items(), key=lambda item: int(item[0])):
            if stage not in entry["artifacts"]:
                raise UsageError(f"{name} has no curves of a stage {stage!r}; it has the stages {', '.join(entry['artifacts'])}")
            artifact = artifacts.get(stage, entry["artifacts"][stage])
            found.append(Training(name, int(seed), artifact, pd.read_parquet(artifact.folder / "curves.parquet")))
    return found


def _path(name: str) -> Path:
    return runs_folder() / f"{name}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); remove it and run the experiment again") from None
    if content.get("format", 1) > FORMAT:
        raise ArtifactError(
            f"{path} was written by a newer version of genrec (format {content['format']}, this version reads {FORMAT})"
        )
    if content.get("format", 1) < FORMAT:
        raise ArtifactError(
            f"{path} was written by an earlier version of genrec with other field names{renamed.examples(content['configuration'])}; "
            "move the file away and run the experiment again, or read it with the commit that wrote it"
        )
    return content
