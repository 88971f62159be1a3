"""Groups of rows that a CPU processes at once: of similar length, so that little time goes into padding, and within its cache."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.item_rows import aligned

GROUP_SIZE = 64  # rows of a group


def length_groups(history: Tensor) -> list[tuple[Tensor, int]]:
    """Group histories int64 [B, T] by length: rows int64 [<= GROUP_SIZE] and the longest of them; one group except on a CPU."""
    batch, longest = history.shape
    if history.device.type != "cpu":
        return [(torch.arange(batch, device=history.device), longest)]
    length = longest - (history != 0).int().argmax(1) if longest else torch.zeros(batch, dtype=torch.int64)
    length = torch.where((history != 0).any(1), length, 1)
    order = length.argsort(stable=True)
    return [(rows, int(length[rows[-1]])) for rows in torch.split(order, GROUP_SIZE)]


def candidate_groups(history: Tensor, items: Tensor) -> list[tuple[Tensor, int, int]]:
    """Group rows with similar numbers of candidates, then by length: rows int64 [<= GROUP_SIZE], longest history, most candidates.

    `history` is int64 [X, T], `items` int64 [X, M]; the candidates of a row end with its last item that is not 0. On other devices
    than a CPU there is one group.
    """
    if history.device.type != "cpu":
        return [(torch.arange(len(history), device=history.device), history.shape[1], items.shape[1])]
    length, width = (_last_item(each) for each in (history.flip(1), items))
    order = (width * (history.shape[1] + 1) + length).argsort(stable=True)
    groups = torch.split(order, GROUP_SIZE)
    return [(rows, int(length[rows].max()), int(width[rows].max())) for rows in groups]


def _last_item(rows: Tensor) -> Tensor:
    """Return how many columns of each row of int64 [X, n] reach to its last item that is not 0, at least 1: int64 [X]."""
    number = torch.arange(1, rows.shape[1] + 1)
    return torch.where(rows != 0, number, 1).amax(1)


def prefix_states(states: Tensor, places: Tensor, tokens: int) -> Tensor:
    """Return the states of prefixes, right-aligned: [B, H, S, d] and places int64 [X, 2], (row, place in it) -> [X, H, S, d].

    Each place has `tokens` states. A prefix begins with arbitrary states, which a mask must exclude.
    """
    row, place = places.unbind(1)
    first = aligned(states.shape[2] // tokens, place).clamp(min=0) * tokens
    index = (first.unsqueeze(2) + torch.arange(tokens, device=states.device)).flatten(1)
    heads = torch.arange(states.shape[1], device=states.device)
    return states[row[:, None, None], heads[:, None], index[:, None, :]]
