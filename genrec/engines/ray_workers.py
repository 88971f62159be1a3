"""The engine `ray`: tasks of a Ray cluster, each with one core, and one GPU if the cluster has some."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec.engines.engine_protocols import Task
from genrec.engines.task_reports import Report, interrupted, lost, perform
from genrec.errors import ResourceError


@dataclass(frozen=True)
class RayEngine:
    """Workers of a Ray cluster."""

    address: str = ""  # of the cluster; "": that of RAY_ADDRESS, one that runs on this machine, or a new one on this machine

    def start(self) -> RayPool:
        """Connect to the cluster, unless this process is connected. Raises ResourceError if Ray or the cluster is missing."""
        ray = _ray()
        is_own = not ray.is_initialized()
        if is_own:
            try:
                ray.init(address=self.address or None, runtime_env=_runtime_environment())
            except Exception as error:  # Ray raises a plain Exception if a cluster does not start in time
                where = f"the Ray cluster {self.address}" if self.address else "a Ray cluster"
                raise ResourceError(
                    f"{where} can't be reached or started ({error}); start it with 'ray start --head' and run again"
                ) from error
        return RayPool(ray, is_own)


class RayFuture:
    """A task of the cluster."""

    def __init__(self, ray: Any, reference: Any, title: str) -> None:
        self.ray, self.reference, self.title, self._is_cancelled = ray, reference, title, False

    def done(self) -> bool:
        """Return whether the task has ended."""
        return bool(self.ray.wait([self.reference], timeout=0)[0])

    def report(self) -> Report:
        """Return the value or the error of a task that has ended."""
        try:
            found: Report = self.ray.get(self.reference)
            return found
        except self.ray.exceptions.RayError as error:
            if self._is_cancelled:
                return interrupted()
            why = str(error).strip().partition("\n")[0]
            return lost(
                f"the Ray worker of {self.title} was lost ({type(error).__name__}: {why}); run the same command again to go on from "
                "its last checkpoint"
            )

    def cancel(self) -> None:
        """Interrupt the task once, or keep it from starting."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self.ray.cancel(self.reference)


class RayPool:
    """The cluster. Tasks that need more cores or GPUs than are free wait there."""

    def __init__(self, ray: Any, is_own: bool) -> None:
        self.ray, self.is_own = ray, is_own
        num_gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        self.function = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=0)(perform)
        self._futures: list[RayFuture] = []

    def submit(self, tasks: Sequence[Task]) -> list[RayFuture]:
        """Submit the tasks."""
        futures = [RayFuture(self.ray, self.function.remote(task), task.title) for task in tasks]
        self._futures += futures
        return futures

    def close(self) -> None:
        """Cancel the tasks that have not ended, and disconnect if the engine has connected."""
        for future in self._futures:
            if not future.done():
                self.ray.cancel(future.reference, force=True)
        if self.is_own:
            self.ray.shutdown()


def _runtime_environment() -> dict[str, Any]:
    """Return what the workers take over before they import a task: PYTHONPATH, which a cluster that runs already does not have."""
    folders = os.environ.get("PYTHONPATH", "")
    if not folders:
        return {}
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(str(Path(folder).absolute()) for folder in folders.split(os.pathsep))}}


def _ray() -> Any:
    """Return Ray. Raises ResourceError if it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise ResourceError("--on ray needs Ray, which is not installed: pip install 'genrec[ray]'") from error
    return ray
