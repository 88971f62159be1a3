"""Negatives that were the user's own held-out items: how often alignment drew them, and the note below a table.

Alignment may not exclude held-out items, since the policy would learn from their absence which items they are. It therefore draws
some of them and lowers their probability, hard samplers more often than uniform ones. Alignment counts all draws
(`genrec.preference.draw_counts`), and only evaluation compares them with the held-out items.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.errors import counted
from genrec.evaluation.statistics.paired_tests import CONTROL, loss_of
from genrec.stage_names import kind_of_stage
from genrec.types.data import NO_USER

if TYPE_CHECKING:
    from genrec.evaluation.compare import Row

TOTAL, TEST, VALIDATION = (f"negatives_{name}_share" for name in ("heldout", "test", "validation"))
UNIFORM = "negatives_uniform_share"  # the total that uniform draws for the same users would have
COUNTED = "negatives_counted"  # draws for users, which the shares are of
UNKNOWN = "negatives_without_user_share"  # of all draws; rows of a pair file may name no user
MAX_LISTED = 8  # rows that a note lists; of more it gives the range
ROUNDING = 1e-9  # of shares
FAR_ABOVE = 5  # times the uniform share; popular negatives of MovieLens-100K have 2.4 times the uniform share
MIN_DRAWS = 20  # draws of held-out items below which a share is not called far above the uniform one


def held_out_negatives(
    drawn: DataFrame, train: DataFrame, validation: DataFrame, test: DataFrame, item_count: int
) -> dict[str, float]:
    """Return the shares of drawn negatives that were held-out items of the user they were drawn for, 0..1. Empty without draws.

    `drawn` has the columns user, item and count, one row for each user and item, the parts of the data the columns user and item,
    int64. `negatives_test_share` and `negatives_validation_share` count draws of the user's items in these parts,
    `negatives_heldout_share` draws of items in either. All draws of the training count, those after the kept step too.
    `negatives_uniform_share` is the share that draws from all items but the user's training items would have: for a user with h
    held-out items that are no training items, and t training items of N, h / (N - t), averaged over the draws. `negatives_counted` is
    the number of draws.

    Draws of rows without a user (user 0) are in none of these. If there are such draws, `negatives_without_user_share` is their share
    of all draws; if all draws are such, it is the only figure.
    """
    total = int(drawn["count"].sum())
    if not total:
        return {}
    named = drawn[drawn["user"] != NO_USER]
    counted_draws = int(named["count"].sum())
    unknown = {} if counted_draws == total else {UNKNOWN: 1 - counted_draws / total}
    if not counted_draws:
        return unknown
    width = 1 + max(int(frame["item"].max()) for frame in (named, train, validation, test) if len(frame))
    keys, count = pair_keys(named, width), named["count"].to_numpy()
    trained, *parts = (np.unique(pair_keys(part, width)) for part in (train, validation, test))
    in_validation, in_test = (np.isin(keys, part) for part in parts)
    hits = {TOTAL: in_test | in_validation, TEST: in_test, VALIDATION: in_validation}
    shares = {name: float(count[hit].sum()) / counted_draws for name, hit in hits.items()}
    users, offered = named["user"].to_numpy(), np.setdiff1d(np.union1d(*parts), trained)
    held_out, training = (np.bincount(part // width, minlength=int(users.max()) + 1)[users] for part in (offered, trained))
    uniform = np.divide(held_out, item_count - training, out=np.zeros(len(users)), where=item_count > training)
    return shares | {UNIFORM: float(uniform @ count) / counted_draws, COUNTED: float(counted_draws)} | unknown


def held_out_notes(rows: Sequence[Row]) -> list[str]:
    """Return the notes on held-out items among the negatives of a table's rows, a mean over seeds each; empty if no row has one.

    Rows of continued SFT are left out: their negatives are drawn, but the loss does not use them. Objectives of the user's own are
    named, because their draws are not counted.
    """
    having = [row for row in rows if (TOTAL in row.metrics or UNKNOWN in row.metrics) and loss_of(row.configuration) != CONTROL]
    uncounted = [f"{row.name} not counted: the draws of {names}, if any" for row in rows if (names := _own_objectives(row))]
    if not having and not uncounted:
        return []
    shares = {row.name: [row.metrics[name].mean for name in (TOTAL, TEST, VALIDATION)] for row in having if TOTAL in row.metrics}
    both, found = "", []
    if len(shares) > MAX_LISTED:
        ordered = sorted(shares, key=lambda name: shares[name][0])
        ends = [f"{percent(shares[name][0])} ({name})" for name in (ordered[0], ordered[-1])]
        found.append(f"{' to '.join(ends)} in {counted(len(shares), 'row')}; genrec show NAME prints that of a row")
    else:
        found += [
            f"{name} {percent(total)} ({percent(test)} test, {percent(validation)} validation)"
            for name, (total, test, validation) in shares.items()
        ]
        if any(test + validation > total + ROUNDING for total, test, validation in shares.values()):
            both = " An item that is both a test and a validation item of its user is in both parts and once in the total."
    found += [*(_unknown(row) for row in having if UNKNOWN in row.metrics), *uncounted]
    why = ""
    if any(_has_sampler(row) for row in having):
        why = " Held-out items are not excluded, because that would reveal them to the policy."
    note = f"Drawn negatives that were the user's own held-out items: {'; '.join(found)}.{both}{why}"
    return [note, *(_warning(row) for row in having if _is_far_above(row))]


def _unknown(row: Row) -> str:
    """Return what is not known of a row, because rows of its pair file name no user."""
    share, files = row.metrics[UNKNOWN].mean, _files(row)
    part = "" if TOTAL not in row.metrics else f" for {percent(share)} of its negatives, which are not in this share"
    rows = "the rows" if TOTAL not in row.metrics else "rows"
    return f"{row.name} not known{part}: {rows} of {files} name no user"


def _own_objectives(row: Row) -> str:
    """Return the classes of the user's own objectives of a row's alignments, joined by `and`; nothing counts what these draw."""
    kinds: list[str] = []
    for path, value in row.configuration.items():
        if re.fullmatch(r"align(-\d+)?\.objective\.class", path):
            kinds.append(str(value))
        elif re.fullmatch(r"align(-\d+)?\.objective\.objectives", path) and isinstance(value, list):  # of `Rounds`
            kinds += [str(each["class"]) for each in value]
    return " and ".join(dict.fromkeys(kind.rpartition(":")[2] for kind in kinds if not kind.startswith("genrec.")))


def _is_far_above(row: Row) -> bool:
    """Return whether a row drew far more held-out items than uniform draws would, and enough to tell."""
    if not {TOTAL, UNIFORM, COUNTED} <= set(row.metrics):  # from an earlier version, or not known
        return False
    share, uniform, draws = (row.metrics[name].mean for name in (TOTAL, UNIFORM, COUNTED))
    return share > FAR_ABOVE * uniform and share * draws >= MIN_DRAWS


def _warning(row: Row) -> str:
    """Return the warning about a row with far more held-out items than uniform draws would have."""
    share, test, validation, uniform = (row.metrics[name].mean for name in (TOTAL, TEST, VALIDATION, UNIFORM))
    times = f"{share / uniform:.0f} times the {percent(uniform)} of uniform draws" if uniform else "and uniform draws would have none"
    if not _has_sampler(row):
        cause = f"Remove the users' held-out items from {_files(row)}."
    elif validation > FAR_ABOVE * test:
        cause = (
            "Most are validation items, so check that the proposer does not read context.validation, which is for measuring alone, "
            "and that the sampler reads training data alone."
        )
    else:
        cause = (
            "Negatives that the policy ranks high are often such items; of other negatives, check that the proposer or sampler reads "
            "training data alone."
        )
    return (
        f"{row.name}: the share of held-out items among its negatives is {percent(share)}, {times}: the training works against the "
        f"figures that it is measured by. {cause}"
    )


def _has_sampler(row: Row) -> bool:
    """Return whether a stage of alignment of a row takes its negatives from elsewhere than a pair file."""
    kinds = [str(value) for path, value in row.configuration.items() if path.endswith("candidates.class")]
    return not kinds or any(not kind.endswith(":Pairs") for kind in kinds)


def _files(row: Row) -> str:
    """Return the names of the files that the alignments of a row read."""
    names = [name for stage, files in row.file_names.items() if kind_of_stage(stage) == "align" for name in files]
    return ", ".join(dict.fromkeys(names)) or "its file"


def pair_keys(frame: DataFrame, width: int) -> ndarray:
    """Return a number for each row's user and item, int64; equal pairs have equal numbers if `width` exceeds all items."""
    keys: ndarray = frame["user"].to_numpy(np.int64) * width + frame["item"].to_numpy(np.int64)
    return keys


def percent(share: float) -> str:
    """Return a share as a percentage with two decimals."""
    return f"{100 * share:.2f} %"
