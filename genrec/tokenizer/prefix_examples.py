"""Stage 3: a few groups of items that share first codes, for people to read, chosen by a stated rule.

The largest group of one code; then, of the groups of MEDIUM size at the greatest length that gives a tenth of the items such a group,
the purest, the most mixed and the middle one by category. Where the catalog has no categories: the largest, the smallest and the
middle one. Equal ones by size, then in the order of their codes. A group's label is its most frequent one, of equals the rarest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.purity import Labels, dominant, labels_of

MEDIUM = (5, 50)  # items of a group that a person can take in
ENOUGH = 0.1  # of the items


class Example(NamedTuple):
    """One group of items."""

    why: str  # it was chosen
    prefix: tuple[int, ...]  # the codes that its items share
    size: int  # items
    label: str | None  # the most frequent one, where there are labels
    share: float  # of the labeled items that have it
    titles: list[tuple[tuple[int, ...], str]]  # some items, spread evenly in the order of their codes: further codes, title


def examples(semantic_ids: SemanticIds, groups: Sequence[ndarray], items: DataFrame | None, count: int) -> list[Example]:
    """At most four groups with `count` titles each; `groups` int64 [N] are those of the prefix lengths 1, 2, ... to choose from."""
    labels = labels_of(items)
    known = None if isinstance(labels, str) else labels
    length = _readable_length(groups)
    largest = int(np.bincount(groups[0]).argmax())
    of = f"of {length} codes" if length > 1 else "of one code"
    chosen = [("Largest group of one code", 1, largest)]
    chosen += [(f"{why} {of}", length, group) for why, group in _medium(groups[length - 1], known, largest if length == 1 else -1)]
    return [
        _example(why, semantic_ids, np.flatnonzero(groups[long - 1] == group), long, items, known, count)
        for why, long, group in chosen
    ]


def _readable_length(groups: Sequence[ndarray]) -> int:
    """The greatest length with enough items in groups of medium size; 1 where there is none."""
    for length in range(len(groups), 0, -1):
        sizes = np.bincount(groups[length - 1])
        if sizes[(sizes >= MEDIUM[0]) & (sizes <= MEDIUM[1])].sum() >= ENOUGH * sizes.sum():
            return length
    return 1


def _medium(group: ndarray, labels: Labels | None, without: int) -> Iterator[tuple[str, int]]:
    """Three of the groups of medium size, or of all where none is, `without` one; fewer where there are fewer."""
    sizes = np.bincount(group)
    fit = (sizes >= MEDIUM[0]) & (sizes <= MEDIUM[1])
    share = np.full(len(sizes), np.nan)
    if labels is not None:
        found = dominant(group[labels.rows], labels)
        share[found.group] = np.where(2 * found.items >= sizes[found.group], found.having / found.items, np.nan)
    by_label = bool((fit & ~np.isnan(share)).any())
    wanted = fit & ~np.isnan(share) if by_label else fit if fit.any() else sizes > 0
    rank, names = (-share, ("Purest", "Most mixed", "Middle")) if by_label else (-sizes, ("Largest", "Smallest", "Middle"))
    kind = "medium" if fit.any() else "other"
    left = [number for number in np.flatnonzero(wanted).tolist() if number != without]
    for name, places in zip(names, ((-sizes, rank), (-sizes, -rank), (-sizes, rank)), strict=True):
        if left:
            ordered = np.lexsort([place[left] for place in places])
            picked = left.pop(int(ordered[len(left) // 2 if name == "Middle" else 0]))
            yield f"{name} {kind} group", picked


def _example(
    why: str, semantic_ids: SemanticIds, rows: ndarray, length: int, items: DataFrame | None, labels: Labels | None, count: int
) -> Example:
    codes = semantic_ids.codes.numpy()[rows]
    ordered = np.lexsort(codes.T[::-1])
    picked = ordered[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))]
    label, share = None, 0.0
    inside = np.zeros(0, dtype=np.int64) if labels is None else np.flatnonzero(np.isin(labels.rows, rows))
    if labels is not None and len(inside):
        counts = np.bincount(labels.label[np.isin(labels.item, inside)], minlength=len(labels.names))
        label, share = labels.names[int(counts.argmax())], float(counts.max() / len(inside))
    titles = [(tuple(codes[place, length:].tolist()), _title(int(rows[place]), items)) for place in picked]
    return Example(why, tuple(codes[0, :length].tolist()), len(rows), label, share, titles)


def _title(row: int, items: DataFrame | None) -> str:
    """An item's title, else its text, else its number."""
    for column in ("title", "text"):
        if items is not None and column in items and isinstance(items[column].iloc[row], str) and items[column].iloc[row].strip():
            return str(items[column].iloc[row])
    return f"item {row + 1}"
