"""Specifications: the frozen dataclasses that an experiment is made of."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class CheckedSpecification(Protocol):
    """A component of an experiment that checks itself against the whole experiment, before any stage runs."""

    def check(self, experiment: Any) -> None:
        """Raise `genrec.errors.UsageError` if this component does not fit the `genrec.experiment.Experiment` that holds it."""
        ...
