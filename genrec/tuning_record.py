"""The record of a tuning: `data/studies/NAME.tuning.json` holds every trial, also those that failed, were pruned or were replaced.

It is the journal from which an interrupted tuning goes on, so it is written before a trial starts and after each validation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genrec import hashed_json, pipeline, studies
from genrec.errors import UsageError, counted
from genrec.hashed_json import KEY, Each, Listed, Matching, Optional, Shape
from genrec.row_settings import training_hash
from genrec.storage_errors import check_folder
from genrec.store import hash_of, locked_file, write_json
from genrec.tuning import Tuning
from genrec.workspace import studies_folder

FORMAT = 1
ADVICE = "move the file away and run the tuning again (the artifacts of its trials are kept)"
State = Literal["running", "finished", "pruned", "failed", "refused"]
_TRIAL: dict[str, Shape] = {
    "number": int,  # 0 is the experiment as it is
    "values": dict,  # key path of the space -> value, as on the command line
    "state": Matching("running|finished|pruned|failed|refused"),
    "curve": Listed(Listed(float, 2)),  # step and score of each validation
    "score": Optional(float),  # of a finished trial
    "seconds": float,  # processor time of all threads, over all sessions
    "message": str,  # why it failed or was refused
    "settings": Optional(Matching(KEY)),  # `row_settings.training_hash`; a trial has that of the row that it may become
    "known": Optional(int),  # number of trials whose results it follows, if they are not all that come before it
}
SHAPE: dict[str, Shape] = {
    "format": int,
    "name": str,  # `studies.study_name`
    "settings": Matching(KEY),  # `settings_of`
    "objective": str,  # stage and metric
    "seed": int,
    "space": Each(dict),
    "trials": Listed(_TRIAL),
    "replaced": Listed(_TRIAL),  # trials of other settings
}


@dataclass
class Trial:
    """One trial; see `_TRIAL`."""

    number: int
    values: dict[str, Any]
    state: State = "running"
    curve: dict[int, float] = field(default_factory=dict)  # step -> score on validation, ascending
    score: float | None = None
    seconds: float = 0.0
    message: str = ""
    settings: str | None = None
    known: int | None = None

    @property
    def num_known(self) -> int:
        """The number of trials, from the first one on, whose results this one follows: those before its round."""
        return self.number if self.known is None else self.known


@dataclass
class Record:
    """All trials of a tuning, in the order of their numbers."""

    path: Path
    name: str
    settings: str
    objective: str
    seed: int
    space: Mapping[str, Any]
    trials: list[Trial] = field(default_factory=list)
    replaced: list[Trial] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Processor seconds of all trials."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        """The finished trial with the best score, the first of equal ones; None if there is none."""
        finished = [trial for trial in self.trials if trial.score is not None]
        return max(finished, key=lambda trial: trial.score or 0.0, default=None)

    def save(self) -> None:
        """Write the record."""
        content = {name: getattr(self, name) for name in ("name", "settings", "objective", "seed", "space")}
        content |= {name: [_written(trial) for trial in getattr(self, name)] for name in ("trials", "replaced")}
        write_json(self.path, hashed_json.add_hash({"format": FORMAT, **content}))


def setting_of(values: Mapping[str, Any]) -> frozenset[tuple[str, tuple[bool, Any]]]:
    """Return the values of a trial as a set, which equals that of another trial if the settings are equal."""
    return frozenset((key, comparable(value)) for key, value in values.items())


def comparable(value: Any) -> tuple[bool, Any]:
    """Return a value as a pair that equals another one if the values are the same setting: 1 is 1.0, but not True."""
    return isinstance(value, bool), value


def counted_trials(record: Record) -> str:
    """Return the number of trials in words, with that of different settings if some were tried twice."""
    count, different = len(record.trials), len({setting_of(trial.values) for trial in record.trials})
    return counted(count, "trial") + (f", {counted(different, 'different setting')}," if different < count else "")


def tuned_stage(tuning: Tuning) -> str:
    """Return the last stage before evaluation: align, sft, or data for a baseline. No trial goes beyond it."""
    return tuning.experiment.stages[-2]


def objective_of(tuning: Tuning) -> str:
    """Return what is maximized, in words."""
    return f"{tuned_stage(tuning)}: {tuning.experiment.selection.protocol}"


def settings_of(tuning: Tuning) -> str:
    """Return a hash of what the trials depend on. The number of trials and the hours may change while a tuning goes on."""
    steps = pipeline.plan(dataclasses.replace(tuning.experiment, seed=tuning.seed))
    keys = [step.key for step in steps if step.stage != "evaluate" or tuned_stage(tuning) == "data"]  # a baseline is in evaluate
    return hash_of({"keys": keys, "space": _described(tuning), "seed": tuning.seed, "prune": tuning.prune})


def origins(configuration: dict[str, Any]) -> list[str]:
    """Return the tunings of which a row's settings are a trial, in words; for notes below a table. Seeds are left out.

    `chosen among 12 trials on validation (experiments/tuning.py:sasrec_100k, seed 1000)`, or which trial it is if not the best.
    """
    wanted, found = training_hash(configuration), []
    for record in read_all():
        numbers = [trial.number + 1 for trial in record.trials if trial.settings == wanted]
        if _selected(record, wanted):
            found.append(f"chosen among {_source(record)}")
        elif numbers:
            found.append(f"trial {numbers[0]} of {_source(record)}, not the best one")
    return found


def selections(records: Iterable[Record], configuration: dict[str, Any]) -> tuple[str, ...]:
    """Return the tunings whose best trial has a row's settings: `among 12 trials on validation (..., seed 1000)`."""
    wanted = training_hash(configuration)
    return tuple(f"among {_source(record)}" for record in records if _selected(record, wanted))


