"""The content of a report as plain JSON: tables, charts and a sample of users, gathered from a comparison and the stored rows.

Nothing here draws. A part that the rows lack is left out, and a sentence says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from genrec import studies
from genrec.command_lines import command_line
from genrec.data.corpus import Corpus
from genrec.evaluation.compare import Comparison, Row, Run
from genrec.evaluation.comparison.comparison_protocol import protocol_lines
from genrec.evaluation.comparison.comparison_summary import LEVEL, is_significant, summary
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
from genrec.kept_studies import portable_name
from genrec.reports import report_charts, report_curves, report_items, report_users
from genrec.reports.report_charts import RowScale
from genrec.reports.report_parts import Chart, Record, Section, StoredRow, short, stored_rows
from genrec.row_settings import training_hash
from genrec.workspace import store

READING = "Large marks are means, filled if significant after Holm's correction; lines are 95 % intervals; small dots are seeds."
NUM_HIGHLIGHTED = 8  # rows with a color of their own at first
BOLD = (3, 5, 6)  # columns of the headline that are bold if the difference is significant: difference, p (Holm), result
DIFFERENCES = "Configuration differences"  # title of the table of `comparison_tables`


class ReportOptions(NamedTuple):
    """What the user of a report chooses."""

    users: int = 30  # test users in the browser; 0 leaves it out
    seed: int = 0  # of the sample of users
    command: str = ""  # that makes this report
    left_out: tuple[str, ...] = ()  # sentences on rows that cannot be compared with the reference


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
    reading = [*summary(comparison).reading, *options.left_out]
    configuration = [_table(each) for each in found if each.title == DIFFERENCES]
    return {
        "title": f"{title(comparison.metric)} of {enumerated(scale.names) if len(scale.names) < 4 else f'{len(scale.names)} rows'}",
        "data": str(comparison.protocol.get("data", "")),
        "reading": reading,
        "warnings": [text for table in found for text in table.warnings if not any(text in paragraph for paragraph in reading)],
        "rows": [{"name": row.name, "reference": row.name == comparison.reference, "trained": row.trained} for row in comparison.rows],
        "highlighted": highlighted(comparison),
        "headline": headline(comparison),
        "sections": [section._asdict() | {"charts": [each._asdict() for each in section.charts]} for section in sections],
        "users": report_users.browser(rows, corpus, ranks, options.users, options.seed)
        if corpus is not None and options.users
        else None,
        "without_users": missing.notes[0] if corpus is None else "This report was made without users (--html-users 0).",
        "configuration": configuration,
        "tables": [_table(each) for each in found if each.title != DIFFERENCES],
        "protocol": [line._asdict() for line in protocol_lines(comparison)],
        "commands": commands(comparison, runs, options),
    }


def _corpus(comparison: Comparison, rows: Sequence[StoredRow]) -> tuple[Corpus | None, Section]:
    """Return the data set of the reference, or None with the section that says that it is missing."""
    keys = next(row.first for row in rows if row.name == comparison.reference)
    missing = Section(
        "popularity", "Popularity of what is recommended", "", [], ["The data set is no longer stored, so it is left out."]
    )
    return (Corpus.load(store().get("data", keys["data"]).folder) if store().has("data", keys["data"]) else None), missing


def highlighted(comparison: Comparison) -> list[int]:
    """Return the places of the rows that have a color at first: the reference, the best trained rows, then the best baselines."""
    rows = comparison.rows
    order = sorted(
        range(len(rows)), key=lambda at: (rows[at].name != comparison.reference, not rows[at].trained, -_number(rows[at].value))
    )
    return sorted(order[:NUM_HIGHLIGHTED])


def _number(value: float) -> float:
    return value if value == value else float("-inf")


def headline(comparison: Comparison) -> dict[str, Any]:
    """Return the table of the first page. The difference and its p are bold if p (Holm) is below 0.05, and nothing else is."""
    metric = comparison.metric
    further = [key for key in _headline_metrics(comparison) if key != metric]
    columns = ["Row", "Seeds", title(metric), "Difference", "95 % interval of the difference", "p (Holm)", "Result"]
    lines = []
    for row in comparison.rows:
        value = metric_cell(row, metric, metric) + (f"\n{interval_cell(row.interval, '.4f')}" if row.interval is not None else "")
        cells = [row.name, str(len(row.seeds)), value, *_test_cells(row), *(metric_cell(row, key) for key in further)]
        lines.append({"cells": cells, "bold": BOLD if is_significant(row) else [], "reference": row.name == comparison.reference})
    note = (
        f"In brackets below {title(metric)}: its 95 % interval over users. Differences are row minus {comparison.reference}, ± their "
        f"standard deviation over seeds. Bold: p (Holm) below {LEVEL}. The other metrics were not tested, so none is bold."
    )
    return {"columns": [*columns, *map(title, further)], "rows": lines, "note": note}


def _headline_metrics(comparison: Comparison) -> list[str]:
    """Return the recalls at the first cut-off, at 10 and at the last, NDCG@10 and coverage@10, as far as the rows have them."""
    known = {key for row in comparison.rows for key in row.metrics}
    ends = _ends(comparison)
    wanted = ["ndcg@10", *(f"recall@{n}" for n in dict.fromkeys([*ends[:1], 10, *ends[1:]])), "coverage@10"]
    return [key for key in wanted if key in known]


def _test_cells(row: Row) -> list[str]:
    """Return difference, interval, corrected p and result of a row."""
    if row.test is None:
        return ["", "", "", "reference"]
    test = row.test
    if is_significant(row):
        result = "above" if test.difference is not None and test.difference > 0 else "below"
    else:
        result = "no test" if test.p_holm is None else "not distinguishable"
    return [difference_cell(test), interval_cell(test.interval, "+.5f"), p_cell(test.p_holm), result]


def differences_section(comparison: Comparison, scale: RowScale) -> Section:
    """Return the differences from the reference with their intervals and the difference at each seed."""
    kinds, notes, charts = {True: "trained rows", False: "baselines"}, [], []
    metric = title(comparison.metric)
    for kind, what in kinds.items():
        rows = [row for row in comparison.rows if row.trained == kind and row.test is not None]
        tests, seeds = _tests(rows), _seeds(rows)
        if tests:
            name = f"{metric}, {what} minus {comparison.reference}"
            charts.append(Chart(name, READING, report_charts.differences(scale, tests, seeds, metric)))
        notes += [f"{row.name} has no difference: {row.test.reason}" for row in rows if row.test and row.test.difference is None]
        notes += [
            f"{row.name} has a difference without an interval: {row.test.reason}"
            for row in rows
            if row.test and row.test.difference is not None and row.test.interval is None
        ]
    if len(comparison.rows) == 1:
        notes.append("There is no second row to compare with the reference.")
    return Section("differences", "Differences from the reference", "", charts, notes)


def _tests(rows: Sequence[Row]) -> list[Record]:
    """Return difference, interval and p (Holm) of the rows with a difference. Without an interval it begins and ends at the mean."""
    found = []
    for row in rows:
        test = row.test
        if test is not None and test.difference is not None:
            low, high = test.interval or (test.difference, test.difference)
            numbers = {"difference": test.difference, "low": low, "high": high, "p": test.p_holm}
            record = {"row": row.name, "significant": is_significant(row)}
            found.append(record | {name: short(value) for name, value in numbers.items()})
    return found


def _seeds(rows: Sequence[Row]) -> list[Record]:
    """Return the difference at each seed."""
    return [
        {"row": row.name, "seed": seed, "difference": short(value)}
        for row in rows
        if row.test is not None and row.test.by_seed
        for seed, value in zip(row.test.seeds, row.test.by_seed, strict=True)
    ]


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
    charts, compared = [], []
    for stem in ("recall", "ndcg"):
        cutoffs, name = _cutoffs(comparison, stem), f"{title(stem)}@n"
        if len(cutoffs) < 2:
            continue
        charts.append(Chart(name, "", report_charts.by_cutoff(scale, _by_cutoff(comparison.rows, stem, cutoffs), cutoffs, name)))
        against = _minus_reference(comparison, stem, cutoffs)
        if against:
            label = f"{name} minus that of {comparison.reference}"
            spec = report_charts.by_cutoff(scale, against, cutoffs, f"difference in {name}")
            compared.append(Chart(label, "Means over seeds without intervals; not tested.", spec))
    charts += compared
    notes = [] if charts else ["The rows were evaluated at one cut-off, so there is no curve over n."]
    return Section(
        "ranking", "Recall and NDCG by length of the list", "Means over users and seeds; n is on a log axis.", charts, notes
    )


def _by_cutoff(rows: Sequence[Row], stem: str, cutoffs: Sequence[int]) -> list[Record]:
    """Return a metric at each cut-off that a row has."""
    return [
        {"row": row.name, "n": n, "value": short(spread.mean), "deviation": short(spread.deviation)}
        for row in rows
        for n in cutoffs
        if (spread := row.metrics.get(f"{stem}@{n}")) is not None
    ]


def _minus_reference(comparison: Comparison, stem: str, cutoffs: Sequence[int]) -> list[Record]:
    """Return a metric minus that of the reference, for rows that are trained as the reference is, at the seeds of the reference."""
    reference = next(row for row in comparison.rows if row.name == comparison.reference)
    rows = [row for row in comparison.rows if row.trained == reference.trained and row.seeds == reference.seeds]
    return [
        {"row": row.name, "n": n, "value": short(row.metrics[key].mean - reference.metrics[key].mean)}
        for row in rows
        for n in cutoffs
        if len(rows) > 1 and (key := f"{stem}@{n}") in row.metrics and key in reference.metrics
    ]


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
    trained = {row.name for row in comparison.rows if row.trained}
    charts = []
    for what, chosen in (("all rows", {row.name for row in comparison.rows}), ("trained rows", trained)):
        if chosen and (what == "all rows" or len(chosen) < len(comparison.rows)):
            large, small = ([each for each in values if each["row"] in chosen] for values in (means, seeds))
            spec = report_charts.against(scale, large, small, title(x), title(y))
            charts.append(Chart(f"{title(y)} against {title(x)}, {what}", "", spec))
    return Section("trade-off", name, lead, charts)


def commands(comparison: Comparison, runs: Sequence[Run], options: ReportOptions) -> list[dict[str, str]]:
    """Return what to type to make the report and all of its rows again, baselines too, each with a sentence."""
    records, functions = studies.read_all(), dict[str, list[str]]()
    for run in runs:
        names = [study.name for study in run.studies if run.name in study.rows]
        for name in names or studies.of_baseline(records, run.name, training_hash(run.configuration)):
            if ":" in name and run.name not in functions.setdefault(name, []):  # Python code has no function to name
                functions[name].append(run.name)
    found = [{"about": "This report:", "command": options.command}] if options.command else []
    for name, names in functions.items():
        short_name = portable_name(name)
        outside = "" if short_name == name else "; the file lay outside the project, so only the last part of its path is given"
        about = f"Rows {enumerated(names)}; overrides of the command line are in the settings{outside}:"
        found.append({"about": about, "command": command_line("run", short_name)})
    known = {name for names in functions.values() for name in names}
    unknown = [row.name for row in comparison.rows if row.name not in known]
    if unknown:
        about = f"No function is recorded for {enumerated(unknown)}; all settings of a row:"
        found.append({"about": about, "command": "\n".join(command_line("show", name) for name in unknown)})
    return found


def _table(table: Any) -> dict[str, Any]:
    """Return a table of `genrec compare` as JSON."""
    return {"title": table.title, "columns": table.columns, "rows": table.rows, "notes": table.notes}
