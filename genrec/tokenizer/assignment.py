"""Stage 3: the cheapest way to give the items of a group codes that differ. In: what each code would cost each item. Out: codes.

The problem is the assignment problem (Kuhn 1955), one a group. Most groups of a real catalog have one or two items too many on
a code; for those a bound that is read off the costs, for all groups at once, proves the obvious move optimal (`_by_regret`). The
others are solved one by one, exactly, by shortest augmenting paths (Crouse 2016, as in scipy).
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

TIE = 2.0**-40  # of the largest cost: what keeping the present code is worth; a float32 cost is known to 2**-24 of itself


def cheapest_distinct(costs: ndarray, group: ndarray, present: ndarray) -> ndarray:
    """Codes int64 [M], no two alike in a group, of the least total cost; the present code is kept where that costs nothing.

    Costs float32 [M, C], infinite where a code is not to be had; group int64 [M], ascending; present int64 [M], the codes up to
    now. A group must have no more items than codes that are not infinite, the same ones for all its items. Of items with equal
    costs and one present code, the earlier keeps it, and the others take the cheaper codes first.
    """
    chosen, settled = _by_regret(costs, group, present)
    rows = np.flatnonzero(~settled)
    if len(rows):
        for part in np.split(rows, np.flatnonzero(np.diff(group[rows])) + 1):
            low, high = part[0], part[-1] + 1
            chosen[low:high] = _assignment(costs[low:high], present[low:high])
        chosen[rows] = _in_item_order(costs[rows], group[rows], present[rows], chosen[rows])
    return chosen


def _by_regret(costs: ndarray, group: ndarray, present: ndarray) -> tuple[ndarray, ndarray]:
    """Codes int64 [M], and whether they are proved to be the cheapest that differ, bool [M], the same for all of a group.

    Every item takes its cheapest code. Where several want one code, that with the most to lose keeps it (the earlier of equals),
    and each other takes its second cheapest. If the codes then differ, no total is lower: of k items that want one code, k - 1
    must go without, and each of these pays at least the difference of its second cheapest to its cheapest, its regret; the sum
    of all cheapest costs and of the k - 1 smallest regrets of every contested code is a lower bound, and it is reached.
    """
    every, size = np.arange(len(costs)), costs.shape[1]
    chosen = _cheapest(costs, present)
    wanted = group * size + chosen
    contested = np.flatnonzero(_counts(wanted) > 1)
    if len(contested):
        others = costs[contested]
        best = others[np.arange(len(contested)), chosen[contested]].astype(np.float64)
        others[np.arange(len(contested)), chosen[contested]] = np.inf
        second = _cheapest(others, present[contested])
        regret = others[np.arange(len(contested)), second] - best
        order = np.lexsort((contested, -regret, wanted[contested]))
        moves = np.zeros(len(contested), dtype=bool)
        moves[order[1:]] = np.diff(wanted[contested][order]) == 0
        chosen[contested[moves]] = second[moves]
    doubtful = np.unique(group[every[_counts(group * size + chosen) > 1]])
    return chosen, ~np.isin(group, doubtful)


def _cheapest(costs: ndarray, present: ndarray) -> ndarray:
    """Each row's cheapest code, int64 [M]: the present one if none is cheaper, else the lowest."""
    every, best = np.arange(len(costs)), costs.argmin(axis=1)
    return np.where(costs[every, present] <= costs[every, best], present, best)


def _counts(values: ndarray) -> ndarray:
    """How often each value occurs, int64 [M] -> int64 [M]."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse]


def _assignment(costs: ndarray, present: ndarray) -> ndarray:
    """One group's cheapest distinct codes; `TIE` decides between equal totals, and changes none by more than float32 knows."""
    from scipy.optimize import linear_sum_assignment

    largest = costs.max()
    if np.isinf(largest):
        largest = costs[np.isfinite(costs)].max()
    exact = costs.astype(np.float64)
    exact[np.arange(len(exact)), present] -= TIE * (max(abs(float(largest)), abs(float(costs.min()))) or 1.0)
    return linear_sum_assignment(exact)[1]  # type: ignore[no-any-return]


def _in_item_order(costs: ndarray, group: ndarray, present: ndarray, chosen: ndarray) -> ndarray:
    """The same codes, but among items of a group with equal costs and one present code handed out in item order."""
    every = np.arange(len(costs))
    sums = np.where(np.isfinite(costs), costs, 0).sum(axis=1, dtype=np.float64)
    order = np.lexsort((every, sums, present, group))
    before, after = order[:-1], order[1:]
    alike = (sums[before] == sums[after]) & (present[before] == present[after]) & (group[before] == group[after])
    alike[alike] = (costs[before[alike]] == costs[after[alike]]).all(axis=1)
    kind = np.empty(len(costs), dtype=np.int64)
    kind[order] = np.concatenate([[0], (~alike).cumsum()])
    codes = np.lexsort((chosen, costs[every, chosen], chosen != present, kind))
    result = np.empty_like(chosen)
    result[order] = chosen[codes]  # within a kind, `order` is by item and `codes` by preference
    return result
