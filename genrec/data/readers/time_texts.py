"""Times of interactions in any notation: numbers of seconds, ISO dates, or one format of `datetime.strptime`.

Without a format, the first readable time of a table decides between numbers and ISO dates; the others are set aside. A date without
a time zone is UTC, a date without a time of day is midnight, and fractions of a second are cut off. `date` and `datetime` objects
are read like ISO dates.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy import ndarray
from pandas import Series

from genrec.errors import UsageError

EXACT_LIMIT = 2**53  # integers below it are exact in float64
NO_TIME = "the time is missing or not a whole number of seconds"
UNREADABLE = "the time is missing, or neither a whole number of seconds nor an ISO date like the table's first time"
NOT_IN_FORMAT = "the time is missing or not in the format of time_format"
NEGATIVE_TIME = "the time is negative"
_EPOCH, _NAIVE_EPOCH = datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1)
_SECOND = timedelta(seconds=1)
_SAMPLE = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)


class TimeTexts:
    """Reads the times of one table, in the order of its rows. `time_format` is for strptime; None: numbers and ISO dates."""

    def __init__(self, time_format: str | None = None) -> None:
        self.time_format = time_format
        self.notation: Literal["number", "date"] | None = None if time_format is None else "date"

    @property
    def reason(self) -> str:
        """Why a row is set aside if `seconds` returns NaN."""
        return UNREADABLE if self.time_format is None else NOT_IN_FORMAT

    def seconds(self, values: list[object]) -> ndarray:
        """Return whole seconds since 1970, float64 [rows], NaN for a value that is no time in this table's notation."""
        if self.time_format is None:
            numbers = numbers_of(values)
            whole = np.where(np.isfinite(numbers) & (np.abs(numbers) < EXACT_LIMIT), numbers, np.nan)
            numbers = np.where(whole == np.floor(whole), whole, np.nan)
        else:
            numbers = np.full(len(values), np.nan)
        dates = np.full(len(values), np.nan)
        if self.notation == "date" or (self.notation is None and np.isnan(numbers).any()):
            dates = np.array([_date_seconds(value, self.time_format) for value in values], dtype=np.float64)
        self._settle(numbers, dates)
        return numbers if self.notation == "number" else dates if self.notation == "date" else np.full(len(values), np.nan)

    def _settle(self, numbers: ndarray, dates: ndarray) -> None:
        """Set the notation by the first readable value."""
        readable = ~np.isnan(numbers) | ~np.isnan(dates)
        if self.notation is None and readable.any():
            self.notation = "date" if np.isnan(numbers[readable.argmax()]) else "number"

    def seconds_of_dates(self, array: pa.Array) -> pa.Array | None:
        """Return the seconds of a column of dates as text, int64, or None if one of them is no date in this table's notation."""
        if self.notation == "number" or not len(array):
            return None
        if self.notation is None and not np.isnan(numbers_of([array[0].as_py()])[0]):
            return None  # such as 20190301, which is also an ISO date
        column = array.dictionary_encode()
        seconds = [_parse(text, self.time_format) for text in column.dictionary.to_pylist()]
        if any(map(math.isnan, seconds)):
            return None
        self.notation = "date"
        return pa.array(np.array(seconds, dtype=np.int64)).take(column.indices)


def check_time_format(time_format: str | None, field: str) -> None:
    """Raise UsageError unless a time that is written in this format can be read again; `field` names it in the message."""
    if time_format is None:
        return
    advice = 'expected a format of datetime.strptime with the year, such as "%d.%m.%Y" or "%Y-%m-%d %H:%M:%S"'
    try:
        text = _SAMPLE.strftime(time_format)
        has_year = text != _SAMPLE.replace(year=_SAMPLE.year + 6).strftime(time_format)  # six years later it is the same weekday
        parts = (text, time_format) if has_year else (f"2000 {text}", f"%Y {time_format}")  # Python 3.13 warns of days without a year
        readable = datetime.strptime(*parts).year == _SAMPLE.year
    except (ValueError, TypeError) as error:
        raise UsageError(f"{field}: {time_format!r} is no format of times ({error}); {advice}") from None
    if not readable:
        raise UsageError(f"{field}: {time_format!r} has no year; {advice}")


def numbers_of(values: list[object]) -> ndarray:
    """Convert numbers and texts of numbers to float64, NaN for any other value."""
    try:
        plain = [None if isinstance(value, date) else value for value in values]  # pandas would return nanoseconds
        numbers = pd.to_numeric(Series(plain, dtype=object), errors="coerce")
    except OverflowError:  # an integer above the largest float
        return numbers_of([math.inf if isinstance(value, int) and abs(value) >= EXACT_LIMIT else value for value in values])
    return numbers.to_numpy(dtype=np.float64)


def _date_seconds(value: object, time_format: str | None) -> float:
    """Return the seconds of one value, NaN if it is no date."""
    if isinstance(value, datetime):
        return _since_epoch(value)
    if isinstance(value, date):
        return _since_epoch(datetime(value.year, value.month, value.day))
    if time_format is not None and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(int(value)) if abs(value) < EXACT_LIMIT and value == int(value) else ""  # such as 20190301
    return _parse_cached(value, time_format) if isinstance(value, str) else math.nan


def _parse(text: str, time_format: str | None) -> float:
    """Return the seconds of a date in text, NaN if it is none."""
    try:
        if time_format is None:
            return _since_epoch(datetime.fromisoformat(text.strip()))
        return _since_epoch(datetime.strptime(text.strip(), time_format))
    except (ValueError, OverflowError):
        return math.nan


_parse_cached = lru_cache(maxsize=1 << 16)(_parse)  # a day occurs in many rows


def _since_epoch(moment: datetime) -> float:
    return float((moment - (_EPOCH if moment.tzinfo else _NAIVE_EPOCH)) // _SECOND)
