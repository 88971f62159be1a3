"""Item vectors for nearest-neighbor negatives: of the experiment, of another encoder, or learned by the policy.

Every class returns float32 [N + 1, D]; row 0 is zeros, so a vector is found by its item id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from genrec.errors import InputError, UsageError
from genrec.own_ids import name_item
from genrec.plugin_source import name_with_place
from genrec.types import ItemEncoder, ItemVectors, SamplerContext, VectorPolicy


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

    def __post_init__(self) -> None:
        if isinstance(self.encoder, str | type) or not isinstance(self.encoder, ItemEncoder):  # a text has a method `encode`
            raise UsageError(f"Encoded.encoder must be an item encoder, such as Collaborative(), got {self.encoder!r}")

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

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError unless the context has a policy with item vectors."""
        if not isinstance(context.policy, VectorPolicy):
            got = "a context without a policy" if context.policy is None else type(context.policy).__name__
            raise UsageError(
                f"LearnedVectors needs a policy with item vectors (genrec.types.VectorPolicy, method item_vectors), got {got}; "
                "use Content() or Encoded(...)"
            )

    def vectors(self, context: SamplerContext) -> Tensor:
        """Return `context.policy.item_vectors()`, float32 [N + 1, D]."""
        self.check_context(context)
        return cast(VectorPolicy, context.policy).item_vectors()


def checked_vectors(item_vectors: ItemVectors, context: SamplerContext) -> Tensor:
    """Return the vectors, float [N + 1, D]; raise InputError if they have another form or are not finite."""
    name, found = name_with_place(type(item_vectors)), item_vectors.vectors(context)
    expected = f"float32 [{context.item_count + 1}, D], a row of zeros for padding and one row per item"
    if not isinstance(found, Tensor) or not found.is_floating_point():
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"{name}: vectors(context) must return a tensor {expected}, got {got}")
    if found.ndim != 2 or len(found) != context.item_count + 1:
        raise InputError(
            f"{name} must return {context.item_count + 1} rows, one for padding and one per item, got {list(found.shape)}"
        )
    if not bool(found[1:].isfinite().all()):
        row = 1 + int((~found[1:].isfinite().all(1)).nonzero()[0])
        raise InputError(
            f"{name}: the vectors must be finite, got {found[row].tolist()[:5]} for item {name_item(context.own_ids, row)}"
        )
    return found
