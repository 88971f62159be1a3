"""The search of a tuning: trials that are proposed by Optuna, trained up to their last stage, and scored on validation.

Every trial is a function of the tuning's seed, its number and the trials before it, so a tuning that is resumed proposes what an
uninterrupted one does. The best validation score of the trained stage is maximized, or the last one where the last step is kept.
No evaluate stage is built, so training and selection read no test event. Item numbers and the catalog come from all events.

Sources: J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011), for the tree-structured Parzen estimator; the median
rule is that of D. Golovin et al., "Google Vizier" (2017), section 3.2, with the best score so far instead of the running average.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from genrec import pipeline
from genrec.data.corpus import Corpus
from genrec.errors import GenrecError, NumericsError, ResourceError, UsageError
from genrec.experiment import Experiment
from genrec.field_paths import plain_value
from genrec.overrides import override
from genrec.progress import say
from genrec.randomness import seed_of
from genrec.row_settings import planned_configuration, training_hash
from genrec.stage_names import kind_of_stage, place_of
from genrec.store import Artifact
from genrec.training.curves import VALIDATION, Row, best_step
from genrec.training.validation import baseline_score
from genrec.tuning import Choice, Distribution, IntUniform, LogUniform, Tuning
from genrec.tuning_record import Record, Trial, comparable, opened, setting_of, tuned_stage
from genrec.workspace import check_writable

NUM_RANDOM = 4  # trials, the first one included, before the search follows the scores, and before trials are pruned
FIRST_PRUNED = 2  # validations before the first one that can stop a trial; validation 0 is before the first step
NUM_REPLACEMENTS = 1_000  # random draws in place of a proposal that was tried before
DIGITS = 3  # significant digits of a proposed number


class Pruned(GenrecError):
    """Ends the training of a trial that is below the median of the others."""


def tune(tuning: Tuning, name: str, start_again: bool = False, where: str = "FILE.py:FUNCTION") -> Record:
    """Run the trials that are missing and return the record of all.

    `name` is that of the record (`studies.study_name`), `where` the place of the tuning on the command line. A trial starts while
    fewer than `Tuning.trials` were started, their processor time is below `Tuning.hours`, and the space has settings that were not
    tried. A trial that was interrupted is resumed first. Raises UsageError if a value of the space fits no experiment, or the record
    has trials of other settings unless `start_again`, and ResourceError if Optuna is missing.
    """
    check(tuning, where)
    check_writable(list(pipeline.VERSIONS))
    known: set[str] = set()
    with opened(name, tuning, start_again) as record:
        while (trial := _next(tuning, record)) is not None:
            record.save()
            _run(tuning, trial, record, known)
    return record


def check(tuning: Tuning, where: str) -> None:
    """Raise UsageError if a value of the space fits no experiment, and ResourceError if Optuna is missing."""
    _optuna()
    _check_space(tuning, where)


def flags_of(trial: Trial) -> list[str]:
    """Return the overrides of a trial. The first trial has none."""
    pairs = [(f"--{key.replace('_', '-')}", str(value)) for key, value in trial.values.items()] if trial.number else []
    return [word for pair in pairs for word in pair]


def _next(tuning: Tuning, record: Record) -> Trial | None:
    """Return the trial to run: the interrupted one, or a new one, added to the record; None if the budget or the space is used up."""
    if record.trials and record.trials[-1].state == "running":
        return record.trials[-1]
    if len(record.trials) >= tuning.trials or record.seconds >= 3600 * tuning.hours or is_exhausted(tuning, record.trials):
        return None
    number = len(record.trials)
    values = propose(tuning, record.trials) if number else {key: plain_value(tuning.experiment, f"--{key}") for key in tuning.space}
    record.trials.append(Trial(number, values))
    return record.trials[-1]


def _run(tuning: Tuning, trial: Trial, record: Record, known: set[str]) -> None:
    """Run a trial to its end and record it, also if it fails or is interrupted. `known` are the keys of stages seen before."""
    shown = " ".join(flags_of(trial)) or "the experiment as it is"
    say(f"trial {trial.number + 1} of at most {tuning.trials}: {shown}")
    clock = _Clock(trial)
    try:
        experiment = _experiment(tuning, trial)
        trial.settings = training_hash(planned_configuration(pipeline.plan(experiment)))
        trial.score = _score(tuning, experiment, trial, _watch(tuning, trial, record, clock), known)
        trial.state = "finished"
    except Pruned:
        trial.state = "pruned"
        pipeline.discard(experiment, tuned_stage(tuning))
    except NumericsError as error:
        trial.state, trial.message = "failed", str(error)
        pipeline.discard(experiment, tuned_stage(tuning))
    except _Refused as error:
        trial.state, trial.message = "refused", str(error)
    finally:
        clock.add()
        record.save()
    result = f"{trial.score:.4f}" if trial.score is not None else trial.message
    say(f"trial {trial.number + 1} {trial.state}{f': {result}' if result else ''}")


class _Refused(GenrecError):
    """The experiment refuses the values of a trial together."""


class _Clock:
    """Adds the processor time of this process since the last call to a trial."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.before = trial, time.process_time()

    def add(self) -> None:
        now = time.process_time()
        self.trial.seconds, self.before = round(self.trial.seconds + now - self.before, 3), now


