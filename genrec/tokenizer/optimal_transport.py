"""Codes for the items of each group by entropic optimal transport.

Within a group, find a plan P >= 0 that distributes every item over the codes, with at most one item per code:
    min  sum_ic P_ic cost_ic + e sum_ic P_ic (ln P_ic - 1)    subject to  sum_c P_ic = 1,  sum_i P_ic <= 1
Solved by Sinkhorn's algorithm (Cuturi 2013, 1306.0895) in the log domain, with one price <= 0 per code:
    P_i = softmax_c((price_c - cost_ic) / e),    price_c <- min(0, price_c - e ln sum_i P_ic)
Every row of P sums to 1, so that nothing overflows for small e. Each item then takes the code with its largest share.

This is a batched version of LC-Rec's uniform semantic mapping (Zheng et al. 2023, 2311.09049, section 3.1.2). It differs as follows:
    - All items of a group take part, not only those that share a code, because codes of other items are not free.
    - A code has at most one item instead of exactly items / codes, because most codes of a group have no item.
    - e decreases from `START` to its final value. With a constant e, as in LC-Rec, 50 rounds change almost no code. The final value
      is a sixth of LC-Rec's 0.003, which leaves almost three times as many collisions on Amazon Beauty (12,101 items, 3 x 256).
    - There is one pass; LC-Rec repeats up to 20 passes over the remaining collisions.
Costs are scaled as in LC-Rec: half the range of a group's costs is 1. Items with equal costs have equal shares and are not separated.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray

START = 0.1  # initial weight of the entropy, in units of half the range of a group's costs
SHORTLIST = 32  # cheapest codes of an item that take part; a group of fewer items needs at most as many codes as items


def soft_distinct(costs: ndarray, group: ndarray, present: ndarray, epsilon: float, rounds: int) -> ndarray:
    """Return codes int64 [M]. A group keeps its codes unless fewer of its items share a code afterwards.

    - `costs`: float32 [M, C].
    - `group`: int64 [M], ascending.
    - `present`: int64 [M], the current codes.
    - `epsilon`: final weight of the entropy, in units of half the range of a group's costs.
    - `rounds`: number of price updates.
    """
    (items, size), rows = costs.shape, np.arange(len(costs))
    first = np.flatnonzero(np.diff(group, prepend=-1))
    local = np.cumsum(np.diff(group, prepend=group[:1]) > 0)
    half = (np.maximum.reduceat(costs.max(axis=1), first) - np.minimum.reduceat(costs.min(axis=1), first)) / 2
    listed = _shortlist(costs, min(SHORTLIST, size, int(np.diff(first, append=items).max())))
    scaled = torch.from_numpy(np.take_along_axis(costs, listed, 1) / np.where(half > 0, half, 1)[local][:, None])
    place = torch.from_numpy(local[:, None] * size + listed)
    codes, place = torch.unique(place, return_inverse=True)  # only listed codes have a price
    price = torch.zeros(len(codes))
    for weight in np.geomspace(max(START, epsilon), epsilon, rounds).tolist():
        plan = torch.softmax((price.take(place) - scaled) / weight, dim=1)
        load = torch.zeros(len(codes)).index_add_(0, place.flatten(), plan.flatten())
        price = torch.clamp(price - weight * load.log(), max=0)
    best = (price.take(place) - scaled).argmax(dim=1).numpy()
    chosen = listed[rows, best]
    worse = _sharing(local, chosen, size) >= _sharing(local, present, size)
    return np.where(worse[local], present, chosen)


def _shortlist(costs: ndarray, length: int) -> ndarray:
    """Return each row's cheapest codes, int64 [M, length], ascending so that ties go to the lowest code."""
    if length == costs.shape[1]:
        return np.tile(np.arange(length), (len(costs), 1))
    return np.sort(np.argpartition(costs, length - 1, axis=1)[:, :length], axis=1)


def _sharing(group: ndarray, codes: ndarray, size: int) -> ndarray:
    """Return the number of items of each group that share their code with another item, int64 [groups]."""
    _, inverse, counts = np.unique(group * size + codes, return_inverse=True, return_counts=True)
    return np.bincount(group, weights=counts[inverse] > 1, minlength=int(group[-1]) + 1)
