"""The content of a report as plain JSON: tables, charts and a sample of users, gathered from a comparison and the stored rows.

Nothing here draws. A part that the rows lack is left out, and a sentence says why.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from genrec.data.corpus import Corpus
from genrec.evaluation.compare import Comparison, Row, Run
from genrec.evaluation.comparison.comparison_protocol import protocol_lines
from genrec.evaluation.comparison.comparison_summary import LEVEL, summary
from genrec.evaluation.comparison.comparison_tables import tables
from genrec.evaluation.comparison.table_cells import (
    difference_cell,
    interval_cell,
    metric_cell,
    metric_name,
    p_cell,
    title,
)
from genrec.evaluation.statistics.paired_tests import enumerated
from genrec.reports import report_charts, report_curves, report_items, report_users
from genrec.reports.report_charts import RowScale
from genrec.reports.report_parts import Chart, Record, Section, StoredRow, short, stored_rows
from genrec.workspace import store

NUM_HIGHLIGHTED = 8  # rows with a color of their own at first
DIFFERENCES = "Configuration differences"  # title of the table of `comparison_tables`


class ReportOptions(NamedTuple):
    """What the user of a report chooses."""

    users: int = 30  # test users in the browser
    seed: int = 0  # of the sample of users
    command: str = ""  # that makes this report


def content(comparison: Comparison, runs: Sequence[Run], options: ReportOptions) -> dict[str, Any]:
    """Return all that the page of a report shows. `runs` are those of the comparison."""
    scale, rows = RowScale([row.name for row in comparison.rows]), stored_rows(comparison)
    ranks = next(run.ranks for run in runs if run.name == comparison.reference)
    corpus, missing = _corpus(comparison, rows)
    of_items = [report_items.popularity_section(rows, corpus, ranks, scale)] if corpus is not None else [missing]
    sections = [
        differences_section(comparison, scale),
        ranking_section(comparison, scale),
        trade_off_section(comparison, runs, scale),
        *report_curves.curve_sections(rows, scale),
        report_items.codes_section(rows, scale),
        *of_items,
        report_items.group_section(comparison, scale),
    ]
    found = tables(comparison)
    configuration = [_table(each) for each in found if each.title == DIFFERENCES]
    return {
        "title": f"{title(comparison.metric)} of {enumerated(scale.names) if len(scale.names) < 4 else f'{len(scale.names)} rows'}",
        "data": str(comparison.protocol.get("data", "")),
        "reading": summary(comparison).reading,
        "rows": [{"name": row.name, "reference": row.name == comparison.reference, "trained": row.trained} for row in comparison.rows],
        "highlighted": highlighted(comparison),
        "headline": headline(comparison),
        "sections": [section._asdict() | {"charts": [each._asdict() for each in section.charts]} for section in sections],
        "users": None if corpus is None else report_users.browser(rows, corpus, ranks, options.users, options.seed),
        "without_users": "" if corpus is not None else missing.notes[0],
        "configuration": configuration,
        "tables": [_table(each) for each in found if each.title != DIFFERENCES],
        "protocol": [line._asdict() for line in protocol_lines(comparison)],
        "commands": commands(comparison, runs, options),
    }


def _corpus(comparison: Comparison, rows: Sequence[StoredRow]) -> tuple[Corpus | None, Section]:
    """Return the data set of the reference, or None with the section that says that it is missing."""
    keys = next(row.first for row in rows if row.name == comparison.reference)
    missing = Section("popularity", "Popularity of what is recommended", "", [], ["The data set is no longer stored, so it is left out."])
    return (Corpus.load(store().get("data", keys["data"]).folder) if store().has("data", keys["data"]) else None), missing


def highlighted(comparison: Comparison) -> list[int]:
    """Return the places of the rows that have a color at first: the reference and the rows with the highest metric."""
    places = range(len(comparison.rows))
    best = sorted(places, key=lambda at: (comparison.rows[at].name != comparison.reference, -_number(comparison.rows[at].value)))
    return sorted(best[:NUM_HIGHLIGHTED])


def _number(value: float) -> float:
    return value if value == value else float("-inf")


def headline(comparison: Comparison) -> dict[str, Any]:
    """Return the table of the first page. The difference and its p are bold if p (Holm) is below 0.05, and nothing else is."""
    metric = comparison.metric
    further = [key for key in _headline_metrics(comparison) if key != metric]
    columns = ["Row", "Seeds", title(metric), "95 % interval over users", "Difference", "95 % interval", "p (Holm)", "Result"]
    lines = []
    for row in comparison.rows:
        own = [row.name, str(len(row.seeds)), metric_cell(row, metric, metric), interval_cell(row.interval, ".4f")]
        cells = [*own, *_test_cells(row), *(metric_cell(row, key) for key in further)]
        lines.append({"cells": cells, "bold": [4, 6, 7] if is_significant(row) else [], "reference": row.name == comparison.reference})
    note = (
        f"Differences are row minus {comparison.reference}, ± their standard deviation over seeds. Bold: p (Holm) below {LEVEL}. "
        "No other figure was tested, so none is bold."
    )
    return {"columns": [*columns, *map(title, further)], "rows": lines, "note": note}


def _headline_metrics(comparison: Comparison) -> list[str]:
    """Return the recalls at the first cut-off, at 10 and at the last, NDCG@10 and coverage@10, as far as the rows have them."""
    known = {key for row in comparison.rows for key in row.metrics}
    ends = _ends(comparison)
    wanted = ["ndcg@10", *(f"recall@{n}" for n in dict.fromkeys([*ends[:1], 10, *ends[1:]])), "coverage@10"]
    return [key for key in wanted if key in known]


def is_significant(row: Row) -> bool:
    """Return whether a row differs from the reference after Holm's correction."""
    return row.test is not None and row.test.p_holm is not None and row.test.p_holm < LEVEL


