"""`genrec run --dry-run`: the stages of experiments, which of them are done, and an estimate of the time of the others."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from genrec import pipeline, run_files
from genrec.environment import environment
from genrec.errors import NetworkError
from genrec.experiment import Experiment
from genrec.pipeline import Step
from genrec.workspace import check_writable, home, store


class Estimate(NamedTuple):
    """The expected duration of a stage."""

    seconds: float
    artifacts: int  # number of earlier artifacts that it is computed from
    similar: bool  # they have the same settings but for seed and number of steps; else the same classes of components


def lines(experiments: Sequence[Experiment], replace: bool = False) -> Iterator[str]:
    """Iterate over the lines of a dry run: each experiment's stages, totals, an estimate of the time, and the output folders.

    Nothing is written or downloaded: raises NetworkError if the data set's files are missing. Raises UsageError where the run would,
    at the start if the data folder or a run file can't be used, at the end for other reasons (`run_files.check_rows`).
    """
    check_writable(list(pipeline.VERSIONS), write=False)
    for name in dict.fromkeys(experiment.name for experiment in experiments):
        run_files.check_extendable(name, write=False)
    to_build: dict[str, Step] = {}  # by key; stages that experiments share are counted once
    done: set[str] = set()
    artifacts = store()
    for experiment in experiments:
        yield f"{experiment.name} (seed {experiment.seed})"
        with _offline():
            steps = pipeline.plan(experiment)
        for step in steps:
            if not artifacts.is_done(step.stage, step.key):
                artifacts.check_writable(step.stage, step.key)
            state = "done" if artifacts.is_done(step.stage, step.key) else "to run"
            if state == "done":
                done.add(step.key)
            elif step.key in to_build:
                state += ", shared"
            else:
                to_build[step.key] = step
            yield f"  {step.stage:9} {step.key}  {state}"
    yield f"total: {_count(len(experiments), 'experiment')}; {_count(len(to_build), 'artifact')} to build, {len(done)} done"
    if to_build:
        yield from _time_lines(list(to_build.values()))
    yield f"outputs: {home() / 'artifacts'}, the rows in {home() / 'runs'}, pictures in {home() / 'reports'}; nothing was written"
    with _offline():
        run_files.check_rows(experiments, replace)


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


def _time_lines(steps: Sequence[Step]) -> Iterator[str]:
    """Iterate over one line per stage with the number of artifacts to build and the estimated time, and the sum."""
    machine, known, unknown = _machine(environment()), 0.0, 0
    for stage in pipeline.VERSIONS:
        of_stage = [step for step in steps if step.stage == stage]
        if not of_stage:
            continue
        earlier = _manifests(stage, machine)
        found = [each for each in (estimate(step, earlier) for step in of_stage) if each is not None]
        missing = len(of_stage) - len(found)
        known, unknown = known + sum(each.seconds for each in found), unknown + missing
        parts = [f"about {duration(sum(each.seconds for each in found))}{_basis(found)}"] if found else []
        if missing:
            parts.append(
                f"{'unknown' if not found else f'unknown for {missing}'}: no earlier artifact of this stage with such settings"
            )
        yield f"  {stage:9} {len(of_stage)} to build, {'; '.join(parts)}"
    yield f"estimated time: {'unknown' if not known else f'about {duration(known)}'}" + (
        f", without {_count(unknown, 'artifact')} of unknown time" if known and unknown else ""
    )


def _basis(found: Sequence[Estimate]) -> str:
    """Return the basis of estimates, in parentheses."""
    artifacts = max(each.artifacts for each in found)
    settings = "" if all(each.similar for each in found) else ", of other settings"
    return f" (from {_count(artifacts, 'earlier artifact')} of this stage on this machine{settings})"


def estimate(step: Step, earlier: Sequence[dict[str, Any]]) -> Estimate | None:
    """Return the expected duration of a step, or None without a basis.

    The basis is the median over the earlier artifacts on the same data with the same settings but for the seed and the number of
    steps or, if there is none, with the same classes of components. Training times are proportional to the number of steps.

    Args:
        step: a step that has no artifact.
        earlier: manifests of this stage.

    """
    wanted = run_files.flatten(step.specification)
    steps = wanted.get(f"{step.stage}.optimization.max_steps")
    same: list[float] = []
    alike: list[float] = []
    for manifest in earlier:
        settings = run_files.flatten(manifest["specification"])
        if _data(step.stage, manifest["specification"], manifest["parents"]) != _data(step.stage, step.specification, step.parents):
            continue
        if _classes(settings) != _classes(wanted):
            continue
        before = settings.get(f"{step.stage}.optimization.max_steps")
        scale = steps / before if isinstance(steps, int) and isinstance(before, int) else 1.0
        alike.append(scale * manifest["seconds"])
        if _fixed(settings, step.stage) == _fixed(wanted, step.stage):
            same.append(alike[-1])
    basis = same or alike
    return Estimate(statistics.median(basis), len(basis), bool(same)) if basis else None


def _machine(environment: Mapping[str, str]) -> tuple[str, str, str]:
    """Return what the speed depends on: processor, threads and GPU."""
    return environment["processor"], environment["threads"], environment["gpu"]


def _manifests(stage: str, machine: tuple[str, str, str]) -> list[dict[str, Any]]:
    """Return the readable manifests of a stage's artifacts that were made on this machine."""
    found = []
    for path in sorted((store().root / stage).glob("[!.]*/manifest.json")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            complete = isinstance(manifest["specification"], dict) and isinstance(manifest["parents"], dict)
            if complete and manifest["seconds"] > 0 and _machine(manifest["environment"]) == machine:
                found.append(manifest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged: `Store.get` reports it when it is used
    return found


def _data(stage: str, specification: dict[str, Any], parents: dict[str, str]) -> object:
    """Return what two artifacts on the same data have in common."""
    return specification.get("source") if stage == "data" else parents.get("data")


def _classes(settings: dict[str, object]) -> dict[str, object]:
    return {path: value for path, value in settings.items() if path.endswith(".class")}


def _fixed(settings: dict[str, object], stage: str) -> dict[str, object]:
    """Return the settings without those that only scale the time."""
    return {path: value for path, value in settings.items() if path not in ("seed", f"{stage}.optimization.max_steps")}


def duration(seconds: float) -> str:
    """Return a duration in words: '45 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
