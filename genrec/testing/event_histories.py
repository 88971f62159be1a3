"""Histories that policies are checked with: items alone, or with the inputs that a policy asks for; and checks of these inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from genrec.errors import UsageError
from genrec.testing.specification_checks import ContractError
from genrec.types import EventHistory, Policy
from genrec.types.event_history import HISTORY_INPUTS, HistoryInput, as_tensor, in_words, inputs_of, items_of
from genrec.unchanged_values import same

LONGEST_GAP = 20  # base-2 logarithm of the seconds between two events
NOISE = 0.1  # standard deviation of what is added to weights, so that inputs with weights of 0 have an effect


def asked_inputs(name: str, specification: object) -> tuple[HistoryInput, ...]:
    """Return the inputs that a policy asks for. Raises ContractError if `history_inputs` does not return a tuple of their names."""
    try:
        return inputs_of(specification)
    except UsageError as error:
        raise ContractError(f"{name}: {error}") from None


def with_random_inputs(items: Tensor, inputs: tuple[HistoryInput, ...], seed: int = 2) -> Tensor:
    """Return histories of items int64 [B, T] with random inputs; without any, the items themselves. Some events have no rating."""
    if not inputs:
        return items
    generator, empty = torch.Generator().manual_seed(seed), items == 0
    gap = 2 ** (LONGEST_GAP * torch.rand(items.shape, generator=generator))  # as many short ones as long ones, some of no seconds
    time = gap.masked_fill(torch.rand(items.shape, generator=generator) < 0.2, 0).long().cumsum(1) + 10**9
    rating = torch.randint(1, 6, items.shape, generator=generator).float()
    rating = rating.masked_fill(torch.rand(items.shape, generator=generator) < 0.2, torch.nan)
    user = torch.randint(0, 2**62, (len(items),), generator=generator)
    return as_tensor(EventHistory(items, user, time.masked_fill(empty, 0), rating.masked_fill(empty, torch.nan)).only(inputs))


def with_items(history: Tensor, items: Tensor) -> Tensor:
    """Return histories with other items int64 [B, T] at the same places, and the inputs that they had."""
    return as_tensor(replace(history, items=items)) if isinstance(history, EventHistory) else items


def alone(history: Tensor, row: int) -> Tensor:
    """Return the history of a row without its padding, [1, t]."""
    length = int((items_of(history)[row] > 0).sum())
    return history[row : row + 1, history.shape[1] - length :]


def same_histories(first: Tensor, second: Tensor) -> bool:
    """Return whether two histories are equal in items and inputs."""
    names = ("items", *HISTORY_INPUTS)
    if isinstance(first, EventHistory):
        pairs = ((getattr(first, name), getattr(second, name)) for name in names)
        return all(a is b if a is None else same(a, b) for a, b in pairs)
    return torch.equal(first, second)


def shake_weights(policy: Policy) -> None:
    """Add noise to all weights, in place: the same for the same weights."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in cast(nn.Module, policy).parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=NOISE)


def check_inputs(name: str, history: Tensor, levels: Callable[[Tensor], Tensor]) -> None:
    """Raise ContractError unless a policy reads each input that it asks for, and refuses a history without them.

    `levels` returns the log-probabilities of all items after a history.
    """
    if not isinstance(history, EventHistory):
        return
    other, before = cast("EventHistory", with_random_inputs(history.items, history.inputs, seed=3)), levels(as_tensor(history))
    unread = []
    for each in history.inputs:
        changed = levels(as_tensor(replace(history, **{each: getattr(other, each)})))
        if not bool((changed[:, 1:] != before[:, 1:]).any()):
            unread.append(each)
    if unread:
        raise ContractError(
            f"{name}: history_inputs() asks for {in_words(unread)}, and the log-probabilities are the same for other values; read "
            f"{' and '.join(f'history.{each}' for each in unread)}, or leave the names out of history_inputs()"
        )
    try:
        levels(history.items)
    except Exception:
        return
    raise ContractError(
        f"{name}: history_inputs() asks for {in_words(history.inputs)}, and level_log_prob takes items alone without an error; inputs "
        "could then get lost unnoticed: read them from the history, or raise an error"
    )
