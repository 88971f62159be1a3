"""Held-out events with their labels, for metrics of preference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genrec.data.corpus import Corpus
from genrec.data.event_inputs import event_inputs
from genrec.data.examples import Examples, held_out_examples, select_examples
from genrec.data.feedback_statistics import HELD_OUT, HeldOutPart, has_label
from genrec.data.feedback_targets import kept_events
from genrec.types import HeldOutItems, HistoryInput
from genrec.types.data import DISLIKED, LIKED


def judges_pairs(corpus: Corpus) -> bool:
    """Return whether the held-out parts hold events of every label, not only a liked target and what is between two targets."""
    return corpus.feedback is not None and not corpus.feedback.ends_with_liked


def held_out_items(corpus: Corpus, part: HeldOutPart) -> Callable[[Tensor], HeldOutItems] | None:
    """Return a function from users int64 [B] to their events in a part, with labels, on the CPU.

    None without labels, and where the split holds out liked events alone, so that there are no pairs to judge.
    """
    if corpus.label is None or not judges_pairs(corpus):
        return None
    item, label, bounds = (torch.from_numpy(each) for each in (corpus.item, corpus.label, corpus.bounds))
    columns = list(HELD_OUT[part])

    def items_of(users: Tensor) -> HeldOutItems:
        begin, end = bounds[users.cpu() - 1][:, columns].unbind(1)
        longest = int((end - begin).max()) if len(users) else 0
        place = begin.unsqueeze(1) + torch.arange(longest)
        valid = place < end.unsqueeze(1)
        place = place.clamp(max=len(item) - 1)
        return HeldOutItems(torch.where(valid, item[place].long(), 0), torch.where(valid, label[place], 0))

    return items_of


def disliked_examples(corpus: Corpus, part: HeldOutPart, history_length: int, inputs: Sequence[HistoryInput] = ()) -> Examples | None:
    """Return the users with a disliked event in a held-out part and no liked one, which would be their target; None without any.

    Their target is the first disliked event, so that they have a list of recommendations. It is no target of a ranking.
    """
    if corpus.label is None or not judges_pairs(corpus):
        return None
    bounds = corpus.bounds
    first, last = bounds[:, HELD_OUT[part][0]], bounds[:, HELD_OUT[part][1]]
    entries = held_out_examples(corpus, part, history_length, DISLIKED)
    liked = torch.from_numpy(has_label(corpus.label, first, last, LIKED))[entries.users - 1]
    kept = kept_events(corpus)
    entries = select_examples(replace(entries, kept=kept, inputs=event_inputs(corpus, inputs, kept)), None)
    index = torch.arange(len(entries))
    entries = entries.select(index[~liked[entries.places(index)[0]]])
    return entries if len(entries) else None
