"""A table of plain text, and the cells of its figures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from genrec.evaluation.compare import ABSENT, Row
from genrec.evaluation.statistics.paired_tests import PairedTest

PREFERRED = {"ndcg": (5, 10), "mrr": (10,), "coverage": (10,)}  # cut-offs to show if they exist, else the last one; recall has all
TITLES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "coverage": "Coverage"}
UNDEFINED = "undefined"  # cell of a test or an interval that does not exist; a note gives the reason
SMALLEST = 1e-4  # smaller p-values are printed with an exponent


class Table(NamedTuple):
    """A table of plain text. A cell may have several lines; the first column is the row's name."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]
    first: tuple[str, ...] = ()  # columns that are shown first where the width is not enough for all
    narrow: Table | None = None  # the table to choose columns from where this one is too wide; None: this one
    listing: tuple[str, ...] = ()  # lines that replace a table that is too wide; empty: columns are left out
    warnings: tuple[str, ...] = ()  # those of `notes` that a reader must not miss


class LabeledLine(NamedTuple):
    """A line of text below the tables."""

    label: str
    text: str


class MetricName(NamedTuple):
    """The parts of a metric's name: `recall@10[history 1-4]` is recall, 10, history 1-4."""

    stem: str
    cutoff: int | None
    group: str  # of users or targets; empty for all


def metric_name(key: str) -> MetricName:
    """Split the name of a metric. A name of another form is its own stem."""
    found = re.fullmatch(r"([^@\[\]]+)(?:@(\d+))?(?:\[(.+)\])?", key)
    return MetricName(found[1], int(found[2]) if found[2] else None, found[3] or "") if found else MetricName(key, None, "")


def title(key: str) -> str:
    """Return the column title of a metric: 'recall@10' -> 'Recall@10', 'head_recall@10' -> 'head_recall@10'."""
    name, at, rest = key.partition("@")
    return f"{TITLES.get(name, name)}{at}{rest}"


def ranked_keys(rows: Iterable[Row], prefix: str = "") -> list[str]:
    """Return all recalls and the preferred NDCGs that the rows have with a prefix, without the prefix."""
    known = list(dict.fromkeys(key.removeprefix(prefix) for row in rows for key in row.metrics if key.startswith(prefix)))
    recalls, ndcgs = ([key for key in known if re.fullmatch(rf"{name}@\d+", key)] for name in ("recall", "ndcg"))
    return recalls + ([f"ndcg@{n}" for n in PREFERRED["ndcg"] if f"ndcg@{n}" in ndcgs] or ndcgs[-1:])


def metric_cell(row: Row, key: str, tested: str = "") -> str:
    """Return the mean of a metric over users and seeds."""
    value = row.metrics[key].mean if key in row.metrics else row.value if key == tested else math.nan
    return ABSENT if math.isnan(value) else f"{value:.4f}"


def interval_cell(interval: tuple[float, float] | None, number: str) -> str:
    """Return '[low, high]' with both numbers in a format."""
    return UNDEFINED if interval is None else f"[{interval[0]:{number}}, {interval[1]:{number}}]"


def p_cell(p: float | None, absent: str = UNDEFINED) -> str:
    """Return a p-value with four decimals, or with an exponent if it is smaller."""
    return absent if p is None else f"{p:.4f}" if p >= SMALLEST else f"{p:.1e}"


def difference_cell(test: PairedTest) -> str:
    """Return the difference, and on a second line its standard deviation over seeds."""
    if test.difference is None:
        return UNDEFINED
    return f"{test.difference:+.5f}" + ("" if test.deviation is None else f"\n±{test.deviation:.5f}")
