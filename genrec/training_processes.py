"""`genrec run --trainer.devices N`: processes of this machine that train one policy together.

The first process is that of the command: it builds every stage, writes all files and validates. For a stage that trains, it starts the
others, which build the same stage from the same artifacts up to the end of the training: each computes its parts of every step
(`Optimization.accumulate`), and the gradients are added up. If one of them ends, all end, and the same command goes on from the last
checkpoint.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from genrec import pipeline, process_group, progress, stages, threads
from genrec.engines import Future
from genrec.engines.local_workers import LocalEngine
from genrec.errors import UsageError, WorkerError
from genrec.experiment import SFT, Align, Experiment
from genrec.objectives import Supervised
from genrec.progress import say
from genrec.stage_tasks import Origin, Surroundings, planned_here
from genrec.sweeps import given
from genrec.workspace import store

Recipe = TypeVar("Recipe", SFT, Align)

LOOK_SECONDS = 0.1  # between two looks at the other processes
GRACE_SECONDS = 30.0  # for this process to notice that another one has ended


@dataclass(frozen=True)
class InParts:
    """The experiments of an origin, whose steps have at least as many parts as there are processes."""

    origin: Origin
    count: int  # processes

    def __call__(self) -> Sequence[Experiment]:
        """Return the experiments."""
        return [in_parts(each, self.count) for each in self.origin()]


def in_parts(experiment: Experiment, count: int) -> Experiment:
    """Return an experiment whose trainings cut each step into at least `count` parts; a baseline as it is."""
    if "sft" not in experiment.stages:
        return experiment

    sft = _cut(experiment.sft, "sft", experiment.name, count)
    aligned = tuple(_cut(each, "align", experiment.name, count) for each in experiment.alignments)
    align = aligned if isinstance(experiment.align, tuple) or not aligned else aligned[0]
    return replace(experiment, sft=sft, align=align or None)


def _cut(recipe: Recipe, stage: str, name: str, count: int) -> Recipe:
    """Return the recipe of a stage of the row `name` with at least `count` parts of a step.

    The number of processes is a setting of the recipe where they share statistics of a batch: with all objectives but the likelihood.
    """
    optimization = recipe.optimization
    if optimization.batch_size < count:
        raise UsageError(
            f"{stage}.optimization.batch_size of {name} is {optimization.batch_size}, but each of the {count} processes "
            f"needs an example of every step; set it to {count} or more, or give a smaller --trainer.devices"
        )
    processes = 1 if isinstance(recipe.objective, Supervised) else count
    return replace(recipe, optimization=replace(optimization, accumulate=max(optimization.accumulate, count), processes=processes))


@dataclass(frozen=True)
class JoinTask:
    """Takes part in the training of one stage. All stages that it reads are done."""

    origin: Origin
    number: int  # place of the experiment among those of the origin, from 0
    stage: str
    key: str  # of the artifact
    folder: str  # of its unfinished files, which the first process writes
    rank: int  # of the process, from 1
    count: int  # processes
    port: int  # where they meet
    surroundings: Surroundings

    @property
    def title(self) -> str:
        """The work in words."""
        return f"the {self.stage} stage, as process {self.rank + 1} of {self.count}"

    def __call__(self) -> None:
        """Train. Raises InputError if the experiment's key of the stage is another one in this process."""
        experiment, steps = planned_here(self.surroundings, self.origin, self.number, self.stage, self.key)
        place = process_group.meeting(self.port)
        take_part(experiment, steps, self.stage, Path(self.folder), place, self.rank, self.count)


def take_part(
    experiment: Experiment,
    steps: Sequence[pipeline.Step],
    stage: str,
    folder: Path,
    place: process_group.Meeting,
    rank: int,
    count: int,
    local_rank: int | None = None,
) -> None:
    """Train a stage as process `rank` of `count`; the first one writes its files to `folder`. All stages that it reads are done."""
    before = [step for step in pipeline.with_read_by(steps, stage) if step.stage != stage]
    parents = {step.stage: store().folder(step.stage, step.key) for step in before}
    with progress.silenced(), process_group.joined(place, rank, count, local_rank):
        stages.builder_of(stage)(experiment, parents, folder)


