"""`genrec run`: run a list of experiments, draw their training curves, and record each seed in the run file of its row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from genrec import failed_runs, live_runs, pipeline, row_tracking, row_trainings, run_files, studies
from genrec.endpoints import Endpoint
from genrec.errors import counted
from genrec.experiment import Experiment
from genrec.progress import say
from genrec.row_tracking import Tracking
from genrec.stage_names import kind_of_stage, place_of
from genrec.store import Artifact
from genrec.types import Tracker
from genrec.workspace import check_writable, reports_folder, store

SHOWN_ROWS = 10  # rows that a message lists


class Rows(NamedTuple):
    """The rows and seeds of one command, and what they share."""

    experiments: Sequence[Experiment]
    refresh: str | None  # the stage from which on all are rebuilt
    replace: bool  # start rows again that have other settings
    tracking: Tracking
    refreshed: set[str]  # keys of the stages that were handled before
    before: dict[str, int | None]  # key -> when the artifact was finished before this command, in nanoseconds
    new: dict[str, Artifact]  # key -> artifact that this command has made
    helpers: Callable[[int], pipeline.Helpers] | None = None  # place of a row -> starts the processes that train with this one


def run(
    experiments: Sequence[Experiment],
    refresh: str | None = None,
    replace: bool = False,
    study: str = studies.FROM_PYTHON,
    trackers: Mapping[str, Tracker] | None = None,
    sweep: Callable[[Rows], None] | None = None,
    helpers: Callable[[int], pipeline.Helpers] | None = None,
    overridden: bool = False,
    endpoints: Sequence[Endpoint] = (),
) -> None:
    """Run the missing stages of each experiment and record the results. Log the seconds of all new artifacts at the end.

    Raises an error before anything is trained if the data folder can't be written. A run that fails later leaves a record
    (`genrec.failed_runs`), and for a list a line says what is finished. The trained rows are recorded as tried (`genrec.studies`)
    before the first stage runs.

    Args:
        experiments: the experiments; those that share a stage build it once.
        refresh: rebuild this stage and all later ones.
        replace: start a row again if its run file has other settings; otherwise this raises UsageError before any stage runs.
        study: name of the list in the record of what was tried (`studies.study_name`).
        trackers: by name, what follows the trainings (`row_tracking.trackers_of`). One that fails stops nothing.
        sweep: runs the rows in other processes (`genrec.sweeps`); None: one after the other in this process.
        helpers: returns what starts the processes that train the row at a place of the list together with this one
            (`genrec.training_processes`); None: this process trains alone.
        overridden: whether settings were changed on the command line, for the record of what was tried.
        endpoints: the endpoints of the list, which are recorded too.

    """
    tracking = Tracking({} if trackers is None else dict(trackers))
    check_writable(list(pipeline.VERSIONS))
    for name in dict.fromkeys(experiment.name for experiment in experiments):
        run_files.check_extendable(name)
    run_files.check_rows(experiments, replace)
    studies.record(study, experiments, overridden, endpoints)
    rows = Rows(experiments, refresh, replace, tracking, set(), {}, {}, helpers)
    (sweep or _one_by_one)(rows)
    for name in dict.fromkeys(experiment.name for experiment in experiments):
        run_files.say_other_metrics(name)
    if rows.new:
        say(seconds_line(list(rows.new.values())))


def _one_by_one(rows: Rows) -> None:
    """Run the rows in this process. The first error ends the list."""
    with live_runs.recorded() as recorder:
        for number in range(len(rows.experiments)):
            try:
                run_row(rows, number, recorder)
            except BaseException:
                if len(rows.experiments) > 1:
                    say(unfinished_line(rows.experiments, range(number), [number], rows.refresh))
                raise


def run_row(rows: Rows, number: int, recorder: live_runs.Recorder) -> None:
    """Run the missing stages of one row and seed, and record the result, or the failure."""
    experiment, done, steps = rows.experiments[number], list[str](), list[pipeline.Step]()
    try:
        steps = pipeline.plan(experiment)
        recorder.row(number + 1, len(rows.experiments), experiment.name, experiment.seed, keys_of(steps))
        note_before(rows, steps)
        with rows.tracking.row(experiment, steps, anew=rows.refresh is not None) as log:
            finish = partial(_finish_stage, experiment, done, recorder, log)
            helpers = None if rows.helpers is None else rows.helpers(number)
            artifacts = pipeline.run(
                experiment, rows.refresh, rows.refreshed, on_artifact=finish, on_stage_row=log.on_row, helpers=helpers
            )
        run_files.record(experiment, artifacts, rows.replace)
    except BaseException as error:
        record_failure(experiment, steps, done, error)
        raise
    failed_runs.clear(experiment)
    rows.new.update({each.key: each for each in artifacts.values() if _modified(each.folder) != rows.before[each.key]})


def note_before(rows: Rows, steps: Sequence[pipeline.Step]) -> None:
    """Note when the artifacts were finished, unless this was noted before."""
    for step in steps:
        rows.before.setdefault(step.key, _modified(store().folder(step.stage, step.key)))


def record_failure(experiment: Experiment, steps: Sequence[pipeline.Step], done: Sequence[str], error: BaseException) -> None:
    """Record why a row and seed ended after the stages `done`."""
    next_step = next((step for step in steps if step.stage not in done), None)
    is_intact = next_step is not None and store().is_done(next_step.stage, next_step.key)  # it was not built again
    failed_runs.record(experiment, done, error, keep_refresh=is_intact, artifacts=keys_of(steps))


def keys_of(steps: Sequence[pipeline.Step]) -> dict[str, str]:
    """Return the key of each stage."""
    return {step.stage: step.key for step in steps}


def _finish_stage(
    experiment: Experiment, done: list[str], recorder: live_runs.Recorder, log: row_tracking.RowLog, artifact: Artifact
) -> None:
    """Note that a stage is done and the next one begins, pass its curves or metrics on to trackers, and draw its curves."""
    done.append(artifact.stage)
    if len(done) < len(experiment.stages):
        recorder.stage(experiment.stages[len(done)])
    log.on_artifact(artifact)
    _draw_curves(experiment, artifact)


def _draw_curves(experiment: Experiment, artifact: Artifact) -> None:
    """Draw the curves of a training into reports/, unless a row that shares the artifact has drawn them. Errors are only logged."""
    from genrec.training import curve_plots

    if not (artifact.folder / "curves.parquet").is_file():
        return
    reports, modified = reports_folder(), _modified(artifact.folder) or 0
    if any(old.stat().st_mtime_ns >= modified for old in reports.glob(f"*-{artifact.stage}-{artifact.key}.png")):
        return
    path = reports / f"{experiment.name}-seed-{experiment.seed}-{artifact.stage}-{artifact.key}.png"
    title = f"{experiment.name} (seed {experiment.seed}): {artifact.stage} {artifact.key}"
    try:
        rows = {experiment.name: [pd.read_parquet(artifact.folder / "curves.parquet")]}
        curve_plots.draw(rows, title, path, artifact.stage, lines=row_trainings.baseline_lines([artifact]))
    except (ImportError, OSError) as error:
        say(f"{title}: the training curves could not be drawn ({error})")
    else:
        say(f"{title}: training curves drawn in {path}")


def _modified(folder: Path) -> int | None:
    """Return when an artifact was finished, in nanoseconds, or None if it does not exist."""
    manifest = folder / "manifest.json"
    return manifest.stat().st_mtime_ns if manifest.is_file() else None


def seconds_line(artifacts: Sequence[Artifact]) -> str:
    """Return one line with the seconds of each stage, summed over rows and seeds."""
    parts = []
    order = list(pipeline.VERSIONS)
    made = {artifact.stage for artifact in artifacts}
    for stage in sorted(made, key=lambda stage: (order.index(kind_of_stage(stage)), place_of(stage))):
        seconds = [artifact.manifest["seconds"] for artifact in artifacts if artifact.stage == stage]
        parts.append(f"{stage} {sum(seconds):.1f}" + (f" ({len(seconds)} artifacts)" if len(seconds) > 1 else ""))
    return f"seconds per stage: {', '.join(parts)}"


def unfinished_line(
    experiments: Sequence[Experiment], finished: Sequence[int], failed: Sequence[int], refresh: str | None = None
) -> str:
    """Return a line with the experiments of a list that are finished and those that failed, by their places, and how to run them."""
    done = f" ({_rows([experiments[number] for number in finished])})" if finished else ""
    without = " without --refresh" if refresh else ""
    return (
        f"{len(finished)} of {len(experiments)} experiments finished{done}; {_rows([experiments[number] for number in failed])} did "
        f"not; run the same command again{without} to go on: what is finished is kept"
    )


def collapsed_line(before: int, experiments: Sequence[Experiment]) -> str:
    """Return a line with the rows and seeds that are left of `before` experiments, if some of them are equal by their overrides."""
    return (
        f"{before} experiments became {len(experiments)}, since some are equal: {_rows(experiments)}; "
        "the run files keep their results of other seeds"
    )


def _rows(experiments: Sequence[Experiment]) -> str:
    """Return the first rows of the experiments, with their seeds."""
    seeds: dict[str, list[int]] = {}
    for experiment in experiments:
        seeds.setdefault(experiment.name, []).append(experiment.seed)
    rows = [f"{name} (seed {', '.join(map(str, numbers))})" for name, numbers in seeds.items()]
    more = f" and {counted(len(rows) - SHOWN_ROWS, 'more row')}" if len(rows) > SHOWN_ROWS else ""
    return f"{', '.join(rows[:SHOWN_ROWS])}{more}"