def _test_cells(row: Row) -> list[str]:
    """Return difference, interval, corrected p and result of a row."""
    if row.test is None:
        return ["", "", "", "reference"]
    test = row.test
    if is_significant(row):
        result = "above" if test.difference is not None and test.difference > 0 else "below"
    else:
        result = "no test" if test.p_holm is None else "not distinguishable"
    return [difference_cell(test).replace("\n", " "), interval_cell(test.interval, "+.5f"), p_cell(test.p_holm), result]


def differences_section(comparison: Comparison, scale: RowScale) -> Section:
    """Return the differences from the reference with their intervals and the difference at each seed."""
    tests: list[Record] = []
    seeds: list[Record] = []
    notes = []
    for row in comparison.rows:
        if row.test is None:
            continue
        if row.test.difference is None:
            notes.append(f"{row.name} has no difference: {row.test.reason}")
            continue
        low, high = row.test.interval or (row.test.difference, row.test.difference)
        if row.test.interval is None:
            notes.append(f"{row.name} has no interval: {row.test.reason}")
        numbers = {"difference": row.test.difference, "low": low, "high": high, "p": row.test.p_holm}
        tests.append(
            {"row": row.name, **{name: short(value) for name, value in numbers.items()}, "significant": is_significant(row)}
        )
        by_seed = zip(row.test.seeds, row.test.by_seed, strict=False)
        seeds += [{"row": row.name, "seed": seed, "difference": short(value)} for seed, value in by_seed]
    if not tests:
        notes.append("There is no second row to compare with the reference.")
    metric, name = title(comparison.metric), "Differences from the reference"
    spec = report_charts.differences(scale, tests, seeds, metric)
    about = "Large marks are means, filled if significant after Holm's correction; lines are 95 % intervals; dots below are seeds."
    charts = [Chart(f"{metric}, row minus {comparison.reference}", about, spec)] if tests else []
    return Section("differences", name, "", charts, notes)


