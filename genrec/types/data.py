"""Data sets: what a source reads, and how it is split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy import ndarray
    from pandas import DataFrame


class RawTables(NamedTuple):
    """What a source reads, before any filter. Ids are text and are kept as they are."""

    interactions: DataFrame  # columns user: str, item: str, time: int64 (seconds), optionally rating: float; in file order
    items: DataFrame  # columns item: str, text: str, optionally more (title, categories, ...); one row an item
    set_aside: DataFrame | None = None  # columns file: str, line: int, reason: str; the rows that could not be read


class RawStream(NamedTuple):
    """What a source reads, in pieces, for data larger than memory: each iterator is gone through once, interactions first.

    A piece is a table with the columns of `RawTables`: a pandas DataFrame, a pyarrow Table, or whatever exports Arrow
    (`__arrow_c_stream__`).
    """

    interactions: Iterator[Any]
    items: Iterator[Any]
    set_aside: Callable[[], DataFrame]  # as in `RawTables`; asked for when both iterators are through


@runtime_checkable
class Source(Protocol):
    """A data set."""

    def load(self, root: Path) -> RawTables:
        """Read the upstream files; `root` is where fetched ones are kept."""
        ...


@runtime_checkable
class StreamedSource(Source, Protocol):
    """A data set that may be larger than memory: the pipeline takes its stream."""

    def stream(self, root: Path) -> RawStream:
        """What `load` reads, in pieces."""
        ...


@runtime_checkable
class Split(Protocol):
    """Which interactions are for training, for validation, for the test; it may also be one or two of the three below."""

    def assign(self, interactions: DataFrame) -> ndarray:
        """Interactions sorted by (user, time), stable -> text [rows]: 'train', 'validation' or 'test'."""
        ...


@runtime_checkable
class KeepingSplit(Split, Protocol):
    """A split with a filter of its own."""

    def keep(self, interactions: DataFrame) -> DataFrame:
        """Raw interactions in file order -> those that stay, in the same order, all columns as they were."""
        ...


@runtime_checkable
class FilteringSplit(Split, Protocol):
    """A split that names built-in filters; the pipeline carries them out without a log in memory."""

    def filters(self) -> Any:
        """A `genrec.data.event_filters.Filters`."""
        ...


@runtime_checkable
class DividingSplit(Split, Protocol):
    """A split for logs larger than memory; `divide` then stands for `assign`."""

    def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> ndarray:
        """Each user's events lie at begin..end, int64 [U], by time, int64 [E] -> where validation and test begin, int64 [U, 2]."""
        ...
