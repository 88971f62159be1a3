"""The engine `slurm`: each task is a job of SLURM, and tasks that are submitted together are one array (submitit).

The folder of the data holds the jobs' scripts and logs, so that it has to be shared with the nodes of the cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genrec.engines.engine_protocols import Task
from genrec.engines.task_reports import Report, interrupted, lost, report_of
from genrec.errors import ResourceError, UsageError
from genrec.workspace import jobs_folder


@dataclass(frozen=True)
class SlurmEngine:
    """Jobs of SLURM. Fields with None take the cluster's defaults."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None  # quality of service
    constraint: str | None = None  # features that a node must have
    hours: float = 24.0  # time limit of a job; one that reaches it is queued again and goes on from its checkpoint, three times
    mem_gb: float | None = None  # memory of a job in gigabytes
    cpus: int = 1  # cores of a job, and so threads
    gpus: int = 0  # GPUs of a job
    parallel: int = 256  # jobs of one array that run at the same time
    cluster: Literal["slurm", "local"] = "slurm"  # "local": processes of this machine in place of jobs, for tests

    def __post_init__(self) -> None:
        for name, least in (("cpus", 1), ("gpus", 0), ("parallel", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"--on slurm: {name} must be {least} or more, got {getattr(self, name)}")
        for name in ("hours", "mem_gb"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UsageError(f"--on slurm: {name} must be above 0, got {getattr(self, name)}")

    def start(self) -> SlurmPool:
        """Return the pool. Raises ResourceError if submitit or SLURM is missing."""
        submitit, folder = _submitit(), jobs_folder()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            executor = submitit.AutoExecutor(folder.absolute(), cluster=self.cluster)
        except RuntimeError as error:
            raise ResourceError(f"--on slurm needs the commands of SLURM, such as srun ({error}); run on a login node") from error
        executor.update_parameters(
            name="genrec",
            timeout_min=max(1, round(60 * self.hours)),
            mem_gb=self.mem_gb,
            cpus_per_task=self.cpus,
            gpus_per_node=self.gpus or None,
            slurm_partition=self.partition,
            slurm_account=self.account,
            slurm_qos=self.qos,
            slurm_constraint=self.constraint,
            slurm_array_parallelism=self.parallel,
            slurm_setup=[f"export OMP_NUM_THREADS={self.cpus}"],
        )
        return SlurmPool(executor)


class JobFuture:
    """A task as a job."""

    def __init__(self, job: Any, title: str) -> None:
        self.job, self.title, self._is_cancelled = job, title, False

    def done(self) -> bool:
        """Return whether the job has ended."""
        return bool(self.job.done())

    def report(self) -> Report:
        """Return the value or the error of a job that has ended."""
        error = self.job.exception()
        if error is None:
            found: Report = self.job.result()
            return found
        if self._is_cancelled:
            return interrupted()
        log = self.job.paths.stderr
        return lost(
            f"the job {self.job.job_id} ended in {self.title} without a result ({self.job.state}): killed, out of memory or over its "
            f"time limit; its log is {log}; run the same command again to go on from its last checkpoint"
        )

    def cancel(self) -> None:
        """Cancel the job. SLURM sends SIGTERM, on which a training saves its checkpoint."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self.job.cancel(check=False)


class SlurmPool:
    """The queue of SLURM."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self._futures: list[JobFuture] = []

    def submit(self, tasks: Sequence[Task]) -> list[JobFuture]:
        """Submit a job, or an array of several."""
        if len(tasks) == 1:
            jobs = [self.executor.submit(_Job(tasks[0]))]
        else:
            with self.executor.batch():
                jobs = [self.executor.submit(_Job(task)) for task in tasks]
        futures = [JobFuture(job, task.title) for job, task in zip(jobs, tasks, strict=True)]
        self._futures += futures
        return futures

    def close(self) -> None:
        """Cancel the jobs that have not ended."""
        for future in self._futures:
            if not future.done():
                future.cancel()


@dataclass(frozen=True)
class _Job:
    """What a job runs. A job that reaches its time limit is queued again, and its training goes on from the checkpoint."""

    task: Task

    def __call__(self) -> Report:
        try:
            return Report(self.task())
        except BaseException as error:
            if _Requeued.is_set:  # submitit ends this process; the job has no result yet
                raise error if isinstance(error, SystemExit) else SystemExit(1) from error
            return report_of(error)

    def checkpoint(self) -> Any:
        """Return what the job runs when it is queued again. submitit calls this method at the time limit."""
        _Requeued.is_set = True
        return _submitit().helpers.DelayedSubmission(self)


class _Requeued:
    """Whether the job of this process was queued again."""

    is_set = False


def _submitit() -> Any:
    """Return submitit. Raises ResourceError if it is not installed."""
    try:
        import submitit
    except ImportError as error:
        raise ResourceError("--on slurm needs submitit, which is not installed: pip install 'genrec[slurm]'") from error
    return submitit