def _experiment(tuning: Tuning, trial: Trial) -> Experiment:
    """Return the experiment of a trial."""
    base = replace(tuning.experiment, seed=tuning.seed)
    try:
        return override([base], flags_of(trial))[0]
    except UsageError as error:
        raise _Refused(str(error)) from None


def _score(tuning: Tuning, experiment: Experiment, trial: Trial, on_row: Callable[[Row], None], known: set[str]) -> float:
    """Train what is missing and return the score on validation. `on_row` receives each validation, also that of a stored artifact."""
    stage = tuned_stage(tuning)
    artifact = pipeline.run(experiment, refreshed=known, last=stage, on_row=on_row)[stage]
    if stage == "data":
        return baseline_score(Corpus.load(artifact.folder), experiment)
    curves, column = pd.read_parquet(artifact.folder / "curves.parquet"), experiment.selection.column
    name = f"{VALIDATION}{column}"
    for step, score in curves[["step", name]].dropna().itertuples(index=False):
        if step not in trial.curve:  # the artifact existed, so this validation was not watched
            on_row({"step": step, name: float(score)})
    return _trained_score(experiment, artifact)


def _trained_score(experiment: Experiment, artifact: Artifact) -> float:
    """Return the validation score of the policy that a training has kept."""
    curves, column = pd.read_parquet(artifact.folder / "curves.parquet"), experiment.selection.column
    if kind_of_stage(artifact.stage) == "align" and experiment.alignments[place_of(artifact.stage)].keep == "last":
        return float(curves[f"{VALIDATION}{column}"].dropna().iloc[-1])
    return best_step(curves, column)[1]


def _watch(tuning: Tuning, trial: Trial, record: Record, clock: _Clock) -> Callable[[Row], None]:
    """Return a function of the rows of the curves that records each validation, and raises `Pruned` where the trial should stop."""
    column = f"{VALIDATION}{tuning.experiment.selection.column}"

    def on_row(row: Row) -> None:
        if column not in row:
            return
        step = int(row["step"])
        # a resumed training starts from its checkpoint and repeats later validations
        trial.curve = {before: score for before, score in trial.curve.items() if before < step} | {step: row[column]}
        clock.add()
        record.save()
        if tuning.prune and is_below_median(list(trial.curve.values()), record.trials[: trial.number]):
            raise Pruned(f"stopped at step {step}")

    return on_row


def is_below_median(scores: Sequence[float], others: Sequence[Trial]) -> bool:
    """Return whether the best of the scores so far is below the median of the finished trials' scores at the same validation.

    False before validation `FIRST_PRUNED` (they are counted from 0), or with fewer than `NUM_RANDOM` finished trials.
    """
    optuna = _optuna()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=NUM_RANDOM, n_warmup_steps=FIRST_PRUNED)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.add_trials([_frozen(trial, {}) for trial in others if trial.state == "finished"])
    trial = study.ask()
    for place, score in enumerate(scores):
        trial.report(score, place)
    return bool(trial.should_prune())