def _selected(record: Record, settings: str) -> bool:
    return record.best is not None and record.best.settings == settings


def _source(record: Record) -> str:
    return f"{counted_trials(record)} on validation ({record.name}, seed {record.seed})"


def _described(tuning: Tuning) -> dict[str, Any]:
    return {key: {"class": type(values).__name__, **dataclasses.asdict(values)} for key, values in tuning.space.items()}


@contextmanager
def opened(name: str, tuning: Tuning, replace: bool = False) -> Iterator[Record]:
    """Hold the lock of a tuning and yield its record. Another process that runs the same tuning waits.

    Raises UsageError if the record has the trials of other settings, unless `replace` moves them to the replaced ones.
    """
    path = studies.file_of(name, studies.TUNING)
    check_folder(path.parent)
    with locked_file(path):
        record = Record(path, name, settings_of(tuning), objective_of(tuning), tuning.seed, _described(tuning))
        if path.is_file():
            old = read(path)
            if old.settings == record.settings:
                record.trials, record.replaced = old.trials, old.replaced
            elif replace:
                record.replaced = old.replaced + old.trials
            else:
                raise UsageError(
                    f"{path} has {len(old.trials)} trials of other settings: the experiment, its data, the space or the seed has "
                    "changed; write the tuning as another function, or start it again with --replace (the earlier trials stay in the "
                    "record)"
                )
        yield record


def read_all(folder: Path | None = None, advice: str = ADVICE) -> list[Record]:
    """Return the records of all tunings, by the name of the file. Raises ArtifactError if one is damaged.

    `folder` is by default that of the data folder.
    """
    folder = studies_folder() if folder is None else folder
    check_folder(folder)
    return [read(path, advice) for path in sorted(folder.glob(f"[!.]*{studies.TUNING}"))]


def read(path: Path, advice: str = ADVICE) -> Record:
    """Return a record. Raises ArtifactError if it is damaged, or of a newer version."""
    content = hashed_json.read_object(path, advice)
    hashed_json.check_format(path, content, FORMAT, advice)
    hashed_json.check_object(path, content, SHAPE, advice)
    kept = {name: content[name] for name in ("name", "settings", "objective", "seed", "space")}
    return Record(path, **kept, trials=[*map(_trial, content["trials"])], replaced=[*map(_trial, content["replaced"])])


def _written(trial: Trial) -> dict[str, Any]:
    entry = dataclasses.asdict(trial) | {"curve": [[step, score] for step, score in sorted(trial.curve.items())]}
    return {name: value for name, value in entry.items() if value is not None}


def _trial(entry: dict[str, Any]) -> Trial:
    return Trial(**entry | {"curve": {int(step): score for step, score in entry["curve"]}})
