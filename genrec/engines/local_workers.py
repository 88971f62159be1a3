"""The engine `local:N`: N worker processes of this machine, each with its share of the threads.

Each worker is an executor with one process, so that a killed process fails its own task alone. Workers are in process groups of their
own: a terminal's Ctrl-C reaches the parent process alone, which interrupts each worker once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType
from typing import Any

from genrec import threads
from genrec.engines.engine_protocols import Task
from genrec.engines.task_reports import Report, interrupted, lost, perform, report_of
from genrec.errors import UsageError

GUARD = "in a script, call genrec.run below: if __name__ == '__main__':"
TOP_LEVEL = "define its classes and functions at the top level of a file, where pickle finds them"
RESUME = "run the same command again to go on from its last checkpoint"
WAIT_SECONDS = 0.1  # between two looks at a task that ends after its parent process


@dataclass(frozen=True)
class LocalEngine:
    """Worker processes of this machine."""

    workers: int  # number of processes, 1 or more
    num_threads: int | None = None  # of each process; None: its share

    def start(self) -> LocalPool:
        """Return the pool. A process starts with its first task."""
        if "--multiprocessing-fork" in sys.orig_argv:  # a worker imports the script that started it
            raise UsageError(f"a worker process can't start further workers; {GUARD}")
        return LocalPool(self.workers, self.num_threads or threads.shared_by(self.workers))


class LocalFuture:
    """A task that waits, runs in the process `process`, or is done."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._lock = threading.Lock()
        self._process: int | None = None
        self._is_cancelled = False
        self._report: Report | None = None

    def done(self) -> bool:
        """Return whether the task has ended."""
        return self._report is not None

    def report(self) -> Report:
        """Return the value or the error of a task that is done."""
        assert self._report is not None
        return self._report

    def cancel(self) -> None:
        """Interrupt the task once, or keep it from starting."""
        with self._lock:
            if not self._is_cancelled:
                self._is_cancelled = True
                self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the task's process at once, or keep the task from starting."""
        with self._lock:
            self._is_cancelled = True
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._report is None:
            with suppress(ProcessLookupError):
                os.kill(self._process, number)

    def begin(self, process: int) -> bool:
        """Note the process that runs the task. Return False if the task was cancelled, so that it must not run."""
        with self._lock:
            self._process = None if self._is_cancelled else process
            return not self._is_cancelled

    def end(self, report: Report) -> None:
        """Note the report. A process that is lost after it was interrupted ended because of that."""
        with self._lock:
            was_lost = self._is_cancelled and report.kind == lost("").kind
            self._report = interrupted() if was_lost else report


class _Worker:
    """A running process. Raises BrokenProcessPool if it ends before it can take a task.

    The executor of a lost process is shut down, which waits for its thread. Since Python 3.12 that thread holds a lock while it
    reports the loss, and waits for this lock forever if it drops the last reference to the executor.
    """

    def __init__(self, num_threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.executor = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(num_threads,))
        try:
            self.process = self.executor.submit(os.getpid).result()
        except BrokenProcessPool:
            self.executor.shutdown()
            raise


class LocalPool:
    """The workers of this machine: a thread for each of them passes it one task after the other."""

    def __init__(self, workers: int, num_threads: int) -> None:
        self.num_threads = num_threads
        self._threads = ThreadPoolExecutor(workers)
        self._free: SimpleQueue[_Worker | None] = SimpleQueue()  # None: a process that has to be started
        for _ in range(workers):
            self._free.put(None)
        self._futures: list[LocalFuture] = []

    def submit(self, tasks: Sequence[Task]) -> list[LocalFuture]:
        """Queue the tasks."""
        futures = [LocalFuture(task) for task in tasks]
        self._futures += futures
        for future in futures:
            self._threads.submit(self._run, future)
        return futures

    def close(self) -> None:
        """End the worker processes; kill those that run a task."""
        for future in self._futures:
            if not future.done():
                future.kill()
        self._threads.shutdown()
        while not self._free.empty():
            worker = self._free.get()
            if worker is not None:
                worker.executor.shutdown()

    def _run(self, future: LocalFuture) -> None:
        """Run a task in a free worker. A worker that is lost is replaced for the next task."""
        worker, report = self._free.get(), interrupted()
        try:
            worker = worker or _Worker(self.num_threads)
            if future.begin(worker.process):
                report = worker.executor.submit(_run_in_worker, future.task).result()
        except BrokenProcessPool:
            title = future.task.title
            report = lost(
                f"a worker process ended before it could start {title}; see its message above; {GUARD}"
                if worker is None
                else f"the worker process {worker.process} was killed in {title} (by a signal, or because memory ran out); {RESUME}"
            )
            if worker is not None:
                worker.executor.shutdown()
            worker = None
        except (OSError, MemoryError) as error:  # no process can be started
            report = report_of(error)
        except Exception as error:  # the task can't be pickled; the class and the text depend on the object and on Python's version
            report = report_of(UsageError(f"{future.task.title} can't be sent to a worker process ({error}); {TOP_LEVEL}"))
        finally:
            self._free.put(worker)
            future.end(report)


class _State:
    """Whether this process is a worker that runs a task, and whether it was interrupted."""

    is_busy = False
    was_interrupted = False


def _begin(num_threads: int) -> None:
    """Prepare a worker process."""
    os.setpgrp()
    threads.limit(num_threads)
    signal.signal(signal.SIGINT, _on_interrupt)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """Interrupt the task that runs, or the one that is about to begin."""
    _State.was_interrupted = True
    if _State.is_busy:
        raise KeyboardInterrupt


def _follow_parent() -> None:
    """End this process after its parent: interrupt its task, which saves its checkpoint."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGINT)
    while _State.is_busy:
        time.sleep(WAIT_SECONDS)
    os._exit(1)


def _run_in_worker(task: Task) -> Report:
    """Run a task in a worker process and return its report."""

    def run() -> Any:
        _State.is_busy = True
        try:
            if _State.was_interrupted:
                raise KeyboardInterrupt
            return task()
        finally:
            _State.is_busy = False

    return perform(run)
