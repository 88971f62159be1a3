"""Negatives that were the user's own held-out items: how often alignment drew them, and the note below a table.

Alignment may not exclude held-out items, since the policy would learn from their absence which items they are. It therefore draws
some of them and lowers their probability, hard samplers more often than uniform ones. Alignment counts all draws
(`genrec.preference.draw_counts`), and only evaluation compares them with the held-out items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.errors import counted
from genrec.evaluation.statistics.paired_tests import CONTROL, loss_of

if TYPE_CHECKING:
    from genrec.evaluation.compare import Row

TOTAL, TEST, VALIDATION = (f"negatives_{name}_share" for name in ("heldout", "test", "validation"))
MAX_LISTED = 8  # rows that a note lists; of more it gives the range
ROUNDING = 1e-9  # of shares


def held_out_negatives(drawn: DataFrame, validation: DataFrame, test: DataFrame) -> dict[str, float]:
    """Return the shares of drawn negatives that were held-out items of the user they were drawn for, 0..1. Empty without draws.

    `drawn` has the columns user, item and count, one row for each user and item, `validation` and `test` the columns user and item,
    int64. `negatives_test_share` and `negatives_validation_share` count draws of the user's items in these parts,
    `negatives_heldout_share` draws of items in either. All draws of the training count, those after the kept step too.
    """
    total = int(drawn["count"].sum())
    if not total:
        return {}
    width = 1 + max(int(frame["item"].max()) for frame in (drawn, validation, test) if len(frame))
    keys, count = _keys(drawn, width), drawn["count"].to_numpy()
    in_test, in_validation = (np.isin(keys, _keys(part, width)) for part in (test, validation))
    hits = {TOTAL: in_test | in_validation, TEST: in_test, VALIDATION: in_validation}
    return {name: float(count[hit].sum()) / total for name, hit in hits.items()}


def held_out_notes(rows: Sequence[Row]) -> list[str]:
    """Return the note on held-out items among the negatives of a table's rows, a mean over seeds each; empty if no row has one.

    Rows of continued SFT are left out: their negatives are drawn, but the loss does not use them.
    """
    having = [row for row in rows if TOTAL in row.metrics and loss_of(row.configuration) != CONTROL]
    shares = {row.name: [row.metrics[name].mean for name in (TOTAL, TEST, VALIDATION)] for row in having}
    if not shares:
        return []
    both = ""
    if len(shares) > MAX_LISTED:
        ordered = sorted(shares, key=lambda name: shares[name][0])
        ends = [f"{_percent(shares[name][0])} ({name})" for name in (ordered[0], ordered[-1])]
        found = f"{' to '.join(ends)} in {counted(len(shares), 'row')}; genrec show NAME prints that of a row"
    else:
        found = "; ".join(
            f"{name} {_percent(total)} ({_percent(test)} test, {_percent(validation)} validation)"
            for name, (total, test, validation) in shares.items()
        )
        if any(test + validation > total + ROUNDING for total, test, validation in shares.values()):
            both = " An item that is both a test and a validation item of its user is in both parts and once in the total."
    return [
        f"Drawn negatives that were the user's own held-out items: {found}.{both} Held-out items are not excluded, because that would "
        "reveal them to the policy."
    ]


def _keys(frame: DataFrame, width: int) -> ndarray:
    """Return a number for each row's user and item, int64."""
    keys: ndarray = frame["user"].to_numpy(np.int64) * width + frame["item"].to_numpy(np.int64)
    return keys


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
