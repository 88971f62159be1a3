"""Candidate filters: further items to exclude from the negatives of a row.

A filter judges each candidate on its own. `genrec.preference.negatives.Filtered` adds filters to a sampler; `Exclusions` applies
them. They run on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.popularity_percentiles import percentiles
from genrec.preference.prefix_groups import known_levels, nodes
from genrec.types import SamplerContext, SequenceBatch
from genrec.types.specification import check_types

if TYPE_CHECKING:
    from genrec.types.preference import RejectCandidates

CHUNK = 1 << 24  # most numbers of item vectors in memory at a time


@dataclass(frozen=True)
class NearDuplicates:
    """Rejects items that differ from the positive only in their last `num_codes` codes. The policy can hardly tell them apart."""

    num_codes: int = 1  # last codes that are ignored in the comparison, 1 to L - 1

    def __post_init__(self) -> None:
        check_types(self, "NearDuplicates")
        if self.num_codes < 1:
            raise UsageError(f"NearDuplicates.num_codes must be at least 1, got {self.num_codes}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `num_codes` is known not to be below the levels of a Semantic ID."""
        levels = known_levels(experiment)
        if levels is not None:
            self._check_levels(levels)

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError if `num_codes` is not below the levels of a Semantic ID."""
        self._check_levels(context.semantic_ids.levels)

    def _check_levels(self, levels: int) -> None:
        if self.num_codes >= levels:
            raise UsageError(f"NearDuplicates.num_codes must be below {levels}, the levels of a Semantic ID, got {self.num_codes}")

    def refuse(self, context: SamplerContext) -> RejectCandidates:
        """Build the predicate that rejects candidates."""
        self.check_context(context)
        levels = context.semantic_ids.levels
        node = nodes(context.semantic_ids, levels - self.num_codes)
        return lambda batch, candidates: node[candidates] == node[batch.target].unsqueeze(1)


@dataclass(frozen=True)
class SimilarityWindow:
    """Rejects items with a cosine similarity to the positive outside `low` to `high`, by the item vectors of the experiment.

    A vector of zeros has cosine 0 to every other.
    """

    low: float = -1.0  # smallest cosine that is kept, -1 to 1
    high: float = 1.0  # largest cosine that is kept, low to 1

    def __post_init__(self) -> None:
        check_types(self, "SimilarityWindow")
        _check_window("SimilarityWindow", self.low, self.high, -1)

    def refuse(self, context: SamplerContext) -> RejectCandidates:
        """Build the predicate that rejects candidates."""
        vectors = context.vectors.cpu()
        norms = vectors.norm(dim=1).clamp(min=torch.finfo(vectors.dtype).tiny)

        def rejects(batch: SequenceBatch, candidates: Tensor) -> Tensor:
            cosine = torch.empty(candidates.shape)
            chunk = max(1, CHUNK // max(1, candidates.shape[1] * vectors.shape[1]))
            for rows in torch.split(torch.arange(len(candidates)), chunk):
                items, target = candidates[rows], batch.target[rows].unsqueeze(1)
                dots = (vectors[items] * vectors[target]).sum(-1)  # not a matrix product: its rounding depends on the batch
                cosine[rows] = (dots / norms[items] / norms[target]).clamp(-1, 1)
            return (cosine < self.low) | (cosine > self.high)

        return rejects


@dataclass(frozen=True)
class PopularityWindow:
    """Rejects items with a popularity percentile outside `low` to `high`. The least popular item is near 0; ties count half."""

    low: float = 0.0  # smallest percentile that is kept, 0 to 1
    high: float = 1.0  # largest percentile that is kept, low to 1

    def __post_init__(self) -> None:
        check_types(self, "PopularityWindow")
        _check_window("PopularityWindow", self.low, self.high, 0)

    def refuse(self, context: SamplerContext) -> RejectCandidates:
        """Build the predicate that rejects candidates."""
        share = percentiles(context.popularity)
        outside = (share < self.low) | (share > self.high)
        return lambda _, candidates: outside[candidates]


def _check_window(name: str, low: float, high: float, smallest: int) -> None:
    if not smallest <= low <= high <= 1:
        raise UsageError(f"{name} must have {smallest} <= low <= high <= 1, got low {low} and high {high}")
