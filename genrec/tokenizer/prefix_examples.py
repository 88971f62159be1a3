"""Example groups of items that share their first codes, shown in the picture of `genrec tokenize`.

The examples are the largest group of one code, and three groups of `MEDIUM` size: the purest, the most mixed and the median one by
category, or the largest, the smallest and the median one if the catalog has no categories. The three come from the longest prefix
length with at least a tenth of the items in groups of that size. Ties are broken by size, then by codes. The label of a group is its
most frequent label, and the rarest of these on ties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.item_titles import item_titles
from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.purity import Labels, dominant, labels_of

MEDIUM = (5, 50)  # least and most items of a group of medium size
ENOUGH = 0.1  # least share of items in groups of medium size at the chosen prefix length


class Example(NamedTuple):
    """A group of items with a common prefix."""

    reason: str  # why the group was chosen
    prefix: tuple[int, ...]  # the common codes
    size: int  # number of items
    label: str | None  # most frequent label; None without labels
    share: float  # share of the labeled items with this label, 0..1
    titles: list[tuple[tuple[int, ...], str]]  # later codes and title of some items, evenly spaced in the order of their codes


def examples(semantic_ids: SemanticIds, groups: Sequence[ndarray], items: DataFrame | None, count: int) -> list[Example]:
    """Return at most four groups with up to `count` titles each. `groups` holds int64 [N] for each prefix length 1, 2, ..."""
    labels, names = labels_of(items), None if items is None else _names(items)
    known = None if isinstance(labels, str) else labels
    best_length = _readable_length(groups)
    largest = int(np.bincount(groups[0]).argmax())
    suffix = f"with {best_length} codes" if best_length > 1 else "with one code"
    excluded = largest if best_length == 1 else -1
    chosen = [("Largest group with one code", 1, largest)]
    chosen += [(f"{reason} {suffix}", best_length, group) for reason, group in _medium(groups[best_length - 1], known, excluded)]
    return [
        _example(reason, semantic_ids, np.flatnonzero(groups[length - 1] == group), length, names, known, count)
        for reason, length, group in chosen
    ]


def _readable_length(groups: Sequence[ndarray]) -> int:
    """Return the longest prefix length with enough items in groups of medium size; 1 if there is none."""
    for length in range(len(groups), 0, -1):
        sizes = np.bincount(groups[length - 1])
        if sizes[(sizes >= MEDIUM[0]) & (sizes <= MEDIUM[1])].sum() >= ENOUGH * sizes.sum():
            return length
    return 1


def _medium(group: ndarray, labels: Labels | None, excluded: int) -> Iterator[tuple[str, int]]:
    """Yield name and number of up to three groups of medium size, or of any size if there are none, except group `excluded`."""
    sizes = np.bincount(group)
    fit = (sizes >= MEDIUM[0]) & (sizes <= MEDIUM[1])
    share = np.full(len(sizes), np.nan)
    if labels is not None:
        found = dominant(group[labels.rows], labels)
        share[found.group] = np.where(2 * found.items >= sizes[found.group], found.having / found.items, np.nan)
    by_label = bool((fit & ~np.isnan(share)).any())
    eligible = fit & ~np.isnan(share) if by_label else fit if fit.any() else sizes > 0
    rank, names = (-share, ("Purest", "Most mixed", "Median")) if by_label else (-sizes, ("Largest", "Smallest", "Median"))
    kind = "medium" if fit.any() else "other"
    left = [number for number in np.flatnonzero(eligible).tolist() if number != excluded]
    for name, places in zip(names, ((-sizes, rank), (-sizes, -rank), (-sizes, rank)), strict=True):
        if left:
            ordered = np.lexsort([place[left] for place in places])
            picked = left.pop(int(ordered[len(left) // 2 if name == "Median" else 0]))
            yield f"{name} {kind} group", picked


def _example(
    reason: str, semantic_ids: SemanticIds, rows: ndarray, length: int, names: Sequence[str] | None, labels: Labels | None, count: int
) -> Example:
    """Build the example of the group with these rows."""
    codes = semantic_ids.codes.numpy()[rows]
    ordered = np.lexsort(codes.T[::-1])
    picked = ordered[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))]
    label, share = None, 0.0
    inside = np.zeros(0, dtype=np.int64) if labels is None else np.flatnonzero(np.isin(labels.rows, rows))
    if labels is not None and len(inside):
        counts = np.bincount(labels.label[np.isin(labels.item, inside)], minlength=len(labels.names))
        label, share = labels.names[int(counts.argmax())], float(counts.max() / len(inside))
    titles = [(tuple(codes[place, length:].tolist()), _name(int(rows[place]), names)) for place in picked]
    return Example(reason, tuple(codes[0, :length].tolist()), len(rows), label, share, titles)


def _names(items: DataFrame) -> list[str]:
    """Return the title or text of each item, or its id; "" for an item without any."""
    ids = items["item_id"].astype(str) if "item_id" in items else [""] * len(items)
    return [title or name for title, name in zip(item_titles(items), ids, strict=True)]


def _name(row: int, names: Sequence[str] | None) -> str:
    """Return the name of an item, or its number."""
    return (names[row] if names else "") or f"item {row + 1}"
