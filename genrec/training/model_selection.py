"""Model selection: the validation metric that decides the best step of a training and early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from genrec.errors import UsageError
from genrec.types import Baseline
from genrec.types.specification import check_at_least, check_choices

FILTERED = "_filter_seen"  # suffix of validation metrics of lists without the items that the user has already taken


@dataclass(frozen=True)
class Selection:
    """The metric on the validation users that selects the best step, in SFT and in alignment, and stops a training early.

    Validation computes its metrics twice, with seen items kept in the lists and with seen items filtered out, and logs both. The
    selection is independent of `Evaluate.filter_seen`: one trained policy serves the tables of both protocols.
    """

    metric: Literal["ndcg", "recall", "mrr"] = "ndcg"  # metric of the target's rank, averaged over the validation users
    cutoff: int = 10  # length of the lists, at least 1 and at most the policy's number of beams
    filter_seen: bool = False  # leave the items that a user has already taken out of the lists

    def __post_init__(self) -> None:
        check_choices(self, "selection")
        check_at_least(self, "selection", 1, "cutoff")
        for name, kind in (("cutoff", int), ("filter_seen", bool)):
            if not isinstance(getattr(self, name), kind):
                raise UsageError(f"selection.{name} must be of type {kind.__name__}, got {getattr(self, name)!r}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the policy has fewer beams than `cutoff`."""
        beams = getattr(experiment.policy, "num_beams", None)
        if beams is not None and beams < self.cutoff and not isinstance(experiment.policy, Baseline):
            smaller = "set a smaller selection.cutoff or a larger" if beams >= 10 else f"set at least {max(10, self.cutoff)} as"
            raise UsageError(
                f"{experiment.name}: selection.cutoff must be at most policy.num_beams = {beams}, the number of items that validation "
                f"ranks, got {self.cutoff}; {smaller} policy.num_beams"
            )

    def check_catalog(self, items: int) -> None:
        """Raise UsageError if `cutoff` exceeds the number of items. The default of 10 is always allowed."""
        if self.cutoff > max(10, items):
            raise UsageError(f"selection.cutoff must be at most {max(10, items)} in a catalog of {items} items, got {self.cutoff}")

    @property
    def column(self) -> str:
        """The metric's name among the validation metrics: `ndcg@10`, or `ndcg@10_filter_seen`."""
        return f"{self.metric}@{self.cutoff}{FILTERED if self.filter_seen else ''}"

    @property
    def title(self) -> str:
        """The metric's name in messages: `NDCG@10`, or `NDCG@10 (seen items filtered)`."""
        return f"{self._label}{' (seen items filtered)' if self.filter_seen else ''}"

    @property
    def protocol(self) -> str:
        """The selection in the protocol of a table: `NDCG@10 on validation, seen items kept`."""
        return f"{self._label} on validation, seen items {'filtered' if self.filter_seen else 'kept'}"

    @property
    def _label(self) -> str:
        return f"{ {'ndcg': 'NDCG', 'recall': 'Recall', 'mrr': 'MRR'}[self.metric] }@{self.cutoff}"


def selection_of(specification: Mapping[str, Any]) -> Selection:
    """Return the selection that a manifest's specification describes; the default for a training that recorded none."""
    described = specification.get("selection", {})
    return Selection(**{name: described[name] for name in ("metric", "cutoff", "filter_seen") if name in described})
