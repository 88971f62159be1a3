"""The training curves of a report: the panels of `genrec curves`, a chart for each axis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from pandas import DataFrame

from genrec.evaluation.statistics.paired_tests import enumerated
from genrec.reports import report_charts
from genrec.reports.report_charts import RowScale
from genrec.reports.report_parts import Chart, Record, Section, StoredRow, is_stored, short
from genrec.stage_names import is_training_stage
from genrec.training.curve_panels import RANKING, Axis, label, panels
from genrec.workspace import store

LEVELS = "Dotted lines are baselines on the same validation users."
SINGLE = "A single mark is a curve with one step."
MAX_POINTS = 120  # of a curve; more are thinned out evenly
Tables = Mapping[str, Sequence[DataFrame]]  # row -> the curves of its seeds


def curve_sections(rows: Sequence[StoredRow], scale: RowScale) -> list[Section]:
    """Return the sections of the trainings: SFT, then each alignment. Rows that share their trainings have one curve."""
    stages = {stage for row in rows for stage in row.first if is_training_stage(stage)}
    if not stages:
        return [Section("curves", "Training curves", "", [], ["No row is trained, so there are no training curves."])]
    return [_section(stage, rows, scale) for stage in sorted(stages, key=lambda name: (name != "sft", name))]


def curve_values(tables: Tables, columns: Sequence[str]) -> list[Record]:
    """Return the mean, the lowest and the highest value over the seeds of a row at each step, for each of its columns."""
    found: list[Record] = []
    for row, seeds in tables.items():
        for column in columns:
            having = [table.set_index("step")[column].dropna() for table in seeds if column in table]
            if not having:
                continue
            together = pd.concat(having, axis=1).sort_index()
            places = np.unique(np.linspace(0, len(together) - 1, min(len(together), MAX_POINTS)).round().astype(int))
            for step, values in together.iloc[places].iterrows():
                figures = {"value": values.mean(), "low": values.min(), "high": values.max()}
                numbers = {name: short(float(value)) for name, value in figures.items()}
                found.append({"row": row, "column": label(column), "step": int(str(step)), **numbers})
    return found


def _section(stage: str, rows: Sequence[StoredRow], scale: RowScale) -> Section:
    title = "Training curves of SFT" if stage == "sft" else f"Margins, log-probabilities and curves of alignment ({stage})"
    meaning = "The margin is the change of the log-probability of the user's item since the reference, minus that of the negatives."
    lead = "Lines are means over the seeds of a row; bands reach from the lowest to the highest seed."
    having = [row for row in rows if is_stored(stage, row.artifacts.values())]
    notes = _missing(stage, rows, having)
    shared: dict[tuple[str, ...], list[str]] = {}
    for row in having:
        shared.setdefault(tuple(keys[stage] for keys in row.artifacts.values()), []).append(row.name)
    notes += [f"{enumerated(names)} share one training, drawn as {names[0]}." for names in shared.values() if len(names) > 1]
    folders = {names[0]: [store().folder(stage, key) for key in keys] for keys, names in shared.items()}
    tables = {name: [pd.read_parquet(each / "curves.parquet") for each in paths] for name, paths in folders.items()}
    files = [path / "baselines.json" for paths in folders.values() for path in paths]
    baselines = [json.loads(path.read_text(encoding="utf-8")) for path in files if path.is_file()]
    lines = baselines[0] if baselines and all(each == baselines[0] for each in baselines) else {}
    if baselines and not lines:
        notes.append("The trainings have different baselines on validation, so their lines are left out.")
    charts = list(_charts(stage, tables, lines, scale))
    return Section(f"curves-{stage}", title, lead if stage == "sft" else f"{lead} {meaning}", charts, notes)


def _missing(stage: str, rows: Sequence[StoredRow], having: Sequence[StoredRow]) -> list[str]:
    """Return which rows have no curves of a stage, and why."""
    untrained = [row.name for row in rows if stage not in row.first]
    removed = [row.name for row in rows if stage in row.first and row not in having]
    several = len(untrained) > 1
    words = f"{'have' if several else 'has'} no stage {stage}, so {'they are' if several else 'it is'} not drawn."
    notes = [f"{enumerated(untrained)} {words}"] if untrained else []
    return notes + (
        [f"The trainings of {enumerated(removed)} are not in the data folder, so their curves are left out."] if removed else []
    )


def _charts(stage: str, tables: Tables, lines: Mapping[str, float], scale: RowScale) -> Iterator[Chart]:
    """Iterate over the charts of the panels of a stage: one for each y axis."""
    columns = list(dict.fromkeys(name for seeds in tables.values() for table in seeds for name in table.columns))
    for shown in panels(columns, stage.partition("-")[0]) if columns else ():
        for axis, names in ((shown.panel.left, shown.left), (shown.panel.right, shown.right)):
            values = curve_values(tables, names) if axis is not None else []
            if axis is None or not values:
                continue
            levels = {name: value for name, value in lines.items() if short(value) is not None} if shown.panel == RANKING else {}
            spec = report_charts.curves(scale, values, levels, axis.label, _domain(axis, values, levels))
            single = any(each["single"] for each in spec["data"]["values"])
            both = shown.left and shown.right  # two charts, each with the name of its axis
            title = axis.label[0].upper() + axis.label[1:] if both else shown.panel.title
            about = [shown.panel.title + ("" if shown.panel.title.endswith("?") else ".")] if both else []
            yield Chart(title, " ".join([*about, *([LEVELS] if levels else []), *([SINGLE] if single else [])]), spec)


def _domain(axis: Axis, values: Sequence[Record], lines: Mapping[str, float]) -> tuple[float, float] | None:
    """Return the range of an axis: that of the values, at least its `span` high, and with its `range`.

    The room that `span` adds does not cross 0, so that a figure that cannot be negative has no axis below 0.
    """
    numbers = [each[name] for each in values for name in ("low", "high") if each[name] is not None] + list(lines.values())
    if not numbers:
        return None
    low, high = min(numbers), max(numbers)
    missing = max(0.0, axis.span - (high - low)) / 2
    if low >= 0:
        low, high = max(0.0, low - missing), max(high + missing, axis.span)
    else:
        low, high = low - missing, high + missing
    if axis.range is not None:
        low, high = min(low, axis.range[0]), max(high, axis.range[1])
    return (low, high) if high > low else None
