"""What the rows of a pair file hold that may be meant or not: it is counted and told once, and nothing is refused or left out.

Files with rows that cannot be used are refused by `Pairs.check_context` and `Pairs.check_held_out`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pandas import DataFrame
from torch import Tensor

from genrec.errors import counted
from genrec.preference.exclusions import UserItemPairs, representatives
from genrec.types import SamplerContext
from genrec.types.data import LIKED, NO_USER

if TYPE_CHECKING:
    from genrec.preference.candidates.pair_file import PairExamples


def pair_notes(examples: PairExamples, context: SamplerContext, unit: str = "line") -> list[str]:
    """Return the notes on the rows of a file; empty if there is nothing to tell. `unit` names a row: "line", or "row" of Parquet."""
    representative = representatives(context)
    pairs = _pairs(examples, representative)
    found = (_left_out(examples), _without_user(examples), _contradictions(examples, pairs, unit), _liked(examples, context, unit))
    return [note for note in found if note is not None]


def _pairs(examples: PairExamples, representative: Tensor) -> DataFrame:
    """Return one line for each pair of a row: row, the number of its user or history, and the lowest items with the Semantic IDs."""
    numbers: dict[object, int] = {}
    groups = [numbers.setdefault(row.history if row.user is None else row.user, len(numbers)) for row in examples.rows]
    row = np.repeat(np.arange(len(examples.rows)), examples.items.first.diff().numpy())
    items = representative[examples.items.values].numpy()
    chosen = items[examples.items.first[:-1].numpy()][row]
    rejected = np.ones(len(items), dtype=bool)
    rejected[examples.items.first[:-1].numpy()] = False
    kept = rejected & (items > 0)
    table = {"row": row, "group": np.array(groups)[row], "chosen": chosen, "rejected": items}
    return DataFrame({name: values[kept] for name, values in table.items()})


def _left_out(examples: PairExamples) -> str | None:
    left_out = int((examples.items.values == 0).sum())
    if not left_out:
        return None
    return f"{left_out} rejected items have the Semantic ID of another item of their row and are left out"


def _without_user(examples: PairExamples) -> str | None:
    """Return how many rows name no user, so that nothing can be compared with the users' held-out events."""
    without = int((examples.user == NO_USER).sum())
    if not without:
        return None
    return (
        f"{without} of {counted(len(examples), 'row')} name no user, so it is not known whether chosen is a held-out event of the "
        "user; make sure that it is none, or give the column user in place of history"
    )


def _contradictions(examples: PairExamples, pairs: DataFrame, unit: str) -> str | None:
    """Return how many rows prefer one item to another that a row of the same user or history prefers to it."""
    pair = ["group", "chosen", "rejected"]
    opposite = pairs.drop_duplicates(pair).rename(columns={"chosen": "rejected", "rejected": "chosen"})
    both = pairs.merge(opposite, on=pair, suffixes=("", "_opposite"))
    if not len(both):
        return None
    first = both.sort_values("row", kind="stable")[["row", "row_opposite"]].to_numpy()[0]
    one, other = (examples.rows[int(number)] for number in first)
    return (
        f"{both['row'].nunique()} of {counted(len(examples), 'row')} contradict another row of the same user or history, which "
        f"prefers the two items the other way around, such as {unit} {one.line} (chosen {one.chosen!r}) and {unit} {other.line} "
        f"(chosen {other.chosen!r}); all are kept, and pull in opposite directions"
    )


def _liked(examples: PairExamples, context: SamplerContext, unit: str) -> str | None:
    """Return how many rejected items the row's user likes by the labels of training."""
    if "label" not in context.interactions:
        return None
    table = context.interactions[context.interactions["label"] == LIKED]
    users, items = (torch.from_numpy(table[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
    counts = examples.items.first.diff()
    row = torch.arange(len(examples.rows)).repeat_interleave(counts)
    liked = UserItemPairs(users, items, context.item_count).contains(examples.user[row], examples.items.values)
    liked[examples.items.first[:-1]] = False  # the chosen items
    if not bool(liked.any()):
        return None
    place = int(liked.nonzero()[0])
    first = examples.rows[int(row[place])]
    item = (first.chosen, *first.rejected)[place - int(examples.items.first[row[place]])]
    rows = len(np.unique(row[liked].numpy()))
    return (
        f"{rows} of {counted(len(examples), 'row')} reject {counted(int(liked.sum()), 'item')} that the user likes by the labels of "
        f"training, such as {item!r} of user {first.user!r} ({unit} {first.line}); they are kept: remove them if liked items are not "
        "to be rejected"
    )
