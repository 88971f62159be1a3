"""Item vectors for nearest-neighbor negatives: of the experiment, of another encoder, or learned by the policy.

Every class returns float32 [N + 1, D]; row 0 is zeros, so a vector is found by its item id.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.errors import InputError, UsageError
from genrec.types import ItemEncoder, SamplerContext, VectorPolicy


@dataclass(frozen=True)
class Content:
    """The item vectors of the experiment, from which its Semantic IDs are made."""

    def vectors(self, context: SamplerContext) -> Tensor:
        """Return `context.vectors`, float32 [N + 1, D]."""
        return context.vectors


@dataclass(frozen=True)
class Encoded:
    """The vectors of another item encoder, fitted on the training interactions, e.g. `genrec.embeddings.Collaborative(dim=64)`."""

    encoder: ItemEncoder  # runs once, when the sampler is built

    def vectors(self, context: SamplerContext) -> Tensor:
        """Return the encoder's vectors of the catalog, float32 [N + 1, D]."""
        name = type(self.encoder).__name__
        if context.items is None:
            raise UsageError(f"Encoded({name}) needs the catalog, got a context without one: pass SamplerContext.items")
        encoded = torch.from_numpy(self.encoder.encode(context.items, context.interactions)).float()
        if encoded.ndim != 2 or len(encoded) != context.item_count:
            raise InputError(f"{name} must return float32 [{context.item_count}, D], one row per item, got {list(encoded.shape)}")
        return torch.cat([encoded.new_zeros(1, encoded.shape[1]), encoded])


@dataclass(frozen=True)
class LearnedVectors:
    """The item vectors that `context.policy` has learned by the time the sampler is built."""

    def vectors(self, context: SamplerContext) -> Tensor:
        """Return `context.policy.item_vectors()`, float32 [N + 1, D]."""
        if not isinstance(context.policy, VectorPolicy):
            got = "a context without a policy" if context.policy is None else type(context.policy).__name__
            raise UsageError(
                f"LearnedVectors needs a policy with item vectors (genrec.types.VectorPolicy, method item_vectors), got {got}; "
                "use Content() or Encoded(...)"
            )
        return context.policy.item_vectors()
