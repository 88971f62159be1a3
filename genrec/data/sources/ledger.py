"""Stage 1, rows that are set aside: file, line and reason of each, and the limit above which the whole file is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pandas as pd
from pandas import DataFrame

from genrec.errors import InputError, UsageError

ADVICE = "repair the file or fetch it again, or allow more with --source.tolerated"
COLUMNS = ("file", "line", "reason")


class Ledger:
    """What was set aside of one file. Reasons are kinds, so that they can be counted."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.rows: list[tuple[int, str]] = []
        self._malformed = 0

    def malformed(self, line: int, reason: str) -> None:
        """A row that can't be read; it counts towards the limit."""
        self._malformed += 1
        self.rows.append((line, reason))

    def superfluous(self, line: int, reason: str) -> None:
        """A good row that is not needed, such as a second record of one item."""
        self.rows.append((line, reason))

    def check(self, good: int, tolerated: float, advice: str = ADVICE) -> None:
        """Refuse a file with no good row, or with a larger share of malformed rows than `tolerated`."""
        if not good and not self._malformed:
            raise InputError(f"{self.file} holds no rows")
        share = self._malformed / (good + self._malformed)
        if good and share <= tolerated:
            return
        counts = Counter(reason for _, reason in self.rows).most_common(5)
        reasons = "; ".join(f"{reason}: {count}, first in line {self._first(reason)}" for reason, count in counts)
        raise InputError(
            f"{self.file}: {self._malformed} of {good + self._malformed} rows ({share:.1%}) are malformed, tolerated are "
            f"{tolerated:.1%} ({reasons}); {advice}"
        )

    def _first(self, reason: str) -> int:
        return min(line for line, other in self.rows if other == reason)


def table(ledgers: Iterable[Ledger]) -> DataFrame:
    """All rows that were set aside: file, line, reason."""
    rows = [(ledger.file, line, reason) for ledger in ledgers for line, reason in sorted(ledger.rows)]
    frame = DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"file": str, "line": "int64", "reason": str}) if rows else empty()


def empty() -> DataFrame:
    """Nothing was set aside."""
    return DataFrame({"file": pd.Series(dtype=str), "line": pd.Series(dtype="int64"), "reason": pd.Series(dtype=str)})


def check_tolerated(tolerated: float) -> None:
    """Refuse a limit that is no share."""
    if not 0 <= tolerated <= 1:
        raise UsageError(f"tolerated is a share of rows, 0 to 1, got {tolerated}")
