"""The users that validation and evaluation rank: their batches, samples and device."""

from __future__ import annotations

import torch

from genrec.data.examples import Examples
from genrec.randomness import generator
from genrec.types import SequenceBatch


def batches(entries: Examples, size: int, device: torch.device) -> list[SequenceBatch]:
    """Return all examples in batches on the device, the longest histories first, so that batches hold little padding."""
    length = entries.history_lengths(torch.arange(len(entries))).clamp(max=entries.history_length)
    order = length.argsort(descending=True, stable=True)
    return [SequenceBatch(*(part.to(device) for part in entries.batch(index))) for index in torch.split(order, size)]


def select_users(entries: Examples, count: int, part: str) -> Examples:
    """Return a random sample of `count` users (0 = all). The sample is the same for all seeds, rows and stages."""
    if not 0 < count < len(entries):
        return entries
    chosen = torch.randperm(len(entries), generator=generator(0, f"{part} users"))[:count]
    return entries.select(chosen.sort().values)
