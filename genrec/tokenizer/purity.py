"""Category purity and co-occurrence of items that share their first codes, stored in `health.json`.

Category purity, over groups of at least two labeled items: the share of these items that have the most frequent label of their
group. An item may have several labels. Labels of more than half of the catalog are ignored, because they separate nothing. Purity
rises with the number of groups, so it is reported with `chance`: the purity of the same items shuffled over the same groups. Vectors
of texts that contain the category names have a high purity by construction; co-occurrence does not depend on texts.

Co-occurrence, over the pairs of consecutive, different items in users' training histories: `share` is the share of pairs with equal
first codes. `expected` is that share for independent draws of two different items, a from the first and b from the second items of
the pairs:
    P(same prefix | a != b) = (sum_g p(g) q(g) - sum_i p(i) q(i)) / (1 - sum_i p(i) q(i)),  over prefixes g and items i
`lift` is share / expected. Item popularity alone gives a lift of 1.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy import ndarray
from pandas import DataFrame

from genrec.errors import InputError
from genrec.randomness import generator

COLUMNS = ("categories", "category", "genres", "genre")  # the first non-empty column is used
SEPARATORS = ("|", " > ", ";", ",")  # the first one that occurs in the column is used; a text may also be a JSON or Python list
LONGEST_LIST = 100_000  # most characters of a list that is parsed
SHUFFLED = 100_000  # least items in all shuffles together, in at most 20 shuffles; chance is their mean


class Labels(NamedTuple):
    """The labels of the items."""

    column: str  # column of the catalog
    names: list[str]  # names of the labels that are used, the rarest first
    left_out: list[str]  # ignored labels, which more than half of the items have, the most frequent first
    rows: ndarray  # int64 [M]  rows of items with a label, ascending; row i is item i + 1
    item: ndarray  # int64 [P]  item of each pair of item and label, as an index into `rows`
    label: ndarray  # int64 [P]  label of each pair, as an index into `names`


class Dominant(NamedTuple):
    """The most frequent label of each group with a labeled item."""

    group: ndarray  # int64 [G]  number of the group, ascending
    items: ndarray  # int64 [G]  number of labeled items
    label: ndarray  # int64 [G]  most frequent label; on ties, the rarest in the catalog
    having: ndarray  # int64 [G]  number of items with this label


def category_purity(groups: Sequence[ndarray], items: DataFrame | None) -> dict[str, Any]:
    """Return purity and chance for groups int64 [N] of each prefix length 1, 2, ...

    Without labels, `prefixes` is None and `reason` states the cause.
    """
    labels = labels_of(items)
    if isinstance(labels, str):
        return {"column": None, "labels": 0, "left_out": [], "labeled_items": 0, "prefixes": None, "reason": labels}
    return {
        "column": labels.column,
        "labels": len(labels.names),
        "left_out": labels.left_out,
        "labeled_items": len(labels.rows),
        "prefixes": [{"length": length, **_purity(group[labels.rows], labels)} for length, group in enumerate(groups, start=1)],
        "reason": None,
    }


def _purity(group: ndarray, labels: Labels) -> dict[str, Any]:
    """Return purity and chance for the groups int64 [M] of labeled items; both are None if no two items share a group."""
    sizes = np.bincount(group)
    shared = sizes > 1
    result: dict[str, Any] = {"groups": int(shared.sum()), "items": int(sizes[shared].sum()), "purity": None, "chance": None}
    if result["items"]:
        draws = generator(0, "prefix purity")
        times = min(20, -(-SHUFFLED // len(group)))
        shuffled = (group[torch.randperm(len(group), generator=draws).numpy()] for _ in range(times))
        result["purity"] = _hits(group, labels) / result["items"]
        result["chance"] = sum(_hits(each, labels) for each in shuffled) / (times * result["items"])
    return result


def _hits(group: ndarray, labels: Labels) -> int:
    """Count the items in groups of at least two that have the most frequent label of their group."""
    found = dominant(group, labels)
    return int(found.having[found.items > 1].sum())


def dominant(group: ndarray, labels: Labels) -> Dominant:
    """Return the most frequent label of each group; `group` int64 [M] is the group of each labeled item."""
    keys, counts = np.unique(group[labels.item] * len(labels.names) + labels.label, return_counts=True)
    key_group = keys // len(labels.names)
    begin = np.flatnonzero(np.append(True, key_group[1:] != key_group[:-1]))
    largest = np.maximum.reduceat(counts, begin)
    tied = np.flatnonzero(counts == largest.repeat(np.diff(np.append(begin, len(key_group)))))
    first = tied[np.append(True, key_group[tied][1:] != key_group[tied][:-1])]
    return Dominant(key_group[begin], np.bincount(group)[key_group[begin]], keys[first] % len(labels.names), largest)


def labels_of(items: DataFrame | None) -> Labels | str:
    """Return the catalog's labels, or the reason why there are none."""
    if items is None:
        return "no table of items was given"
    column = next((name for name in COLUMNS if name in items and (items[name].fillna("").str.strip() != "").any()), None)
    if column is None:
        return f"the catalog has no text in a column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
    place, texts = pd.factorize(items[column].fillna(""))
    separator = next((each for each in SEPARATORS if any(each in text for text in texts)), SEPARATORS[0])
    split = [_split(text, separator) for text in texts]  # each distinct text once
    lengths = np.array([len(each) for each in split])
    label, names = pd.factorize(np.array([name for each in split for name in each], dtype=object), sort=True)
    return _informative(column, place, lengths, label, names)


