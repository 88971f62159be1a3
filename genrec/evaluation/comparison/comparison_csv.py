"""A `Comparison` as a CSV file with a line for each row, all metrics, and the test against the reference, in full precision."""

from __future__ import annotations

import csv
import io

from genrec.evaluation.compare import Comparison, Row

TEST = (
    "difference", "difference_low", "difference_high", "difference_deviation", "p", "p_holm", "detectable", "wins", "ties", "losses",
)  # fmt: skip


FIRST = ["row", "seeds", "metric", "reference", "value", "low", "high", *TEST]  # columns before those of the metrics


def comparison_csv(comparison: Comparison) -> str:
    """Return the rows of a comparison as CSV.

    The columns are row, seeds (separated by spaces), metric and reference (the test), value, low and high (the tested metric with its
    95 % interval over users), those of the test, and for each metric its mean and its standard deviation over seeds, `NAME` and
    `NAME deviation`. What is not defined is empty.
    """
    metrics = list(dict.fromkeys(key for row in comparison.rows for key in row.metrics))
    further = [name for key in metrics for name in (key, f"{key} deviation")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FIRST, *further])
    for row in comparison.rows:
        about = [row.name, " ".join(map(str, row.seeds)), comparison.metric, comparison.reference, row.value]
        writer.writerow([*about, *(row.interval or (None, None)), *_test(row), *_metrics(row, metrics)])
    return text.getvalue()


def _test(row: Row) -> list[object]:
    """Return the figures of the test of a row, in the order of `TEST`; empty for the reference."""
    test = row.test
    if test is None:
        return [None] * len(TEST)
    counts = (test.wins, test.ties, test.losses) if test.users else (None, None, None)
    return [test.difference, *(test.interval or (None, None)), test.deviation, test.p, test.p_holm, test.detectable, *counts]


def _metrics(row: Row, metrics: list[str]) -> list[object]:
    """Return mean and standard deviation of each metric; None for a metric that the row lacks."""
    return [value for key in metrics for value in row.metrics.get(key, (None, None))]
