"""Counts of labels: liked, neutral and disliked events by part, and the users whom metrics of preference count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from genrec.data.corpus import Corpus
from genrec.data.k_core import EventCounts
from genrec.data.splits import BEGIN, END, PARTS, TEST, VALIDATION, chunks
from genrec.types import FeedbackBounds
from genrec.types.data import DISLIKED, LIKED, NEUTRAL

LABELS = {"liked": LIKED, "neutral": NEUTRAL, "disliked": DISLIKED}
COLUMNS = {"validation": (VALIDATION, TEST), "test": (TEST, END)}  # of bounds: begin and end of a held-out part


def feedback_statistics(label: ndarray, bounds: ndarray, feedback: FeedbackBounds) -> dict[str, Any]:
    """Return the bounds of the labels, the events of each label by part, and the users by the labels that they have in a part.

    `label` is int8 [E], `bounds` int64 [U, 4]. Users are those with an event before the part and in it.
    """
    return {
        "liked": feedback.liked,
        "disliked": feedback.disliked,
        "histories": feedback.histories,
        "events": _events(label, bounds),
        "users": {part: _users(label, bounds, *COLUMNS[part]) for part in COLUMNS},
    }


def _events(label: ndarray, bounds: ndarray) -> dict[str, dict[str, int]]:
    found = {part: dict.fromkeys(LABELS, 0) for part in PARTS}
    for rows, parts in chunks(bounds):
        for number, part in enumerate(PARTS):
            labels = label[rows][parts == number]
            for name, value in LABELS.items():
                found[part][name] += int(np.count_nonzero(labels == value))
    return found


def _users(label: ndarray, bounds: ndarray, first: int, last: int) -> dict[str, int]:
    judged = bounds[(bounds[:, last] > bounds[:, first]) & (bounds[:, first] > bounds[:, BEGIN])]
    liked, disliked = (has_label(label, judged[:, first], judged[:, last], value) for value in (LIKED, DISLIKED))
    return {
        "all": len(judged),
        "liked": int(liked.sum()),
        "disliked": int(disliked.sum()),
        "both": int((liked & disliked).sum()),
    }


def has_label(label: ndarray, begin: ndarray, end: ndarray, value: int) -> ndarray:
    """Return whether an event in begin..end, int64 [R] each, has a label: bool [R]; `label` is int8 [E]."""
    return first_with(label, begin, end, value) < end


def first_with(label: ndarray, begin: ndarray, end: ndarray, value: int) -> ndarray:
    """Return the first position in begin..end, int64 [R] each, with a label, int64 [R]; `end` where there is none."""
    places = np.append(np.flatnonzero(label == value), len(label))
    found: ndarray = np.minimum(places[np.searchsorted(places, begin)], end)
    return found


def events_after_liked(counts: EventCounts, item: ndarray) -> dict[str, dict[str, int]]:
    """Return what was left out after the users' last liked events, from the counts before and the items int32 [E] of the events left."""
    left = {"interactions": counts.total - len(item), "users": 0, "items": counts.num_items - len(np.unique(item))}
    return {"events after the last liked one": left}


def feedback_lines(corpus: Corpus) -> list[str]:
    """Return the lines of the data report on labels; none without them."""
    stats = corpus.statistics.get("feedback")
    if stats is None:
        return []
    assert corpus.feedback is not None
    histories = "" if stats["histories"] == "all" else "; disliked events stand in no history"
    lines = [f"labels: {corpus.feedback.words}{histories}"]
    for part in PARTS:
        lines.append(f"  {part}: " + ", ".join(f"{name} {count:,}" for name, count in stats["events"][part].items()))
    for part, users in stats["users"].items():
        lines.append(
            f"  users with {part} events: {users['all']:,}; with a liked one, which is the target: {users['liked']:,}; with a disliked "
            f"one: {users['disliked']:,}; with both: {users['both']:,}"
        )
    return lines


def feedback_protocol(corpus: Corpus) -> dict[str, Any]:
    """Return the entry on labels in the protocol of a table; empty without labels."""
    stats, bounds = corpus.statistics.get("feedback"), corpus.feedback
    if stats is None or bounds is None:
        return {}
    users = stats["users"]["test"]
    parts = [
        f"{bounds.words}; the target is the first liked event of the part",
        f"disliked events {'stand in no history' if bounds.histories == 'without disliked' else 'may stand in histories'}",
        f"users with a liked test event {users['liked']:,} of {users['all']:,}, with a disliked one {users['disliked']:,} (without: "
        f"{users['all'] - users['disliked']:,}), with both {users['both']:,}",
    ]
    left_out = [counts for name, counts in corpus.statistics["removed_by_filter"].items() if "liked events or more" in name]
    parts += [f"users with fewer than two liked events are left out: {counts['users']:,}" for counts in left_out]
    return {"feedback": "; ".join(parts)}
