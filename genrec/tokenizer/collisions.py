"""Stage 3: items that share their codes, and the level that tells them apart. In and out: codes int64 [N, L].

Source: TIGER (Rajput et al. 2023, 2305.05065), section 3.1: an extra code is appended to make Semantic IDs unique.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Groups(NamedTuple):
    """Items by the codes they share."""

    group: Tensor  # int64 [N]  the group of each item
    sizes: Tensor  # int64 [groups]  items of each group


def prefix_groups(codes: Tensor) -> Iterator[Groups]:
    """For prefix lengths 1, 2, ..., L of codes int64 [N, L]: the items grouped by their prefix."""
    group = torch.zeros(len(codes), dtype=torch.int64)
    for level in codes.T:
        key = group * (int(level.max()) + 1) + level
        _, group, sizes = key.unique(return_inverse=True, return_counts=True)
        yield Groups(group, sizes)


def separate_collisions(codes: Tensor) -> Tensor:
    """Append a last level: 0, 1, ..., G-1 over the items that share their codes, in item order. int64 [N, L] -> [N, L + 1].

    The level is as large as the largest group, so that no two items ever share a Semantic ID (fault S3).
    """
    *_, (group, sizes) = prefix_groups(codes)
    first = sizes.cumsum(0) - sizes
    order = group.argsort(stable=True)
    place = torch.empty_like(group).scatter_(0, order, torch.arange(len(codes)) - first[group[order]])
    return torch.cat([codes, place[:, None]], dim=1)
