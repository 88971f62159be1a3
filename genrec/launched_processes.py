"""One training over several machines: the processes of a command that torchrun, or srun with the same variables, has started.

Each of them runs the same command. The first one builds every stage, writes all files and validates, as with the processes of one
machine (`genrec.training_processes`). The others wait for it: before each training it announces the stage in the store of the
launcher, and they take part in it. They read the artifacts from the data folder, which all machines share.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch.distributed as dist

from genrec import process_group
from genrec.engines import Report
from genrec.engines.task_reports import perform
from genrec.errors import InputError, UsageError, WorkerError
from genrec.experiment import Experiment
from genrec.progress import say
from genrec.stage_tasks import Given, Surroundings, planned_here
from genrec.training_processes import led, take_part

LOOK_SECONDS = 0.1  # between two looks at the store
GRACE_SECONDS = 10.0  # for the report of a process that ends; torchrun kills the others after 30 seconds
END = "end"  # in place of a stage
VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # that a launcher sets


class Launch:
    """The place of this process among those of a launcher."""

    def __init__(self, rank: int, size: int, local_rank: int, local_size: int) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._store: Any = None
        self._announced = 0

    def meet(self) -> None:
        """Wait until all processes run."""
        if self._store is None:
            say(f"process {self.rank + 1} of {self.size} on {socket.gethostname()}")
            self._store = process_group.launched_store()

    def announcement(self) -> process_group.Meeting:
        """Return where the next training meets, and its announcement stands. Each process counts them."""
        self._announced += 1
        return process_group.part_of(self._store, f"genrec {self._announced}")

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Be the first process within this context, and let the others end with it."""
        self.meet()
        end: dict[str, Any] = {"stage": END, "why": ""}
        try:
            yield
        except BaseException as error:
            end["why"] = f"{type(error).__name__}: {error}".strip(": ")
            raise
        finally:
            with suppress(dist.DistError):  # a launcher that ends all processes has closed the store
                place = self.announcement()
                _announce(place, end)
                ends = time.monotonic() + GRACE_SECONDS
                while not all(each.done() for each in self.others(place)) and time.monotonic() < ends:
                    time.sleep(LOOK_SECONDS)

    def others(self, place: process_group.Meeting) -> list[OtherProcess]:
        """Return the other processes at a training."""
        return [OtherProcess(place.store, rank) for rank in range(1, self.size)]

    def helpers(self, number: int, strategy: process_group.Strategy) -> LaunchedHelpers:
        """Return what lets the other processes take part in the trainings of the experiment at a place of the list."""
        return LaunchedHelpers(self, number, strategy)

    def follow(self, experiments: Sequence[Experiment]) -> None:
        """Take part in every training of the first process until it ends.

        Raises WorkerError if the first process is lost or ends with an error, and the errors of a training.
        """
        self.meet()
        while True:
            place = self.announcement()
            announced = _wait_for_announcement(place, self)
            if announced["stage"] == END:
                _report(place, self.rank, Report())
                if announced["why"]:
                    raise WorkerError(f"process {self.rank + 1} of {self.size} ends with the first one: {announced['why']}")
                return
            report = perform(lambda place=place, announced=announced: self._take_part(experiments, place, **announced))  # type: ignore[misc]
            _report(place, self.rank, report)
            if report.trace and not process_group.says_lost(report.message):
                say(report.trace)
            if report.error is not None:
                raise report.error

    def _take_part(
        self, experiments: Sequence[Experiment], place: process_group.Meeting, number: int, stage: str, key: str, folder: str
    ) -> None:
        if not Path(folder).is_dir():
            raise InputError(
                f"{socket.gethostname()} does not see {folder}, where the first process trains; give all machines one data folder "
                "(GENREC_HOME) on a file system that they share"
            )
        experiment, steps = planned_here(Surroundings.here(), Given(tuple(experiments)), number, stage, key)
        try:
            take_part(experiment, steps, stage, Path(folder), place, self.rank, self.size, self.local_rank)
        except RuntimeError as error:
            if process_group.is_lost(error):
                raise WorkerError(f"process {self.rank + 1} of {self.size} has lost another one (gloo): {error}") from error
            raise


