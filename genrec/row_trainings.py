"""The trainings of rows, with their curves, for `genrec curves` and the pictures of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from genrec import run_files
from genrec.errors import UsageError
from genrec.stage_names import is_training_stage
from genrec.store import Artifact
from genrec.workspace import store


class Training(NamedTuple):
    """One finished training."""

    name: str  # of the row
    seed: int
    artifact: Artifact
    curves: pd.DataFrame  # see `genrec.training.curves.table`


def trainings(names: Sequence[str], stage: str | None = None) -> list[Training]:
    """Return the training of every seed of these rows in one stage; without `stage`, in the last that all rows have."""
    contents = {name: run_files.read(name) for name in dict.fromkeys(names)}
    keys = [entry["artifacts"] for content in contents.values() for entry in content["seeds"].values()]
    if stage is None:
        common = [each for each in keys[0] if is_training_stage(each) and all(each in seed for seed in keys)]
        stage = common[-1] if common else "sft"
    artifacts, found = store(), []
    for name, content in contents.items():
        for seed, entry in sorted(content["seeds"].items(), key=lambda item: int(item[0])):
            if stage not in entry["artifacts"]:
                raise UsageError(f"{name} has no curves of a stage {stage!r}; it has the stages {', '.join(entry['artifacts'])}")
            artifact = artifacts.get(stage, entry["artifacts"][stage])
            found.append(Training(name, int(seed), artifact, pd.read_parquet(artifact.folder / "curves.parquet")))
    return found


def rows_without(stage: str, names: Sequence[str]) -> list[str]:
    """Return the rows that do not have this stage."""
    return [
        name for name in dict.fromkeys(names) if not all(stage in seed["artifacts"] for seed in run_files.read(name)["seeds"].values())
    ]


def baseline_lines(artifacts: Sequence[Artifact]) -> dict[str, float]:
    """Return NDCG@10 of the baselines on the validation users, by name, if all these trainings have the same; else nothing."""
    paths = [artifact.folder / "baselines.json" for artifact in artifacts]
    found = [json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {} for path in paths]
    return found[0] if all(each == found[0] for each in found) else {}
