"""The record of what was tried: `data/studies/`, one file for each FILE.py:FUNCTION that `genrec run` has run.

A row that was picked from many and is reported alone was tested as often as there were rows. So each run records its trained rows
before anything is trained: the name, a hash of the settings without those of the evaluation (other settings under the same name are
another row), the protocol, and when each seed was run first. Failed and stopped runs count. Remove a file to forget its study.

`of_run` gives the comparison the studies in which a seed of a row was run, each with all rows that were ever run in it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genrec import hashed_json, pipeline
from genrec.endpoints import Endpoint
from genrec.errors import ArtifactError
from genrec.evaluation.compare import Study
from genrec.evaluation.statistics.families import REPLACED
from genrec.experiment import Experiment
from genrec.hashed_json import KEY, Each, Listed, Matching, Optional, Shape
from genrec.row_settings import before_alignment, planned_configuration, training_hash
from genrec.run_file_format import SEED_NUMBER
from genrec.storage_errors import check_folder
from genrec.store import hash_of, locked_file, now, write_json
from genrec.workspace import home, studies_folder

FORMAT = 2  # files of format 1 have hashes that depend on the settings of the evaluation
FROM_PYTHON = "Python"  # study of the runs that Python code started, without a FILE.py:FUNCTION
TUNING = ".tuning.json"  # ending of the record of a tuning, which is no study: its trials see no test data
ADVICE = "move the file away; the record of what was tried in this study is then lost"
_ROW: dict[str, Shape] = {
    "name": str,
    "settings": Matching(KEY),  # `row_settings.training_hash`
    "protocol": dict,  # `_protocol`
    "seeds": Each(str, lambda seed: re.fullmatch(SEED_NUMBER, seed) is not None, at_least=1),  # seed -> when it was run first, UTC
    "overridden": Optional(bool),  # whether its last run changed settings on the command line; earlier versions did not record it
}
_ENDPOINT: dict[str, Shape] = {"row": str, "reference": str, "metric": str, "seeds": int, "named": str}  # named: UTC, the first time
SHAPE: dict[str, Shape] = {
    "format": int,
    "name": str,
    "rows": Listed(_ROW),
    "endpoints": Optional(Listed(_ENDPOINT)),
    "baselines": Optional(Each(Listed(Matching(KEY)))),  # name -> hashes of its settings; they count in no family of tests
}


def study_name(where: str) -> str:
    """Return the name of the study of `FILE.py:FUNCTION` or `MODULE:FUNCTION`: the same for all ways to name one function.

    A file is named by its path from the folder that holds the data folder, or by its absolute path if it lies elsewhere, and a
    module of genrec by its dotted name.
    """
    file, _, function = where.rpartition(":")
    if not file.endswith(".py"):
        found = importlib.util.find_spec(file)
        if found is None or found.origin is None:
            return where
        file = found.origin
    path, package = Path(file).resolve(), Path(__file__).resolve().parent
    if path.is_relative_to(package):
        return f"{'.'.join(path.relative_to(package.parent).with_suffix('').parts)}:{function}"
    project = home().resolve().parent
    return f"{(path.relative_to(project) if path.is_relative_to(project) else path).as_posix()}:{function}"


def record(study: str, experiments: Sequence[Experiment], overridden: bool = False, endpoints: Sequence[Endpoint] = ()) -> None:
    """Add the trained rows of these experiments and their seeds, and the baselines, to a study. Call it before anything is trained.

    `overridden` says whether settings were changed on the command line. An endpoint keeps the time at which it was recorded first.
    Raises ArtifactError if the study's file is damaged or was written by a newer version.
    """
    if not experiments and not endpoints:
        return
    path = file_of(study)
    check_folder(path.parent)
    with locked_file(path):
        content: dict[str, Any] = read(path) if path.is_file() else {"format": FORMAT, "name": study, "rows": []}
        named = merged_endpoints(content, {"endpoints": [_entry(each, now()) for each in endpoints]})
        is_new = len(named) > len(content.get("endpoints", []))
        content |= {"endpoints": named} if is_new else {}
        if is_new + sum([_add(content, experiment, overridden) for experiment in experiments]):
            write_json(path, hashed_json.add_hash({name: value for name, value in content.items() if name != "sha256"}))


def merged_endpoints(*records: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the endpoints of several records of a study, as they are written. Of equal ones the first time counts."""
    found: dict[Endpoint, str] = {}
    for each, named in (entry for content in records for entry in _endpoints(content)):
        found[each] = min(named, found.get(each, named))
    return [_entry(each, named) for each, named in found.items()]


