"""Stage 5, how popular items are among each other."""

from __future__ import annotations

import torch
from torch import Tensor


def percentiles(popularity: Tensor) -> Tensor:
    """Training events int64 [N + 1] -> the share of the catalog that is less popular, ties counting half: float64 [N + 1].

    The mean over the catalog is 0.5; row 0, which is no item, holds 0.
    """
    events = popularity[1:].cpu()
    ordered = events.sort().values
    below = torch.searchsorted(ordered, events)
    not_above = torch.searchsorted(ordered, events, right=True)
    share = (below + not_above).double() / (2 * max(1, len(events)))
    return torch.cat([torch.zeros(1, dtype=torch.float64), share])
