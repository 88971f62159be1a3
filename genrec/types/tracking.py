"""Trackers: services and files outside genrec that follow the training of a row and seed (`genrec run --track`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable


class TrackedRow(NamedTuple):
    """A row and seed, as a tracker sees it."""

    name: str  # of the row
    seed: int
    configuration: Mapping[str, object]  # key path -> value: text, number, boolean, None, or a list of them
    folder: Path  # the data folder, below which a tracker may write
    points: int = 0  # calls of `TrackedRun.log` in earlier sessions of the run


@runtime_checkable
class TrackedRun(Protocol):
    """One run of a tracker. Its methods are called in one thread, apart from the training; an exception ends the tracking alone."""

    def identifier(self) -> str:
        """Return the name by which `Tracker.start` finds this run again."""
        ...

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Take the finite values of one row of a stage's training curves, such as `loss` and `validation_ndcg@10`."""
        ...

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Take the metrics of the test, after the last stage."""
        ...

    def close(self) -> None:
        """End the session. The row may be incomplete, and go on in a later session."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Follows rows: `--track FILE.py:CLASS` names your own."""

    def check(self) -> None:
        """Raise a `genrec.errors.GenrecError` with what to do if the tracker can't be used; called before any stage runs."""
        ...

    def start(self, row: TrackedRow, identifier: str | None) -> TrackedRun:
        """Return a new run, or the run with this identifier, which an earlier command has started for the same row and seed."""
        ...
