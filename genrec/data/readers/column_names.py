"""Names of columns: a user's own names to those of genrec, the headers of RecBole's atomic files, and hints for missing columns.

RecBole: W. X. Zhao et al., "RecBole: Towards a Unified, Comprehensive and Efficient Framework for Recommendation Algorithms" (2021).
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence

from genrec.errors import InputError, UsageError

EVENT_COLUMNS = ("user", "item", "time", "rating")
REQUIRED = ("user", "item")  # columns of interactions
SEPARATOR_FIELDS = ("separator", "items_separator")  # of Frames: for the interactions, and for the items
ATOMIC_NAMES = {"user_id": "user", "item_id": "item", "timestamp": "time"}  # RecBole's names
_ATOMIC = re.compile(r"(.+):(token|token_seq|float|float_seq)")
_COMMON_NAMES = {
    "user": "user userid uid u reviewerid customer customerid visitorid memberid sessionid",
    "item": "item itemid iid i movieid product productid asin parentasin articleid bookid trackid sku",
    "time": "time timestamp ts date day datetime when created purchased ordered bought viewed clicked",
    "rating": "rating stars score overall",
}
_COMMON = {target: tuple(names.split()) for target, names in _COMMON_NAMES.items()}  # in lower case, without separators between words
_MOMENT = re.compile(r".*(time.*|date|date[\W_].*|[\W_]at|[a-z]At)")  # bought_at, createdAt, date_added
_SEPARATORS = (";", "\t", "|", ",")


def check_column_names(columns: Mapping[str, str], field: str) -> None:
    """Raise UsageError unless `columns` maps names to names; `field` names it in the message."""
    if not isinstance(columns, Mapping) or not all(isinstance(each, str) and each for pair in columns.items() for each in pair):
        raise UsageError(f'{field} must map names in your tables to names of genrec, as in {{"user_id": "user"}}, got {columns!r}')
    repeated = {name for name in columns.values() if name in EVENT_COLUMNS and list(columns.values()).count(name) > 1}
    if repeated:
        shared = sorted(name for name, target in columns.items() if target in repeated)
        raise UsageError(f"{field} gives {', '.join(map(repr, shared))} one name, {sorted(repeated)[0]!r}; expected one column for it")


def rename(names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """Return the columns of a table under genrec's names.

    A header of RecBole's atomic files, such as `user_id:token`, loses its types, and its columns get genrec's names.
    """
    atomic = [_ATOMIC.fullmatch(name) for name in names]
    plain = [match[1] if match else name for match, name in zip(atomic, names, strict=True)] if names and all(atomic) else list(names)
    renamed = [columns.get(name, columns.get(bare, bare)) for name, bare in zip(names, plain, strict=True)]
    known = ATOMIC_NAMES if names and all(atomic) else {}
    return [known[name] if name in known and known[name] not in renamed else name for name in renamed]


def check_used(columns: Mapping[str, str], tables: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Raise InputError if a name in `columns` is in no table, or renames a column of interactions to one that is not read.

    `tables` holds the name of each table and its columns as they are in it, first of the interactions, then of the items.
    """
    check_not_swapped(columns, tables)
    everywhere = [name for _, names in tables for name in (*names, *rename(names, {}))]
    in_items = [name for _, names in tables[1:] for name in (*names, *rename(names, {}))]
    for name, target in columns.items():
        if name not in everywhere:
            has = "; ".join(f"{table} has {_listed(names)}" for table, names in tables)
            nearest = difflib.get_close_matches(name, everywhere, n=1)
            hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
            if target in everywhere:
                hint = f"; write the table's name first: {{{target!r}: {name!r}}}"
            options = zip(tables, SEPARATOR_FIELDS, strict=False)
            hint = next(filter(None, (separator_hint(*table, option) for table, option in options)), hint)
            raise InputError(f"Frames.columns renames {name!r}, a column that no table has: {has}{hint}")
        if target not in EVENT_COLUMNS and name not in in_items:
            nearest = difflib.get_close_matches(target, EVENT_COLUMNS, n=1)
            raise InputError(
                f"Frames.columns renames {name!r} of {tables[0][0]} to {target!r}, which is not read; expected one of "
                f"{', '.join(EVENT_COLUMNS)}" + (f"; the nearest is {nearest[0]!r}" if nearest else "")
            )


def check_not_swapped(columns: Mapping[str, str], tables: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Raise InputError if the table of interactions has no user, and that of the items has users and items; see `check_used`."""
    known = [[*renamed, *guess_columns(renamed).values()] for renamed in (rename(names, columns) for _, names in tables)]
    if len(tables) > 1 and "user" not in known[0] and {*REQUIRED} <= {*known[1]}:
        events, items = tables[0][0], tables[1][0]
        raise InputError(
            f"{events}, given as the interactions, has no column of users, but {items}, given as the items, has users and items: the "
            "tables look swapped; interactions come first in Frames(interactions, items); their flags are --source.interactions and "
            "--source.items"
        )


def separator_hint(table: str, names: Sequence[str], option: str) -> str:
    """Return the separator that a header of one column seems to have, after a semicolon, or nothing; `option` is the field to set."""
    found = next((separator for separator in _SEPARATORS if separator in names[0]), None) if len(names) == 1 else None
    if found is None:
        return ""
    flag, text = option.replace("_", "-"), found.replace("\t", r"\t")
    return f'; the columns of {table} look separated by {found!r}: set Frames({option}={found!r}) or --source.{flag} "{text}"'


def missing_column_hint(names: Sequence[str], required: Sequence[str], given: Mapping[str, str]) -> str:
    """Return the columns to name in a table without a required column, after a semicolon.

    `given` is `Frames.columns`: the suggested mapping keeps it. Interactions without a time are told that the order of rows counts.
    """
    renamed = rename(names, given)
    guessed = {name: target for name, target in guess_columns(renamed).items() if "user" in required or target in required}
    for name, target in guessed.items():
        if target in required and target in given.values():
            other = next(each for each in given if given[each] == target)
            return f"; both tables need one name for {target!r}: rename {name!r} to {other!r} in this one"
    columns = {**given, **{name: target for name, target in guessed.items() if target not in given.values()}}
    missing = [name for name in required if name not in (*renamed, *columns.values())]
    untimed = "user" in required and "time" not in (*renamed, *columns.values())
    time = ". Without a column 'time' the order of the rows counts" if untimed else ""
    if columns and not missing:
        words = (word for pair in columns.items() for word in pair)
        return f"; name them with Frames(columns={columns}), or {shlex.join(['--source.columns', *words])}{time}"
    known = "".join(f"{name!r}: {target!r}, " for name, target in columns.items())
    return f"; name them with Frames(columns={{{known}...}}), from the table's names to these{time}"


def guess_columns(names: Sequence[str]) -> dict[str, str]:
    """Return the mapping from common names, such as user_id, to those columns of interactions that a table does not have."""
    guessed: dict[str, str] = {}
    for target, common in _COMMON.items():
        if target not in names:
            found = [name for name in names if _simplified(name) in common]
            if target == "time" and not found:
                found = [name for name in names if _MOMENT.fullmatch(name) or _MOMENT.fullmatch(name.casefold())]
            if found:
                guessed[found[0]] = target
    return guessed


def _simplified(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "no columns"
