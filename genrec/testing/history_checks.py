"""Checks of the states of histories that a policy gives, and of views of histories."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from genrec.errors import InputError
from genrec.objectives.view_contrast import check_views
from genrec.randomness import generator
from genrec.testing.event_histories import alone, same_histories, with_items
from genrec.testing.objective_worlds import BATCH_SIZE, objective_world
from genrec.testing.plugin_watch import call_plugin, check_unchanged
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import HistoryStates, HistoryStatesSpecification, HistoryViews, Policy, PolicySpecification, TwoViews
from genrec.types.event_history import items_of, joined_rows, without_events
from genrec.value_forms import form_of

TOLERANCE = 1e-4  # rounding error of a state
BATCHES = 4  # of the check of views


def check_history_states(name: str, specification: PolicySpecification, policy: Policy, history: Tensor) -> None:
    """Raise ContractError if a policy breaks `genrec.types.HistoryStates`, or if its specification does not announce it.

    `history` int64 [B, T] is left-padded. The policy is in evaluation mode. A policy without `history_states` passes.
    """
    announced = isinstance(specification, HistoryStatesSpecification) and specification.has_history_states()
    if announced != isinstance(policy, HistoryStates):
        has = "has no" if announced else "has"
        raise ContractError(
            f"{name}: the policy {has} history_states, so has_history_states() of its specification must return {not announced}: "
            "objectives that compare histories ask it before any stage runs"
        )
    if not isinstance(policy, HistoryStates):
        return
    with torch.no_grad():
        _check_values(name, policy, history)
    _check_gradient(name, policy, history)


def _check_values(name: str, policy: HistoryStates, history: Tensor) -> None:
    states = _states(name, policy, history)
    if _difference(states, _states(name, policy, history)) > 0:
        raise ContractError(f"{name}: history_states gives other values when it is called again in evaluation mode")
    for row in range(len(history)):
        single = _states(name, policy, alone(history, row))
        if single.shape[1] != states.shape[1] or not _difference(states[row : row + 1], single) <= TOLERANCE:
            raise ContractError(
                f"{name}: history_states of a history depends on its padding or on the rest of the batch; mask padding in attention "
                "and in means, and count positions from the end"
            )
    items = items_of(history)
    if not _difference(states[-1:], _states(name, policy, with_items(history[-1:], items[-1:] % int(items.max()) + 1))) > 0:
        raise ContractError(f"{name}: history_states is the same for different histories")
    every = torch.ones(history.shape, dtype=torch.bool)
    hidden = without_events(history, (torch.arange(history.shape[1]) == history.shape[1] - 2) & every)
    for case, rows in (("without an item", without_events(history, every)), ("with a 0 between its items", hidden)):
        if not bool(_states(name, policy, rows).isfinite().all()):
            raise ContractError(f"{name}: history_states of a history {case} must be finite")


def _check_gradient(name: str, policy: HistoryStates, history: Tensor) -> None:
    module = cast(nn.Module, policy).train()
    empty = joined_rows([history, without_events(history[:1], torch.ones(1, history.shape[1], dtype=torch.bool))])
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        states = _states(name, policy, empty)
        if not states.requires_grad:
            raise ContractError(f"{name}: history_states has no gradient; remove detach and no_grad")
        states.square().sum().backward()  # type: ignore[no-untyped-call]
    module.eval()
    for key, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            raise ContractError(f"{name}: history_states gives {key} a gradient that is not finite; divide by at least 1 item")
    module.zero_grad()


def _states(name: str, policy: HistoryStates, history: Tensor) -> Tensor:
    given = history.clone()
    found = call_plugin(name, "history_states", lambda: policy.history_states(given))
    if not isinstance(found, Tensor) or found.dtype != torch.float32 or found.dim() != 2 or len(found) != len(history):
        raise ContractError(f"{name}: history_states must return float32 [{len(history)}, D], got {form_of(found)}")
    if not same_histories(given, history):
        raise ContractError(f"{name}: history_states modified its input in place; work on a copy")
    return found


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def check_history_views(views: HistoryViews) -> None:
    """Raise ContractError if views of histories break `genrec.types.HistoryViews`, on a small training set.

    Checked: it is a frozen dataclass; both views are histories of real items, left-padded, with an item in the last place; equal
    generators give equal views; rows, data and global random state stay as they are.
    """
    check_specification(views, HistoryViews, "build_views(context, examples)")
    name, context = type(views).__name__, objective_world()
    examples, data = context.source.prefixes(), context.data()
    make = call_plugin(name, "build_views(context, examples)", lambda: views.build_views(context, examples))
    for number in range(BATCHES):
        rows = examples.batch(torch.arange(number * BATCH_SIZE, (number + 1) * BATCH_SIZE))
        remedy = "take all random numbers from the generator that the views get"
        made: list[TwoViews] = []
        for _ in range(2):
            with check_unchanged(name, data, rows._asdict(), remedy):
                found = call_plugin(name, "the function of build_views", lambda: make(rows, generator(0, "check", number)))  # noqa: B023
            try:
                made.append(check_views(views, found, len(rows.user)))
            except InputError as error:
                raise ContractError(str(error)) from None
        first, second = made
        if any(each.max() > data.item_count for each in first):
            raise ContractError(f"{name}: the views have item {max(int(each.max()) for each in first)} of {data.item_count} items")
        if not all(torch.equal(*pair) for pair in zip(first, second, strict=True)):
            raise ContractError(f"{name}: equal generators gave different views; {remedy}")
