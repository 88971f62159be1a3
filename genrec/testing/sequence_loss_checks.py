"""Checks of a policy's own training loss against the contract of `genrec.types.LossPolicy`."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from genrec.testing.event_histories import same_histories, with_items
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.specification_checks import ContractError
from genrec.types import LossPolicy, SequencePolicy
from genrec.types.event_history import items_of
from genrec.unchanged_values import same
from genrec.value_forms import form_of

TOLERANCE = 1e-4  # rounding error of a loss


def check_sequence_loss(name: str, policy: LossPolicy, history: Tensor, causal: bool) -> None:
    """Raise ContractError if `sequence_loss` breaks `genrec.types.LossPolicy`.

    `policy` is in evaluation mode, `history` int64 [B, T] has no gaps, and `causal` says whether a pass scores every prefix. Checked:

    - it returns None for every batch, or for every batch a finite scalar float32 with a gradient, also with one target per history;
    - a generator in the same state gives the same loss, and global generators and the inputs are left alone;
    - with `causal`, the loss of a target does not depend on items after its place;
    - gradients are finite in training mode.
    """
    items = items_of(history)
    last = pad(items.flip(0)[:, -1:], (items.shape[1] - 1, 0))  # one target, after the last place
    every = torch.where(items > 0, items.roll(-1, 1).clamp(min=1), 0)
    batches = [("one target per history", last)] + ([("a target after every item", every)] if causal else [])
    losses = [_loss(name, policy, history, targets, kind) for kind, targets in batches]
    if all(loss is None for loss in losses):
        return
    for (kind, targets), loss in zip(batches, losses, strict=True):
        if loss is None:
            raise ContractError(f"{name}: sequence_loss returned None with {kind}, and a loss otherwise; return one of them always")
        _check_form(name, loss, kind)
        again = _loss(name, policy, history, targets, kind)
        if again is None or not torch.allclose(loss, again, rtol=TOLERANCE, atol=TOLERANCE):
            raise ContractError(
                f"{name}: sequence_loss returns another loss for a generator in the same state; draw from `generator` only and keep "
                "no state"
            )
    if causal and isinstance(policy, SequencePolicy):
        _check_later_items(name, policy, history)
    _check_gradients(name, policy, history, batches[-1][1])


def _loss(name: str, policy: LossPolicy, history: Tensor, targets: Tensor, kind: str, training: bool = False) -> Tensor | None:
    """Return the loss; check, except in training mode where dropout draws, that global generators are left alone."""
    copies, generator = (history.clone(), targets.clone()), torch.Generator().manual_seed(3)

    def call() -> Tensor | None:
        return call_plugin(name, f"sequence_loss with {kind}", lambda: policy.sequence_loss(*copies, generator))

    if training:
        found = call()
    else:
        with check_no_global_draws(name, "draw from the generator that sequence_loss gets"):
            found = call()
    if not same_histories(copies[0], history) or not same(copies[1], targets):
        raise ContractError(f"{name}: sequence_loss modified its input in place; work on a copy")
    return found


def _check_form(name: str, loss: Tensor, kind: str) -> None:
    if not isinstance(loss, Tensor) or loss.dtype != torch.float32 or loss.dim():
        expected = "a scalar float32 [], the mean over the targets, or None"
        raise ContractError(f"{name}: sequence_loss must return {expected}; got {form_of(loss)} with {kind}")
    if not bool(loss.isfinite()):
        raise ContractError(f"{name}: sequence_loss returned {float(loss.detach()):g} with {kind}; leave out places with the target 0")


def _check_later_items(name: str, policy: LossPolicy, history: Tensor) -> None:
    """Check that the loss of targets in the middle does not change with the items after them."""
    items, middle = items_of(history), history.shape[1] // 2
    targets = torch.zeros_like(items)
    targets[:, middle] = torch.where(items[:, middle] > 0, items.flip(0)[:, -1], 0)
    other = items.clone()
    later = items[:, middle + 1 :]
    other[:, middle + 1 :] = torch.where(later > 0, later % items.max() + 1, 0)  # another item at each place
    both = (history, with_items(history, other))
    first, second = (_loss(name, policy, each, targets, "a target in the middle") for each in both)
    if first is None or second is None or not torch.allclose(first, second, rtol=TOLERANCE, atol=TOLERANCE):
        raise ContractError(
            f"{name}: sequence_loss of a target depends on items after its place; read the history causally, up to the place itself"
        )


def _check_gradients(name: str, policy: LossPolicy, history: Tensor, targets: Tensor) -> None:
    """Check that gradients exist and are finite, in training mode."""
    module = cast(nn.Module, policy).train()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        loss = _loss(name, policy, history, targets, "the policy in training mode", training=True)
        if loss is None or not loss.requires_grad:
            raise ContractError(f"{name}: sequence_loss has no gradient in training mode; remove detach and no_grad")
        loss.backward()  # type: ignore[no-untyped-call]
    module.eval()
    for key, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            raise ContractError(f"{name}: sequence_loss gives {key} a gradient that is not finite; give masked places a finite value")
    module.zero_grad()
