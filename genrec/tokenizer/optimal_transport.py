"""Stage 3: codes of a group's items by entropic optimal transport. In: what each code would cost each item. Out: codes.

Within a group, find the plan P >= 0 that spreads every item over the codes, no code with more than one item's worth:
    min  sum_ic P_ic cost_ic + e sum_ic P_ic (ln P_ic - 1)    subject to  sum_c P_ic = 1,  sum_i P_ic <= 1
Sinkhorn's algorithm (Cuturi 2013, 1306.0895) in the log domain, with a price a code, which are at most 0:
    P_i = softmax_c((price_c - cost_ic) / e),    price_c <- min(0, price_c - e ln sum_i P_ic)
Every row of P sums to 1, so nothing overflows, however small e is. An item then takes the code with the largest share.

The batched counterpart of LC-Rec's uniform semantic mapping (Zheng et al. 2023, 2311.09049, section 3.1.2). It differs where
    - all items of a group take part, not only those that share a code: a code that another item holds is not free;
    - a code may have at most one item instead of exactly items / codes: most codes of a group have none;
    - e falls from `START` to its last value; with one value throughout, as there, 50 rounds move next to nothing. The last is a
      sixth of LC-Rec's 0.003, which leaves almost three times as many collisions of Amazon Beauty (12,101 items, 3 x 256);
    - one pass, where LC-Rec goes again over what still collides, up to 20 times.
Costs are scaled as there: half of a group's range is 1. Items with equal costs have equal shares, so they never part.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray

START = 0.1  # the entropy's first weight, in half ranges of a group's costs
SHORTLIST = 32  # codes of an item that take part, its cheapest; of these, a group of fewer items needs only as many as it has


def soft_distinct(costs: ndarray, group: ndarray, present: ndarray, epsilon: float, rounds: int) -> ndarray:
    """Codes int64 [M]. Costs float32 [M, C], group int64 [M], ascending; present int64 [M], the codes up to now.

    A group in which no fewer items would share a code than now keeps its codes.
    """
    (items, size), every = costs.shape, np.arange(len(costs))
    first = np.flatnonzero(np.diff(group, prepend=-1))
    local = np.cumsum(np.diff(group, prepend=group[:1]) > 0)
    half = (np.maximum.reduceat(costs.max(axis=1), first) - np.minimum.reduceat(costs.min(axis=1), first)) / 2
    listed = _shortlist(costs, min(SHORTLIST, size, int(np.diff(first, append=items).max())))
    scaled = torch.from_numpy(np.take_along_axis(costs, listed, 1) / np.where(half > 0, half, 1)[local][:, None])
    place = torch.from_numpy(local[:, None] * size + listed)
    codes, place = torch.unique(place, return_inverse=True)  # only codes on a list have a price
    price = torch.zeros(len(codes))
    for weight in np.geomspace(max(START, epsilon), epsilon, rounds).tolist():
        plan = torch.softmax((price.take(place) - scaled) / weight, dim=1)
        load = torch.zeros(len(codes)).index_add_(0, place.flatten(), plan.flatten())
        price = torch.clamp(price - weight * load.log(), max=0)
    best = (price.take(place) - scaled).argmax(dim=1).numpy()
    chosen = listed[every, best]
    worse = _sharing(local, chosen, size) >= _sharing(local, present, size)
    return np.where(worse[local], present, chosen)


def _shortlist(costs: ndarray, length: int) -> ndarray:
    """Each row's cheapest codes, int64 [M, length], ascending so that ties go to the lowest."""
    if length == costs.shape[1]:
        return np.tile(np.arange(length), (len(costs), 1))
    return np.sort(np.argpartition(costs, length - 1, axis=1)[:, :length], axis=1)


def _sharing(group: ndarray, codes: ndarray, size: int) -> ndarray:
    """How many items of each group share their code with another, int64 [groups]."""
    _, inverse, counts = np.unique(group * size + codes, return_inverse=True, return_counts=True)
    return np.bincount(group, weights=counts[inverse] > 1, minlength=int(group[-1]) + 1)
