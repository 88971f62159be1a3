"""Lists of many users or histories, in batches and bounded memory, with the ids of the data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from genrec.errors import InputError, counted
from genrec.progress import track
from genrec.serving.history_files import Requested
from genrec.serving.item_recommender import BATCH_SIZE, History
from genrec.serving.table_files import table_writer
from genrec.types import Baseline

if TYPE_CHECKING:
    from genrec.serving.trained_rows import Before, TrainedRow

SCHEMA = pa.schema([("user_id", pa.string()), ("position", pa.int32()), ("item_id", pa.string()), ("score", pa.float32())])
UNKNOWN_USERS, UNKNOWN_ITEMS, EMPTY = "unknown user", "unknown item", "user without a history"  # what is left out


class NamedHistory(NamedTuple):
    """A user, in the user's own id, and the history that the list is made for."""

    user_id: str
    history: History


def users_of(row: TrainedRow, users: Iterable[str] | None, exclude: bool, before: Before | None) -> Iterator[NamedHistory]:
    """Iterate over these users of the data, or over all with a history. Raises InputError for an unknown user."""
    if users is None:
        for number, user in enumerate(row.user_data.user_ids, start=1):
            history = row.user_history(number, exclude, before)
            if history.items:
                yield NamedHistory(str(user), history)
        return
    for user in users:
        yield NamedHistory(user, row.history(user=user, exclude_seen=exclude, before=before))


def requested_histories(
    row: TrainedRow, requests: Iterable[Requested], exclude: bool, before: Before | None, skip_unknown: bool, left_out: Counter[str]
) -> Iterator[NamedHistory]:
    """Iterate over the histories that a file requests.

    With `skip_unknown`, users and items that the data do not have, and users without any item left, are counted in `left_out`.
    Otherwise they raise InputError with their place in the file.
    """
    catalog = row.items.catalog
    for request in requests:
        if request.items is None and skip_unknown and not row.has_user(request.user_id):
            left_out[UNKNOWN_USERS] += 1
            continue
        try:
            if request.items is None:
                history = row.history(user=request.user_id, exclude_seen=exclude, before=before)
            else:
                known = [item for item in request.items if not skip_unknown or item in catalog.numbers]
                left_out[UNKNOWN_ITEMS] += len(request.items) - len(known)
                numbers = [catalog.number_of_id(item, f"user {request.user_id!r}") for item in known]
                history = History(numbers, numbers if exclude else ())
                if not numbers and not isinstance(row.items.specification, Baseline):
                    raise InputError(f"user {request.user_id!r} has an empty history; a trained policy needs at least one item")
        except InputError as error:
            if skip_unknown:
                left_out[EMPTY] += 1
                continue
            raise InputError(f"{request.place}: {error}; --skip-unknown leaves out what the data do not have") from None
        yield NamedHistory(request.user_id, history)


def lists_of(row: TrainedRow, entries: Iterable[NamedHistory], n: int) -> Iterator[pa.Table]:
    """Yield the lists of batches of histories as tables of SCHEMA, in the order of the entries. Invalid slots are left out."""
    ids = np.array(["", *row.items.catalog.ids], dtype=object)
    left = iter(entries)
    while batch := list(islice(left, BATCH_SIZE)):
        ranking = row.items.rank([entry.history for entry in batch], n)
        items, scores = ranking.items.numpy(), ranking.scores.numpy()
        place, slot = items.nonzero()
        users = np.array([entry.user_id for entry in batch], dtype=object)
        columns = [users[place], (slot + 1).astype(np.int32), ids[items[place, slot]], scores[place, slot]]
        yield pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def write_lists(row: TrainedRow, entries: Iterable[NamedHistory], n: int, path: Path) -> int:
    """Write the lists to a Parquet, CSV or JSON lines file and return the number of lines. Raises InputError if there are none."""
    lines = 0
    with table_writer(path, SCHEMA) as write:
        for table in track(lists_of(row, entries, n), f"recommend (batches of {BATCH_SIZE} users)"):
            write(table)
            lines += len(table)
        if not lines:
            raise InputError(f"{row.name}: there is no user with a history to recommend to, so {path} was not written")
    return lines


def left_out_in_words(left_out: Counter[str]) -> str:
    """Return what was left out of a file, such as '2 unknown users, 5 unknown items'; "" for nothing."""
    plurals = {EMPTY: "users without a history"}
    return ", ".join(
        f"{count:,} {plurals[what]}" if what in plurals and count > 1 else counted(count, what)
        for what, count in left_out.items()
        if count
    )
