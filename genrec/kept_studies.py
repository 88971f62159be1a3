"""The studies and tunings of kept rows, without the folders of the machine on which they were run."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath
from typing import Any

from genrec import hashed_json, studies, tuning_record
from genrec.store import write_json
from genrec.tuning_record import Trial

_ROW = ("name", "settings", "protocol")  # what tells the rows of a study apart


def keep(settings: Collection[str], folder: Path) -> None:
    """Write the studies and tunings of rows into the folder `studies` of a folder of kept rows.

    `settings` holds the hashes of the rows' settings (`row_settings.training_hash`). A study that is kept already gets further rows
    and seeds, and loses none. A tuning is written without the messages of its failed trials, which may name folders.
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
            dataclasses.replace(record, path=path, name=name, trials=trials, replaced=replaced).save()


def _without_messages(trials: Sequence[Trial]) -> list[Trial]:
    return [dataclasses.replace(trial, message="") for trial in trials]


def portable_name(study: str) -> str:
    """Return the name of a study with the last folder of an absolute path alone: `experiments/shop.py:sft`."""
    file, _, function = study.rpartition(":")
    return f"{'/'.join(PurePath(file).parts[-2:])}:{function}" if PurePath(file).is_absolute() else study


def _add(content: dict[str, Any], folder: Path) -> None:
    """Add the rows of a study and their seeds to the file of the kept study."""
    name = portable_name(content["name"])
    path = studies.file_of(name, folder=folder)
    rows = studies.read(path)["rows"] if path.is_file() else []
    for row in content["rows"]:
        known = next((other for other in rows if all(other[key] == row[key] for key in _ROW)), None)
        if known is None:
            rows.append(row)
        else:
            known["seeds"] = row["seeds"] | known["seeds"]
    write_json(path, hashed_json.add_hash({"format": studies.FORMAT, "name": name, "rows": rows}))
