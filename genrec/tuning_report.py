"""What a tuning would do, the table of its trials, and the command that confirms the best one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from genrec import dry_run
from genrec.command_lines import command_line
from genrec.errors import counted
from genrec.experiment import uses_seed
from genrec.trial_search import is_exhausted
from genrec.trials import flags_of
from genrec.tuning import Tuning
from genrec.tuning_record import Record, Trial, counted_trials, objective_of, tuned_stage

NUM_SEEDS = 5  # of the command that confirms


def lines(tuning: Tuning, record: Record, where: str, flags: Sequence[str] = ()) -> Iterator[str]:
    """Iterate over the lines of a report. `flags` are overrides of the tuned experiment, which the command repeats."""
    yield f"{record.name}: {record.objective}, seed {tuning.seed}"
    rows = [["trial", "score", "step", "minutes", "state", *tuning.space], *(_cells(tuning, trial) for trial in record.trials)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    yield from (f"trial {trial.number + 1}: {trial.message.splitlines()[0]}" for trial in record.trials if trial.message)
    if record.replaced:
        yield f"{counted(len(record.replaced), 'trial')} of other settings came before (--replace)"
    used = f"{len(record.trials)} of at most {counted(tuning.trials, 'trial')}{_together(tuning)}"
    yield f"{used}, {record.seconds / 3600:.2f} of at most {tuning.hours:g} processor-hours; record: {record.path}"
    if is_exhausted(tuning, record.trials):
        yield "all settings of the space were tried, so the tuning has ended"
    yield from _best(tuning, record, where, flags)


def _together(tuning: Tuning) -> str:
    """Return how many trials are proposed together, if these are several."""
    return f", {tuning.round_size} at a time" if (tuning.round_size or 1) > 1 else ""


def planned(tuning: Tuning) -> Iterator[str]:
    """Iterate over what a tuning would do: budget, objective, space, and the stages of the first trial. Nothing is written."""
    yield f"{counted(tuning.trials, 'trial')} at most{_together(tuning)}, none starts after {tuning.hours:g} processor-hours"
    yield f"maximized on validation: {objective_of(tuning)}"
    yield from (f"  --{key.replace('_', '-')}: {distribution}" for key, distribution in tuning.space.items())
    yield "the first trial, the experiment as it is:"
    yield from dry_run.lines([replace(tuning.experiment, seed=tuning.seed)], last=tuned_stage(tuning))


def _cells(tuning: Tuning, trial: Trial) -> list[str]:
    """Return the cells of a trial. The score of a trial that did not finish is the best so far, in parentheses."""
    score = f"{trial.score:.4f}" if trial.score is not None else f"({max(trial.curve.values()):.4f})" if trial.curve else "-"
    state = trial.state if trial.number else f"{trial.state}, as it is"
    step = str(_step_of_score(tuning, trial)) if trial.curve else "-"
    return [str(trial.number + 1), score, step, f"{trial.seconds / 60:.1f}", state, *(str(trial.values[key]) for key in tuning.space)]


def _step_of_score(tuning: Tuning, trial: Trial) -> int:
    """Return the step of a trial's score: the first of the best ones, or the last of a finished trial that keeps its last step."""
    alignments = tuning.experiment.alignments
    if alignments and alignments[-1].keep == "last" and trial.score is not None:
        return max(trial.curve)
    return max(sorted(trial.curve), key=lambda step: trial.curve[step])


def _best(tuning: Tuning, record: Record, where: str, flags: Sequence[str]) -> Iterator[str]:
    """Iterate over the best trial, its settings as flags, and the command that runs it with fresh seeds."""
    best = record.best
    if best is None:
        yield "no trial has finished"
        return
    settings = flags_of(best)
    yield f"best: trial {best.number + 1}, {best.score:.4f} on validation"
    yield f"settings: {shlex.join(settings) or 'the experiment as it is'}"
    name = ["--name", f"{tuning.experiment.name}-tuned"] if settings else []
    command = ["run", where, *flags, *settings, *name]
    if uses_seed(tuning.experiment):
        yield f"confirm it on fresh seeds: {command_line(*command, '--seeds', _fresh(tuning.seed))}"
    else:
        yield f"evaluate it: {command_line(*command)}"
    yield (
        f"The score is the best of {counted_trials(record)} on validation, so it is too high and no result: report the "
        "test of that run."
    )


def _fresh(seed: int) -> str:
    """Return five seeds that the tuning has not used, as `--seeds` takes them."""
    if seed >= NUM_SEEDS:
        return str(NUM_SEEDS)
    return ",".join(str(number) for number in range(NUM_SEEDS + 1) if number != seed)
