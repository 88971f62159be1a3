"""`genrec run --dry-run`: the stages of experiments, which of them are done, and an estimate of the time of the others."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from genrec import pipeline, run_files
from genrec.environment import environment
from genrec.errors import NetworkError, counted
from genrec.experiment import Experiment, flags_in_words
from genrec.objectives.training_length import default_steps
from genrec.pipeline import Step
from genrec.progress import duration
from genrec.row_settings import flatten
from genrec.stage_names import is_training_stage, kind_of_stage
from genrec.workspace import check_writable, home, store

Described = tuple[dict[str, Any], dict[str, str]]  # specification and parents of an artifact (see `Step`)
MOST_SCALE = 10  # a training with up to 10 times as many steps takes about as many times as long
UNCOMPARED = ("seed", "sft.optimization.max_steps", "align.optimization.max_steps")  # they only scale the time


class Trained(NamedTuple):
    """The length of a finished training."""

    steps: int  # optimizer steps taken
    examples: int  # number of training examples


class Earlier(NamedTuple):
    """An artifact that an estimate is computed from. `stage` to `parents` are those of its `Step`."""

    stage: str
    key: str
    specification: dict[str, Any]
    parents: dict[str, str]
    seconds: float
    machine: tuple[str, str, str]  # processor, threads, GPU
    training: Trained | None  # None if its stage trains nothing


class Estimate(NamedTuple):
    """The expected duration of a stage."""

    seconds: float
    artifacts: int  # number of earlier artifacts that it is computed from
    is_limit: bool  # they are trainings with far fewer steps, so that their start and validations make `seconds` too large


def lines(experiments: Sequence[Experiment], replace: bool = False, last: str | None = None) -> Iterator[str]:
    """Iterate over the lines of a dry run: each experiment's stages, totals, an estimate of the time, and the output folders.

    With `replace`, the rows follow that the run would start again. `last` is the last stage to build, for a trial of a tuning, which
    has no row; None: all stages. Nothing is written or downloaded: raises NetworkError if the data set's files are missing. Raises
    UsageError where the run would, at the start if the data folder or a run file can't be used, at the end for other reasons
    (`run_files.check_rows`).
    """
    check_writable(list(pipeline.VERSIONS), write=False)
    for name in dict.fromkeys(experiment.name for experiment in experiments if last is None):
        run_files.check_extendable(name, write=False)
    to_build: dict[str, Step] = {}  # by key; stages that experiments share are counted once
    done: set[str] = set()
    artifacts = store()
    for experiment in experiments:
        yield f"{experiment.name} (seed {experiment.seed})"
        with _offline():
            steps = pipeline.plan(experiment)
        for step in steps if last is None else steps[: experiment.stages.index(last) + 1]:
            if artifacts.is_done(step.stage, step.key):
                state = "done"
                done.add(step.key)
            else:
                state = "to run, shared" if step.key in to_build else "to run"
                artifacts.check_writable(step.stage, step.key)
                to_build.setdefault(step.key, step)
            yield f"  {step.stage:9} {step.key}  {state}{flags_in_words(experiment, step.stage)}"
    yield f"total: {counted(len(experiments), 'experiment')}; {counted(len(to_build), 'artifact')} to build, {len(done)} done"
    if to_build:
        yield from _time_lines(list(to_build.values()))
    if last is not None:
        yield f"outputs: {home() / 'artifacts'}, the trials in {home() / 'studies'}; nothing was written"
        return
    yield f"outputs: {home() / 'artifacts'}, the rows in {home() / 'runs'}, pictures in {home() / 'reports'}; nothing was written"
    with _offline():
        run_files.check_rows(experiments, replace)
        if replace:
            yield from _replaced_lines(experiments)


def _replaced_lines(experiments: Sequence[Experiment]) -> Iterator[str]:
    """Iterate over the rows that `--replace` would start again, with the settings that differ and the seeds that they would lose."""
    changed = run_files.changed_rows(experiments)
    for name, differences in changed.items():
        seeds = ", ".join(sorted(run_files.read(name)["seeds"], key=int))
        yield f"--replace would start the row {name} again, without its results of seed {seeds}: {differences}"
    if not changed:
        yield "--replace would change nothing: no row that exists has other settings"


@contextmanager
def _offline() -> Iterator[None]:
    """Forbid downloads, with a message that fits a dry run."""
    before = os.environ.get("GENREC_OFFLINE")
    os.environ["GENREC_OFFLINE"] = "1"
    try:
        yield
    except NetworkError as error:
        raise NetworkError(f"a dry run downloads nothing; run 'genrec data' first to download the data set; {error}") from None
    finally:
        os.environ.pop("GENREC_OFFLINE")
        if before is not None:
            os.environ["GENREC_OFFLINE"] = before


def _stages(steps: Sequence[Step]) -> list[str]:
    """Return the names of the stages in the order of the pipeline; the stages of a chain of alignments come one after another."""
    kinds = list(pipeline.VERSIONS)
    return sorted({step.stage for step in steps}, key=lambda stage: (kinds.index(kind_of_stage(stage)), len(stage), stage))


def _time_lines(steps: Sequence[Step]) -> Iterator[str]:
    """Iterate over one line per stage with the number of artifacts to build and the estimated time, and the sum."""
    everything = _artifacts()
    described = {step.key: (step.specification, step.parents) for step in steps}
    described |= {each.key: (each.specification, each.parents) for each in everything}
    machine = _machine(environment())
    known: list[Estimate] = []
    for stage in _stages(steps):
        of_stage = [step for step in steps if step.stage == stage]
        if not of_stage:
            continue
        earlier = [each for each in everything if each.stage == stage and each.machine == machine]
        found = [each for each in (estimate(step, earlier, described) for step in of_stage) if each is not None]
        missing = len(of_stage) - len(found)
        parts = [f"{_sum(found)}{_basis(found)}"] if found else []
        if missing:
            parts.append(
                f"{'unknown' if not found else f'unknown for {missing}'}: no earlier artifact of this stage with the same settings on "
                "this machine"
            )
        yield f"  {stage:9} {len(of_stage)} to build, {'; '.join(parts)}"
        known += found
    unknown = len(steps) - len(known)
    without = f", without {counted(unknown, 'artifact')} of unknown time" if known and unknown else ""
    yield f"estimated time: {_sum(known) if known else 'unknown'}{without}"


def _sum(found: Sequence[Estimate]) -> str:
    """Return the sum of estimates in words."""
    return (
        f"{'at most ' if any(each.is_limit for each in found) else ''}about {duration(max(1.0, sum(each.seconds for each in found)))}"
    )


def _basis(found: Sequence[Estimate]) -> str:
    """Return the basis of estimates, in parentheses."""
    artifacts = max(each.artifacts for each in found)
    shorter = ", with far fewer steps" if any(each.is_limit for each in found) else ""
    return f" (from {counted(artifacts, 'earlier artifact')} of this stage on this machine{shorter})"


def estimate(step: Step, earlier: Sequence[Earlier], described: Mapping[str, Described]) -> Estimate | None:
    """Return the expected duration of a step, or None without a basis.

    The basis is the median over the earlier artifacts with the same settings but for the seed and the number of steps, in this stage
    and in all stages before it. The time of a training is proportional to its number of steps. Trainings with less than a tenth of
    the steps count only if there are no others: their time is mostly that of the start and the validations.

    Args:
        step: a step that has no artifact.
        earlier: artifacts of this stage that were made on this machine.
        described: specifications and parents of all artifacts, by key.

    """
    wanted = _settings((step.specification, step.parents), described)
    scaled: list[tuple[float, float]] = []  # steps as a multiple of the earlier artifact's, seconds
    for each in earlier:
        if _settings((each.specification, each.parents), described) == wanted:
            scale = _scale(step, each)
            if scale is not None:
                scaled.append((scale, scale * each.seconds))
    close = [seconds for scale, seconds in scaled if scale <= MOST_SCALE]
    basis = close or [seconds for _, seconds in scaled]
    return Estimate(statistics.median(basis), len(basis), not close) if basis else None


def _scale(step: Step, earlier: Earlier) -> float | None:
    """Return the steps of a planned training as a multiple of an earlier one's, 1 without training, or None if they are unknown."""
    if not is_training_stage(step.stage):
        return 1.0
    if earlier.training is None:
        return None
    optimization = step.specification[kind_of_stage(step.stage)]["optimization"]
    steps = optimization["max_steps"]
    if steps is None:
        steps = default_steps(earlier.training.examples, optimization["batch_size"])
    return float(steps / earlier.training.steps)


