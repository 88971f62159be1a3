"""Preferred items that were the user's own held-out items, and the note below a table.

Alignment prefers the logged next item, which is a training event, unless a proposer of your own gives another item first or a reward
chooses (`Preference.chosen`). It then counts the preferred items without reading a held-out one, and only evaluation compares them, as
it does with the negatives (`genrec.evaluation.comparison.held_out_negatives`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pandas import DataFrame

from genrec.errors import counted
from genrec.evaluation.comparison.held_out_negatives import MAX_LISTED, pair_keys, percent
from genrec.types.data import NO_USER

if TYPE_CHECKING:
    from genrec.evaluation.compare import Row

TOTAL, TEST, VALIDATION = (f"preferred_items_{name}_share" for name in ("heldout", "test", "validation"))
COUNTED = "preferred_items_counted"  # preferred items of rows with a user, which the shares are of
UNKNOWN = "preferred_items_without_user_share"  # of all preferred items; rows of a proposer's own examples may name no user


def held_out_preferred(preferred: DataFrame, train: DataFrame, validation: DataFrame, test: DataFrame) -> dict[str, float]:
    """Return the shares of preferred items that were held-out items of their user, 0..1. Empty without preferred items.

    `preferred` has the columns user, item and count, one row for each user and item; the parts of the data have the columns user and
    item, int64. An item that the user also took in training counts as no held-out one: it may be a logged target. The names are those
    of the negatives, with `preferred_items` in place of `negatives`; `preferred_items_counted` is the number that the shares are of.
    """
    total = int(preferred["count"].sum())
    if not total:
        return {}
    named = preferred[preferred["user"] != NO_USER]
    number = int(named["count"].sum())
    unknown = {} if number == total else {UNKNOWN: 1 - number / total}
    if not number:
        return unknown
    width = 1 + max(int(frame["item"].max()) for frame in (named, train, validation, test) if len(frame))
    keys, count = pair_keys(named, width), named["count"].to_numpy()
    trained, *parts = (np.unique(pair_keys(part, width)) for part in (train, validation, test))
    in_validation, in_test = (np.isin(keys, part) & ~np.isin(keys, trained) for part in parts)
    hits = {TOTAL: in_test | in_validation, TEST: in_test, VALIDATION: in_validation}
    return {name: float(count[hit].sum()) / number for name, hit in hits.items()} | {COUNTED: float(number)} | unknown


def held_out_preferred_notes(rows: Sequence[Row]) -> list[str]:
    """Return the note on held-out items among the preferred ones of a table's rows, a mean over seeds each; empty if no row counts."""
    known = {row.name: [row.metrics[name].mean for name in (TOTAL, TEST, VALIDATION)] for row in rows if TOTAL in row.metrics}
    found = [
        f"{name} {percent(total)} ({percent(test)} test, {percent(validation)} validation)"
        for name, (total, test, validation) in known.items()
    ]
    if len(found) > MAX_LISTED:
        ordered = sorted(known, key=lambda name: known[name][0])
        ends = [f"{percent(known[name][0])} ({name})" for name in (ordered[0], ordered[-1])]
        found = [f"{' to '.join(ends)} in {counted(len(known), 'row')}; genrec show NAME prints that of a row"]
    found += [_unknown(row) for row in rows if UNKNOWN in row.metrics]
    if not found:
        return []
    why = ""
    if any(total > 0 for total, *_ in known.values()):
        why = (
            " Such a row trains toward the items that it is measured by. A proposer or a reward that reads training data alone can "
            "only guess them: check that yours reads no held-out event."
        )
    return [f"Preferred items that were the user's own held-out items: {'; '.join(found)}.{why}"]


def _unknown(row: Row) -> str:
    """Return what is not known of a row, because some of its examples name no user."""
    part = "" if TOTAL not in row.metrics else f" for {percent(row.metrics[UNKNOWN].mean)} of its preferred items"
    return f"{row.name} not known{part}: examples of its proposer name no user"
