"""Shared parts of generated worlds: words, the table of interactions, and a check of fields."""

from __future__ import annotations

import numpy as np
from numpy import ndarray
from pandas import DataFrame, Series

from genrec.errors import UsageError

DAY = 86_400  # seconds
BEGIN = 1_600_000_000  # time of the earliest event, in seconds since 1970
ADJECTIVES = ("compact", "classic", "light", "robust", "silent", "folding", "travel", "premium")
_SYLLABLES = ("ba", "del", "fi", "gor", "hu", "ka", "len", "mi", "nor", "pu", "ras", "sol", "ta", "ver", "wi", "zo")


def word(number: int) -> str:
    """Return a made-up word, a different one for every number from 0."""
    low, high = number % len(_SYLLABLES), number // len(_SYLLABLES)
    return (word(high - 1) if high else "") + _SYLLABLES[low]


def interaction_table(sequences: ndarray, times: ndarray, lengths: ndarray, ratings: ndarray | None = None) -> DataFrame:
    """Return interactions sorted by time, from items, times and ratings [U, L] with `lengths` int64 [U] valid entries in each row."""
    valid = np.arange(sequences.shape[1]) < lengths[:, None]
    user = np.nonzero(valid)[0]
    order = np.argsort(times[valid], kind="stable")
    columns = {
        "user": Series([f"user-{number}" for number in user[order]], dtype=str),
        "item": Series([item_id(number) for number in sequences[valid][order]], dtype=str),
        "time": times[valid][order].astype(np.int64),
    }
    if ratings is not None:
        columns["rating"] = ratings[valid][order].astype(np.float64)
    return DataFrame(columns)


def item_id(number: int) -> str:
    """Return the id of the item in row `number` of the items table."""
    return f"item-{number}"


def check_at_least(world: object, **minimums: int) -> None:
    """Raise UsageError if a field of a world is below its minimum."""
    for name, minimum in minimums.items():
        if getattr(world, name) < minimum:
            raise UsageError(f"{type(world).__name__}: {name} must be {minimum} or more, got {getattr(world, name)}")
