"""Contract checks for splits into training, validation and test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.event_filters import Filters
from genrec.data.feedback import feedback_of, labels_of
from genrec.data.split_contract import check_divided, events_before
from genrec.data.splits import BEGIN, END, PARTS, LeaveOneOut, divide_users, part_of_events
from genrec.data.worlds import Shop
from genrec.errors import InputError, UsageError
from genrec.store import describe
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import DividingSplit, FilteringSplit, RawTables, Split

OWN_DATA = "a split that needs certain users, items or times is checked with its own data: check_split(split, source.load(root))"


def check_split(split: Split, raw: RawTables | None = None) -> None:
    """Raise ContractError if a split breaks `genrec.types.Split`, on a small generated shop or on your tables.

    Checked:

    - it is a frozen dataclass with a stable description;
    - `assign` gives every row one of 'train', 'validation' and 'test', each user's parts in this order;
    - `divide` or `divide_labeled`, if there is one, returns int64 [U, 2] between the ends of each user's events, and agrees with
      `assign`;
    - `filters`, if there is one, returns `genrec.data.event_filters.Filters`;
    - `tie_order`, if there is one, returns `genrec.types.TieOrder`;
    - two calls give the same, and the same data give the same corpus, with an interaction in each part;
    - the tables, their ids and global random state stay unchanged.
    """
    check_specification(split, Split, "assign(interactions)")
    name = type(split).__name__
    try:
        describe(split, Path(), name)
    except UsageError as error:
        raise ContractError(str(error)) from None
    own = raw is not None
    tables = raw if raw is not None else Shop(num_items=60, num_users=80).load(Path())
    try:
        frame = _events(prepare(tables, LeaveOneOut(core=0)))
        _check_assign(name, split, frame)
        if isinstance(split, DividingSplit):
            _check_divide(name, split, frame)
        if isinstance(split, FilteringSplit):
            filters = call_plugin(name, "filters()", split.filters)
            if not isinstance(filters, Filters):
                raise ContractError(f"{name}: filters() must return genrec.data.event_filters.Filters, got {type(filters).__name__}")
        _check_corpus(name, split, tables)
    except (ContractError, InputError) as error:
        hint = f"; {OWN_DATA}" if not own and (isinstance(error.__cause__, KeyError) or "leaves no interaction" in str(error)) else ""
        raise ContractError(f"{error}{hint}") from error.__cause__


def _events(corpus: Corpus) -> DataFrame:
    """Return the table that `assign` gets."""
    frame = corpus.interactions.drop(columns="part")
    ids = {"user_id": corpus.user_ids[frame["user"] - 1], "item_id": corpus.items["item_id"].to_numpy()[frame["item"] - 1]}
    return frame.assign(**ids).astype({"user_id": "str", "item_id": "str"})


def _check_assign(name: str, split: Split, frame: DataFrame) -> ndarray:
    """Check the parts of two calls and that the table is unchanged, and return the parts."""
    users, user_ids = frame["user"].to_numpy(), frame["user_id"].to_numpy()
    results = []
    for _ in range(2):
        given = frame.copy()
        with check_no_global_draws(name, "take randomness from a seed that is a field"):
            parts = call_plugin(name, f"assign of {len(frame)} interactions", lambda given=given: split.assign(given))  # type: ignore[misc]
        if not given.equals(frame) or list(given.columns) != list(frame.columns):
            raise ContractError(f"{name}: assign modified the table that it was given; work on a copy")
        events_before(split, parts, users, user_ids)
        results.append(np.asarray(parts, dtype=object))
    if (results[0] != results[1]).any():
        row = int((results[0] != results[1]).argmax())
        raise ContractError(
            f"{name}: a second call of assign puts an event of user {user_ids[row]!r} into {results[1][row]!r} instead of "
            f"{results[0][row]!r}; take randomness from a seed that is a field"
        )
    return results[0]


def _check_divide(name: str, split: DividingSplit, frame: DataFrame) -> None:
    """Check the result of `divide`, that its arguments are unchanged, and that it agrees with `assign`."""
    user, time = frame["user"].to_numpy(), frame["time"].to_numpy()
    begin = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
    arguments = begin, np.append(begin[1:], len(user)), time
    feedback = feedback_of(split)
    label = None if feedback is None else labels_of(frame["rating"].to_numpy(float), feedback)
    copies = [array.copy() for array in arguments]
    with check_no_global_draws(name, "take randomness from a seed that is a field"):
        first, second = (
            call_plugin(name, "divide(begin, end, time)", lambda: divide_users(split, *arguments, label)) for _ in range(2)
        )
    if not all(map(np.array_equal, arguments, copies)):
        raise ContractError(f"{name}: divide modified its arguments; work on a copy")
    user_ids = frame["user_id"].to_numpy()[begin]
    check_divided(split, first, begin, arguments[1], lambda number: str(user_ids[number - 1]))
    if not np.array_equal(first, second):
        raise ContractError(f"{name}: a second call of divide gives other bounds; take randomness from a seed that is a field")
    bounds = np.concatenate([begin[:, None], first, arguments[1][:, None]], axis=1)
    assert bounds[0, BEGIN] == 0
    assert bounds[-1, END] == len(user)
    divided, assigned = np.array(PARTS, dtype=object)[part_of_events(bounds)], _check_assign(name, split, frame)
    if (divided != assigned).any():
        row = int((divided != assigned).argmax())
        raise ContractError(
            f"{name}: divide puts an event of user {frame['user_id'].iloc[row]!r} into {divided[row]!r}, and assign into "
            f"{assigned[row]!r}; both must give the same parts (genrec.data.splits.assign_parts makes assign from divide)"
        )


def _check_corpus(name: str, split: Split, tables: RawTables) -> None:
    """Prepare the tables twice, with the split's filters, and check that they and the two corpora are the same."""
    given = RawTables(tables.interactions.copy(), tables.items.copy(), tables.set_aside)
    with check_no_global_draws(name, "take randomness from a seed that is a field"):
        first, second = (
            call_plugin(name, f"preparing {len(tables.interactions)} interactions", lambda: prepare(given, split)) for _ in "12"
        )
    if not given.interactions.equals(tables.interactions) or not given.items.equals(tables.items):
        raise ContractError(f"{name}: the tables of the source were modified; work on a copy")
    for array in ("item", "time", "bounds"):
        if not np.array_equal(getattr(first, array), getattr(second, array)):
            raise ContractError(
                f"{name}: the same data give another corpus in a second call; take randomness from a seed that is a field"
            )
