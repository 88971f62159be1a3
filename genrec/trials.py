"""One trial of a tuning, in any process: its experiment, its training up to the tuned stage, and its score on validation.

The best validation score of the trained stage is maximized, or the last one where the last step is kept. No evaluate stage is built,
so training and selection read no test event. Item numbers and the catalog come from all events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from genrec import pipeline
from genrec.data.corpus import Corpus
from genrec.errors import GenrecError, NumericsError, UsageError
from genrec.experiment import Experiment
from genrec.live_runs import Recorder
from genrec.overrides import override
from genrec.run_experiments import keys_of
from genrec.stage_names import kind_of_stage, place_of
from genrec.stage_tasks import Origin
from genrec.store import Artifact
from genrec.training import checkpoint
from genrec.training.curves import VALIDATION, OnRow, Row, best_step, scores
from genrec.training.validation import baseline_score
from genrec.trial_search import is_below_median
from genrec.tuning import Tuning
from genrec.tuning_record import Trial
from genrec.workspace import store


class Pruned(GenrecError):
    """Ends the training of a trial that is below the median of the others."""


class Refused(GenrecError):
    """The experiment refuses the values of a trial together."""


def flags_of(trial: Trial) -> list[str]:
    """Return the overrides of a trial. The first trial has none."""
    pairs = [(f"--{key.replace('_', '-')}", str(value)) for key, value in trial.values.items()] if trial.number else []
    return [word for pair in pairs for word in pair]


def title_of(trial: Trial, name: str) -> str:
    """Return the name of a trial for `genrec status`; `name` is that of the tuning's record."""
    return f"trial {trial.number + 1} of {name}"


@dataclass(frozen=True)
class TrialOrigin:
    """Makes the experiment of a trial in any process."""

    base: Origin  # the tuned experiment, as the only one
    seed: int  # of the tuning
    flags: tuple[str, ...]  # overrides of the trial

    def __call__(self) -> Sequence[Experiment]:
        """Return the experiment as a list. Raises Refused if it refuses the overrides together."""
        (base,) = self.base()
        try:
            return override([replace(base, seed=self.seed)], list(self.flags))
        except UsageError as error:
            raise Refused(str(error)) from None


def origin_of(tuning: Tuning, trial: Trial, base: Origin) -> TrialOrigin:
    """Return what makes the experiment of a trial."""
    return TrialOrigin(base, tuning.seed, tuple(flags_of(trial)))


def rivals_of(tuning: Tuning, trial: Trial, trials: list[Trial]) -> list[Trial] | None:
    """Return the trials before the round of a trial, with which it is compared; None if the tuning stops no trial."""
    return trials[: trial.num_known] if tuning.prune else None


def run_trial(
    experiment: Experiment,
    steps: Sequence[pipeline.Step],
    trial: Trial,
    rivals: Sequence[Trial] | None,
    name: str,
    recorder: Recorder,
    known: set[str],
    save: Callable[[], None] = lambda: None,
) -> None:
    """Train what is missing, and note state, curve, score and processor time in the trial. Other errors leave it "running".

    Args:
        experiment: that of the trial.
        steps: its stages up to the tuned one.
        trial: the trial.
        rivals: `rivals_of`.
        name: that of the tuning's record.
        recorder: of the record of this process (`genrec.live_runs`).
        known: keys of stages that were handled before; extended in place.
        save: called after each validation.

    """
    tuned, clock = steps[-1], _Clock(trial)
    column = experiment.selection.column
    trial.curve = scores(checkpoint.saved_rows(_checkpoint(tuned)), column)  # of an interrupted trial
    recorder.row(1, 1, title_of(trial, name), experiment.seed, keys_of(steps))
    later = iter([step.stage for step in steps[1:]])

    def on_artifact(artifact: Artifact) -> None:
        if (stage := next(later, None)) is not None:
            recorder.stage(stage)

    def on_validation() -> None:
        clock.add()
        save()

    try:
        trial.score = score(experiment, tuned.stage, trial, _watch(column, trial, rivals, on_validation), known, on_artifact)
        trial.state = "finished"
    except Pruned:
        trial.state = "pruned"
        pipeline.discard(experiment, tuned.stage)
    except NumericsError as error:
        trial.state, trial.message = "failed", str(error)
        pipeline.discard(experiment, tuned.stage)
    finally:
        clock.add()


def _checkpoint(step: pipeline.Step) -> Path:
    """Return the folder of the checkpoint of an unfinished stage."""
    return store().folder(step.stage, f".{step.key}.partial") / "checkpoint" / "last"


class _Clock:
    """Adds the processor time of this process since the last call to a trial."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.before = trial, time.process_time()

    def add(self) -> None:
        now = time.process_time()
        self.trial.seconds, self.before = round(self.trial.seconds + now - self.before, 3), now


def score(
    experiment: Experiment,
    stage: str,
    trial: Trial,
    on_row: OnRow,
    known: set[str],
    on_artifact: Callable[[Artifact], None] | None = None,
) -> float:
    """Train what is missing and return the score on validation. `on_row` receives each validation, also that of a stored artifact."""
    artifact = pipeline.run(experiment, refreshed=known, last=stage, on_row=on_row, on_artifact=on_artifact)[stage]
    if stage == "data":
        return baseline_score(Corpus.load(artifact.folder), experiment)
    curves, column = pd.read_parquet(artifact.folder / "curves.parquet"), experiment.selection.column
    name = f"{VALIDATION}{column}"
    for step, found in curves[["step", name]].dropna().itertuples(index=False):
        if step not in trial.curve:  # the artifact existed, so this validation was not watched
            on_row({"step": step, name: float(found)})
    return trained_score(experiment, artifact)


def trained_score(experiment: Experiment, artifact: Artifact) -> float:
    """Return the validation score of the policy that a training has kept."""
    curves, column = pd.read_parquet(artifact.folder / "curves.parquet"), experiment.selection.column
    if kind_of_stage(artifact.stage) == "align" and experiment.alignments[place_of(artifact.stage)].keep == "last":
        return float(curves[f"{VALIDATION}{column}"].dropna().iloc[-1])
    return best_step(curves, column)[1]


def _watch(column: str, trial: Trial, rivals: Sequence[Trial] | None, on_validation: Callable[[], None]) -> OnRow:
    """Return a function of the rows of the curves that notes each validation, and raises `Pruned` where the trial should stop."""
    name = f"{VALIDATION}{column}"

    def on_row(row: Row) -> None:
        if name not in row:
            return
        step = int(row["step"])
        # a resumed training starts from its checkpoint and repeats later validations
        trial.curve = {before: each for before, each in trial.curve.items() if before < step} | {step: row[name]}
        on_validation()
        if rivals is not None and is_below_median(list(trial.curve.values()), rivals):
            raise Pruned(f"stopped at step {step}")

    return on_row
