"""The studies and tunings of kept rows, without the folders of the machine on which they were run.

The results of a kept row name the files of its studies and tunings and what they held when the row was kept (`named`), so that a file
that is missing, or that holds less, is noticed (`check`). Further rows, seeds and trials may be added.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from genrec import hashed_json, studies, tuning_record
from genrec.errors import ArtifactError, counted
from genrec.hashed_json import KEY, Each, Listed, Shape
from genrec.store import hash_of, write_json
from genrec.tuning_record import Trial

_ROW = ("name", "settings", "protocol")  # what tells the rows of a study apart
NAMED: dict[str, Shape] = {
    "studies": Each(Each(Listed(str), is_key=lambda key: re.fullmatch(KEY, key) is not None)),  # file -> hash of a row -> its seeds
    "tunings": Each(int),  # file -> number of trials, with those of other settings
}

AGAIN = "restore the file, or remove it and keep its rows again: genrec keep NAME ... --to FOLDER --replace"


def read_all(folder: Path) -> tuple[list[dict[str, Any]], list[tuning_record.Record]]:
    """Return the studies and the tunings of a folder of kept rows. Raises ArtifactError if a file is damaged."""
    place = folder / "studies"
    return studies.read_all(place, AGAIN), tuning_record.read_all(place, AGAIN)


def keep(settings: Collection[str], folder: Path) -> None:
    """Write the studies and tunings of rows into the folder `studies` of a folder of kept rows.

    `settings` holds the hashes of the rows' settings (`row_settings.training_hash`). A study that is kept already gets further rows
    and seeds, and loses none; likewise a tuning its trials, which are written without their messages, since those may name folders.
    """
    place = folder / "studies"
    for content in studies.read_all():
        if any(row["settings"] in settings for row in content["rows"]):
            _add(content, place)
    for record in tuning_record.read_all():
        if any(trial.settings in settings for trial in record.trials):
            name = portable_name(record.name)
            trials, replaced = _without_messages(record.trials), _without_messages(record.replaced)
            path = studies.file_of(name, studies.TUNING, place)
            kept = tuning_record.read(path, AGAIN) if path.is_file() else None
            known = {(trial.number, trial.settings) for trial in (*trials, *replaced)}
            earlier = [] if kept is None else (*kept.trials, *kept.replaced)
            replaced += [trial for trial in earlier if (trial.number, trial.settings) not in known]
            dataclasses.replace(record, path=path, name=name, trials=trials, replaced=replaced).save()


def named(settings: Collection[str], kept: Sequence[dict[str, Any]], tunings: Sequence[tuning_record.Record]) -> dict[str, Any]:
    """Return the kept studies and tunings of a row and what they hold, in the shape `NAMED`.

    `settings` are the hashes of its settings as in `keep`, `kept` and `tunings` what `read_all` returns.
    """
    of_row = [content for content in kept if any(row["settings"] in settings for row in content["rows"])]
    return {
        "studies": {studies.file_of(content["name"]).name: _seeds_by_row(content) for content in of_row},
        "tunings": {
            record.path.name: _num_trials(record) for record in tunings if any(trial.settings in settings for trial in record.trials)
        },
    }


def check(name: str, content: Mapping[str, Any], folder: Path, advice: str) -> None:
    """Raise ArtifactError with `advice` unless the kept studies and tunings hold what the results of a row name (`NAMED`).

    `name` is that of the row, `content` its results, `folder` that of the kept rows.
    """
    place = folder / "studies"
    for file in (*content["studies"], *content["tunings"]):
        if not (place / file).is_file():
            raise ArtifactError(
                f"{place / file} is missing, the record of what was tried beside {name}: without it p (Holm) would count too few "
                f"tests; restore the file, or {advice}"
            )
    for file, expected in content["studies"].items():
        rows = _seeds_by_row(studies.read(place / file, advice))
        lost = [row for row, seeds in expected.items() if not set(seeds) <= set(rows.get(row, []))]
        if lost:
            raise ArtifactError(
                f"{place / file} lacks {counted(len(lost), 'row')} with all seeds that it had when {name} was kept, so p (Holm) would "
                f"count too few tests; restore the file, or {advice}"
            )
    for file, trials in content["tunings"].items():
        found = _num_trials(tuning_record.read(place / file, advice))
        if found < trials:
            raise ArtifactError(
                f"{place / file} holds {counted(found, 'trial')}, and {trials} when {name} was kept; restore the file, or {advice}"
            )


def _seeds_by_row(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the seeds of each row of a study, ascending, by a hash of what tells the rows apart."""
    return {hash_of({key: row[key] for key in _ROW}): sorted(row["seeds"], key=int) for row in content["rows"]}


def _num_trials(record: tuning_record.Record) -> int:
    return len(record.trials) + len(record.replaced)


def _without_messages(trials: Sequence[Trial]) -> list[Trial]:
    return [dataclasses.replace(trial, message="") for trial in trials]


def portable_name(study: str) -> str:
    """Return the name of a study with the last folder of an absolute path alone: `experiments/shop.py:sft`."""
    file, _, function = study.rpartition(":")
    return f"{'/'.join(PurePath(file).parts[-2:])}:{function}" if PurePath(file).is_absolute() else study


def _add(content: dict[str, Any], folder: Path) -> None:
    """Add the rows of a study, their seeds and its endpoints to the file of the kept study."""
    name = portable_name(content["name"])
    path = studies.file_of(name, folder=folder)
    kept = studies.read(path, AGAIN) if path.is_file() else {}
    rows = kept.get("rows", [])
    for row in content["rows"]:
        known = next((other for other in rows if all(other[key] == row[key] for key in _ROW)), None)
        if known is None:
            rows.append(row)
        else:
            times = (row["seeds"], known["seeds"])
            known["seeds"] = {seed: min(each[seed] for each in times if seed in each) for seed in times[0] | times[1]}  # the first run
    named = studies.merged_endpoints(kept, content)
    written = {"format": studies.FORMAT, "name": name, "rows": rows, **({"endpoints": named} if named else {})}
    write_json(path, hashed_json.add_hash(written))