@dataclass(frozen=True)
class OtherProcess:
    """Another process at a training, as a future: it leaves its report in the store."""

    store: Any
    rank: int

    def done(self) -> bool:
        """Return whether its training has ended."""
        return bool(self.store.check([f"report {self.rank}"]))

    def report(self) -> Report:
        """Return the report of a training that has ended."""
        return Report(*json.loads(self.store.get(f"report {self.rank}")))

    def cancel(self) -> None:
        """Do nothing: the launcher ends the processes."""


@dataclass(frozen=True)
class LaunchedHelpers:
    """Lets the other processes take part in the trainings of one experiment."""

    launch: Launch
    number: int  # place of the experiment in the list, from 0
    strategy: process_group.Strategy

    @contextmanager
    def __call__(self, stage: str, key: str, folder: Path) -> Iterator[None]:
        """Join the others within this context. Raises the error of the first of them that fails."""
        place = self.launch.announcement()
        _announce(place, {"number": self.number, "stage": stage, "key": key, "folder": str(folder.absolute())})
        try:
            with led(place, self.launch.others(place), self.strategy, self.launch.local_rank, GRACE_SECONDS):
                yield
        except RuntimeError as error:
            if process_group.is_lost(error):
                raise WorkerError(
                    f"another process of the {stage} stage was lost ({error}); run the same command again to go on from the last "
                    "checkpoint"
                ) from error
            raise


def launch_of(devices: int, environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Return the place of this process among `devices` that a launcher has started; None if none has.

    Raises UsageError if the variables of the launcher are incomplete or contradict `devices`.
    """
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if "RANK" not in given and given.get("WORLD_SIZE", "1") == "1":
        return None
    size = _number("WORLD_SIZE", given.get("WORLD_SIZE", ""), 1)
    if size != devices:
        raise UsageError(
            f"WORLD_SIZE is {size}, but --trainer.devices is {devices}; give --trainer.devices {size}, the number of processes on all "
            "machines together, or unset RANK and WORLD_SIZE if no launcher such as torchrun has started this command"
        )
    if size == 1:
        return None
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise UsageError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start the command by torchrun, or set it")
    rank, local_rank = (_number(name, given[name], 0) for name in ("RANK", "LOCAL_RANK"))
    if rank >= size:
        raise UsageError(f"RANK must be below WORLD_SIZE = {size}, got {rank}")
    return _launch(rank, size, local_rank, _number("LOCAL_WORLD_SIZE", environment.get("LOCAL_WORLD_SIZE") or "1", 1))


@cache
def _launch(rank: int, size: int, local_rank: int, local_size: int) -> Launch:
    """Return the one place of this process: the announcements are counted over all of its runs."""
    return Launch(rank, size, local_rank, local_size)


def _number(name: str, text: str, least: int) -> int:
    """Return the number of an environment variable. Raises UsageError if it is none."""
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{name} must be an integer of {least} or more, got {text!r}; it is set by a launcher such as torchrun")
    return int(text)


def _announce(place: process_group.Meeting, content: Mapping[str, Any]) -> None:
    place.store.set("announcement", json.dumps(content))


def _report(place: process_group.Meeting, rank: int, report: Report) -> None:
    place.store.set(f"report {rank}", json.dumps(report))


def _wait_for_announcement(place: process_group.Meeting, launch: Launch) -> dict[str, Any]:
    """Return what the first process does next. Raises WorkerError if it is lost."""
    try:
        while not place.store.check(["announcement"]):
            time.sleep(LOOK_SECONDS)
        found: dict[str, Any] = json.loads(place.store.get("announcement"))
        return found
    except dist.DistError as error:
        raise WorkerError(f"process {launch.rank + 1} of {launch.size} has lost the first one, or the launcher ({error})") from error
