"""Resolve collisions: items that share all of their codes. Codes are int64 [N, L]; row i holds the codes of item i + 1.

    append_level   append a level that numbers the items with equal codes; its size is that of the largest group
    reassign       change last codes at the least total cost, so that no two items share a Semantic ID
    sinkhorn       change last codes by entropic optimal transport; fewer collisions, but some may remain
    place_free     choose free last codes for new items

The last three change the last code only, and only within a *group*: the items that share all codes before the last one. They call
`costs`, a function from rows int64 [M] to the squared error of each row with each of the last level's C codes, float32 [M, C]
(`genrec.types.PricedCodes.last_level_costs`). It is called in chunks, and only for rows of groups with a collision.

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
Solver = Callable[[ndarray, ndarray, ndarray], ndarray]  # costs, group, current codes -> codes
Overfull = Literal["raise", "skip", "solve"]
CHUNK = 1 << 23  # costs in memory at once; a larger group is processed alone


class Groups(NamedTuple):
    """Items grouped by the codes that they share."""

    group: Tensor  # int64 [N]  group of each item
    sizes: Tensor  # int64 [groups]  number of items of each group


def prefix_groups(codes: Tensor) -> Iterator[Groups]:
    """Yield the items grouped by prefix, for prefix lengths 1, 2, ..., L of codes int64 [N, L]."""
    group = torch.zeros(len(codes), dtype=torch.int64)
    for level in codes.T:
        key = group * (int(level.max()) + 1) + level
        _, group, sizes = torch.unique(key, return_inverse=True, return_counts=True)
        yield Groups(group, sizes)


def append_level(codes: Tensor) -> Tensor:
    """Append a last level that numbers items with equal codes 0, 1, ..., G - 1 in item order: int64 [N, L] -> [N, L + 1].

    The level is as large as the largest group, so that no two items share a Semantic ID.
    """
    taken = codes.new_empty(0, codes.shape[1] + 1)
    return torch.cat([codes, lowest_free(codes, taken)[:, None]], dim=1)


def reassign(codes: Tensor, costs: Costs, size: int) -> Tensor:
    """Choose last codes of least total cost such that no two items share a Semantic ID: int64 [N, L] -> [N, L].

    Items of different groups have different prefixes, so each group is solved separately. A group without a collision is unchanged:
    a quantizer gives every item its cheapest last code, so that no other choice costs less. (Imported codes may cost more; they are
    unchanged too.) In a group with a collision, every item may get another code. `size` is the number of codes of the last level;
    a group with more items raises `InputError`.
    """
    return _resolve(codes, codes.new_empty(0, codes.shape[1]), costs, size, cheapest_distinct)


def sinkhorn(codes: Tensor, costs: Costs, size: int, epsilon: float = 0.0005, rounds: int = 80) -> Tensor:
    """Choose last codes by entropic optimal transport (`genrec.tokenizer.optimal_transport`): int64 [N, L] -> [N, L].

    Only items of a group with a collision get another code. The number of items that share a Semantic ID never rises, but may stay
    above 0: items with equal costs stay together, and so do surplus items of a group with more items than codes.
    `SemanticIds.collided` counts them.

    - `size`: number of codes of the last level.
    - `epsilon`: final weight of the entropy, in units of half the range of a group's costs.
    - `rounds`: number of price updates.
    """
    solver = partial(soft_distinct, epsilon=epsilon, rounds=rounds)
    return _resolve(codes, codes.new_empty(0, codes.shape[1]), costs, size, solver, "solve")


def place_free(codes: Tensor, costs: Costs, taken: SemanticIds, size: int, share: bool = False) -> Tensor:
    """Choose last codes for new items such that they share no Semantic ID with `taken` or with each other: int64 [M, L] -> [M, L].

    The choice has the least total cost among the free codes, as in `reassign`; existing items keep their codes. If a prefix has too
    few free codes, raise `InputError`; with `share`, its new items keep their codes and share Semantic IDs.
    """
    if codes.shape[1] != taken.levels:
        raise InputError(f"new items need codes of {taken.levels} levels, like the existing items, got {codes.shape[1]}")
    return _resolve(codes, taken.codes, costs, size, cheapest_distinct, "skip" if share else "raise")


class Collisions(NamedTuple):
    """The rows of groups with a collision, sorted by group, then by item."""

    rows: ndarray  # int64 [R]
    group: ndarray  # int64 [R]  group of each row, ascending; larger numbers are larger groups
    taken_group: ndarray  # int64 [P]  group of each unavailable code, ascending
    taken_code: ndarray  # int64 [P]  the unavailable codes


def _find_collisions(codes: Tensor, taken: Tensor) -> Collisions:
    """Find the groups in which a row of `codes` int64 [M, L] equals another row, or a row of `taken` int64 [N, L]."""
    both = torch.cat([taken, codes])
    _, group = torch.unique(row_keys(both[:, :-1]), return_inverse=True)
    _, whole, sharers = torch.unique(row_keys(both), return_inverse=True, return_counts=True)
    new = group[len(taken) :]
    collides = torch.zeros(int(group.max()) + 1, dtype=torch.bool)
    collides[new[sharers[whole[len(taken) :]] > 1]] = True
    by_size = torch.bincount(new, minlength=len(collides)).argsort(stable=True)  # so that the groups of a chunk have similar sizes
    group, collides = torch.empty_like(by_size).scatter_(0, by_size, torch.arange(len(by_size)))[group], collides[by_size]
    old, new = group[: len(taken)], group[len(taken) :]
    rows = collides[new].nonzero().squeeze(1)
    rows = rows[new[rows].argsort(stable=True)]
    pairs = torch.unique(torch.stack([old, taken[:, -1]], 1)[collides[old]], dim=0)
    return Collisions(rows.numpy(), new[rows].numpy(), pairs[:, 0].contiguous().numpy(), pairs[:, 1].contiguous().numpy())


def _resolve(codes: Tensor, taken: Tensor, costs: Costs, size: int, solver: Solver, overfull: Overfull = "raise") -> Tensor:
    """Return `codes` with the last codes of groups with a collision replaced by those of `solver(costs, group, present)`.

    `overfull` is the treatment of groups with more items than codes: raise `InputError`, skip them, or solve them like the others.
    """
    if codes.numel() and not 0 <= int(codes[:, -1].min()) <= int(codes[:, -1].max()) < size:
        raise InputError(
            f"the last level has codes 0..{size - 1}, got {int(codes[:, -1].min())}..{int(codes[:, -1].max())}; "
            "pass codes and size of the same quantizer"
        )
    found = _find_collisions(codes, taken)
    if overfull != "solve":
        found = _without_overfull(codes, found, size, fail=overfull == "raise")
    last = codes[:, -1].numpy().copy()
    with Progress("collisions", len(found.rows)) as progress:
        for low, high in _chunks(found.group, max(CHUNK // size, 1)):
            rows, group = found.rows[low:high], found.group[low:high]
            row_costs = _costs_of(costs, rows, size)
            _exclude_taken(row_costs, group, found)
            last[rows] = solver(row_costs, group, last[rows])
            progress.advance(len(rows))
    return torch.cat([codes[:, :-1], torch.from_numpy(last)[:, None]], dim=1)


def _chunks(group: ndarray, rows: int) -> Iterator[tuple[int, int]]:
    """Split group int64 [R], ascending, into ranges low..high - 1 of whole groups.

    A range has at most `rows` rows, unless it is a single group with more.
    """
    ends = np.append(np.flatnonzero(np.diff(group)) + 1, len(group)) if len(group) else np.empty(0, dtype=np.int64)
    low = 0
    while low < len(group):
        fitting = ends[np.searchsorted(ends, low + rows, side="right") - 1]
        high = int(fitting if fitting > low else ends[np.searchsorted(ends, low, side="right")])
        yield low, high
        low = high


def _costs_of(costs: Costs, rows: ndarray, size: int) -> ndarray:
    """Return a writable copy of the costs of these rows, float32 [R, C], after a check of shape and values."""
    found = np.array(costs(rows), dtype=np.float32)
    if found.shape != (len(rows), size):
        raise InputError(f"costs of {len(rows)} rows and {size} codes must be float32 [{len(rows)}, {size}], got {list(found.shape)}")
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise NumericsError(f"non-finite costs in row {rows[row]}: check its vector and the quantizer's codebooks")
    return found


def _exclude_taken(costs: ndarray, group: ndarray, found: Collisions) -> None:
    """Set the costs of codes that existing items have to infinity, in place."""
    if not len(found.taken_group):
        return
    low, high = np.searchsorted(found.taken_group, [group[0], group[-1] + 1])
    numbers, local = np.unique(group, return_inverse=True)
    taken = np.zeros((len(numbers), costs.shape[1]), dtype=bool)
    taken[np.searchsorted(numbers, found.taken_group[low:high]), found.taken_code[low:high]] = True
    costs[taken[local]] = np.inf


def _without_overfull(codes: Tensor, found: Collisions, size: int, fail: bool) -> Collisions:
    """Remove the groups with more items than free codes; with `fail`, raise `InputError` if there are any."""
    numbers, first, items = np.unique(found.group, return_index=True, return_counts=True)
    taken = np.bincount(np.searchsorted(numbers, found.taken_group), minlength=len(numbers))
    excess = items + taken - size
    if not (excess > 0).any():
        return found
    if fail:
        worst = int(excess.argmax())
        prefix = tuple(codes[int(found.rows[first[worst]]), :-1].tolist())
        others = f", {taken[worst]} of them taken by other items" if taken[worst] else ""
        overfull = int((excess > 0).sum())
        raise InputError(
            f"{items[worst]} items share the prefix {prefix} but the last level has {size} codes{others}; "
            f"{overfull} {'prefix has' if overfull == 1 else 'prefixes have'} too many items. Append a level (collisions='append'), "
            "or increase the quantizer's codebook_size or num_levels"
        )
    full = numbers[excess > 0]
    rows, pairs = ~np.isin(found.group, full), ~np.isin(found.taken_group, full)
    return Collisions(found.rows[rows], found.group[rows], found.taken_group[pairs], found.taken_code[pairs])
