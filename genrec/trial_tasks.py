"""`genrec tune --on`: the trials of a round as tasks for worker processes.

The missing stages before the tuned one are tasks of their own, so that a stage that trials share is built once. A trial's task trains
the tuned stage and returns the trial with its result, and the process of the command alone writes the record. A task that fails ends
the trials that need it; they stay "running" in the record, so that the same command runs them again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genrec import live_runs, pipeline, progress, task_graph
from genrec.engines import Pool, Report
from genrec.failed_runs import resuming
from genrec.progress import say
from genrec.run_experiments import keys_of
from genrec.stage_tasks import Origin, StageTask, Surroundings, planned_here
from genrec.trials import TrialOrigin, flags_of, origin_of, rivals_of, run_trial, title_of
from genrec.tuning import Tuning
from genrec.tuning_record import Record, Trial
from genrec.workspace import store


@dataclass(frozen=True)
class TrialTask:
    """Trains the tuned stage of a trial. All stages before it are done."""

    origin: TrialOrigin
    trial: Trial
    rivals: tuple[Trial, ...] | None  # `rivals_of`
    name: str  # of the tuning's record
    stage: str  # that is tuned
    key: str  # of its artifact
    command: str  # resumes the tuning
    surroundings: Surroundings

    @property
    def title(self) -> str:
        """The work in words."""
        return f"{self.stage} of {title_of(self.trial, self.name)} (seed {self.origin.seed})"

    def __call__(self) -> Trial:
        """Return the trial with its result. Raises InputError if the key of the stage is another one in this process."""
        experiment, planned = planned_here(self.surroundings, self.origin, 0, self.stage, self.key)
        steps = up_to(planned, self.stage)
        with live_runs.recorded(self.command) as recorder, progress.labeled(title_of(self.trial, self.name)):
            known = {step.key for step in steps[:-1]}
            run_trial(experiment, steps, self.trial, self.rivals, self.name, recorder, known)
        return self.trial


def up_to(steps: Sequence[pipeline.Step], stage: str) -> list[pipeline.Step]:
    """Return the steps up to a stage."""
    return list(steps[: [step.stage for step in steps].index(stage) + 1])


class Round:
    """The tasks of trials that run at the same time."""

    def __init__(self, tuning: Tuning, record: Record, trials: Sequence[Trial], stage: str, base: Origin) -> None:
        self.record, self.number_of_trials = record, tuning.trials
        self.tasks: dict[str, StageTask | TrialTask] = {}
        self.needs: dict[str, set[str]] = {}  # key of a task -> keys of the tasks before it
        self.trials: dict[str, Trial] = {}  # key of a task -> the first trial that needs it
        self.rows: list[live_runs.QueuedRow] = []  # the trials with their artifacts
        self.take_out: Callable[[str, int], None] = lambda name, seed: None  # takes a trial out of the record of the queue
        self.failed: list[BaseException] = []
        command, surroundings = resuming(sys.argv), Surroundings.here()
        for trial in trials:
            origin = origin_of(tuning, trial, base)
            steps = up_to(pipeline.plan(origin()[0]), stage)
            self.rows.append(live_runs.QueuedRow(title_of(trial, record.name), tuning.seed, keys_of(steps)))
            for step in steps[:-1]:
                if store().is_done(step.stage, step.key) or step.key in self.tasks:
                    continue
                title, place = title_of(trial, record.name), (1, 1)
                task = StageTask(origin, 0, title, tuning.seed, step.stage, step.key, place, False, command, surroundings)
                self._add(step.key, task, {each.key for each in pipeline.with_read_by(steps, step.stage)} - {step.key}, trial)
            rivals = rivals_of(tuning, trial, record.trials)
            compared = None if rivals is None else tuple(rivals)
            last = TrialTask(origin, trial, compared, record.name, stage, steps[-1].key, command, surroundings)
            self._add(title_of(trial, record.name), last, set(keys_of(steps).values()), trial)

    def _add(self, key: str, task: StageTask | TrialTask, before: set[str], trial: Trial) -> None:
        self.needs[key] = before & self.tasks.keys()
        self.tasks[key], self.trials[key] = task, trial

    def run(self, pool: Pool) -> None:
        """Run the trials. Raises the first error of a worker when all others have ended."""
        for trial in dict.fromkeys(trial.number for trial in self.trials.values()):
            say_begin(self.record.trials[trial], self.number_of_trials)
        with live_runs.queued(self.rows) as self.take_out:
            task_graph.run(pool, self.needs, self.tasks.__getitem__, self.on_end)
        if self.failed:
            raise self.failed[0]

    def on_end(self, key: str, report: Report) -> bool:
        """Note the result of a task. Return False: no task is submitted again."""
        if report.error is not None:
            if report.trace:
                say(report.trace)
            self.failed.append(report.error)
            return False
        if isinstance(report.value, Trial):
            self.record.trials[report.value.number] = report.value
            self.take_out(key, self.record.seed)
            say_end(report.value)
        else:  # the time of a stage is that of the first trial that needs it
            first = self.record.trials[self.trials[key].number]
            first.seconds = round(first.seconds + report.value, 3)
        self.record.save()
        return False


def say_begin(trial: Trial, count: int) -> None:
    """Log that a trial of at most `count` begins."""
    say(f"trial {trial.number + 1} of at most {count}: {' '.join(flags_of(trial)) or 'the experiment as it is'}")


def say_end(trial: Trial) -> None:
    """Log the result of a trial."""
    result = f"{trial.score:.4f}" if trial.score is not None else trial.message
    say(f"trial {trial.number + 1} {trial.state}{f': {result}' if result else ''}")
