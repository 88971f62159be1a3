"""Stage 1, protocol: which interactions are kept, and which of them are for training, for validation, for the test.

In: interactions in file order (`keep`), or sorted by user and time (`assign`). Out: a subset in the same order, or a part for every
row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame

from genrec.errors import InputError, UsageError

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")  # in the order of time
SHORTEST = 3  # events of a user: one of each part

Filter = tuple[str, Callable[[DataFrame], DataFrame]]  # its name for people, and what it does


@runtime_checkable
class Filtering(Protocol):
    """A split that can tell its filters apart, so that the data set's statistics show what each removed."""

    def filters(self) -> list[Filter]:
        """The filters in the order in which they are applied."""
        ...


@dataclass(frozen=True)
class LeaveOneOut:
    """Of every user the last event is the test, the one before it validation, the rest training."""

    core: int = 5  # events that every user and every item keeps at least; 0 keeps all
    minimum_rating: float | None = None  # events below it are dropped, and so are events without a rating; None keeps all

    def __post_init__(self) -> None:
        if self.core < 0:
            raise UsageError(f"core must be 0 or more, got {self.core}")
        if self.minimum_rating is not None and not math.isfinite(self.minimum_rating):
            raise UsageError(f"minimum_rating must be a number, got {self.minimum_rating}")

    def filters(self) -> list[Filter]:
        """Minimum rating, then the k-core, then users with enough events for the three parts."""
        filters: list[Filter] = []
        least = self.minimum_rating
        if least is not None:
            filters.append((f"rating of {least:g} or more", lambda interactions: at_least(interactions, least)))
        if self.core > 1:
            filters.append((f"{self.core}-core of users and items", lambda interactions: k_core(interactions, self.core)))
        filters.append((f"users with {SHORTEST} events or more", lambda interactions: long_enough(interactions, SHORTEST)))
        return filters

    def keep(self, interactions: DataFrame) -> DataFrame:
        """What all filters keep, in the same order."""
        for name, keep in self.filters():
            interactions = not_empty(keep(interactions), interactions, name)
        return interactions

    def assign(self, interactions: DataFrame) -> ndarray:
        """Interactions sorted by user and time -> text [rows]: the part of each."""
        left = interactions.groupby("user", sort=False).cumcount(ascending=False).to_numpy()  # events that the user still has
        return np.select([left == 0, left == 1], ["test", "validation"], "train")


def not_empty(kept: DataFrame, before: DataFrame, name: str) -> DataFrame:
    """`kept`, or an error that names the filter that emptied the data."""
    if len(kept):
        return kept
    raise InputError(
        f"nothing is left after the filter {name!r}: it removed all {len(before)} interactions of {before['user'].nunique()} users "
        f"and {before['item'].nunique()} items; loosen it (--split.core, --split.minimum-rating), or use more data"
    )


def at_least(interactions: DataFrame, rating: float) -> DataFrame:
    """The events with this rating or more."""
    if "rating" not in interactions or interactions["rating"].isna().all():
        raise InputError(f"minimum_rating={rating:g} needs ratings, but the data set has none; leave --split.minimum-rating None")
    return interactions[interactions["rating"] >= rating]


def k_core(interactions: DataFrame, core: int) -> DataFrame:
    """The largest subset in which every user and every item has `core` events or more, in the same order.

    Users and items below it are removed by turns until none is left (S. B. Seidman, "Network structure and minimum degree", 1983).
    """
    users, items = pd.factorize(interactions["user"])[0], pd.factorize(interactions["item"])[0]
    kept = np.arange(len(interactions))
    while len(kept):
        enough = (np.bincount(users[kept])[users[kept]] >= core) & (np.bincount(items[kept])[items[kept]] >= core)
        if enough.all():
            break
        kept = kept[enough]
    return interactions.iloc[kept]


def long_enough(interactions: DataFrame, events: int) -> DataFrame:
    """The events of users who have this many or more."""
    users = pd.factorize(interactions["user"])[0]
    return interactions[np.bincount(users)[users] >= events] if len(users) else interactions
