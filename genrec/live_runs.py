"""Records of running processes: `data/runs/running/PROCESS-NUMBER.json`, for `genrec status` and `genrec clean`.

A process holds the lock beside its record for as long as it runs, and removes both when it ends, with or without an error. A record
without a held lock is that of a process that was killed. Records are written at the start of a stage and of its work, then every few
seconds.

A command that runs rows in workers also keeps a record of the rows that are not finished, `PROCESS-NUMBER.queue`: a row that waits for
a worker uses its artifacts too.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from genrec import hashed_json, progress
from genrec.errors import ArtifactError
from genrec.failed_runs import resuming
from genrec.hashed_json import KEY, Each, Listed, Matching, Optional, Shape
from genrec.held_locks import is_held
from genrec.progress import say
from genrec.store import lock_beside, locked, now, write_json
from genrec.workspace import running_folder

WRITE_SECONDS = 5.0  # time between two records within a stage
SHAPE: dict[str, Shape] = {
    "process": int,
    "host": str,
    "command": str,  # resumes the run; empty if it was not started by `genrec run`
    "started": str,  # UTC, ISO 8601
    "updated": str,  # UTC, ISO 8601
    "row": int,  # place of the row and seed in the list of the command, from 1
    "rows": int,  # length of the list
    "name": str,  # of the row
    "seed": int,
    "stage": str,  # that is built now
    "artifacts": Each(Matching(KEY)),  # stage -> key of all stages of the row and seed
    "work": str,  # description of the work within the stage
    "done": int,  # steps
    "total": Optional(int),
    "rate": Optional(float),  # steps per second
    "seconds_left": Optional(float),
    "note": str,  # loss and validation metric of a training
}
QUEUE: dict[str, Shape] = {
    **{name: SHAPE[name] for name in ("process", "host", "command", "started", "updated")},
    "rows": Listed({name: SHAPE[name] for name in ("name", "seed", "artifacts")}),  # that are not finished
}


class QueuedRow(NamedTuple):
    """A row and seed that waits for workers, or is in one."""

    name: str
    seed: int
    artifacts: Mapping[str, str]  # stage -> key


class LiveRun(NamedTuple):
    """A process that runs, or was killed; see `SHAPE`."""

    path: Path
    is_alive: bool
    content: dict[str, Any]
    waits: bool = False  # a row of a queue: the process is that of the command; stage and progress mean nothing

    @property
    def place(self) -> str:
        """Where the run is, such as "runs in process 7"."""
        return f"{'waits for a worker of' if self.waits else 'runs in'} process {self.content['process']}"

    @property
    def name(self) -> str:
        """The name of the row."""
        return str(self.content["name"])

    @property
    def seed(self) -> int:
        """The seed of the row."""
        return int(self.content["seed"])


class Recorder:
    """Writes the record of this process. A record that can't be written is logged once, and the run goes on."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic, command: str | None = None) -> None:
        self.path, self.clock = path, clock
        command = resuming(sys.argv) if command is None else command
        self.content: dict[str, Any] = {"process": os.getpid(), "host": socket.gethostname(), "command": command, "started": now()}
        self._written: float | None = None
        self._fails = False

    def row(self, place: int, rows: int, name: str, seed: int, artifacts: Mapping[str, str], stage: str | None = None) -> None:
        """Note that a row and seed begin, the one at `place` from 1, with `stage` or its first one.

        Remove the records of killed processes that had it before.
        """
        remove_killed(name, seed)
        self.content |= {"row": place, "rows": rows, "name": name, "seed": seed, "artifacts": dict(artifacts)}
        self.stage(stage or next(iter(artifacts)))

    def stage(self, stage: str) -> None:
        """Note that a stage begins."""
        self.content |= {"stage": stage, "work": "", "done": 0, "note": ""}
        for name in ("total", "rate", "seconds_left"):
            self.content.pop(name, None)
        self._write()

    def watch(self, state: progress.State) -> None:
        """Note how far the work within the stage has come. The first note of a stage, with its steps in all, is written at once."""
        if "stage" not in self.content:
            return
        if self.content["work"] and self._written is not None and self.clock() - self._written < WRITE_SECONDS:
            return
        self.content |= {"work": state.description, "done": state.done, "note": state.note}
        optional = {"total": state.total, "rate": state.rate, "seconds_left": state.seconds_left}
        self.content |= {name: value for name, value in optional.items() if value is not None}
        self._write()

    def _write(self) -> None:
        self._written = self.clock()
        try:
            write_json(self.path, hashed_json.add_hash({**self.content, "updated": now()}))
        except OSError as error:
            if not self._fails:
                say(f"'genrec status' cannot follow this run, which goes on: {self.path} could not be written ({error})")
            self._fails = True


