"""Protocols of data sets: sources and splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy import ndarray
    from pandas import DataFrame


class RawTables(NamedTuple):
    """The tables of a source, before any filter. Ids are text and are kept unchanged."""

    interactions: DataFrame  # columns user: str, item: str, time: int64 (seconds since 1970), optionally rating: float
    items: DataFrame  # columns item: str, text: str, optionally more (title, categories, ...); one row per item
    set_aside: DataFrame | None = None  # rows that could not be read; columns file: str, line: int, reason: str


class RawStream(NamedTuple):
    """The tables of a source as iterators, for data larger than memory. Interactions are consumed first, then items.

    Each table has the columns of `RawTables`. It is a pandas DataFrame, a pyarrow Table, or another object that exports Arrow
    (`__arrow_c_stream__`).
    """

    interactions: Iterator[Any]
    items: Iterator[Any]
    set_aside: Callable[[], DataFrame]  # as in `RawTables`; called after both iterators are exhausted


TIES_OF_EACH_SEED = "a random order of each seed"


class TieOrder(NamedTuple):
    """The order of a user's events with equal times: by default that of the source."""

    seed: int | None = None  # of a random order, which does not depend on the source's order; None: the source's order
    per_seed: bool = False  # each seed of an experiment has an order of its own, whose seed is `seed` plus that of the experiment

    def seed_of(self, experiment_seed: int) -> int | None:
        """Return the seed of the order in an experiment with this seed; None for the source's order."""
        return self.seed + experiment_seed if self.per_seed and self.seed is not None else self.seed

    @property
    def words(self) -> str:
        """The order in words; the same for all seeds of an experiment."""
        if self.seed is None:
            return "row order of the file"
        return TIES_OF_EACH_SEED if self.per_seed else f"a random order (seed {self.seed})"


LIKED, NEUTRAL, DISLIKED = 1, 0, -1  # the label of an event, int8
NO_USER = 0  # user number of a row of a pair file that has a history and names no user; users count from 1
Histories = Literal["all", "without disliked"]  # whether disliked events stand in histories


class FeedbackBounds(NamedTuple):
    """The ratings that make an event liked or disliked. Every other event, also one without a rating, is neutral."""

    liked: float  # an event with this rating or a higher one is liked
    disliked: float | None = None  # an event with this rating or a lower one is disliked; None: no event is
    histories: Histories = "all"  # whether disliked events stand in histories, in training and in evaluation
    min_liked: int = 0  # users with fewer liked events are left out of the data
    ends_with_liked: bool = False  # events after a user's last liked one are left out of the data

    @property
    def words(self) -> str:
        """The bounds in words."""
        disliked = "none is disliked" if self.disliked is None else f"disliked: rating of {self.disliked:g} or less"
        return f"liked: rating of {self.liked:g} or more, {disliked}"


@runtime_checkable
class Source(Protocol):
    """A data set."""

    def load(self, root: Path) -> RawTables:
        """Read the data set; `root` is the folder of downloaded files."""
        ...


@runtime_checkable
class StreamedSource(Source, Protocol):
    """A data set that may be larger than memory. The pipeline calls `stream` instead of `load`."""

    def stream(self, root: Path) -> RawStream:
        """Return the tables of `load` one after the other."""
        ...


@runtime_checkable
class RatedSource(Source, Protocol):
    """A data set that knows whether it has ratings before it is read. Settings that need ratings are then refused at once."""

    def has_ratings(self) -> bool:
        """Return whether the interactions have ratings."""
        ...


@runtime_checkable
class Split(Protocol):
    """A split into training, validation and test. It may also implement the protocols below."""

    def assign(self, interactions: DataFrame) -> ndarray:
        """Return 'train', 'validation' or 'test' for each row, str [rows].

        The interactions have the columns `user` and `item` (int64, the numbers 1..U and 1..N in the order of the first event), `time`
        (int64, seconds since 1970), `rating` (float64, if the source has ratings), `label` (int8, of a `LabelingSplit`), and `user_id`
        and `item_id` (str, the ids of the source, unchanged), for splits that list users or items. They are sorted by user and time;
        ties keep the source's order, unless the split has another (`TieOrderingSplit`). A user's parts must follow each other in the
        order train, validation, test.
        """
        ...


@runtime_checkable
class KeepingSplit(Split, Protocol):
    """A split with a custom filter. All interactions are in memory for it."""

    def keep(self, interactions: DataFrame) -> DataFrame:
        """Return the interactions to keep, with all columns and in the order given, which is the source's."""
        ...


@runtime_checkable
class FilteringSplit(Split, Protocol):
    """A split with built-in filters, which the pipeline applies without loading all interactions into memory."""

    def filters(self) -> Any:
        """Return a `genrec.data.event_filters.Filters`."""
        ...


@runtime_checkable
class DividingSplit(Split, Protocol):
    """A split for data larger than memory. The pipeline calls `divide` instead of `assign`."""

    def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> ndarray:
        """Return where each user's validation and test begin, int64 [U, 2].

        A user's events are those at begin..end, int64 [U] each, with the times int64 [E] in seconds since 1970, sorted.
        """
        ...


@runtime_checkable
class LabelingSplit(Split, Protocol):
    """A split that labels events as liked, neutral or disliked. The targets of validation and test are then liked events.

    The target of a user is the first liked event of the part, and the history is all that came before the part.
    """

    def feedback(self) -> FeedbackBounds | None:
        """Return the bounds of the ratings; None: events have no labels."""
        ...


@runtime_checkable
class LabelDividingSplit(Split, Protocol):
    """A split that needs the labels to divide. If there are labels, the pipeline calls `divide_labeled` instead of `divide`."""

    def divide_labeled(self, begin: ndarray, end: ndarray, time: ndarray, label: ndarray) -> ndarray:
        """Return where each user's validation and test begin, int64 [U, 2]; `label` is int8 [E], the others as in `divide`."""
        ...


@runtime_checkable
class TieOrderingSplit(Split, Protocol):
    """A split that chooses the order of a user's events with equal times. They keep the source's order without it."""

    def tie_order(self) -> TieOrder:
        """Return the order."""
        ...
