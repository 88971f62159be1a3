"""Records of failed and stopped runs: `data/runs/failed/NAME-seed-S.json`. A record is removed when the row and seed succeed."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from genrec import hashed_json
from genrec.command_lines import command_line, without_options
from genrec.environment import versions
from genrec.errors import ArtifactError, Stopped
from genrec.experiment import Experiment
from genrec.hashed_json import KEY, Each, Matching, Optional, Shape
from genrec.progress import say
from genrec.store import now, write_json
from genrec.workspace import failed_folder

SHAPE: dict[str, Shape] = {
    "name": str,  # of the row
    "seed": int,
    "stage": str,  # where it failed; empty if all stages are done
    "stopped": bool,  # by a signal, not by an error
    "error": str,  # class of the error
    "message": str,
    "time": str,  # UTC, ISO 8601
    "command": str,  # resumes the run; empty if it was not started on the command line
    "versions": Each(str),
    "data": Optional(str),  # the source in words, such as Frames(events.csv); records of earlier versions have none
    "artifacts": Optional(Each(Matching(KEY))),  # stage -> key of all stages, which `genrec clean` keeps; as for `data`
}


class Failure(NamedTuple):
    """A failed or stopped run; see `SHAPE`."""

    name: str
    seed: int
    stage: str
    stopped: bool
    error: str
    message: str
    time: str
    command: str
    versions: dict[str, str]
    data: str = ""
    artifacts: Mapping[str, str] = {}


def record(
    experiment: Experiment,
    done: Sequence[str],
    error: BaseException,
    keep_refresh: bool = False,
    artifacts: Mapping[str, str] | None = None,
) -> None:
    """Record why a run of one seed ended after the stages `done`. If the record can't be written, log this.

    `artifacts` holds the key of each stage of the row and seed; None if they could not be planned.
    `keep_refresh` keeps --refresh in the recorded command, for a stage whose earlier artifact is intact: without it nothing would run.
    """
    stage = next((stage for stage in experiment.stages if stage not in done), "")
    cause = error.__context__ if isinstance(error, SystemExit) else error  # Lightning turns Ctrl-C into an exit
    interrupted = isinstance(cause, KeyboardInterrupt)
    failure = Failure(
        experiment.name,
        experiment.seed,
        stage,
        interrupted or isinstance(error, Stopped),
        type(cause if interrupted else error).__name__,
        "interrupted" if interrupted else str(error),
        now(),
        resuming(sys.argv, keep_refresh),
        versions(),
        _source(experiment.source),
        dict(artifacts or {}),
    )
    path = _path(experiment.name, experiment.seed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, hashed_json.add_hash(failure._asdict()))
    except (OSError, ValueError) as problem:
        say(f"the failed run could not be recorded in {path} ({problem})")


def clear(experiment: Experiment) -> None:
    """Remove the record of this row and seed, if there is one."""
    _path(experiment.name, experiment.seed).unlink(missing_ok=True)


def remove(failure: Failure) -> None:
    """Remove a record."""
    _path(failure.name, failure.seed).unlink(missing_ok=True)


def read_all() -> tuple[list[Failure], list[str]]:
    """Return the recorded failures in the order of their time, and the messages for records that are damaged."""
    failures, damaged = [], []
    for path in sorted(failed_folder().glob("[!.]*.json")):
        if not path.is_file():
            damaged.append(f"{path} is not a file that can be read; move it away")
            continue
        try:
            content: dict[str, Any] = hashed_json.read_object(path, "remove it")
            hashed_json.check_object(path, content, SHAPE, "remove it")
            failures.append(Failure(**{name: content[name] for name in Failure._fields if name in content}))
        except (ArtifactError, OSError) as error:
            damaged.append(str(error))
    return sorted(failures, key=lambda failure: failure.time), damaged


def not_resumed(failures: Sequence[Failure], in_work: Collection[tuple[str, int]]) -> list[Failure]:
    """Return the failures of rows and seeds that are not in work again (`live_runs.in_work`)."""
    return [failure for failure in failures if (failure.name, failure.seed) not in in_work]


def resuming(arguments: Sequence[str], keep_refresh: bool = False) -> str:
    """Return the command line that resumes a run or a tuning. Empty if it is none of genrec's.

    It is without --refresh, which would begin again, unless `keep_refresh` is true. Seeds stay, and --replace, without which rows of
    other settings that were not reached would be refused.
    """
    program = Path(arguments[0]).name if arguments else ""
    if program == "__main__.py":
        program = "genrec"
    if program != "genrec" or arguments[1:2] not in (["run"], ["tune"]):
        return ""
    return command_line(*without_options(arguments[1:], () if keep_refresh else ("--refresh",)))


def _path(name: str, seed: int) -> Path:
    return failed_folder() / f"{name}-seed-{seed}.json"


def _source(source: Any) -> str:
    """Return a source in words, like `settings_in_words.label`; its data may not exist yet, so only its fields are read."""
    texts = []
    for field in fields(source) if is_dataclass(source) else ():
        value = getattr(source, field.name)
        if isinstance(value, Path):
            texts.append(value.name)
        elif isinstance(value, str | int | float):
            texts.append(f"{field.name}={value}")
    return f"{type(source).__name__}({', '.join(texts)})"