def _settings(described: Described, others: Mapping[str, Described]) -> dict[str, object]:
    """Return the settings of an artifact and of those that it was made from, without the seed and the numbers of steps."""
    specification, parents = described
    settings = {path: value for path, value in flatten(specification).items() if path not in UNCOMPARED}
    for stage, key in parents.items():
        settings[stage] = _settings(others[key], others) if key in others else key
    return settings


def _machine(environment: Mapping[str, str]) -> tuple[str, str, str]:
    """Return what the speed depends on: processor, threads and GPU."""
    return environment["processor"], environment["threads"], environment["gpu"]


def _artifacts() -> list[Earlier]:
    """Return the readable artifacts of all stages."""
    found = []
    for path in sorted(store().root.glob("*/[!.]*/manifest.json")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            complete = isinstance(manifest["specification"], dict) and isinstance(manifest["parents"], dict)
            if complete and manifest["seconds"] > 0:
                described = manifest["specification"], manifest["parents"]
                where, training = _machine(manifest["environment"]), _training(path.parent)
                found.append(Earlier(path.parents[1].name, path.parent.name, *described, manifest["seconds"], where, training))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged: `Store.get` reports it when it is used
    return found


def _training(folder: Path) -> Trained | None:
    """Return the steps that a training has taken, fewer than planned if it stopped early. None if the artifact is no training."""
    if not (folder / "recipe.json").is_file():
        return None
    examples = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["examples"]
    return Trained(int(pd.read_parquet(folder / "curves.parquet", columns=["step"])["step"].max()), examples)
