"""Stage 5, what else must not be drawn: filters of candidates, as frozen specifications that build what refuses.

In: a `SamplerContext` once, then a batch and candidates int64 [B, M] (0 = none), on the CPU. Out: bool [B, M], true where a candidate
is not wanted. A filter looks at each candidate by itself. `Filtered` puts filters on a sampler, and `Exclusions` asks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.popularity_percentiles import percentiles
from genrec.preference.prefix_groups import nodes
from genrec.types import SamplerContext, SequenceBatch

if TYPE_CHECKING:
    from genrec.types.preference import Refuses

CHUNK = 1 << 24  # numbers of item vectors held at a time


@dataclass(frozen=True)
class NearDuplicates:
    """Refuses items that differ from the positive only in their last `codes` codes: to the policy, they are nearly the positive."""

    num_codes: int = 1  # last codes that do not count as a difference, 1 to L - 1

    def __post_init__(self) -> None:
        if self.num_codes < 1:
            raise UsageError(f"NearDuplicates.num_codes must be at least 1, got {self.num_codes}")

    def refuse(self, context: SamplerContext) -> Refuses:
        """What refuses."""
        levels = context.semantic_ids.levels
        if self.num_codes >= levels:
            raise UsageError(f"NearDuplicates.num_codes must be below {levels}, the levels of a Semantic ID, got {self.num_codes}")
        node = nodes(context.semantic_ids, levels - self.num_codes)
        return lambda batch, candidates: node[candidates] == node[batch.target].unsqueeze(1)


@dataclass(frozen=True)
class SimilarityWindow:
    """Refuses items whose cosine to the positive, by the item encoder's vectors, lies outside `low` to `high`.

    A vector of length 0 has the cosine 0 to every other.
    """

    low: float = -1.0  # the least similar that is wanted, -1 to 1
    high: float = 1.0  # the most similar that is wanted, low to 1

    def __post_init__(self) -> None:
        _check_window("SimilarityWindow", self.low, self.high, -1)

    def refuse(self, context: SamplerContext) -> Refuses:
        """What refuses."""
        vectors = context.vectors.cpu()
        norms = vectors.norm(dim=1).clamp(min=torch.finfo(vectors.dtype).tiny)

        def refuses(batch: SequenceBatch, candidates: Tensor) -> Tensor:
            cosine = torch.empty(candidates.shape)
            rows = max(1, CHUNK // max(1, candidates.shape[1] * vectors.shape[1]))
            for some in torch.split(torch.arange(len(candidates)), rows):
                items, target = candidates[some], batch.target[some].unsqueeze(1)
                dots = (vectors[items] * vectors[target]).sum(-1)  # no matrix product, whose rounding depends on the batch
                cosine[some] = (dots / norms[items] / norms[target]).clamp(-1, 1)
            return (cosine < self.low) | (cosine > self.high)

        return refuses


@dataclass(frozen=True)
class PopularityWindow:
    """Refuses items whose percentile of popularity lies outside `low` to `high`: 0 is the least popular, ties count half."""

    low: float = 0.0  # 0 to 1
    high: float = 1.0  # low to 1

    def __post_init__(self) -> None:
        _check_window("PopularityWindow", self.low, self.high, 0)

    def refuse(self, context: SamplerContext) -> Refuses:
        """What refuses."""
        share = percentiles(context.popularity)
        outside = (share < self.low) | (share > self.high)
        return lambda _, candidates: outside[candidates]


def _check_window(name: str, low: float, high: float, least: int) -> None:
    if not least <= low <= high <= 1:
        raise UsageError(f"{name}.low and high must lie in {least}..1, low not above high, got {low} and {high}")
