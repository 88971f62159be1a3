"""Which events are targets of training, and which stand in histories, by their labels."""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.data.corpus import Corpus
from genrec.errors import UsageError
from genrec.types import Feedback
from genrec.types.data import DISLIKED, LIKED


def allowed_targets(corpus: Corpus, feedback: Feedback) -> Tensor | None:
    """Return which events may be targets of training, bool [E]; None: all.

    "all" is every event, "not disliked" every event but the disliked ones, and "liked" only liked events. Without labels the first
    two are the same, and "liked" raises UsageError.
    """
    return allowed_by_label(None if corpus.label is None else torch.from_numpy(corpus.label), feedback)


def allowed_by_label(label: Tensor | None, feedback: Feedback) -> Tensor | None:
    """Return which events with labels int8 [E] may be targets of training, as `allowed_targets`: bool [E], None for all."""
    if feedback not in get_args(Feedback):
        raise UsageError(f"feedback is one of {', '.join(map(repr, get_args(Feedback)))}, got {feedback!r}")
    if label is None:
        if feedback == "liked":
            raise UsageError(
                "feedback 'liked' needs labels, and the split sets no bounds of ratings; set split.liked, such as 4, or feedback 'all'"
            )
        return None
    if feedback == "all":
        return None
    return label == LIKED if feedback == "liked" else label != DISLIKED


class KeptEvents(NamedTuple):
    """The events that stand in histories."""

    items: Tensor  # int32 or int64 [K]  their items by user, then time
    before: Tensor  # int64 [E + 1]  number of these events before each position of all events


def kept_events(corpus: Corpus) -> KeptEvents | None:
    """Return the events of histories; None if all events may stand in them."""
    if corpus.feedback is None or corpus.feedback.histories == "all":
        return None
    kept = torch.from_numpy(corpus.label) != DISLIKED
    return KeptEvents(torch.from_numpy(corpus.item)[kept], pad(kept.cumsum(0), (1, 0)))
