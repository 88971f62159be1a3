"""Rows that are set aside: their file, line and reason, and the limit above which they are an error.

Memory is bounded: all rows are counted, but only the first `LISTED` rows of a file are listed one by one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pandas as pd
from pandas import DataFrame

from genrec.errors import InputError, UsageError

RAISE = ", or raise the limit with --source.max-bad-rows"
COLUMNS = ("file", "line", "reason")
_NOT_LISTED = re.compile(r"(.*): (\d+) more rows, not listed")
LISTED = 10_000  # rows of a file that are listed one by one


class BadRows:
    """The rows of one file that are set aside. Reasons are fixed texts, so that they can be counted.

    `hints` maps reasons to what a user can do about them, and `kind` is what is to be corrected, for the error of `check`.
    """

    def __init__(self, file: str, hints: Mapping[str, str] | None = None, kind: Literal["file", "DataFrame"] = "file") -> None:
        self.file, self._hints, self._kind = file, hints or {}, kind
        self.rows: list[tuple[int, str]] = []  # line and reason of the first LISTED rows
        self.counts: Counter[str] = Counter()  # reason -> number of rows, listed or not
        self._num_malformed = 0
        self._first_line: dict[str, int] = {}  # reason -> line
        self._not_listed: dict[str, tuple[int, int]] = {}  # reason -> first line, number of rows

    def malformed(self, line: int, reason: str) -> None:
        """Add a row that cannot be read. It counts towards the limit of `check`."""
        self._num_malformed += 1
        self.redundant(line, reason)

    def redundant(self, line: int, reason: str) -> None:
        """Add a well-formed row that is not used, such as a second row of one item. It does not count towards the limit."""
        self.counts[reason] += 1
        self._first_line[reason] = min(line, self._first_line.get(reason, line))
        if len(self.rows) < LISTED:
            self.rows.append((line, reason))
        else:
            first, count = self._not_listed.get(reason, (line, 0))
            self._not_listed[reason] = min(first, line), count + 1

    def listed(self) -> list[tuple[str, int, str]]:
        """Return file, line and reason of the listed rows by line, then one summary for each reason with more rows."""
        more = [(line, f"{reason}: {count} more rows, not listed") for reason, (line, count) in self._not_listed.items()]
        return [(self.file, line, reason) for line, reason in (*sorted(self.rows), *sorted(more))]

    def hint(self, reason: str) -> str:
        """Return what to do about a reason, after a semicolon, or nothing."""
        return f"; {self._hints[reason]}" if reason in self._hints else ""

    def check(self, num_good: int, max_share: float, advice: str | None = None) -> None:
        """Raise InputError if the file has no good row, or if the share of malformed rows is above `max_share`.

        By default the advice is to correct the file or DataFrame, and to raise the limit if a row would be left.
        """
        if not num_good and not self._num_malformed:
            raise InputError(f"{self.file} holds no rows")
        num_rows = num_good + self._num_malformed
        share = self._num_malformed / num_rows
        if num_good and share <= max_share:
            return
        advice = advice or f"correct the {self._kind}{RAISE if num_good else ''}"
        place = "line" if self._kind == "file" else "row"
        reasons = "; ".join(
            f"{reason}: {count}, first in {place} {self._first_line[reason]}" for reason, count in self.counts.most_common(5)
        )
        raise InputError(
            f"{self.file}: {self._num_malformed} of {num_rows} rows ({share:.1%}) are malformed, expected at most {max_share:.1%} "
            f"({reasons}); {advice}{''.join(map(self.hint, self.counts))}"
        )


def count_reasons(set_aside: DataFrame) -> dict[str, int]:
    """Return the number of rows for each reason, most frequent first, including the rows that are not listed."""
    counts: Counter[str] = Counter()
    for reason in set_aside["reason"]:
        more = _NOT_LISTED.fullmatch(reason)
        counts[more[1] if more else str(reason)] += int(more[2]) if more else 1
    return dict(counts.most_common())


def set_aside_table(files: Iterable[BadRows]) -> DataFrame:
    """Return the rows of several files that are set aside, with the columns file, line and reason."""
    rows = [row for bad_rows in files for row in bad_rows.listed()]
    frame = DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"file": str, "line": "int64", "reason": str}) if rows else empty_set_aside()


def check_set_aside(frame: Any) -> DataFrame:
    """Return a source's set_aside table, empty for None; raise InputError if a column is missing."""
    if frame is None or (isinstance(frame, DataFrame) and not len(frame)):
        return empty_set_aside()
    if not isinstance(frame, DataFrame) or not set(COLUMNS) <= set(frame.columns):
        found = ", ".join(map(str, frame.columns)) if isinstance(frame, DataFrame) else type(frame).__name__
        raise InputError(f"a source's set_aside must be a DataFrame with the columns {', '.join(COLUMNS)}, got {found}")
    return frame[list(COLUMNS)]


def empty_set_aside() -> DataFrame:
    """Return a set_aside table without rows."""
    return DataFrame({"file": pd.Series(dtype=str), "line": pd.Series(dtype="int64"), "reason": pd.Series(dtype=str)})


def check_max_bad_rows(max_bad_rows: float) -> None:
    """Raise UsageError if the limit is not a share between 0 and 1."""
    if not 0 <= max_bad_rows <= 1:
        raise UsageError(f"max_bad_rows must be a share of rows between 0 and 1, got {max_bad_rows}")