@dataclass(frozen=True)
class LocalHelpers:
    """Starts the other processes for each stage of one experiment that trains."""

    origin: Origin
    number: int  # place of the experiment among those of the origin, from 0
    count: int  # processes
    strategy: process_group.Strategy = "ddp"

    @contextmanager
    def __call__(self, stage: str, key: str, folder: Path) -> Iterator[None]:
        """Join the others within this context. Raises the error of the first of them that fails."""
        meeting, surroundings = process_group.meeting(), Surroundings.here()
        tasks = [
            JoinTask(self.origin, self.number, stage, key, str(folder.absolute()), rank, self.count, meeting.port, surroundings)
            for rank in range(1, self.count)
        ]
        before, own = torch.get_num_threads(), threads.shared_by(self.count)
        pool = LocalEngine(self.count - 1, own).start()
        torch.set_num_threads(min(own, before))
        try:
            with led(meeting, pool.submit(tasks), self.strategy):
                yield
        finally:
            pool.close()
            torch.set_num_threads(before)


@contextmanager
def led(
    meeting: process_group.Meeting,
    others: Sequence[Future],
    strategy: process_group.Strategy,
    local_rank: int = 0,
    grace: float = GRACE_SECONDS,
) -> Iterator[None]:
    """Join the others as the first process within this context, and wait until they have ended.

    Raises the error of the first of them that fails. `grace` are the seconds for such an error to arrive after a connection is lost.
    """
    done = threading.Event()
    try:
        _wait_until(lambda: meeting.all_are_ready(len(others)), others)
        threading.Thread(target=_end_with, args=(others, done), daemon=True).start()
        try:
            with process_group.joined(meeting, 0, len(others) + 1, local_rank, strategy):
                yield
        except RuntimeError as error:
            raise (_first_error(others, grace) if process_group.is_lost(error) else None) or error from error
        _wait_until(lambda: all(each.done() for each in others), others)
        for failure in _errors(others):
            raise failure
    finally:
        done.set()


def _errors(futures: Sequence[Future]) -> list[BaseException]:
    """Return the errors of the processes that have ended with one."""
    return [error for each in futures if each.done() and (error := each.report().error) is not None]


def _wait_until(is_so: Callable[[], bool], futures: Sequence[Future]) -> None:
    """Wait until something is so. Raises the error of a process that ends with one before."""
    while not is_so():
        for error in _errors(futures):
            raise error
        time.sleep(LOOK_SECONDS)


def _first_error(futures: Sequence[Future], grace: float) -> BaseException | None:
    """Return the error of the process that ended first, or ends within `grace` seconds. One that lost another did not end first."""
    ends = time.monotonic() + grace
    while True:
        errors = _errors(futures)
        first = next((error for error in errors if not process_group.says_lost(str(error))), None)
        is_over = all(each.done() for each in futures) or time.monotonic() > ends
        if first is not None or is_over:
            return first or next(iter(errors), None)
        time.sleep(LOOK_SECONDS)


def _end_with(futures: Sequence[Future], done: threading.Event) -> None:
    """End this process if another one fails and this one does not notice, because it waits for it on a GPU."""
    while not done.wait(LOOK_SECONDS):
        for error in _errors(futures):
            if not done.wait(2 * GRACE_SECONDS):
                say(str(error))
                os._exit(WorkerError.exit_code)
            return


def train_together(
    experiments: Sequence[Experiment],
    origin: Origin | None,
    count: int,
    engine: str | None,
    here: int | None = None,
    strategy: process_group.Strategy = "ddp",
) -> tuple[list[Experiment], Callable[[int], LocalHelpers]]:
    """Return the experiments with steps in parts, and what starts the processes for the experiment at a place of the list.

    `origin` makes the same list in another process; None: the experiments are sent there. `here` is the number of processes on this
    machine; None: all. Raises UsageError for a number of processes that does not fit the machine or the batches, or together with an
    engine for sweeps.
    """
    if count < 1:
        raise UsageError(f"--trainer.devices must be at least 1, got {count}")
    if engine is not None:
        raise UsageError(f"--trainer.devices {count} and --on {engine} exclude each other; give one of them")
    process_group.check_count(count if here is None else here)
    cut = InParts(given(list(experiments)) if origin is None else origin, count)
    return [in_parts(each, count) for each in experiments], lambda number: LocalHelpers(cut, number, count, strategy)
