"""Distinct codes of least total cost for the items of each group.

Each group is an assignment problem (Kuhn 1955). In most groups of a real catalog, one or two items too many share a code. For these,
`_by_regret` computes a lower bound for all groups at once and proves that moving the items of lowest regret is optimal. The other
groups are solved exactly, one by one, with shortest augmenting paths (Crouse 2016, as in scipy).
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

TIE = 2.0**-40  # bonus for keeping the current code, relative to the largest cost; float32 costs have a relative error of 2**-24


def cheapest_distinct(costs: ndarray, group: ndarray, present: ndarray) -> ndarray:
    """Return codes int64 [M] that are distinct within each group and have the least total cost.

    - `costs`: float32 [M, C], infinite for unavailable codes. The available codes must be the same for all items of a group, and
      at least as many as the items.
    - `group`: int64 [M], ascending.
    - `present`: int64 [M], the current codes. An item keeps its current code if this does not raise the total cost. Among items
      with equal costs and the same current code, the first item keeps the code, and later items get cheaper codes first.
    """
    chosen, solved = _by_regret(costs, group, present)
    rows = np.flatnonzero(~solved)
    if len(rows):
        for part in np.split(rows, np.flatnonzero(np.diff(group[rows])) + 1):
            low, high = part[0], part[-1] + 1
            chosen[low:high] = _assignment(costs[low:high], present[low:high])
        chosen[rows] = _in_item_order(costs[rows], group[rows], present[rows], chosen[rows])
    return chosen


def _by_regret(costs: ndarray, group: ndarray, present: ndarray) -> tuple[ndarray, ndarray]:
    """Return codes int64 [M] and a mask bool [M] of the groups in which these codes are distinct and therefore optimal.

    Every item takes its cheapest code. If several items take the same code, the item with the largest regret keeps it (the first one
    on ties), and the others take their second cheapest code. The regret is the difference between the two costs.

    If the codes of a group are then distinct, they are optimal. Of k items with the same cheapest code, k - 1 must take another code,
    and each pays at least its regret. The sum of all cheapest costs and of the k - 1 smallest regrets of each contested code is
    therefore a lower bound, and these codes reach it.
    """
    rows, size = np.arange(len(costs)), costs.shape[1]
    chosen = _cheapest(costs, present)
    key = group * size + chosen
    contested = np.flatnonzero(_counts(key) > 1)
    if len(contested):
        others = costs[contested]
        best = others[np.arange(len(contested)), chosen[contested]].astype(np.float64)
        others[np.arange(len(contested)), chosen[contested]] = np.inf
        second = _cheapest(others, present[contested])
        regret = others[np.arange(len(contested)), second] - best
        order = np.lexsort((contested, -regret, key[contested]))
        moves = np.zeros(len(contested), dtype=bool)
        moves[order[1:]] = np.diff(key[contested][order]) == 0
        chosen[contested[moves]] = second[moves]
    unsolved = np.unique(group[rows[_counts(group * size + chosen) > 1]])
    return chosen, ~np.isin(group, unsolved)


def _cheapest(costs: ndarray, present: ndarray) -> ndarray:
    """Return each row's cheapest code, int64 [M]. Ties go to the current code, then to the lowest code."""
    rows, best = np.arange(len(costs)), costs.argmin(axis=1)
    return np.where(costs[rows, present] <= costs[rows, best], present, best)


def _counts(values: ndarray) -> ndarray:
    """Return the number of occurrences of each value, int64 [M] -> int64 [M]."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse]


def _assignment(costs: ndarray, present: ndarray) -> ndarray:
    """Return the optimal distinct codes of one group. `TIE` breaks ties and is smaller than the rounding of float32 costs."""
    from scipy.optimize import linear_sum_assignment

    largest = costs.max()
    if np.isinf(largest):
        largest = costs[np.isfinite(costs)].max()
    exact = costs.astype(np.float64)
    exact[np.arange(len(exact)), present] -= TIE * (max(abs(float(largest)), abs(float(costs.min()))) or 1.0)
    return linear_sum_assignment(exact)[1]  # type: ignore[no-any-return]


def _in_item_order(costs: ndarray, group: ndarray, present: ndarray, chosen: ndarray) -> ndarray:
    """Return the same codes, dealt out in item order among items of a group with equal costs and the same current code."""
    rows = np.arange(len(costs))
    sums = np.where(np.isfinite(costs), costs, 0).sum(axis=1, dtype=np.float64)
    order = np.lexsort((rows, sums, present, group))
    before, after = order[:-1], order[1:]
    alike = (sums[before] == sums[after]) & (present[before] == present[after]) & (group[before] == group[after])
    alike[alike] = (costs[before[alike]] == costs[after[alike]]).all(axis=1)
    kind = np.empty(len(costs), dtype=np.int64)
    kind[order] = np.concatenate([[0], (~alike).cumsum()])
    codes = np.lexsort((chosen, costs[rows, chosen], chosen != present, kind))
    result = np.empty_like(chosen)
    result[order] = chosen[codes]  # within a kind, `order` is sorted by item and `codes` by cost
    return result