def _entry(endpoint: Endpoint, named: str) -> dict[str, Any]:
    """Return an endpoint that was recorded first at the time `named`, as it is written."""
    return {**asdict(endpoint), "named": named}


def _endpoints(content: Mapping[str, Any]) -> tuple[tuple[Endpoint, str], ...]:
    """Return the endpoints of a study, each with the time at which it was recorded first."""
    return tuple(
        (Endpoint(**{key: value for key, value in each.items() if key != "named"}), each["named"])
        for each in content.get("endpoints", ())
    )


def _add(content: dict[str, Any], experiment: Experiment, overridden: bool) -> bool:
    """Add an experiment to the rows or baselines of a study. Return whether this changed the study."""
    steps, rows = pipeline.plan(experiment), content["rows"]
    settings = training_hash(planned_configuration(steps))
    if "sft" not in experiment.stages:
        known = content.setdefault("baselines", {}).setdefault(experiment.name, [])
        is_new = settings not in known
        known += [settings] if is_new else []
        return is_new
    wanted = {"name": experiment.name, "settings": settings, "protocol": _protocol(experiment, pipeline.key_for_all_seeds(steps[0]))}
    row = next((row for row in rows if {name: row[name] for name in wanted} == wanted), None)
    if row is None:
        row = {**wanted, "seeds": {}}
        rows.append(row)
    if str(experiment.seed) in row["seeds"] and row.get("overridden") == overridden:
        return False
    row["overridden"] = overridden
    row["seeds"].setdefault(str(experiment.seed), now())
    return True


def _protocol(experiment: Experiment, data: str) -> dict[str, Any]:
    """Return what the test of rows depends on beside their settings. Rows with other values are no alternatives to each other.

    `data` is the key of the data, the same for all seeds.

    Cutoffs and further metrics are left out: a row is tried once, however it is looked at.
    """
    spec = experiment.evaluate
    return {
        "data key": data,
        "history_length": experiment.history_length,
        "filter_seen": spec.filter_seen,
        "max_users": spec.max_users,
    }


