"""`genrec run --on`: the stages of a list of experiments as tasks for worker processes.

A task is one missing stage, for the first row that needs it. It is submitted when all stages that it reads are done, so a stage that
rows share is built once, and no worker waits for another. The parent process alone records rows: when all stages of a row are done, it
runs the row as without workers, which finds every stage done. A task that fails ends the rows that need it; all others go on.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from genrec import live_runs, pipeline, task_graph
from genrec.engines import Engine, Report
from genrec.errors import InputError, Stopped, UsageError, counted
from genrec.experiment import Experiment
from genrec.failed_runs import resuming
from genrec.plugin_source import components
from genrec.progress import say
from genrec.run_experiments import Rows, keys_of, note_before, record_failure, run_row, unfinished_line
from genrec.stage_tasks import Given, Origin, StageTask, Surroundings
from genrec.stages import check_components
from genrec.workspace import store


@dataclass(frozen=True)
class Sweep:
    """Runs the rows of a command in the worker processes of an engine."""

    engine: Engine
    origin: Origin  # makes the list of experiments in a worker

    def __call__(self, rows: Rows) -> None:
        """Run the rows. Raises the error of the first row that failed, when all others are finished."""
        found = _Planned(rows, self.origin)
        with stopped_by_sigterm():
            pool = self.engine.start()
            try:
                with live_runs.queued(found.queued_rows()) as found.take_out:
                    found.begin()
                    task_graph.run(pool, found.needs, found.task_of, found.on_end)
            finally:
                pool.close()
                found.say_unfinished()
        if found.failed:
            raise found.failed[min(found.failed)]


def given(experiments: list[Experiment]) -> Given:
    """Return experiments of Python code as an origin. Raises UsageError if a class is defined where no worker can import it."""
    for experiment in experiments:
        for component in components(experiment):
            kind = type(component)
            if kind.__module__ == "__main__":
                raise UsageError(
                    f"{kind.__qualname__} of {experiment.name} is defined in a script or notebook, which worker processes can't "
                    "import; move the class to a file beside it and import it from there"
                )
    return Given(tuple(experiments))


class _Planned:
    """The tasks of a command and the state of its rows, which are known by their places in the list."""

    def __init__(self, rows: Rows, origin: Origin) -> None:
        self.rows, self.origin = rows, origin
        self.command, self.surroundings = resuming(sys.argv), Surroundings.here()
        self.steps = [pipeline.plan(experiment) for experiment in rows.experiments]
        self.finished: list[int] = []
        self.failed: dict[int, BaseException] = {}
        self.checked: set[int] = set()  # rows that were checked against their data
        self.take_out: Callable[[str, int], None] = lambda name, seed: None  # takes a row out of the record of the queue
        self.users: dict[str, list[int]] = {}  # key of a task -> rows that need it
        self.needs: dict[str, set[str]] = {}  # key of a task -> keys of the tasks before it
        for number, steps in enumerate(self.steps):
            note_before(rows, steps)
            self._add(number, steps)

    def _add(self, number: int, steps: list[pipeline.Step]) -> None:
        """Add the tasks of a row: the stages that are missing, and those from `refresh` on."""
        is_rebuilt = False
        for step in steps:
            is_rebuilt = is_rebuilt or step.stage == self.rows.refresh
            if is_rebuilt or not store().is_done(step.stage, step.key):
                self.users.setdefault(step.key, []).append(number)
                before = {each.key for each in pipeline.with_read_by(steps, step.stage)} - {step.key}
                self.needs[step.key] = before & self.users.keys()

    def queued_rows(self) -> list[live_runs.QueuedRow]:
        """Return the rows with their artifacts, which nothing may remove before the rows are finished."""
        return [
            live_runs.QueuedRow(each.name, each.seed, keys_of(steps))
            for each, steps in zip(self.rows.experiments, self.steps, strict=True)
        ]

    def begin(self) -> None:
        """Check rows with existing data, and finish those that need no task."""
        say(f"{counted(len(self.needs), 'stage')} to build for {counted(len(self.steps), 'experiment')}")
        for number in range(len(self.steps)):
            self._advance(number)

    def task_of(self, key: str) -> StageTask | None:
        """Return the task of a key, for the first row that needs it and has not failed; None if there is none."""
        number = next((number for number in self.users[key] if number not in self.failed), None)
        if number is None:
            return None
        experiment = self.rows.experiments[number]
        stages = [step.stage for step in self.steps[number]]
        stage = next(step.stage for step in self.steps[number] if step.key == key)
        refresh = self.rows.refresh
        return StageTask(
            self.origin,
            number,
            experiment.name,
            experiment.seed,
            stage,
            key,
            (number + 1, len(self.steps)),
            refresh in stages and stages.index(stage) >= stages.index(refresh),
            self.command,
            self.surroundings,
        )

    def on_end(self, key: str, report: Report) -> bool:
        """Note that a task is done, or fail the rows that need it. Return whether other rows need the task again."""
        users = [number for number in self.users[key] if number not in self.failed]
        error = report.error
        if error is None:
            self.rows.refreshed.add(key)
            del self.users[key]
            for number in users:
                self._advance(number)
            return False
        if report.trace:
            say(report.trace)
        others = self._others(key, users, error)
        for number in users:
            if number not in others:
                self._fail(number, error)
        return bool(others)

    def _others(self, key: str, users: list[int], error: BaseException) -> list[int]:
        """Return the rows for which a task that failed for the first row may succeed.

        SFT also checks the alignments and the evaluation of its row, which are not part of its key.
        """
        first = self.rows.experiments[users[0]]
        stage = next(step.stage for step in self.steps[users[0]] if step.key == key)
        if stage != "sft" or not isinstance(error, UsageError | InputError):
            return []
        settings = (first.alignments, first.evaluate)
        others = [(number, self.rows.experiments[number]) for number in users]
        return [number for number, each in others if (each.alignments, each.evaluate) != settings]

    def _missing(self, number: int) -> set[str]:
        """Return the keys of the tasks that a row waits for."""
        return {step.key for step in self.steps[number]} & self.users.keys()

    def _advance(self, number: int) -> None:
        """Check a row's components as soon as its data are done; finish the row when all of its stages are done."""
        missing = self._missing(number)
        if number in self.failed or number in self.finished:
            return
        try:
            if not missing:
                with live_runs.recorded() as recorder:
                    run_row(self.rows, number, recorder)
                self.finished.append(number)
                self._take_out(number)
            elif number not in self.checked and self.steps[number][0].key not in missing:
                self.checked.add(number)
                data = self.steps[number][0]
                check_components(self.rows.experiments[number], store().get(data.stage, data.key).folder)
        except Exception as error:
            self._fail(number, error)

    def _fail(self, number: int, error: BaseException) -> None:
        """Record that a row has failed."""
        experiment, steps = self.rows.experiments[number], self.steps[number]
        self.failed[number] = error
        done = [step.stage for step in steps if step.key not in self.users]
        live_runs.remove_killed(experiment.name, experiment.seed)
        record_failure(experiment, steps, done, error)
        self._take_out(number)
        stage = next((step.stage for step in steps if step.stage not in done), "its last step")
        why = str(error).partition("\n")[0] or "interrupted"  # the record has all lines
        say(f"{experiment.name} (seed {experiment.seed}) ended in {stage}: {why}")

    def _take_out(self, number: int) -> None:
        """Take a row out of the record of the queue: its run file, or the record of its failure, has its artifacts from now on."""
        self.take_out(self.rows.experiments[number].name, self.rows.experiments[number].seed)

    def say_unfinished(self) -> None:
        """Log which rows are not finished, if there are some."""
        others = [number for number in range(len(self.steps)) if number not in self.finished]
        if others and len(self.steps) > 1:
            say(unfinished_line(self.rows.experiments, sorted(self.finished), others, self.rows.refresh))


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt the workers as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number, "stopped by a signal; run the same command again to go on")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