def _cutoffs(comparison: Comparison, stem: str) -> list[int]:
    """Return the cut-offs of a metric that some row has, ascending."""
    names = [metric_name(key) for row in comparison.rows for key in row.metrics]
    return sorted({name.cutoff for name in names if name.stem == stem and name.cutoff is not None and not name.group})


def _ends(comparison: Comparison) -> list[int]:
    """Return the first and the last cut-off of recall."""
    cutoffs = _cutoffs(comparison, "recall")
    return cutoffs if len(cutoffs) < 2 else [cutoffs[0], cutoffs[-1]]


def ranking_section(comparison: Comparison, scale: RowScale) -> Section:
    """Return Recall and NDCG against the length of the list."""
    charts = []
    for stem in ("recall", "ndcg"):
        cutoffs = _cutoffs(comparison, stem)
        values = [
            {"row": row.name, "n": n, "value": short(spread.mean), "deviation": short(spread.deviation)}
            for row in comparison.rows
            for n in cutoffs
            if (spread := row.metrics.get(f"{stem}@{n}")) is not None
        ]
        if len(cutoffs) > 1:
            charts.append(Chart(f"{title(stem)}@n", "", report_charts.by_cutoff(scale, values, cutoffs, f"{title(stem)}@n")))
    notes = [] if charts else ["The rows were evaluated at one cut-off, so there is no curve over n."]
    return Section("ranking", "Recall and NDCG by length of the list", "Means over users and seeds; n is on a log axis.", charts, notes)


def trade_off_section(comparison: Comparison, runs: Sequence[Run], scale: RowScale) -> Section:
    """Return recall at the first cut-off against recall at the last one: a policy may gain at the top and lose further down."""
    ends = _ends(comparison)
    name = "The top of the list against the rest of it"
    if len(ends) < 2:
        return Section("trade-off", name, "", [], ["The rows were evaluated at one cut-off, so there is nothing to set against it."])
    x, y = (f"recall@{n}" for n in ends)
    means = [
        {"row": row.name, "x": short(row.metrics[x].mean), "y": short(row.metrics[y].mean)}
        for row in comparison.rows
        if x in row.metrics and y in row.metrics
    ]
    seeds = [
        {"row": run.name, "seed": run.seed, "x": short(run.metrics[x]), "y": short(run.metrics[y])}
        for run in runs
        if x in run.metrics and y in run.metrics
    ]
    lead = "A row to the right and below another is better on the first place and worse further down. Small dots are seeds."
    return Section("trade-off", name, lead, [Chart(f"{title(x)} against {title(y)}", "", report_charts.against(scale, means, seeds, title(x), title(y)))])


def commands(comparison: Comparison, runs: Sequence[Run], options: ReportOptions) -> list[dict[str, str]]:
    """Return what to type to make the report and the rows again, each with a sentence."""
    functions: dict[str, list[str]] = {}
    for run in runs:
        for study in run.studies:
            if run.name in study.rows and run.name not in functions.setdefault(study.name, []):
                functions[study.name].append(run.name)
    found = [{"about": "This report:", "command": options.command}] if options.command else []
    found += [
        {"about": f"Rows {enumerated(names)}; overrides of the command line are in the settings:", "command": shlex.join(["genrec", "run", name])}
        for name, names in functions.items()
    ]
    known = {name for names in functions.values() for name in names}
    unknown = [row.name for row in comparison.rows if row.name not in known]
    if unknown:
        about = f"The function that {enumerated(unknown)} came from is not recorded; all settings of a row:"
        found.append({"about": about, "command": shlex.join(["genrec", "show", unknown[0]])})
    return found


def _table(table: Any) -> dict[str, Any]:
    """Return a table of `genrec compare` as JSON."""
    return {"title": table.title, "columns": table.columns, "rows": table.rows, "notes": table.notes}
