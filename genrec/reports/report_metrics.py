"""The metrics of a report: the table of the first page, metrics against the length of the list, and recall at both of its ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genrec.evaluation.compare import Comparison, Row, Run
from genrec.evaluation.comparison.comparison_summary import LEVEL, is_significant
from genrec.evaluation.comparison.table_cells import difference_cell, interval_cell, metric_cell, metric_name, p_cell, title
from genrec.reports import report_charts
from genrec.reports.report_charts import RowScale
from genrec.reports.report_parts import Chart, Record, Section, short

BOLD = (2, 3, 4)  # columns of the headline that are bold if the difference is significant: result, difference, p (Holm)


def headline(comparison: Comparison) -> dict[str, Any]:
    """Return the table of the first page. The difference and its p are bold if p (Holm) is below 0.05, and nothing else is."""
    metric = comparison.metric
    further = [key for key in _headline_metrics(comparison) if key != metric]
    columns = ["Row", title(metric), "Result", "Difference", "p (Holm)"]
    lines = []
    for row in comparison.rows:
        value = metric_cell(row, metric, metric) + (f"\n{interval_cell(row.interval, '.4f')}" if row.interval is not None else "")
        cells = [row.name, value, *_test_cells(row), *(metric_cell(row, key) for key in further), str(len(row.seeds))]
        lines.append({"cells": cells, "bold": BOLD if is_significant(row) else [], "reference": row.name == comparison.reference})
    note = (
        f"In brackets: 95 % intervals, of {title(metric)} over users. Differences are row minus {comparison.reference}, ± their "
        f"standard deviation over seeds. Bold: p (Holm) below {LEVEL}. The other metrics were not tested, so none is bold."
    )
    return {"columns": [*columns, *map(title, further), "Seeds"], "rows": lines, "note": note}


def _headline_metrics(comparison: Comparison) -> list[str]:
    """Return the recalls at the first cut-off, at 10 and at the last, NDCG@10 and coverage@10, as far as the rows have them."""
    known = {key for row in comparison.rows for key in row.metrics}
    ends = _ends(comparison)
    wanted = ["ndcg@10", *(f"recall@{n}" for n in dict.fromkeys([*ends[:1], 10, *ends[1:]])), "coverage@10"]
    return [key for key in wanted if key in known]


def _test_cells(row: Row) -> list[str]:
    """Return result, difference with its interval on a second line, and corrected p of a row."""
    if row.test is None:
        return ["reference", "", ""]
    test = row.test
    if is_significant(row):
        result = "above" if test.difference is not None and test.difference > 0 else "below"
    else:
        result = "no test" if test.p_holm is None else "not\ndistinguishable"
    difference = difference_cell(test).replace("\n", " ")
    interval = "" if test.interval is None else f"\n{interval_cell(test.interval, '+.5f')}"
    return [result, difference + interval, p_cell(test.p_holm)]


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
