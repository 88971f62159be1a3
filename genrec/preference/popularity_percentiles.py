"""Popularity percentiles of items."""

from __future__ import annotations

import torch
from torch import Tensor


def percentiles(popularity: Tensor) -> Tensor:
    """Return the share of the catalog that is less popular than each item, ties counting half: float64 [N + 1] in [0, 1].

    `popularity` is int64 [N + 1], training events of each item. The mean over the catalog is 0.5; row 0 is padding and holds 0.
    """
    events = popularity[1:].cpu()
    ordered = events.sort().values
    below = torch.searchsorted(ordered, events)
    not_above = torch.searchsorted(ordered, events, right=True)
    share = (below + not_above).double() / (2 * max(1, len(events)))
    return torch.cat([torch.zeros(1, dtype=torch.float64), share])
