"""The parts that a report is made of: stored rows, sections, charts, and numbers that are short in JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from genrec.evaluation.compare import Comparison
from genrec.kept_rows import Rows
from genrec.workspace import store

Record = dict[str, Any]  # a row of the data of a chart
SIGNIFICANT_DIGITS = 6  # of the numbers in charts; the tables have those of `genrec compare`


class StoredRow(NamedTuple):
    """A row of the comparison with the keys of its artifacts."""

    name: str
    artifacts: dict[int, dict[str, str]]  # seed -> stage -> key, for the seeds that are compared, ascending

    @property
    def first(self) -> dict[str, str]:
        """The artifacts of the first seed: stage -> key."""
        return next(iter(self.artifacts.values()))


class Chart(NamedTuple):
    """A chart of a section."""

    title: str
    about: str  # how to read it, for the caption and for screen readers
    spec: Record  # Vega-Lite


class Section(NamedTuple):
    """A part of the report. Without charts its notes say why."""

    anchor: str
    title: str
    lead: str
    charts: Sequence[Chart]
    notes: Sequence[str] = ()
    legend: bool = True  # False if the charts name their rows


def stored_rows(comparison: Comparison, rows: Rows) -> list[StoredRow]:
    """Return the rows of a comparison, in its order, with the artifacts of the compared seeds."""
    found = []
    for row in comparison.rows:
        seeds = rows.read(row.name)["seeds"]
        found.append(StoredRow(row.name, {seed: seeds[str(seed)]["artifacts"] for seed in row.seeds}))
    return found


def is_stored(stage: str, keys: Iterable[dict[str, str]]) -> bool:
    """Return whether all these seeds have a finished artifact of a stage that is still in the store."""
    return all(stage in each and store().has(stage, each[stage]) for each in keys)


def short(value: float | None) -> float | None:
    """Return a number with six significant digits; None if it is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{SIGNIFICANT_DIGITS}g}")
