"""Stage 3: items that share their codes, and what to do about it. In and out: codes int64 [N, L], row i for item i+1.

    append_level   one level more, which numbers the items that share the others: as large as the largest group, never too small
    reassign       other last codes, so that no two items share all: the least total cost
    sinkhorn       other last codes by entropic optimal transport: fewer collisions, softly; some may stay
    place_free     last codes for items that come later, among those that are free

The last three change the last code only, and only within a *group*, the items that share the codes before it. What a code costs
an item is asked of `costs`: rows int64 [M] -> float32 [M, C], the squared error of each row with each of the last level's C
codes (`genrec.types.PricedCodes.last_level_costs`). Only rows of groups with a collision are asked for, some at a time.

Sources: TIGER (Rajput et al. 2023, 2305.05065), section 3.1, appends a code; LC-Rec (Zheng et al. 2023, 2311.09049), section
3.1.2, moves collided items by optimal transport.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from genrec.errors import InputError, NumericsError
from genrec.progress import Progress
from genrec.semantic_ids import SemanticIds, lowest_free, row_keys
from genrec.tokenizer.assignment import cheapest_distinct
from genrec.tokenizer.optimal_transport import soft_distinct

Costs = Callable[[ndarray], ndarray]  # rows int64 [M] -> float32 [M, C]
Settle = Callable[[ndarray, ndarray, ndarray], ndarray]  # costs, group, present codes -> codes
Crammed = Literal["refuse", "leave", "settle"]
CHUNK = 1 << 23  # costs that are in memory at once, unless one group has more


class Groups(NamedTuple):
    """Items by the codes they share."""

    group: Tensor  # int64 [N]  the group of each item
    sizes: Tensor  # int64 [groups]  items of each group


def prefix_groups(codes: Tensor) -> Iterator[Groups]:
    """For prefix lengths 1, 2, ..., L of codes int64 [N, L]: the items grouped by their prefix."""
    group = torch.zeros(len(codes), dtype=torch.int64)
    for level in codes.T:
        key = group * (int(level.max()) + 1) + level
        _, group, sizes = torch.unique(key, return_inverse=True, return_counts=True)
        yield Groups(group, sizes)


def append_level(codes: Tensor) -> Tensor:
    """Append a last level: 0, 1, ..., G-1 over the items that share their codes, in item order. int64 [N, L] -> [N, L + 1].

    The level is as large as the largest group, so that no two items ever share a Semantic ID.
    """
    none = codes.new_empty(0, codes.shape[1] + 1)
    return torch.cat([codes, lowest_free(codes, none)[:, None]], dim=1)


def reassign(codes: Tensor, costs: Costs, size: int) -> Tensor:
    """Last codes of the least total cost such that no two items share a Semantic ID; int64 [N, L] -> [N, L].

    Codes differ across groups by their prefixes, so each group is a problem of its own. In a group without a collision nothing
    moves: a quantizer gives every item its cheapest last code, so that the present codes reach the sum of all minima, which no
    choice can undercut. (Codes from elsewhere may be dearer; where they differ they stay what they are.) In a group with a
    collision, any item may move. A group with more items than codes is refused.
    """
    return _settled(codes, codes.new_empty(0, codes.shape[1]), costs, size, cheapest_distinct)


def sinkhorn(codes: Tensor, costs: Costs, size: int, epsilon: float = 0.0005, rounds: int = 80) -> Tensor:
    """Last codes by entropic optimal transport (`genrec.tokenizer.optimal_transport`): fewer collisions; int64 [N, L] -> [N, L].

    Only items of a group with a collision move. Never more items share a Semantic ID than before, but some may: those with equal
    costs always, as no plan tells them apart, and all that are too many in a group with more items than codes. `SemanticIds`
    counts them. `epsilon` is the entropy's last weight, in half ranges of a group's costs; `rounds` of prices lead to it.
    """
    settle = partial(soft_distinct, epsilon=epsilon, rounds=rounds)
    return _settled(codes, codes.new_empty(0, codes.shape[1]), costs, size, settle, "settle")


def place_free(codes: Tensor, costs: Costs, taken: SemanticIds, size: int, share: bool = False) -> Tensor:
    """Last codes for new items, codes int64 [M, L], such that they share no Semantic ID with `taken` or with each other.

    As `reassign`, with the items of `taken` where they are: the least total cost of the new ones among the codes that are free.
    New items of a prefix without room for them are refused; with `share` they keep their codes, and share.
    """
    if codes.shape[1] != taken.levels:
        raise InputError(f"new items need codes of {taken.levels} levels, as the items before them, got {codes.shape[1]}")
    return _settled(codes, taken.codes, costs, size, cheapest_distinct, "leave" if share else "refuse")


class Crowded(NamedTuple):
    """The rows of groups in which items share a Semantic ID, group by group, in item order within."""

    rows: ndarray  # int64 [R]
    group: ndarray  # int64 [R]  ascending, and so are the groups' sizes
    taken_group: ndarray  # int64 [P]  ascending: where codes can't be had ...
    taken_code: ndarray  # int64 [P]  ... and which


def _crowded(codes: Tensor, taken: Tensor) -> Crowded:
    """Where a row of `codes` int64 [M, L] shares all of them with another, or with a row of `taken` int64 [N, L]."""
    both = torch.cat([taken, codes])
    _, group = torch.unique(row_keys(both[:, :-1]), return_inverse=True)
    _, whole, sharers = torch.unique(row_keys(both), return_inverse=True, return_counts=True)
    new = group[len(taken) :]
    crowded = torch.zeros(int(group.max()) + 1, dtype=torch.bool)
    crowded[new[sharers[whole[len(taken) :]] > 1]] = True
    by_size = torch.bincount(new, minlength=len(crowded)).argsort(stable=True)  # so that groups done at once have about one size
    group, crowded = torch.empty_like(by_size).scatter_(0, by_size, torch.arange(len(by_size)))[group], crowded[by_size]
    old, new = group[: len(taken)], group[len(taken) :]
    rows = crowded[new].nonzero().squeeze(1)
    rows = rows[new[rows].argsort(stable=True)]
    pairs = torch.unique(torch.stack([old, taken[:, -1]], 1)[crowded[old]], dim=0)
    return Crowded(rows.numpy(), new[rows].numpy(), pairs[:, 0].contiguous().numpy(), pairs[:, 1].contiguous().numpy())


def _settled(codes: Tensor, taken: Tensor, costs: Costs, size: int, settle: Settle, crammed: Crammed = "refuse") -> Tensor:
    """`codes` with the last ones of crowded groups as `settle(costs, group, present)` says.

    `crammed` is what becomes of groups with more items than codes: refused, left as they are, or settled like the others.
    """
    if codes.numel() and not 0 <= int(codes[:, -1].min()) <= int(codes[:, -1].max()) < size:
        raise InputError(
            f"the last level has codes 0..{size - 1}, got {int(codes[:, -1].min())}..{int(codes[:, -1].max())}: "
            "the codes and the size belong to different quantizers"
        )
    crowded = _crowded(codes, taken)
    if crammed != "settle":
        crowded = _with_room(codes, crowded, size, refuse=crammed == "refuse")
    last = codes[:, -1].numpy().copy()
    with Progress("collisions", len(crowded.rows)) as progress:
        for low, high in _pieces(crowded.group, max(CHUNK // size, 1)):
            rows, group = crowded.rows[low:high], crowded.group[low:high]
            priced = _priced(costs, rows, size)
            _withhold(priced, group, crowded)
            last[rows] = settle(priced, group, last[rows])
            progress.advance(len(rows))
    return torch.cat([codes[:, :-1], torch.from_numpy(last)[:, None]], dim=1)


def _pieces(group: ndarray, rows: int) -> Iterator[tuple[int, int]]:
    """Whole groups, low..high-1, of at most `rows` rows together unless one alone has more; group int64 [R], ascending."""
    ends = np.append(np.flatnonzero(np.diff(group)) + 1, len(group)) if len(group) else np.empty(0, dtype=np.int64)
    low = 0
    while low < len(group):
        fitting = ends[np.searchsorted(ends, low + rows, side="right") - 1]
        high = int(fitting if fitting > low else ends[np.searchsorted(ends, low, side="right")])
        yield low, high
        low = high


def _priced(costs: Costs, rows: ndarray, size: int) -> ndarray:
    """What the codes cost these rows, float32 [R, C], ours to change."""
    priced = np.array(costs(rows), dtype=np.float32)
    if priced.shape != (len(rows), size):
        raise InputError(f"costs of {len(rows)} rows and {size} codes must be float32 [{len(rows)}, {size}], got {list(priced.shape)}")
    if not np.isfinite(priced).all():
        row = int(np.flatnonzero(~np.isfinite(priced).all(axis=1))[0])
        raise NumericsError(f"the costs of row {rows[row]} are not all finite: check its vector and the quantizer's codebooks")
    return priced


def _withhold(priced: ndarray, group: ndarray, crowded: Crowded) -> None:
    """Make the codes that other items hold infinitely dear, in place."""
    if not len(crowded.taken_group):
        return
    low, high = np.searchsorted(crowded.taken_group, [group[0], group[-1] + 1])
    numbers, local = np.unique(group, return_inverse=True)
    held = np.zeros((len(numbers), priced.shape[1]), dtype=bool)
    held[np.searchsorted(numbers, crowded.taken_group[low:high]), crowded.taken_code[low:high]] = True
    priced[held[local]] = np.inf


def _with_room(codes: Tensor, crowded: Crowded, size: int, refuse: bool) -> Crowded:
    """`crowded` without the groups that have more items than there are codes for them; or refuse these."""
    numbers, first, items = np.unique(crowded.group, return_index=True, return_counts=True)
    held = np.bincount(np.searchsorted(numbers, crowded.taken_group), minlength=len(numbers))
    excess = items + held - size
    if not (excess > 0).any():
        return crowded
    if refuse:
        worst = int(excess.argmax())
        prefix = tuple(codes[int(crowded.rows[first[worst]]), :-1].tolist())
        others = f", of which other items hold {held[worst]}" if held[worst] else ""
        many = int((excess > 0).sum())
        raise InputError(
            f"{items[worst]} items share the prefix {prefix} but the last level has {size} codes{others}; "
            f"{many} {'prefix has' if many == 1 else 'prefixes have'} too many items. Append a level, which is sized from the data, "
            "or ask the quantizer for more codes or levels"
        )
    full = numbers[excess > 0]
    rows, pairs = ~np.isin(crowded.group, full), ~np.isin(crowded.taken_group, full)
    return Crowded(crowded.rows[rows], crowded.group[rows], crowded.taken_group[pairs], crowded.taken_code[pairs])
