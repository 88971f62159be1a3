"""`genrec tune`: the trials of a tuning, in rounds, in this process or in the workers of an engine.

A round is proposed as a whole and run to its end before the next one. Every trial is therefore a function of the tuning's seed, its
number and the results of the rounds before it: neither the order in which the trials of a round end nor the process that runs them
matters, and a tuning that is resumed proposes what an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from genrec import live_runs, pipeline
from genrec.engines import Engine
from genrec.engines.local_workers import LocalEngine
from genrec.errors import UsageError
from genrec.field_paths import plain_value
from genrec.overrides import override
from genrec.row_settings import planned_configuration, training_hash
from genrec.stage_tasks import Given, Origin
from genrec.sweeps import given, stopped_by_sigterm
from genrec.trial_search import check_search, is_exhausted, propose
from genrec.trial_tasks import Round, say_begin, say_end, up_to
from genrec.trials import Refused, origin_of, rivals_of, run_trial
from genrec.tuning import Choice, Tuning
from genrec.tuning_record import Record, Trial, opened, tuned_stage
from genrec.workspace import check_writable


def tune(
    tuning: Tuning,
    name: str,
    start_again: bool = False,
    where: str = "FILE.py:FUNCTION",
    engine: Engine | None = None,
    origin: Origin | None = None,
) -> Record:
    """Run the trials that are missing and return the record of all.

    A round of trials starts while fewer than `Tuning.trials` were started, their processor time is below `Tuning.hours`, and the space
    has settings that were not tried. Trials that were interrupted are resumed first. Raises UsageError if a value of the space fits no
    experiment, or the record has trials of other settings unless `start_again`, and ResourceError if Optuna is missing.

    Args:
        tuning: the tuning.
        name: that of the record (`studies.study_name`).
        start_again: move trials of other settings to the replaced ones.
        where: the place of the tuning on the command line.
        engine: where the trials run; None: in this process, one after the other.
        origin: makes the tuned experiment, as the only one of a list, in a worker process; None: it is sent there.

    """
    tuning = replace(tuning, round_size=round_size_of(tuning, engine))
    check(tuning, where)
    check_writable(list(pipeline.VERSIONS))
    with opened(name, tuning, start_again) as record:
        if engine is None:
            _run_here(tuning, record)
        else:
            _run_on(engine, tuning, record, given([tuning.experiment]) if origin is None else origin)
    return record


def check(tuning: Tuning, where: str) -> None:
    """Raise UsageError if a value of the space fits no experiment, and ResourceError if Optuna is missing."""
    check_search()
    _check_space(tuning, where)


def round_size_of(tuning: Tuning, engine: Engine | None) -> int:
    """Return the number of trials of a round. Raises UsageError if neither the tuning nor the engine tells it."""
    if tuning.round_size is not None:
        return tuning.round_size
    if engine is None:
        return 1
    if isinstance(engine, LocalEngine):
        return engine.workers
    raise UsageError(
        "--on ray and --on slurm need --round-size N, the number of trials that are proposed together and run at the same time; "
        "the trials depend on it"
    )


def _run_here(tuning: Tuning, record: Record) -> None:
    """Run the rounds in this process."""
    known: set[str] = set()  # keys of stages seen before
    base = Given((tuning.experiment,))
    with live_runs.recorded() as recorder:
        for trials in _rounds(tuning, record):
            for trial in trials:
                say_begin(trial, tuning.trials)
                experiment = origin_of(tuning, trial, base)()[0]
                steps = up_to(pipeline.plan(experiment), tuned_stage(tuning))
                try:
                    rivals = rivals_of(tuning, trial, record.trials)
                    run_trial(experiment, steps, trial, rivals, record.name, recorder, known, record.save)
                finally:
                    record.save()
                say_end(trial)


def _run_on(engine: Engine, tuning: Tuning, record: Record, base: Origin) -> None:
    """Run the rounds in the workers of an engine."""
    with stopped_by_sigterm():
        pool = engine.start()
        try:
            for trials in _rounds(tuning, record):
                Round(tuning, record, trials, tuned_stage(tuning), base).run(pool)
        finally:
            pool.close()


def _rounds(tuning: Tuning, record: Record) -> Iterator[list[Trial]]:
    """Iterate over the trials to run together; those that the experiment refuses are left out."""
    while trials := _next_round(tuning, record):
        for trial in trials:
            _note_settings(tuning, trial)
        record.save()
        yield [trial for trial in trials if trial.state == "running"]


def _next_round(tuning: Tuning, record: Record) -> list[Trial]:
    """Return the trials to run: the interrupted ones, or new ones, added to the record; none if the budget or the space is used up."""
    interrupted = [trial for trial in record.trials if trial.state == "running"]
    if interrupted or record.seconds >= 3600 * tuning.hours:
        return interrupted
    known = list(record.trials)
    while len(record.trials) < min(tuning.trials, len(known) + (tuning.round_size or 1)) and not is_exhausted(tuning, record.trials):
        number = len(record.trials)
        if number:
            values = propose(tuning, known, record.trials[len(known) :])
        else:
            values = {key: plain_value(tuning.experiment, f"--{key}") for key in tuning.space}
        record.trials.append(Trial(number, values, known=None if number == len(known) else len(known)))
    return record.trials[len(known) :]


def _note_settings(tuning: Tuning, trial: Trial) -> None:
    """Note the settings of a trial, or that the experiment refuses its values."""
    try:
        (experiment,) = origin_of(tuning, trial, Given((tuning.experiment,)))()
        trial.settings = training_hash(planned_configuration(pipeline.plan(experiment)))
    except Refused as error:
        trial.state, trial.message = "refused", str(error)
        say_begin(trial, tuning.trials)
        say_end(trial)


def _check_space(tuning: Tuning, where: str) -> None:
    """Raise UsageError unless the bounds and choices of each key path are valid alone."""
    for key, values in tuning.space.items():
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            try:
                override([tuning.experiment], [f"--{key}", str(value)], where)
            except UsageError as error:
                raise UsageError(f"the space of {where} has a value that the experiment refuses: {error}") from None
