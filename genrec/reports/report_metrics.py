"""The metrics of a report: the table of the first page, metrics against the length of the list, and recall at both of its ends."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from genrec.evaluation.compare import Comparison, Row, Run
from genrec.evaluation.comparison.comparison_summary import LEVEL, is_significant
from genrec.evaluation.comparison.table_cells import difference_cell, interval_cell, metric_cell, metric_name, p_cell, title
from genrec.evaluation.statistics.paired_tests import enumerated
from genrec.reports import report_charts
from genrec.reports.report_charts import RowScale
from genrec.reports.report_parts import Chart, Record, Section, short
from genrec.reports.report_tables import printed_parts

MINUS_REFERENCE = "Means over the seeds that a row shares with the reference, without intervals; not tested."
BOLD = (2, 3, 4)  # columns of the headline that are bold if the difference is significant: result, difference, p (Holm)


def headline(comparison: Comparison) -> dict[str, Any]:
    """Return the table of the first page. The difference and its p are bold if p (Holm) is below 0.05, and nothing else is."""
    metric = comparison.metric
    further = [key for key in _headline_metrics(comparison) if key != metric]
    columns = ["Row", title(metric), "Result", "Difference", "p (Holm)"]
    lines: list[dict[str, Any]] = []
    for row in comparison.rows:
        value = metric_cell(row, metric, metric) + (f"\n{interval_cell(row.interval, '.4f')}" if row.interval is not None else "")
        cells = [row.name, value, *_test_cells(row), *(metric_cell(row, key) for key in further), str(len(row.seeds))]
        lines.append({"cells": cells, "bold": BOLD if is_significant(row) else [], "reference": row.name == comparison.reference})
    note = (
        f"In brackets: 95 % intervals, of {title(metric)} over users. Differences are row minus {comparison.reference}, ± their "
        f"standard deviation over seeds. Bold: p (Holm) below {LEVEL}. The other metrics were not tested, so none is bold."
    )
    columns += [*map(title, further), "Seeds"]
    return {"columns": columns, "rows": lines, "note": note, "parts": printed_parts(columns, [each["cells"] for each in lines])}


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


def ranking_section(comparison: Comparison, runs: Sequence[Run], scale: RowScale) -> Section:
    """Return Recall and NDCG against the length of the list, and minus those of the reference."""
    charts, compared = [], []
    for stem in ("recall", "ndcg"):
        cutoffs, name = _cutoffs(comparison, stem), f"{title(stem)}@n"
        if len(cutoffs) < 2:
            continue
        charts.append(Chart(name, "", report_charts.by_cutoff(scale, _by_cutoff(comparison.rows, stem, cutoffs), cutoffs, name)))
        against = minus_reference(comparison, runs, stem, cutoffs)
        if len({each["row"] for each in against}) > 1:
            label = f"{name} minus that of {comparison.reference}"
            spec = report_charts.by_cutoff(scale, against, cutoffs, f"difference in {name}")
            compared.append(Chart(label, MINUS_REFERENCE, spec))
    charts += compared
    notes = [] if charts else ["The rows were evaluated at one cut-off, so there is no curve over n."]
    apart = [row.name for row in comparison.rows if not _compared_seeds(row, _reference(comparison))] if compared else []
    if apart:
        several = "have" if len(apart) > 1 else "has"
        notes.append(f"{enumerated(apart)} {several} no seed of {comparison.reference}, so the difference from it is not drawn.")
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


def minus_reference(comparison: Comparison, runs: Sequence[Run], stem: str, cutoffs: Sequence[int]) -> list[Record]:
    """Return a metric of each row minus that of the reference, at the seeds that both have. A baseline has one result for all."""
    reference = _reference(comparison)
    found: list[Record] = []
    for row in comparison.rows:
        own = [run.metrics for run in runs if run.name == row.name and run.seed in _compared_seeds(row, reference)]
        others = [run.metrics for run in runs if run.name == reference.name and run.seed in _compared_seeds(reference, row)]
        for n in cutoffs:
            key = f"{stem}@{n}"
            if own and others and all(key in metrics for metrics in (*own, *others)):
                difference = fmean(metrics[key] for metrics in own) - fmean(metrics[key] for metrics in others)
                found.append({"row": row.name, "n": n, "value": short(difference)})
    return found


def _reference(comparison: Comparison) -> Row:
    return next(row for row in comparison.rows if row.name == comparison.reference)


def _compared_seeds(row: Row, other: Row) -> list[int]:
    """Return the seeds of a row at which it is compared with another: those that both have, or all if one of them is a baseline."""
    return [seed for seed in row.seeds if seed in other.seeds or not (row.trained and other.trained)]


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