def _informative(column: str, place: ndarray, lengths: ndarray, label: ndarray, names: ndarray) -> Labels | str:
    """Build `Labels` from the labels of all distinct texts, and drop labels of more than half of the items.

    - `place`: int64 [N], the distinct text of each item.
    - `lengths`: number of labels of each text.
    - `label`: labels of all texts, one text after the other, as indices into `names`.
    """
    repeats = lengths[place]
    item = np.repeat(np.arange(len(place)), repeats)
    begin = (lengths.cumsum() - lengths)[place]
    label = label[np.repeat(begin - (repeats.cumsum() - repeats), repeats) + np.arange(len(item))]
    counts = np.bincount(label, minlength=len(names))
    kept = 2 * counts <= len(place)
    left_out = [str(names[number]) for number in np.argsort(-counts, kind="stable") if not kept[number]]
    rarest = np.argsort(counts, kind="stable")
    ordered = rarest[kept[rarest]]
    number = np.empty(len(names), dtype=np.int64)
    number[ordered] = np.arange(len(ordered))
    item, label = item[kept[label]], number[label[kept[label]]]
    if not len(names):
        return f"no item has a label in column {column}"
    if not len(item):
        return f"every label in column {column} belongs to more than half of the items, so labels separate nothing"
    rows, place_of = np.unique(item, return_inverse=True)
    return Labels(column, [str(name) for name in names[ordered]], left_out, rows, place_of, label)


def _split(text: str, separator: str) -> list[str]:
    """Return the distinct labels of a text."""
    text = text.strip()
    leaves = list(_leaves(_parsed(text))) if text[:1] in ("[", "(") else []
    return list(dict.fromkeys(part.strip() for part in leaves or text.split(separator) if part.strip()))


def _parsed(text: str) -> object:
    """Parse a JSON or Python list; return None for any other text."""
    if len(text) > LONGEST_LIST:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass
    return None


def _leaves(value: object) -> Iterator[str]:
    """Yield the strings of a nested list."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry)


def co_occurrence(groups: Sequence[ndarray], interactions: DataFrame | None) -> dict[str, Any]:
    """Return share, expected share and lift for groups int64 [N] of each prefix length 1, 2, ...

    Without pairs, `prefixes` is None and `reason` states the cause.
    """
    if interactions is None:
        return {"pairs": 0, "prefixes": None, "reason": "no training interactions were given"}
    user, item = interactions["user"].to_numpy(), interactions["item"].to_numpy()
    paired = np.flatnonzero((user[1:] == user[:-1]) & (item[1:] != item[:-1]))
    if not len(paired):
        return {"pairs": 0, "prefixes": None, "reason": "no user has two different items in training"}
    count = len(groups[0])
    first, second = item[paired] - 1, item[paired + 1] - 1
    if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= count:
        raise InputError(f"training interactions must have items 1..{count}, got {item.min()}..{item.max()}")
    as_first, as_second = (np.bincount(rows, minlength=count) for rows in (first, second))
    same = int(as_first @ as_second)  # pairs of an item with itself, of all len(paired)^2 combinations
    agreements = [_agreement(group, (first, second), (as_first, as_second), same) for group in groups]
    prefixes = [{"length": length, **each} for length, each in enumerate(agreements, start=1)]
    return {"pairs": len(paired), "prefixes": prefixes, "reason": None}


def _agreement(group: ndarray, pairs: tuple[ndarray, ndarray], counts: tuple[ndarray, ndarray], same: int) -> dict[str, float | None]:
    """Return share, expected share and lift of pairs of rows int64 [P].

    `counts` int64 [N] are the numbers of times that each row is the first and the second item of a pair.
    """
    share = float((group[pairs[0]] == group[pairs[1]]).mean())
    by_group = [np.bincount(group, weights=each) for each in counts]
    expected = max(0.0, (float(by_group[0] @ by_group[1]) - same) / (len(pairs[0]) ** 2 - same))
    return {"share": share, "expected": expected, "lift": share / expected if expected > 0 else None}