@contextmanager
def recorded(command: str | None = None) -> Iterator[Recorder]:
    """Yield the recorder of this process; hold the lock of its record meanwhile, and remove both at the end.

    `command` resumes the run; None: that of this process.
    """
    folder = running_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"
    recorder = Recorder(path) if command is None else Recorder(path, command=command)
    with locked(lock_beside(path)), progress.watched(recorder.watch):
        try:
            yield recorder
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)
                lock_beside(path).unlink(missing_ok=True)


@contextmanager
def queued(rows: Sequence[QueuedRow]) -> Iterator[Callable[[str, int], None]]:
    """Record rows that wait for workers, and remove the record at the end. Yield a function that takes a row and seed out of it.

    Killed commands that had these rows in their records lose them.
    """
    waiting = {(row.name, row.seed): row for row in rows}
    for run in read_all()[0]:
        if run.waits and not run.is_alive and (run.name, run.seed) in waiting:
            remove(run)
    folder = running_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.queue"
    about = {"process": os.getpid(), "host": socket.gethostname(), "command": resuming(sys.argv), "started": now()}

    def write() -> None:
        write_json(path, hashed_json.add_hash({**about, "updated": now(), "rows": [each._asdict() for each in waiting.values()]}))

    def take_out(name: str, seed: int) -> None:
        if waiting.pop((name, seed), None) is not None:
            write()

    with locked(lock_beside(path)):
        try:
            write()
            yield take_out
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)
                lock_beside(path).unlink(missing_ok=True)


def read_all() -> tuple[list[LiveRun], list[str]]:
    """Return the processes on record and the rows in queues, in the order of their start, and the messages for damaged records."""
    found, damaged = [], []
    for path in sorted([*running_folder().glob("[!.]*.json"), *running_folder().glob("[!.]*.queue")]):
        is_queue = path.suffix == ".queue"
        alive = is_held(lock_beside(path))
        try:
            content = hashed_json.read_object(path, "remove it")
            hashed_json.check_object(path, content, QUEUE if is_queue else SHAPE, "remove it")
        except FileNotFoundError:  # the process has ended in the meantime
            continue
        except (ArtifactError, OSError) as error:
            damaged.append(str(error))
            continue
        found += [LiveRun(path, alive, each, is_queue) for each in (_of_queue(content) if is_queue else [content])]
    return sorted(found, key=lambda run: str(run.content["started"])), damaged


def in_work(runs: Sequence[LiveRun]) -> set[tuple[str, int]]:
    """Return the rows and seeds that run, or wait for a worker of a command that runs."""
    return {(run.name, run.seed) for run in runs if run.is_alive}


def _of_queue(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a record in the shape `SHAPE` for each row of a queue."""
    about = {name: content[name] for name in QUEUE if name != "rows"}
    none = {"stage": "", "work": "", "done": 0, "note": "", "rows": len(content["rows"])}
    return [about | none | {"row": place} | row for place, row in enumerate(content["rows"], 1)]


def remove_killed(name: str, seed: int) -> None:
    """Remove the records of killed processes that had this row and seed."""
    for run in read_all()[0]:
        if not run.is_alive and (run.name, run.seed) == (name, seed):
            remove(run)


def remove(run: LiveRun) -> None:
    """Remove the record of a killed process, or a row from that of a killed command."""
    if run.waits:
        content = hashed_json.read_object(run.path, "remove it")
        rows = [row for row in content["rows"] if (row["name"], row["seed"]) != (run.name, run.seed)]
        if rows:
            plain = {name: content[name] for name in QUEUE}
            write_json(run.path, hashed_json.add_hash(plain | {"rows": rows}))
            return
    run.path.unlink(missing_ok=True)
    lock_beside(run.path).unlink(missing_ok=True)
