"""Masks and means over groups: different candidates, candidates that hit the target, and the mean of a loss."""

from __future__ import annotations

import torch
from torch import Tensor


def distinct_candidates(items: Tensor, semantic_ids: Tensor, mask: Tensor) -> Tensor:
    """Return the mask bool [X, M] without items that share the Semantic ID of an earlier, other item of the row.

    Both are one candidate for the policy. The same item again is a repeated draw and stays. `items` and `semantic_ids`, a number for
    each Semantic ID, are int64 [X, M].
    """
    same = (semantic_ids.unsqueeze(2) == semantic_ids.unsqueeze(1)) & mask.unsqueeze(1)
    first = same.to(torch.int8).argmax(2)  # the first place with this Semantic ID
    return mask & (items == items.gather(1, first))


def group_mean(values: Tensor, mask: Tensor, counted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean over the counted groups of the mean over their candidates: a scalar, 0 if no group is counted.

    Arguments: values float32 [X, M], mask bool [X, M], counted bool [X], weight float32 [X] of the groups, above 0 (None: all 1).
    Values that are masked or of other groups have no gradient.
    """
    used = mask & counted.unsqueeze(1)
    of_group = torch.where(used, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)
    if weight is None:
        return of_group.sum() / counted.sum().clamp(min=1)
    weight = torch.where(counted, weight, 0.0)
    return (weight * of_group).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values where the mask is true: a scalar, NaN if it is true nowhere. Shapes are equal."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()
