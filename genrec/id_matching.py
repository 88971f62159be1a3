"""Joins of two columns of ids: an error if no id is in both, a warning if few are, with an example of each side."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from genrec.errors import InputError

FEW = 0.5  # share of joined items below which a warning is due
SHOWN = 3  # ids of each side in a message
SAMPLED = 100_000  # ids of each side that are searched for a likely cause


class Ids(NamedTuple):
    """One side of a join."""

    owner: str  # plural noun for messages, such as "the interactions"
    ids: Sequence[str]  # its ids, or a sample of them


class _Cause(NamedTuple):
    """A common difference between two ways to write an id."""

    simplify: Callable[[str], str]
    advice: str


_CAUSES = (
    _Cause(
        lambda name: re.sub(r"^((?:.*[^\d.])?\d+)\.0+$", r"\1", name, flags=re.DOTALL),
        "write the ids as text or integers: a column of numbers with a missing value becomes one of fractions",
    ),
    _Cause(lambda name: name.strip(), "remove the spaces around the ids"),
    _Cause(lambda name: name.strip("'\"`"), "remove the quotes around the ids"),
    _Cause(lambda name: name.casefold(), "use the same capital letters in both"),
    _Cause(lambda name: re.sub(r"^\D+(?=\d+$)", "", name), "use the same prefix in both"),
    _Cause(lambda name: re.sub(r"(?!(?<=\d)\.\d)\W", "", name), "use the same punctuation in both"),
    _Cause(lambda name: name.lstrip("0") or name[-1:], "write the ids as text in both, so that leading zeros stay"),
)


def no_overlap(left: Ids, right: Ids, what: str) -> InputError:
    """Return the error for two sides without a common id; `what` says what failed."""
    return InputError(f"{what}: {_difference(left, right)}")


def overlap_warning(matched: int, total: int, left: Ids, right: Ids, what: str) -> str | None:
    """Return a warning if fewer than half of `total` ids of the left side have a match, else None.

    The sides hold ids without a match; `what` says what the matched ids have, such as "have a row in the items".
    """
    if matched >= FEW * total:
        return None
    missing = (
        _difference(left, right) if right.ids else f"{_examples(left)}; all ids of {right.owner} match: add the missing ones there"
    )
    return f"only {matched:,} of {total:,} items ({matched / total:.1%}) {what}; without a match: {missing}"


def likely_cause(left: Ids, right: Ids) -> str | None:
    """Return an example of a pair that differs in a common way, and what to do, or None.

    Of several ways the one with the most pairs is named, because a few pairs may be alike by chance. A point between two digits is
    no punctuation: 'item-20' and 'item-2.0' are different items.
    """
    found = [_pairs(left, right, (cause,)) for cause in _CAUSES]
    most = max(range(len(_CAUSES)), key=lambda index: found[index][0])
    (_, pair), advice = found[most], _CAUSES[most].advice
    if pair is None:
        (_, pair), advice = _pairs(left, right, _CAUSES), "write the ids alike in both"
    return None if pair is None else f"{left.owner} have {pair[0]!r}, {right.owner} have {pair[1]!r}: {advice}"


def _pairs(left: Ids, right: Ids, causes: Sequence[_Cause]) -> tuple[int, tuple[str, str] | None]:
    """Return the number of ids of the left side that are one of the right side when simplified, and the first such pair."""
    names = {_simplified(name, causes): name for name in reversed(right.ids[:SAMPLED])}
    names.pop("", None)  # nothing is left of an id such as "-"
    count, first = 0, None
    for name in left.ids[:SAMPLED]:
        other = names.get(_simplified(name, causes))
        if other is not None and other != name:
            count, first = count + 1, first or (name, other)
    return count, first


def _difference(left: Ids, right: Ids) -> str:
    cause = likely_cause(left, right)
    return cause or f"{_examples(left)}, {_examples(right)}; expected the same ids in both"


def _examples(side: Ids) -> str:
    shown = ", ".join(map(repr, side.ids[:SHOWN])) or "no ids"
    return f"{side.owner} have {shown}" + (", ..." if len(side.ids) > SHOWN else "")


def _simplified(name: str, causes: Sequence[_Cause]) -> str:
    for cause in causes:
        name = cause.simplify(name)
    return name