def read(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    """Return the checked content of a study's file (see `SHAPE`)."""
    content = hashed_json.read_object(path, advice)
    hashed_json.check_format(path, content, FORMAT, advice)
    if content["format"] < FORMAT:
        raise ArtifactError(f"{path} was written by an earlier version of genrec; {advice}, unless you run its rows again")
    hashed_json.check_object(path, content, SHAPE, advice)
    if file_of(content["name"]).name != path.name:
        raise ArtifactError(f"{path} holds the study {content['name']!r}: a file was copied or renamed; {advice}")
    return content


def read_all(folder: Path | None = None, advice: str = ADVICE) -> list[dict[str, Any]]:
    """Return the content of all studies, by the name of the file. `folder` is by default that of the data folder."""
    folder = studies_folder() if folder is None else folder
    check_folder(folder)
    return [read(path, advice) for path in sorted(folder.glob("[!.]*.json")) if not path.name.endswith(TUNING)]


def of_run(
    records: Iterable[dict[str, Any]],
    name: str,
    settings: str,
    seed: int,
    current: Callable[[str], str | None],
    compared: Mapping[str, str] | None = None,
) -> tuple[Study, ...]:
    """Return the studies in which a seed of a row was run, each with the names of its rows under the same protocol.

    A row is known by its settings, whatever its name was in the study. Rows with other settings than the present ones of their name
    appear as `NAME (replaced)`, `NAME (replaced 2)`, ...

    Args:
        records: the studies, from `read_all`.
        name: name of the row.
        settings: hash of the row's settings (`row_settings.training_hash`).
        seed: the seed.
        current: returns the hash of the settings that the run file of a name has, or None if there is none.
        compared: settings -> present name of all rows that are compared; by default this row alone.

    """
    records = list(records)
    found, names, others_of = [], {settings: name} | dict(compared or {}), _names(records, current)
    for content in records:
        rows = content["rows"]
        matching = [row for row in rows if row["settings"] == settings and str(seed) in row["seeds"]]
        matching = [row for row in matching if row["name"] == name] or matching  # under another name, the last protocol counts
        if matching:  # several if an upgrade of genrec has changed the data; the last ones are the present ones
            family = [row for row in rows if row["protocol"] == matching[-1]["protocol"]]
            others = list({row["settings"]: row for row in reversed(family) if row["settings"] not in names}.values())[::-1]
            same = {names[row["settings"]] for row in family if row["settings"] in names}
            rows_of = frozenset(same.union(others_of[row["name"], row["settings"]] for row in others))
            found.append(Study(content["name"], rows_of, _endpoints(content)))
    return tuple(found)


def first_run(records: Iterable[dict[str, Any]], settings: str, seed: int) -> str:
    """Return when a seed was run first with these settings, under any name, as `genrec.store.now` writes it; empty if never."""
    rows = [row for content in records for row in content["rows"] if row["settings"] == settings]
    return min((row["seeds"][str(seed)] for row in rows if str(seed) in row["seeds"]), default="")


def of_baseline(records: Iterable[dict[str, Any]], name: str, settings: str) -> list[str]:
    """Return the names of the studies in which a baseline was run; earlier versions did not record baselines."""
    return [content["name"] for content in records if settings in content.get("baselines", {}).get(name, ())]


def was_overridden(records: Iterable[dict[str, Any]], study: str, settings: str) -> bool | None:
    """Return whether the last run of a row in a study changed settings on the command line; None if this is not recorded.

    `settings` is the hash of the row's settings.
    """
    rows = [row for content in records if content["name"] == study for row in content["rows"] if row["settings"] == settings]
    return rows[-1].get("overridden") if rows else None


def starts_of(records: Iterable[dict[str, Any]], configuration: dict[str, Any]) -> frozenset[str]:
    """Return the names of the rows with the settings of SFT from which an aligned row continues; empty for a row without alignment."""
    if configuration.get("align", True) is None:
        return frozenset()
    start = training_hash(before_alignment(configuration))
    return frozenset(row["name"] for content in records for row in content["rows"] if row["settings"] == start)


def _names(records: Sequence[dict[str, Any]], current: Callable[[str], str | None]) -> dict[tuple[str, str], str]:
    """Return a distinct name for each name and settings in any study, so that no two of them count as one test.

    Without a run file, the settings that were recorded last are the present ones.
    """
    by_name: dict[str, list[str]] = {}
    for row in (row for content in records for row in content["rows"]):
        by_name.setdefault(row["name"], []).append(row["settings"])
    found = {}
    for name, settings in by_name.items():
        present = current(name) or settings[-1]
        found[name, present] = name
        others = [each for each in dict.fromkeys(settings) if each != present]
        found |= {(name, each): f"{name}{REPLACED}{f' {place}' if place > 1 else ''})" for place, each in enumerate(others, start=1)}
    return found


def file_of(study: str, ending: str = ".json", folder: Path | None = None) -> Path:
    """Return the file of a study: a readable form of its name and a hash. `folder` is by default that of the data folder."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", study).strip("-.")[-80:]
    return (studies_folder() if folder is None else folder) / f"{readable}-{hash_of(study)[:8]}{ending}"
