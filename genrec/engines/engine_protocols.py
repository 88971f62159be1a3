"""The protocols of engines: an engine starts a pool, a pool takes tasks, and a future follows a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from genrec.engines.task_reports import Report


class Task(Protocol):
    """Work for another process. It is sent there by pickling, so it holds plain values."""

    @property
    def title(self) -> str:
        """The work in words, for messages."""

    def __call__(self) -> Any:
        """Do the work and return a value that can be pickled."""


class Future(Protocol):
    """A task that was submitted."""

    def done(self) -> bool:
        """Return whether the task has ended, with or without an error."""

    def report(self) -> Report:
        """Return the value or the error of a task that is done. A lost worker process is an error too."""

    def cancel(self) -> None:
        """Keep the task from starting, or interrupt it like Ctrl-C, so that a training saves its checkpoint. The task then ends."""


class Pool(Protocol):
    """Workers that run."""

    def submit(self, tasks: Sequence[Task]) -> Sequence[Future]:
        """Take tasks that may run at the same time, and return their futures in the same order."""

    def close(self) -> None:
        """End the workers. Tasks that still run are killed; their last checkpoints stay."""


class Engine(Protocol):
    """A frozen value that says where tasks run."""

    def start(self) -> Pool:
        """Start the workers, or connect to them. Raises ResourceError if a package is missing or nothing can be reached."""
