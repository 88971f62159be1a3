"""`genrec list`: the rows of the data folder with their results, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from genrec import failed_runs, run_files
from genrec.errors import ArtifactError
from genrec.failed_runs import Failure
from genrec.workspace import runs_folder

COLUMNS = ("row", "last run", "seeds", "R@10", "N@10", "stages", "data")
METRICS = ("recall@10", "ndcg@10")
_RIGHT = ("R@10", "N@10")  # columns of numbers


def lines(data: str | None = None) -> list[str]:
    """Return a table of all rows, or of those with this text in the name of their data set, the last run first; then what failed."""
    rows, damaged = [], run_files.odd_files()
    for name in run_files.names_of_rows():
        try:
            content = run_files.read(name)
        except (ArtifactError, OSError) as error:
            damaged.append(str(error))
            continue
        if data is None or data.lower() in str(content["protocol"].get("data", "")).lower():
            rows.append((_last_run(content), name, content))
    failures, damaged_records = failed_runs.read_all()
    rows.sort(key=lambda row: row[0], reverse=True)
    result = _table([COLUMNS, *(_cells(name, content) for _, name, content in rows)]) if rows else []
    for failure in failures:
        result += ["", *_failure_lines(failure)]
    result += [line for message in (*damaged, *damaged_records) for line in ("", f"unreadable: {message}")]
    if not rows:
        where = f"{runs_folder()} has no rows" + (f" on data with {data!r} in the name" if data is not None else "")
        result.insert(0, f"{where}; 'genrec run FILE.py:FUNCTION' adds some")
    return result


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


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of text in columns as wide as their widest cell; the last column has no width."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS) - 1)]
    result = []
    for row in rows:
        cells = [
            f"{cell:>{width}}" if title in _RIGHT else f"{cell:{width}}"
            for cell, width, title in zip(row, widths, COLUMNS, strict=False)
        ]
        result.append("  ".join([*cells, row[-1]]).rstrip())
    return result


def _failure_lines(failure: Failure) -> list[str]:
    """Return two lines: what happened, and how to go on."""
    state = "stopped" if failure.stopped else "failed"
    where = f" in {failure.stage}" if failure.stage else " after the last stage"
    message = (failure.message.splitlines() or [""])[0]
    reason = message if failure.stopped else f"{failure.error}: {message}"
    return [
        f"{failure.name} (seed {failure.seed}) {state}{where}, {local_time(failure.time)}: {reason}",
        f"  {'resume' if failure.stopped else 'run again'}: {failure.command or 'run the experiment again'}",
    ]


def local_time(text: str) -> str:
    """Return a recorded UTC time in the local time zone, to the minute; as it is, if it is no time."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return text
