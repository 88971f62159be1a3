"""Stage 1, rows that are set aside: file, line and reason of each, and the limit above which the whole file is refused.

However many they are, memory is bounded: all are counted, and the first of each file are listed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd
from pandas import DataFrame

from genrec.errors import InputError, UsageError

ADVICE = "repair the file, or remove it so that it is fetched again, or allow more with --source.max_bad_rows"
COLUMNS = ("file", "line", "reason")
_MORE = re.compile(r"(.*): (\d+) more rows, not listed")
LISTED = 10_000  # rows of a file that are listed one by one


class BadRows:
    """What was set aside of one file. Reasons are kinds, so that they can be counted."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.rows: list[tuple[int, str]] = []  # line and reason; the first LISTED
        self.counts: Counter[str] = Counter()  # of all rows, by reason
        self._malformed = 0
        self._first: dict[str, int] = {}  # line, by reason
        self._unlisted: dict[str, tuple[int, int]] = {}  # line of the first and count, by reason

    def malformed(self, line: int, reason: str) -> None:
        """A row that can't be read; it counts towards the limit."""
        self._malformed += 1
        self.superfluous(line, reason)

    def superfluous(self, line: int, reason: str) -> None:
        """A good row that is not needed, such as a second record of one item."""
        self.counts[reason] += 1
        self._first[reason] = min(line, self._first.get(reason, line))
        if len(self.rows) < LISTED:
            self.rows.append((line, reason))
        else:
            first, count = self._unlisted.get(reason, (line, 0))
            self._unlisted[reason] = min(first, line), count + 1

    def listed(self) -> list[tuple[str, int, str]]:
        """File, line, reason, by line; then a row for each reason of which there are more."""
        more = [(line, f"{reason}: {count} more rows, not listed") for reason, (line, count) in self._unlisted.items()]
        return [(self.file, line, reason) for line, reason in (*sorted(self.rows), *sorted(more))]

    def check(self, good: int, tolerated: float, advice: str = ADVICE) -> None:
        """Refuse a file with no good row, or with a larger share of malformed rows than `tolerated`."""
        if not good and not self._malformed:
            raise InputError(f"{self.file} holds no rows")
        share = self._malformed / (good + self._malformed)
        if good and share <= tolerated:
            return
        reasons = "; ".join(f"{reason}: {count}, first in line {self._first[reason]}" for reason, count in self.counts.most_common(5))
        raise InputError(
            f"{self.file}: {self._malformed} of {good + self._malformed} rows ({share:.1%}) are malformed, tolerated are "
            f"{tolerated:.1%} ({reasons}); {advice}"
        )


def reasons(set_aside: DataFrame) -> dict[str, int]:
    """How many rows were set aside for each reason, those that are not listed among them; the most frequent first."""
    counts: Counter[str] = Counter()
    for reason in set_aside["reason"]:
        more = _MORE.fullmatch(reason)
        counts[more[1] if more else str(reason)] += int(more[2]) if more else 1
    return dict(counts.most_common())


def table(ledgers: Iterable[BadRows]) -> DataFrame:
    """All rows that were set aside: file, line, reason."""
    rows = [row for ledger in ledgers for row in ledger.listed()]
    frame = DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"file": str, "line": "int64", "reason": str}) if rows else empty()


def check_set_aside(frame: Any) -> DataFrame:
    """What a source set aside, or nothing; refused where a column is missing."""
    if frame is None or (isinstance(frame, DataFrame) and not len(frame)):
        return empty()
    if not isinstance(frame, DataFrame) or not set(COLUMNS) <= set(frame.columns):
        found = ", ".join(map(str, frame.columns)) if isinstance(frame, DataFrame) else type(frame).__name__
        raise InputError(f"a source's set_aside must be a DataFrame with the columns {', '.join(COLUMNS)}, got {found}")
    return frame[list(COLUMNS)]


def empty() -> DataFrame:
    """Nothing was set aside."""
    return DataFrame({"file": pd.Series(dtype=str), "line": pd.Series(dtype="int64"), "reason": pd.Series(dtype=str)})


def check_tolerated(tolerated: float) -> None:
    """Refuse a limit that is no share."""
    if not 0 <= tolerated <= 1:
        raise UsageError(f"tolerated is a share of rows, 0 to 1, got {tolerated}")
