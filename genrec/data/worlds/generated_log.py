"""Stage 1, what generated worlds share: names, the log of events, and the check of their settings."""

from __future__ import annotations

import numpy as np
from numpy import ndarray
from pandas import DataFrame, Series

from genrec.errors import UsageError

DAY = 86_400  # seconds
BEGIN = 1_600_000_000  # the earliest event, seconds since 1970
ADJECTIVES = ("compact", "classic", "light", "robust", "silent", "folding", "travel", "premium")
_SYLLABLES = ("ba", "del", "fi", "gor", "hu", "ka", "len", "mi", "nor", "pu", "ras", "sol", "ta", "ver", "wi", "zo")


def word(number: int) -> str:
    """A made-up word, another one for every number of 0 or more."""
    low, high = number % len(_SYLLABLES), number // len(_SYLLABLES)
    return (word(high - 1) if high else "") + _SYLLABLES[low]


def log(taken: ndarray, times: ndarray, lengths: ndarray, ratings: ndarray | None = None) -> DataFrame:
    """Items, times (and ratings) [U, longest], of which each user has the first `lengths` -> interactions in the order of time."""
    happened = np.arange(taken.shape[1]) < lengths[:, None]
    user = np.nonzero(happened)[0]
    order = np.argsort(times[happened], kind="stable")
    columns = {
        "user": Series([f"user-{number}" for number in user[order]], dtype=str),
        "item": Series([item_id(number) for number in taken[happened][order]], dtype=str),
        "time": times[happened][order].astype(np.int64),
    }
    if ratings is not None:
        columns["rating"] = ratings[happened][order].astype(np.float64)
    return DataFrame(columns)


def item_id(number: int) -> str:
    """The id of the item in row `number` of the items table."""
    return f"item-{number}"


def check_at_least(world: object, **least: int) -> None:
    """Refuse settings that are too small for a world."""
    for name, bound in least.items():
        if getattr(world, name) < bound:
            raise UsageError(f"{type(world).__name__}: {name} must be {bound} or more, got {getattr(world, name)}")
