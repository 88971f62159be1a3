"""`genrec run --track`: passes the curves, the settings and the metrics of each row and seed on to trackers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pandas as pd

from genrec import loading, pipeline
from genrec.errors import GenrecError, UsageError
from genrec.experiment import Experiment
from genrec.row_settings import planned_configuration
from genrec.stage_names import is_training_stage
from genrec.store import Artifact
from genrec.trackers import MLflow, TensorBoard, TrackingThread, WandB
from genrec.training.curves import Row
from genrec.types import TrackedRow, Tracker
from genrec.workspace import home, tracking_folder

TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def trackers_of(names: Sequence[str]) -> dict[str, Tracker]:
    """Return the trackers of `--track` by name: `tensorboard`, `wandb`, `mlflow`, or `FILE.py:CLASS`."""
    found: dict[str, Tracker] = {}
    given: dict[str, str] = {}  # name of a tracker -> what the command line gives
    for name in names:
        if name not in TRACKERS and ":" not in name:
            raise UsageError(f"--track must be {', '.join(TRACKERS)} or FILE.py:CLASS, got {name!r}")
        tracker = TRACKERS[name]() if name in TRACKERS else loading.component(name)
        if not isinstance(tracker, Tracker):
            raise UsageError(f"{name} is no tracker: genrec.types.Tracker has the methods check and start")
        own = name.rpartition(":")[2]
        if given.setdefault(own, name) != name:
            raise UsageError(f"--track {given[own]} and {name} have one name, {own}, for their records; rename one of the classes")
        found[own] = tracker
    return found


class RowLog:
    """What the trackers receive of one row and seed."""

    def __init__(self, threads: Sequence[TrackingThread]) -> None:
        self.threads = threads

    def on_row(self, stage: str, row: Row) -> None:
        """Pass on a row of the curves of a stage that trains."""
        for each in self.threads:
            each.log(stage, row)

    def on_artifact(self, artifact: Artifact) -> None:
        """Pass on the curves of a finished stage, which another row may have trained, and the metrics of an evaluation."""
        if self.threads and is_training_stage(artifact.stage):
            for row in pd.read_parquet(artifact.folder / "curves.parquet").to_dict("records"):
                self.on_row(artifact.stage, {str(name): value for name, value in row.items()})
        if self.threads and artifact.stage == "evaluate":
            metrics = json.loads((artifact.folder / "metrics.json").read_text(encoding="utf-8"))
            for each in self.threads:
                each.finish(metrics)


class Tracking:
    """The trackers of one command. One that fails is left out from the next row on."""

    def __init__(self, trackers: dict[str, Tracker]) -> None:
        for name, tracker in trackers.items():
            try:
                tracker.check()
            except GenrecError:
                raise
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                raise UsageError(
                    f"the tracker {name} can't be used: its method check raised {why}; leave out --track {name}"
                ) from error
        self.trackers = dict(trackers)

    @contextmanager
    def row(self, experiment: Experiment, steps: Sequence[pipeline.Step], anew: bool) -> Iterator[RowLog]:
        """Yield what takes the curves and metrics of one row and seed. `anew` starts new runs also where there are earlier ones."""
        keys = {step.stage: step.key for step in steps if step.stage != "evaluate"}  # a row may be evaluated again
        row = TrackedRow(experiment.name, experiment.seed, planned_configuration(steps), home())
        stem = f"{experiment.name}-seed-{experiment.seed}"
        threads = [
            TrackingThread(tracker, name, row, keys, tracking_folder() / f"{stem}-{name}.json", anew)
            for name, tracker in self.trackers.items()
        ]
        try:
            yield RowLog(threads)
        finally:
            for each in threads:
                each.close()
                if each.error:
                    del self.trackers[each.title]
