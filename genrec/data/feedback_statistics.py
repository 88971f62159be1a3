"""Counts of labels: liked, neutral and disliked events by part, and the users whom metrics of preference count."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy import ndarray

from genrec.data.corpus import Corpus
from genrec.data.feedback import users_filter
from genrec.data.k_core import EventCounts
from genrec.data.splits import BEGIN, END, PARTS, TEST, VALIDATION, chunks
from genrec.types import FeedbackBounds
from genrec.types.data import DISLIKED, LIKED, NEUTRAL, Histories

ROWS = 1 << 20  # ratings in memory at once
LABELS = {"liked": LIKED, "neutral": NEUTRAL, "disliked": DISLIKED}
HeldOutPart = Literal["validation", "test"]
HELD_OUT: dict[HeldOutPart, tuple[int, int]] = {"validation": (VALIDATION, TEST), "test": (TEST, END)}  # columns of bounds


def feedback_statistics(label: ndarray, bounds: ndarray, feedback: FeedbackBounds) -> dict[str, Any]:
    """Return the bounds of the labels, the events of each label by part, and the users by the labels that they have in a part.

    `label` is int8 [E], `bounds` int64 [U, 4]. Users are those with an event in the part and, for validation and test, a history.
    """
    return {
        "liked": feedback.liked,
        "disliked": feedback.disliked,
        "histories": feedback.histories,
        "min_liked": feedback.min_liked,
        "ends_with_liked": feedback.ends_with_liked,
        "events": _events(label, bounds),
        "users": {
            "train": _users(label, bounds, BEGIN, VALIDATION),
            **{
                part: _users(label, bounds[has_history(bounds, HELD_OUT[part][0], label, feedback.histories)], *HELD_OUT[part])
                for part in HELD_OUT
            },
        },
    }


def _events(label: ndarray, bounds: ndarray) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {part: dict.fromkeys(LABELS, 0) for part in PARTS}
    for rows, parts in chunks(bounds):
        for number, part in enumerate(PARTS):
            labels = label[rows][parts == number]
            for name, value in LABELS.items():
                found[part][name] += int(np.count_nonzero(labels == value))
    return found


def _users(label: ndarray, bounds: ndarray, first: int, last: int) -> dict[str, int]:
    judged = bounds[bounds[:, last] > bounds[:, first]]
    liked, disliked = (has_label(label, judged[:, first], judged[:, last], value) for value in (LIKED, DISLIKED))
    return {
        "all": len(judged),
        "liked": int(liked.sum()),
        "disliked": int(disliked.sum()),
        "both": int((liked & disliked).sum()),
    }


def has_history(bounds: ndarray, first: int, label: ndarray | None, histories: Histories) -> ndarray:
    """Return whether a user has a history before the part that begins in column `first` of the bounds: bool [U]."""
    begin, end = bounds[:, BEGIN], bounds[:, first]
    if label is None or histories == "all":
        before: ndarray = end > begin
        return before
    return has_label(label != DISLIKED, begin, end, 1)


def has_label(label: ndarray, begin: ndarray, end: ndarray, value: int) -> ndarray:
    """Return whether an event in begin..end, int64 [R] each, has a label: bool [R]; `label` is int8 [E]."""
    return first_with(label, begin, end, value) < end


def first_with(label: ndarray, begin: ndarray, end: ndarray, value: int) -> ndarray:
    """Return the first position in begin..end, int64 [R] each, with a label, int64 [R]; `end` where there is none."""
    places = np.append(np.flatnonzero(label == value), len(label))
    found: ndarray = np.minimum(places[np.searchsorted(places, begin)], end)
    return found


def events_after_liked(counts: EventCounts, item: ndarray) -> dict[str, dict[str, int]]:
    """Return what was left out after the users' last liked events, from the counts before; `item` is int32 [E] of the events left."""
    left = {"interactions": counts.total - len(item), "users": 0, "items": counts.num_items - len(np.unique(item))}
    return {"events after the last liked one": left}


def rating_lines(corpus: Corpus) -> list[str]:
    """Return the line of the data report on the ratings of the kept events, with the share of each label; none without ratings."""
    if corpus.rating is None:
        return []
    total, count, added, least, largest = len(corpus.rating), 0, 0.0, np.inf, -np.inf
    for begin in range(0, total, ROWS):
        known = np.array(corpus.rating[begin : begin + ROWS])
        known = known[~np.isnan(known)]
        if len(known):
            count, added = count + len(known), added + float(known.sum())
            least, largest = min(least, known.min()), max(largest, known.max())
    if not count:
        return []
    missing = f" ({total - count:,} missing)" if count < total else ""
    line = f"ratings: {count:,} of {total:,} events{missing}, min {least:g}, mean {added / count:.2f}, max {largest:g}"
    stats = corpus.statistics.get("feedback")
    if stats is not None:
        shares = {name: sum(part[name] for part in stats["events"].values()) / total for name in LABELS}
        line += "; " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return [line]


def feedback_lines(corpus: Corpus) -> list[str]:
    """Return the lines of the data report on labels; none without them."""
    stats, bounds = corpus.statistics.get("feedback"), corpus.feedback
    if stats is None or bounds is None:
        return []
    lines = [f"labels: {bounds.words}; {_histories(bounds)}"]
    for part in PARTS:
        lines.append(f"  {part}: " + ", ".join(f"{name} {count:,}" for name, count in stats["events"][part].items()))
    train = stats["users"]["train"]
    lines.append(f"  users without a disliked training event: {train['all'] - train['disliked']:,} of {train['all']:,}")
    return lines + [f"  {part}: {_judged(part, stats['users'][part])}" for part in HELD_OUT if not bounds.ends_with_liked]


def feedback_protocol(corpus: Corpus) -> dict[str, Any]:
    """Return the entry on labels in the protocol of a table; empty without labels."""
    stats, bounds = corpus.statistics.get("feedback"), corpus.feedback
    if stats is None or bounds is None:
        return {}
    parts = [bounds.words, _histories(bounds)]
    if bounds.ends_with_liked:
        parts.append("targets: the last two liked events of a user; later events are left out")
    else:
        parts += ["target: the first liked event of the part", _judged("test", stats["users"]["test"])]
    left_out = corpus.statistics["removed_by_filter"].get(users_filter(bounds))
    if left_out is not None:
        parts.append(f"users with fewer than {bounds.min_liked} liked events, left out: {left_out['users']:,}")
    return {"feedback": "; ".join(parts)}


def _histories(bounds: FeedbackBounds) -> str:
    return "disliked events " + ("may stand in histories" if bounds.histories == "all" else "stand in no history")


def _judged(part: str, users: dict[str, int]) -> str:
    """Return the users of a held-out part by the labels that they have in it, in words."""
    without = users["all"] - users["disliked"]
    return (
        f"users with a liked {part} event {users['liked']:,} of {users['all']:,}, with a disliked one {users['disliked']:,} (without: "
        f"{without:,}), with both {users['both']:,}"
    )