def propose(tuning: Tuning, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the values of the next trial: random ones at first, then those of the tree-structured Parzen estimator.

    A proposal with the values of an earlier trial is replaced by a random one, up to NUM_REPLACEMENTS times. The estimator is not
    asked again, because in a discrete space it proposes the same values again.
    """
    optuna, tried = _optuna(), {setting_of(trial.values) for trial in trials}
    distributions = {key: _distribution(values) for key, values in tuning.space.items()}
    seed = seed_of(tuning.seed, "trial", len(trials)) % 2**32
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(n_startup_trials=NUM_RANDOM, seed=seed))
    study.add_trials([_frozen(trial, distributions) for trial in trials if _fits(trial, tuning)])
    found = _rounded_values(study.ask(distributions).params, tuning)
    if setting_of(found) not in tried:
        return found
    others = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    replacements = (_rounded_values(others.ask(distributions).params, tuning) for _ in range(NUM_REPLACEMENTS))
    return next((values for values in replacements if setting_of(values) not in tried), found)


def is_exhausted(tuning: Tuning, trials: Sequence[Trial]) -> bool:
    """Return whether the trials have all settings of the space. A space with `Uniform` or `LogUniform` is never exhausted."""
    counts = [
        len({*map(comparable, values.values)}) if isinstance(values, Choice) else values.high - values.low + 1
        for values in tuning.space.values()
        if isinstance(values, Choice | IntUniform)
    ]
    tried = {setting_of(trial.values) for trial in trials if _fits(trial, tuning)}
    return len(counts) == len(tuning.space) and len(tried) >= math.prod(counts)


def _frozen(trial: Trial, distributions: dict[str, Any]) -> Any:
    """Return a trial as one of Optuna, an `optuna.trial.FrozenTrial`."""
    optuna = _optuna()
    states = optuna.trial.TrialState
    state = {"finished": states.COMPLETE, "pruned": states.PRUNED}.get(trial.state, states.FAIL)
    parameters = {key: trial.values[key] for key in distributions}
    scores = dict(enumerate(trial.curve.values()))
    return optuna.trial.create_trial(
        state=state, value=trial.score, params=parameters, distributions=distributions, intermediate_values=scores
    )


def _fits(trial: Trial, tuning: Tuning) -> bool:
    """Return whether all values of a trial lie in the space. The experiment as it is may have others."""
    for key, values in tuning.space.items():
        value = trial.values[key]
        if isinstance(values, Choice):
            fits = comparable(value) in map(comparable, values.values)
        else:
            kind = int if isinstance(values, IntUniform) else int | float
            fits = isinstance(value, kind) and not isinstance(value, bool) and values.low <= value <= values.high
        if not fits:
            return False
    return True


def _distribution(values: Distribution) -> Any:
    """Return the values of a key path as one of Optuna's distributions."""
    distributions = _optuna().distributions
    if isinstance(values, Choice):
        return distributions.CategoricalDistribution(values.values)
    if isinstance(values, IntUniform):
        return distributions.IntDistribution(values.low, values.high)
    return distributions.FloatDistribution(values.low, values.high, log=isinstance(values, LogUniform))


def _rounded_values(found: dict[str, Any], tuning: Tuning) -> dict[str, Any]:
    return {key: _rounded(found[key], values) for key, values in tuning.space.items()}


def _rounded(value: Any, values: Distribution) -> Any:
    """Return a proposed number with few digits, within its bounds, so that it can be read and typed."""
    if isinstance(values, Choice | IntUniform):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), float(values.low)), float(values.high))


def _check_space(tuning: Tuning, where: str) -> None:
    """Raise UsageError unless the bounds and choices of each key path are valid alone."""
    for key, values in tuning.space.items():
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            try:
                override([tuning.experiment], [f"--{key}", str(value)], where)
            except UsageError as error:
                raise UsageError(f"the space of {where} has a value that the experiment refuses: {error}") from None


def _optuna() -> Any:
    """Return Optuna. Raises ResourceError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ResourceError("genrec tune needs optuna, which is not installed: pip install 'genrec[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
