"""MLflow: one run for each row and seed, in the experiment `genrec`, in files below `data/mlflow/` or at MLFLOW_TRACKING_URI."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.errors import ResourceError
from genrec.types.tracking import TrackedRow, TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 100  # parameters that MLflow takes at once
MAX_VALUE = 500  # characters of a parameter's value, in all versions of MLflow
DEFAULTS = {  # of MLflow's variables
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class MLflow:
    """A `genrec.types.Tracker`. MLFLOW_TRACKING_URI names a server or a database, MLFLOW_EXPERIMENT_NAME another experiment."""

    def check(self) -> None:
        """Raise ResourceError if MLflow is not installed."""
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            import mlflow  # noqa: F401
        except ImportError as error:
            raise ResourceError(f"--track mlflow needs mlflow ({error}): pip install 'genrec[mlflow]'") from error

    def start(self, row: TrackedRow, identifier: str | None) -> TrackedRun:
        """Return the run; a new one where MLflow has none with this identifier."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or files_of(row.folder))
        try:
            if identifier is not None:
                client.update_run(client.get_run(identifier).info.run_id, status="RUNNING")
                return _Run(client, identifier)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "genrec"
        experiment = client.get_experiment_by_name(name)
        number = client.create_experiment(name) if experiment is None else experiment.experiment_id
        tags = {"genrec.name": row.name, "genrec.seed": str(row.seed)}
        run = client.create_run(number, run_name=f"{row.name} (seed {row.seed})", tags=tags)
        _log_configuration(client, run.info.run_id, {"name": row.name, "seed": row.seed, **row.configuration})
        return _Run(client, run.info.run_id)


def files_of(folder: Path) -> str:
    """Return the address of MLflow's files in a data folder."""
    return (folder / "mlflow").absolute().as_uri()


def allowed(name: str) -> str:
    """Return a name that MLflow takes: letters, digits and `_ - . : /` and spaces; `ndcg_at_10` of `ndcg@10`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)


def _log_configuration(client: MlflowClient, run: str, configuration: Mapping[str, object]) -> None:
    from mlflow.entities import Param

    texts = {path: entry if isinstance(entry, str) else json.dumps(entry) for path, entry in configuration.items()}
    found = [Param(allowed(path), text[:MAX_VALUE]) for path, text in texts.items()]
    for first in range(0, len(found), BATCH):
        client.log_batch(run, params=found[first : first + BATCH])


class _Run:
    def __init__(self, client: MlflowClient, run: str) -> None:
        self.client, self.run = client, run
        self._is_finished = False

    def identifier(self) -> str:
        return self.run

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._log([(f"{stage}/{name}", value) for name, value in values.items()], step)

    def finish(self, metrics: Mapping[str, float]) -> None:
        self._log([(f"test/{name}", value) for name, value in metrics.items()], 0)
        self._is_finished = True

    def close(self) -> None:
        self.client.set_terminated(self.run, "FINISHED" if self._is_finished else "KILLED")

    def _log(self, values: Sequence[tuple[str, float]], step: int) -> None:
        from mlflow.entities import Metric

        moment = int(time.time() * 1000)
        found = [Metric(allowed(name), value, moment, step) for name, value in values]
        for first in range(0, len(found), BATCH):
            self.client.log_batch(self.run, metrics=found[first : first + BATCH])
