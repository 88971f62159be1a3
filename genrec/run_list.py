"""`genrec list`: the rows of the data folder with their results, how many rows were tried, and what failed."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from genrec import failed_runs, live_runs, run_files, studies, tuning_record
from genrec.errors import ArtifactError, counted
from genrec.failed_runs import Failure
from genrec.storage_errors import check_folder
from genrec.workspace import runs_folder, studies_folder

COLUMNS = ("row", "last run", "seeds", "R@10", "N@10", "stages", "data")
METRICS = ("recall@10", "ndcg@10")
_RIGHT = ("R@10", "N@10")  # columns of numbers
_LEFT_OUT = ("stages", "last run")  # in this order, where the table is too wide for the terminal
MIN_DATA_WIDTH = 16  # characters of the last column, below which columns are left out


def lines(data: str | None = None) -> list[str]:
    """Return a table of all rows, or of those with this text in the name of their data set, the last run first; then the
    studies with the number of rows that were tried, how many runs go on, and what failed.

    Tables and texts fit into the terminal, or have any width in a pipe; commands are in one line.
    """
    rows, damaged, width = [], run_files.odd_files(), shutil.get_terminal_size((0, 0)).columns
    for name in run_files.names_of_rows():
        try:
            content = run_files.read(name)
        except (ArtifactError, OSError) as error:
            damaged.append(str(error))
            continue
        if _is_of(data, str(content["protocol"].get("data", ""))):
            rows.append((_last_run(content), name, content))
    failures, damaged_records = failed_runs.read_all()
    in_work = live_runs.in_work(live_runs.read_all()[0])
    rows.sort(key=lambda row: row[0], reverse=True)
    result = _table([COLUMNS, *(_cells(name, content) for _, name, content in rows)], width) if rows else []
    tried, damaged_studies = _studies(None if data is None else {name for _, name, _ in rows})
    result += ["", *tried] if tried else []
    if in_work:
        result += ["", f"{counted(len(in_work), 'run')} in progress or waiting; 'genrec status' shows them"]
    for failure in failed_runs.not_resumed(failures, in_work):
        if _is_of(data, failure.data):
            result += ["", *failure_lines(failure, width)]
    result += [line for message in (*damaged, *damaged_studies, *damaged_records) for line in ("", f"unreadable: {message}")]
    if not rows:
        where = f"{runs_folder()} has no rows" + (f" on data with {data!r} in the name" if data is not None else "")
        result.insert(0, f"{where}; 'genrec run FILE.py:FUNCTION' adds some")
    return result


def _studies(names: set[str] | None) -> tuple[list[str], list[str]]:
    """Return a line for each study and each tuning, and the messages of those that can't be read.

    A study is what a FILE.py:FUNCTION has run; a row counts again with other settings or another protocol, and also if it failed,
    perhaps before its training. Baselines do not count. With `names` only the studies that have one of these rows are listed, and no
    tunings.
    """
    lines, damaged = [], []
    check_folder(studies_folder())
    for path in sorted(studies_folder().glob("[!.]*.json")):
        try:
            if path.name.endswith(studies.TUNING):
                record = tuning_record.read(path)
                if names is None:
                    lines.append(f"tuning {record.name}: {counted(len(record.trials), 'trial')} on validation")
                continue
            content = studies.read(path)
        except (ArtifactError, OSError) as error:
            damaged.append(str(error))
            continue
        tried = {row["name"] for row in content["rows"]}  # baselines are not tried: nothing of them is chosen
        if tried and (names is None or names & tried):
            lines.append(f"study {content['name']}: {counted(len(content['rows']), 'row')} tried")
    return lines, damaged


def _is_of(wanted: str | None, data: str) -> bool:
    """Return whether the name of a data set contains the wanted text, in any case of letters."""
    return wanted is None or wanted.lower() in data.lower()


def _last_run(content: dict[str, Any]) -> str:
    """Return the time of the row's last run, UTC, ISO 8601."""
    return max(str(entry["recorded"]) for entry in content["seeds"].values())


def _cells(name: str, content: dict[str, Any]) -> tuple[str, ...]:
    seeds = sorted(content["seeds"], key=int)
    entries = [content["seeds"][seed] for seed in seeds]
    figures = []
    for metric in METRICS:
        found = [entry["metrics"][metric] for entry in entries if metric in entry["metrics"]]
        figures.append(f"{sum(found) / len(found):.4f}" if len(found) == len(entries) else "-")
    data = str(content["protocol"].get("data", "-"))
    return (name, local_time(_last_run(content)), ", ".join(seeds), *figures, " ".join(entries[-1]["artifacts"]), data)


def _table(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return rows of text in columns as wide as their widest cell. `width` is that of the terminal, or 0 for any.

    Where the table is too wide, columns are left out, and the last one is cut.
    """
    places = list(range(len(COLUMNS)))
    widths = [max(len(row[place]) for row in rows) for place in places]
    for title in _LEFT_OUT:
        if width and _room(places, widths, width) < min(widths[-1], MIN_DATA_WIDTH):
            places.remove(COLUMNS.index(title))
    room = max(_room(places, widths, width), len(COLUMNS[-1])) if width else widths[-1]
    result = []
    for row in rows:
        cells = [f"{row[place]:{'>' if COLUMNS[place] in _RIGHT else '<'}{widths[place]}}" for place in places[:-1]]
        data = row[-1] if len(row[-1]) <= room else f"{row[-1][: room - 3]}..."
        result.append("  ".join([*cells, data]).rstrip())
    return result


def _room(places: Sequence[int], widths: Sequence[int], width: int) -> int:
    """Return the characters that are left for the last column."""
    return width - sum(widths[place] + 2 for place in places[:-1])


def failure_lines(failure: Failure, width: int) -> list[str]:
    """Return what happened, in lines that fit into the terminal, and the command that goes on, in one line."""
    state = "stopped" if failure.stopped else "failed"
    where = f" in {failure.stage}" if failure.stage else " after the last stage"
    message = _in_one_line(failure.message)
    reason = message if failure.stopped else f"{failure.error}: {message}"
    text = f"{failure.name} (seed {failure.seed}) {state}{where}, {local_time(failure.time)}: {reason}"
    wrapped = textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) if width else [text]
    return [*wrapped, f"  {'resume' if failure.stopped else 'run again'}: {failure.command or 'run the experiment again'}"]


def _in_one_line(message: str) -> str:
    """Return the first line of a message; if it announces a traceback, with the exception at the end of it."""
    first, *more = message.strip().splitlines() or [""]
    if not first.endswith("error:") or not more:
        return first
    before, _, _ = first.rpartition("; ")
    error = more[-1].strip()
    return before if error.partition(": ")[2] in before else f"{before}: {error}"


def local_time(text: str) -> str:
    """Return a recorded UTC time in the local time zone, to the minute; as it is, if it is no time."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return text
