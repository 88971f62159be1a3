"""Stage 5, by what items are near each other: content, any item encoder's vectors, or what the policy itself has learned.

In: a `SamplerContext`. Out: item vectors float32 [N + 1, D], row 0 zeros, so that an item id is its row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.errors import InputError, UsageError
from genrec.types import ItemEncoder, SamplerContext, VectorPolicy


@dataclass(frozen=True)
class Content:
    """The experiment's own item vectors: those that its Semantic IDs were made of."""

    def vectors(self, context: SamplerContext) -> Tensor:
        """As they are."""
        return context.vectors


@dataclass(frozen=True)
class Encoded:
    """Vectors of an item encoder of the sampler's own, e.g. `genrec.embeddings.Collaborative(width=64)`, fitted on training alone."""

    encoder: ItemEncoder  # asked once, when the sampler is built

    def vectors(self, context: SamplerContext) -> Tensor:
        """The encoder's vectors of the catalog."""
        name = type(self.encoder).__name__
        if context.items is None:
            raise UsageError(f"Encoded({name}) needs the catalog, got a context without one: pass SamplerContext.items")
        found = torch.from_numpy(self.encoder.encode(context.items, context.interactions)).float()
        if found.ndim != 2 or len(found) != context.item_count:
            raise InputError(f"{name} must give float32 [{context.item_count}, D], a row for each item, got {list(found.shape)}")
        return torch.cat([found.new_zeros(1, found.shape[1]), found])


@dataclass(frozen=True)
class LearnedVectors:
    """The vectors that `context.policy` has learned for items, as they are when the sampler is built."""

    def vectors(self, context: SamplerContext) -> Tensor:
        """`item_vectors()` of the policy."""
        if not isinstance(context.policy, VectorPolicy):
            got = "a context without a policy" if context.policy is None else type(context.policy).__name__
            raise UsageError(
                f"LearnedVectors needs a policy with vectors of items (genrec.types.VectorPolicy, which has item_vectors), got {got}; "
                "use Content() or Encoded(...)"
            )
        return context.policy.item_vectors()
