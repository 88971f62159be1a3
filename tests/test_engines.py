"""Engines: what `--on` names, reports of tasks, and the worker processes of one machine, also killed and interrupted ones."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from genrec import threads
from genrec.engines import Future, Report, engine_of, local_workers
from genrec.engines.local_workers import LocalEngine, LocalPool
from genrec.engines.ray_workers import RayEngine
from genrec.engines.slurm_jobs import SlurmEngine
from genrec.engines.task_reports import perform
from genrec.errors import NumericsError, ResourceError, Stopped, UsageError, WorkerError

PROJECT = Path(__file__).parents[1]
NEVER, POLL = threading.Event(), 0.02  # an event that is never set, and seconds between two looks


@dataclass(frozen=True)
class Call:
    """A function of this file and its arguments as a task."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    title: str = "a test"

    def __call__(self) -> Any:
        return self.function(*self.arguments)


def raise_again(error: BaseException) -> None:
    raise error


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_interrupt(begun: Path) -> None:
    begun.touch()
    while True:  # Ray interrupts a task without a signal, between two operations of Python
        NEVER.wait(POLL)


def process_and_threads() -> tuple[int, str]:
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def report_of(future: Future) -> Report:
    """Return the report of a task, after it has ended."""
    while not future.done():
        NEVER.wait(POLL)
    return future.report()


def wait_for(path: Path) -> None:
    while not path.exists():
        NEVER.wait(POLL)


@pytest.fixture
def pool() -> Iterator[LocalPool]:
    started = LocalEngine(2).start()
    yield started
    started.close()


def test_an_engine_is_named() -> None:
    assert engine_of("local:3") == LocalEngine(3)
    assert engine_of("ray") == RayEngine("")
    assert engine_of("ray:10.0.0.1:6379") == RayEngine("10.0.0.1:6379")
    assert engine_of("slurm") == SlurmEngine()
    options = "slurm:partition=gpu,hours=0.5,mem_gb=32,gpus=1,cpus=4"
    assert engine_of(options) == SlurmEngine(partition="gpu", hours=0.5, mem_gb=32.0, gpus=1, cpus=4)


@pytest.mark.parametrize(("text", "library"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_library_is_named_with_its_extra(text: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ResourceError, match=rf"--on {text} needs .* pip install 'genrec\[{text}\]'"):
        engine_of(text).start()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("local", "--on local needs a number of worker processes of 1 or more, such as local:2, got 'local:'"),
        ("local:0", "such as local:2, got 'local:0'"),
        ("local:two", "such as local:2, got 'local:two'"),
        ("slurn", r"--on must be local:N .* got 'slurn'; did you mean 'slurm'\?"),
        ("ray:", r"--on must be local:N .* got 'ray:'"),
        (
            "slurm:partitio=gpu",
            r"--on slurm takes NAME=VALUE of partition, account, .* got 'partitio=gpu'; did you mean 'partition'\?",
        ),
        ("slurm:hours", "--on slurm takes NAME=VALUE of .* got 'hours'"),
        ("slurm:gpus=one", "--on slurm: gpus must be a number, got 'one'"),
        ("slurm:hours=0", r"--on slurm: hours must be above 0, got 0\.0"),
        ("slurm:cpus=0", "--on slurm: cpus must be 1 or more, got 0"),
    ],
)
def test_a_text_that_names_no_engine_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        engine_of(text)


class NoCluster:
    """Ray, as far as it is used before a cluster is found."""

    @staticmethod
    def is_initialized() -> bool:
        return False

    @staticmethod
    def init(address: str | None, runtime_env: dict[str, Any]) -> None:
        raise Exception(f"no node at {address} for {runtime_env}")


def test_a_ray_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", NoCluster)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(
        ResourceError, match=r"the Ray cluster 10\.0\.0\.1:6379 can't be reached or started \(no node at 10\.0\.0\.1:6379 for {}\)"
    ):
        RayEngine("10.0.0.1:6379").start()


def test_ray_workers_take_over_the_python_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", NoCluster)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"/mine{os.pathsep}beside")
    expected = {"env_vars": {"PYTHONPATH": f"/mine{os.pathsep}{tmp_path}/beside"}}
    with pytest.raises(ResourceError, match=re.escape(f"for {expected}")):
        RayEngine().start()


def test_workers_share_the_threads() -> None:
    """8 threads are 4 for each of 2 workers and 2 for each of 3; each has at least 1; without a number the cores count."""
    assert [threads.shared_by(workers, {"OMP_NUM_THREADS": "8"}) for workers in (1, 2, 3, 9)] == [8, 4, 2, 1]
    assert threads.shared_by(2, {"OMP_NUM_THREADS": "6,2"}) == 3
    assert threads.shared_by(1, {}) == threads.cores()


def test_errors_of_genrec_keep_their_class_message_and_exit_code() -> None:
    for error in (NumericsError("the loss is nan"), Stopped(15, "stopped at step 3")):
        found = perform(Call(raise_again, (error,))).error
        assert (type(found), str(found), found.exit_code) == (type(error), str(error), error.exit_code)


