"""Contract checks for item vectors of a nearest-neighbor search."""

from __future__ import annotations

import torch

from genrec.errors import InputError
from genrec.preference.vectors import checked_vectors
from genrec.testing.check_worlds import context_or_small
from genrec.testing.plugin_watch import call_plugin, check_unchanged
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import ItemVectors, SamplerContext


def check_item_vectors(vectors: ItemVectors, context: SamplerContext | None = None) -> None:
    """Raise ContractError if item vectors break `genrec.types.ItemVectors`, on a small synthetic training set or on your context.

    Checked:

    - it is a frozen dataclass;
    - `vectors(context)` returns float32 [N + 1, D], finite, detached, with zeros in row 0, and not all items alike;
    - a second call gives the same;
    - the context, the mode of the policy and global random state stay unchanged.
    """
    check_specification(vectors, ItemVectors, "vectors(context)")
    with context_or_small(context, "check_item_vectors") as known:
        _check_on(known, vectors)


def _check_on(context: SamplerContext, vectors: ItemVectors) -> None:
    name = type(vectors).__name__
    with check_unchanged(name, context, {}, "draw from your own generator, seeded by a field"):
        try:
            first, second = (call_plugin(name, "vectors(context)", lambda: checked_vectors(vectors, context)) for _ in range(2))
        except ContractError:
            raise
        except InputError as error:
            raise ContractError(str(error)) from None
    if first.dtype != torch.float32:
        raise ContractError(
            f"{name}: vectors(context) must return float32, got {str(first.dtype).removeprefix('torch.')}; use .float()"
        )
    if first.requires_grad:
        raise ContractError(f"{name}: the vectors must be detached, because nothing trains through them; use torch.no_grad()")
    if bool(first[0].any()):
        raise ContractError(f"{name}: row 0 is padding and must be zeros, got {first[0].tolist()[:5]}; item i belongs in row i")
    if len(first) > 2 and bool((first[1:] == first[1]).all()):
        raise ContractError(f"{name}: all {len(first) - 1} items have the same vector, so that they have no neighbors")
    if not torch.equal(first, second):
        raise ContractError(f"{name}: a second call gives other vectors; take randomness from a seed that is a field")
