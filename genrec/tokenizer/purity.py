"""Stage 3: whether items that share first codes belong together. In: groups of items by prefix. Out: plain values for `health.json`.

Category purity, for groups of at least two items with a label: the share of those items that have the most frequent label of their
group. An item may have several labels. Those that more than half of the catalog has tell nothing and are left out. Purity grows by
itself with the number of groups, so beside it stands `chance`, what the same items have when they are shuffled over the same groups.
Vectors that were made of texts which name the categories cannot but be pure; co-occurrence knows nothing of texts.

Co-occurrence, over the pairs of consecutive, different items in users' training histories: `share` of the pairs whose first codes
agree; `expected` of independent draws of two different items, a from the pairs' first items and b from their second ones:
    P(same prefix | a != b) = (sum_g p(g) q(g) - sum_i p(i) q(i)) / (1 - sum_i p(i) q(i)),  g prefixes, i items
and `lift`, share / expected. Frequent items alone have no lift.
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

COLUMNS = ("categories", "category", "genres", "genre")  # the first that holds something
SEPARATORS = ("|", " > ", ";", ",")  # the first that occurs anywhere in the column; a text may be a JSON or Python list as well
LONGEST_LIST = 100_000  # characters of such a list that are parsed
SHUFFLED = 100_000  # items that are shuffled at least, in at most twenty shuffles, so that chance is a mean and no draw


class Labels(NamedTuple):
    """Which items have which labels."""

    column: str  # of the catalog
    names: list[str]  # of the labels that are kept, by number: the rarest first
    left_out: list[str]  # labels that more than half of the items have, the most frequent first
    rows: ndarray  # int64 [M]  items with a label that is kept, ascending; row i is item i+1
    item: ndarray  # int64 [P]  place in `rows`, of each pair of item and label
    label: ndarray  # int64 [P]


class Dominant(NamedTuple):
    """The groups that hold a labeled item, ascending."""

    group: ndarray  # int64 [G]
    items: ndarray  # int64 [G]  labeled items
    label: ndarray  # int64 [G]  the most frequent label, of equally frequent ones the rarest in the catalog
    having: ndarray  # int64 [G]  how many items have it


def category_purity(groups: Sequence[ndarray], items: DataFrame | None) -> dict[str, Any]:
    """Groups int64 [N] for the prefix lengths 1, 2, ... -> purity and chance; `prefixes` is null where `reason` says why."""
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
    """Of the groups int64 [M] of labeled items; purity and chance are null where no two items share a group."""
    sizes = np.bincount(group)
    shared = sizes > 1
    said: dict[str, Any] = {"groups": int(shared.sum()), "items": int(sizes[shared].sum()), "purity": None, "chance": None}
    if said["items"]:
        draws = generator(0, "prefix purity")
        times = min(20, -(-SHUFFLED // len(group)))
        shuffled = (group[torch.randperm(len(group), generator=draws).numpy()] for _ in range(times))
        said["purity"] = _hits(group, labels) / said["items"]
        said["chance"] = sum(_hits(each, labels) for each in shuffled) / (times * said["items"])
    return said


def _hits(group: ndarray, labels: Labels) -> int:
    """How many items of groups of two and more have the most frequent label of their group."""
    found = dominant(group, labels)
    return int(found.having[found.items > 1].sum())


def dominant(group: ndarray, labels: Labels) -> Dominant:
    """The most frequent label of each group; `group` int64 [M] is that of each labeled item."""
    keys, counts = np.unique(group[labels.item] * len(labels.names) + labels.label, return_counts=True)
    of = keys // len(labels.names)
    begin = np.flatnonzero(np.append(True, of[1:] != of[:-1]))
    most = np.maximum.reduceat(counts, begin)
    reached = np.flatnonzero(counts == most.repeat(np.diff(np.append(begin, len(of)))))
    first = reached[np.append(True, of[reached][1:] != of[reached][:-1])]
    return Dominant(of[begin], np.bincount(group)[of[begin]], keys[first] % len(labels.names), most)


def labels_of(items: DataFrame | None) -> Labels | str:
    """The catalog's labels, or why there are none."""
    if items is None:
        return "no table of items was given"
    column = next((name for name in COLUMNS if name in items and (items[name].fillna("").str.strip() != "").any()), None)
    if column is None:
        return f"no item has a text in a column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
    place, texts = pd.factorize(items[column].fillna(""))
    separator = next((each for each in SEPARATORS if any(each in text for text in texts)), SEPARATORS[0])
    split = [_split(text, separator) for text in texts]  # each different text once
    lengths = np.array([len(each) for each in split])
    label, names = pd.factorize(np.array([name for each in split for name in each], dtype=object), sort=True)
    return _informative(column, place, lengths, label, names)


def _informative(column: str, place: ndarray, lengths: ndarray, label: ndarray, names: ndarray) -> Labels | str:
    """`labels_of` from the texts' labels (text t has lengths[t] of them, one text after the other) and each item's text."""
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
        return f"no item has a label in the column {column}"
    if not len(item):
        return f"more than half of the items have each label of the column {column}: they tell nothing apart"
    rows, place_of = np.unique(item, return_inverse=True)
    return Labels(column, [str(name) for name in names[ordered]], left_out, rows, place_of, label)


def _split(text: str, separator: str) -> list[str]:
    """A text's distinct labels."""
    text = text.strip()
    leaves = list(_leaves(_parsed(text))) if text[:1] in ("[", "(") else []
    return list(dict.fromkeys(part.strip() for part in leaves or text.split(separator) if part.strip()))


def _parsed(text: str) -> object:
    """A JSON or Python list as a value; None where it is neither."""
    if len(text) > LONGEST_LIST:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass
    return None


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry)


def co_occurrence(groups: Sequence[ndarray], interactions: DataFrame | None) -> dict[str, Any]:
    """Groups int64 [N] for the prefix lengths 1, 2, ... -> how often consecutive items agree; as `category_purity`."""
    if interactions is None:
        return {"pairs": 0, "prefixes": None, "reason": "no training interactions were given"}
    user, item = interactions["user"].to_numpy(), interactions["item"].to_numpy()
    paired = np.flatnonzero((user[1:] == user[:-1]) & (item[1:] != item[:-1]))
    if not len(paired):
        return {"pairs": 0, "prefixes": None, "reason": "no user has two different items in training"}
    count = len(groups[0])
    first, second = item[paired] - 1, item[paired + 1] - 1
    if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= count:
        raise InputError(f"training interactions must be of items 1..{count}, got {item.min()}..{item.max()}")
    as_first, as_second = (np.bincount(rows, minlength=count) for rows in (first, second))
    same = int(as_first @ as_second)  # pairs of one item with itself among all len(paired)^2
    agreements = [_agreement(group, (first, second), (as_first, as_second), same) for group in groups]
    prefixes = [{"length": length, **each} for length, each in enumerate(agreements, start=1)]
    return {"pairs": len(paired), "prefixes": prefixes, "reason": None}


def _agreement(group: ndarray, pairs: tuple[ndarray, ndarray], taken: tuple[ndarray, ndarray], same: int) -> dict[str, float | None]:
    """Of pairs of rows int64 [P]; `taken` int64 [N] is how often each row is the first and the second of a pair."""
    share = float((group[pairs[0]] == group[pairs[1]]).mean())
    of_group = [np.bincount(group, weights=each) for each in taken]
    expected = max(0.0, (float(of_group[0] @ of_group[1]) - same) / (len(pairs[0]) ** 2 - same))
    return {"share": share, "expected": expected, "lift": share / expected if expected > 0 else None}