def test_other_errors_become_text() -> None:
    assert str(perform(Call(raise_again, (KeyError("x"),))).error) == "KeyError: 'x'"
    assert "in raise_again" in perform(Call(raise_again, (KeyError("x"),))).trace
    assert isinstance(perform(Call(raise_again, (KeyboardInterrupt(),))).error, KeyboardInterrupt)
    full, memory = OSError(errno.ENOSPC, "No space left on device", "a.bin"), MemoryError("5 GB")
    assert str(perform(Call(raise_again, (full,))).error).startswith("the disk is full")
    assert str(perform(Call(raise_again, (memory,))).error).startswith("out of memory (5 GB)")


def test_workers_return_values_and_are_used_again(pool: LocalPool, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [Call(process_and_threads) for _ in range(6)]
    found = [report_of(future).value for future in pool.submit(tasks)]
    assert {number for _, number in found} == {str(threads.shared_by(2))}
    assert len({process for process, _ in found} - {os.getpid()}) <= 2
    assert os.getpid() not in {process for process, _ in found}


def test_a_killed_worker_fails_its_own_task_alone(pool: LocalPool, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    (running,) = pool.submit([Call(wait_for_interrupt, (begun,))])
    wait_for(begun)
    killed, after = pool.submit([Call(kill_itself, (), "sft of row"), Call(abs, (-3,))])
    error = report_of(killed).error
    assert isinstance(error, WorkerError)
    assert "was killed in sft of row (by a signal, or because memory ran out); run the same command again" in str(error)
    assert report_of(after).value == 3  # in the process that replaces it
    assert not running.done()
    running.cancel()
    assert isinstance(report_of(running).error, KeyboardInterrupt)


def end_at_once(num_threads: int) -> None:
    os._exit(3)


@pytest.mark.parametrize("begin", [local_workers._begin, end_at_once])
def test_the_executor_of_a_lost_process_is_shut_down(begin: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, the thread of an executor that is collected while it reports the loss never ends, nor does the program."""
    shut: list[bool] = []
    shutdown = ProcessPoolExecutor.shutdown

    def watched(executor: ProcessPoolExecutor, wait: bool = True) -> None:
        shutdown(executor, wait)
        shut.append(wait)

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", watched)
    monkeypatch.setattr(local_workers, "_begin", begin)
    pool = LocalEngine(1).start()
    (killed,) = pool.submit([Call(kill_itself)])
    assert isinstance(report_of(killed).error, WorkerError)
    assert shut == [True]
    pool.close()


def test_a_cancelled_task_is_interrupted_or_never_begins(tmp_path: Path) -> None:
    pool = LocalEngine(1).start()
    running, waiting = pool.submit([Call(wait_for_interrupt, (tmp_path / "first",)), Call(wait_for_interrupt, (tmp_path / "second",))])
    wait_for(tmp_path / "first")
    for future in (waiting, running):
        future.cancel()
    assert isinstance(report_of(running).error, KeyboardInterrupt)
    assert isinstance(report_of(waiting).error, KeyboardInterrupt)
    assert not (tmp_path / "second").exists()
    pool.close()


def test_a_task_that_cannot_be_sent_is_an_error(pool: LocalPool) -> None:
    (future,) = pool.submit([Call(lambda: 1)])
    error = report_of(future).error
    assert isinstance(error, UsageError)
    assert str(error).startswith("a test can't be sent to a worker process (Can't ")
    assert "<lambda>" in str(error)
    assert str(error).endswith("define its classes and functions at the top level of a file, where pickle finds them")


def test_closing_a_pool_kills_what_runs(tmp_path: Path) -> None:
    pool = LocalEngine(1).start()
    (future,) = pool.submit([Call(wait_for_interrupt, (tmp_path / "begun",))])
    wait_for(tmp_path / "begun")
    pool.close()
    assert isinstance(future.report().error, KeyboardInterrupt)


UNGUARDED = """
from genrec.engines import engine_of
from test_engines import Call, report_of
pool = engine_of("local:1").start()
(future,) = pool.submit([Call(abs, (-3,))])
print(report_of(future).error)
pool.close()
"""
ORPHANED = """
import os, sys
from pathlib import Path
from test_engines import Call, held, wait_for
from genrec.engines import engine_of
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    pool = engine_of("local:1").start()
    pool.submit([Call(held, (folder,))])
    wait_for(folder / "begun")
    os.kill(os.getpid(), 9)
"""


def held(folder: Path) -> None:
    """Wait for an interrupt, and write a file after it, as a training saves its checkpoint."""
    try:
        wait_for_interrupt(folder / "begun")
    finally:
        (folder / "saved").touch()


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])}


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED)
    found = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert "ended before it could start a test" in found.stdout
    assert "call genrec.run below: if __name__ == '__main__':" in found.stdout
    assert "a worker process can't start further workers" in found.stderr


def test_a_worker_is_interrupted_when_its_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ORPHANED)
    found = subprocess.run([sys.executable, "script.py", str(tmp_path)], cwd=tmp_path, env=environment())
    assert found.returncode == -signal.SIGKILL
    wait_for(tmp_path / "saved")
