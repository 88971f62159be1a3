"""Checks of losses with sampled negatives against the contract of `genrec.types.ItemLoss`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.store import describe
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import ItemLoss, SamplingCorrection
from genrec.unchanged_values import same
from genrec.value_forms import form_of

NUM_ITEMS, NUM_TARGETS = 40, 24  # the catalog and the batch that losses are checked on
LARGE = 1e4  # a score far from those of a trained policy
TOLERANCE = 1e-5  # rounding error of a loss, absolute and relative
_DRAW = "draw_items(targets, num_items, generator)"
_LOSS = "item_loss(positive, negatives, num_items)"
_INCLUSION = "log_inclusion(targets, items, num_items)"
NUM_DRAWS = 400  # of the whole batch, to compare log_inclusion with
DEVIATIONS = 6  # standard deviations of a number of draws that are not an error


def check_item_loss(loss: ItemLoss) -> None:
    """Raise ContractError if a loss breaks `genrec.types.ItemLoss`, on 24 targets of a catalog of 40 items.

    The checks are:

    - The loss is a frozen dataclass with a stable description for artifact keys.
    - `draw_items` returns int64 [C, K], items 1..num_items or 0 for none, never the target itself, also for a single target.
    - It draws from the given generator only: the same state gives the same negatives, and global generators are left alone.
    - `item_loss` returns float32 [C], one loss per target, not reduced, finite for scores of 10,000 and with negatives of none.
    - It draws nothing and keeps no state, and the loss of a target has no gradient with respect to the scores of another.
    - At equal scores a descent step raises the target and no negative, and a negative of none (-inf) has a gradient of 0.
    - The inputs are not modified.
    - `log_inclusion` of a `genrec.types.SamplingCorrection` returns None or float32 [C, M], finite, at most 0, the same in every
      call, and agrees with how often 400 draws hold each item.
    """
    check_specification(loss, ItemLoss, f"{_DRAW} and {_LOSS}")
    name = type(loss).__name__
    try:
        describe(loss, Path(), name)
    except UsageError as error:
        raise ContractError(str(error)) from None
    targets = 1 + torch.arange(NUM_TARGETS) * 5 % NUM_ITEMS  # with repetitions, like those of a batch
    negatives = _check_draws(name, loss, targets)
    _check_draws(name, loss, targets[:1])
    scores = torch.linspace(-3, 3, NUM_ITEMS + 1)[torch.cat([targets.unsqueeze(1), negatives], 1)]
    scores[:, 1:].masked_fill_(negatives == 0, -torch.inf)
    positive, drawn = scores[:, 0], scores[:, 1:]
    without = torch.where(torch.arange(NUM_TARGETS).unsqueeze(1) % 2 == 0, -torch.inf, drawn)  # no negative in every second row
    for kind, chosen, rejected in (
        ("of -3 to 3", positive, drawn),
        ("with rows without a negative", positive, without),
        (f"of {LARGE:g} for targets", torch.full_like(positive, LARGE), drawn),
        (f"of {-LARGE:g} for targets", torch.full_like(positive, -LARGE), drawn),
        (f"of {LARGE:g} for negatives", positive, drawn + LARGE),
    ):
        _check_finite(name, loss, kind, chosen, rejected)
    _check_pure(name, loss, positive, drawn)
    _check_rows(name, loss, positive, drawn)
    _check_signs(name, loss, torch.zeros_like(drawn).masked_fill(drawn.isneginf(), -torch.inf))
    if isinstance(loss, SamplingCorrection):
        _check_correction(name, loss, loss, targets)


def _check_draws(name: str, loss: ItemLoss, targets: Tensor) -> Tensor:
    """Check the negatives of targets int64 [C], and return them, int64 [C, K]."""
    first, second = _draw(name, loss, targets), _draw(name, loss, targets)
    if not same(first, second):
        raise ContractError(
            f"{name}: draw_items returns other negatives for a generator in the same state; draw from it only, keep no state"
        )
    return first


def _draw(name: str, loss: ItemLoss, targets: Tensor) -> Tensor:
    copy, generator = targets.clone(), torch.Generator().manual_seed(3)
    with check_no_global_draws(name, "draw from the generator that draw_items gets"):
        found = call_plugin(name, _DRAW, lambda: loss.draw_items(copy, NUM_ITEMS, generator))
    if not same(copy, targets):
        raise ContractError(f"{name}: draw_items modified the targets in place; work on a copy")
    if not isinstance(found, Tensor) or found.dtype != torch.int64 or found.dim() != 2 or len(found) != len(targets):
        raise ContractError(f"{name}: draw_items must return int64 [{len(targets)}, K], got {form_of(found)}")
    if not found.shape[1]:
        raise ContractError(f"{name}: draw_items returned no negatives, int64 {list(found.shape)}; draw at least one for each target")
    if bool(((found < 0) | (found > NUM_ITEMS)).any()):
        raise ContractError(f"{name}: draw_items returned items {found.min()}..{found.max()}; items are 1..{NUM_ITEMS}, and 0 is none")
    own = found == targets.unsqueeze(1)
    if bool(own.any()):
        raise ContractError(
            f"{name}: draw_items returned target {targets[int(own.nonzero()[0, 0])]} as its own negative; draw another item, or set "
            "it to 0"
        )
    return found


def _losses(name: str, loss: ItemLoss, positive: Tensor, negatives: Tensor) -> Tensor:
    """Return the losses float32 [C] of scores float32 [C] and [C, K]; check their form and that nothing else has changed."""
    copies, inputs = (positive.detach().clone(), negatives.detach().clone()), (positive, negatives)
    with check_no_global_draws(name, "item_loss must be pure: draw in draw_items"):
        found = call_plugin(name, _LOSS, lambda: loss.item_loss(positive, negatives, NUM_ITEMS))
    if not all(map(same, copies, inputs)):
        raise ContractError(f"{name}: item_loss modified the scores; use no in-place operation on them")
    if not isinstance(found, Tensor) or found.dtype != torch.float32 or found.shape != positive.shape:
        raise ContractError(
            f"{name}: item_loss must return float32 {list(positive.shape)}, one loss per target, not reduced; got {form_of(found)}"
        )
    return found


def _gradients(name: str, loss: ItemLoss, positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses [C], and the gradients of their sum with respect to the scores [C] and [C, K]."""
    leaves = positive.clone().requires_grad_(), negatives.clone().requires_grad_()
    found = _losses(name, loss, *leaves)
    if not found.requires_grad:
        raise ContractError(f"{name}: the loss has no gradient; do not detach the scores")
    by_positive, by_negatives = torch.autograd.grad(found.sum(), leaves, allow_unused=True, materialize_grads=True)
    return found.detach(), by_positive, by_negatives


def _check_finite(name: str, loss: ItemLoss, kind: str, positive: Tensor, negatives: Tensor) -> None:
    """Check that losses and gradients are finite, and that a negative of none has a gradient of 0."""
    found, by_positive, by_negatives = _gradients(name, loss, positive, negatives)
    for part, tensor in (("loss", found), ("gradient of the target", by_positive), ("gradient of the negatives", by_negatives)):
        if not bool(tensor.isfinite().all()):
            raise ContractError(
                f"{name}: the {part} is not finite for scores {kind}; use logsigmoid, logsumexp or log_softmax, and set places "
                "without a negative (-inf) to a finite value before subtracting"
            )
    if bool((by_negatives[negatives.isneginf()] != 0).any()):
        raise ContractError(f"{name}: the gradient of a negative of none (a score of -inf) must be 0")


def _check_pure(name: str, loss: ItemLoss, positive: Tensor, negatives: Tensor) -> None:
    first = _losses(name, loss, positive, negatives)
    _losses(name, loss, positive + 1, negatives)
    if not torch.equal(first, _losses(name, loss, positive, negatives)):
        raise ContractError(f"{name}: a second call of item_loss with the same scores gives another loss; keep no state")


def _check_rows(name: str, loss: ItemLoss, positive: Tensor, negatives: Tensor) -> None:
    """Check that the loss of a target does not depend on the scores of other targets."""
    first = _losses(name, loss, positive, negatives)
    for row in range(NUM_TARGETS):
        alone = _losses(name, loss, positive[row : row + 1], negatives[row : row + 1])
        if not torch.allclose(first[row : row + 1], alone, rtol=TOLERANCE, atol=TOLERANCE):
            raise ContractError(
                f"{name}: target {row + 1} has the loss {float(first[row]):g} in a batch of {NUM_TARGETS} and {float(alone[0]):g} "
                "alone; scores are computed in chunks, so compute each target on its own"
            )


def _check_signs(name: str, loss: ItemLoss, negatives: Tensor) -> None:
    """Check the signs of the gradients where the target and its negatives have the score 0."""
    some = ~negatives.isneginf().all(1)  # rows with a negative
    _, by_positive, by_negatives = _gradients(name, loss, negatives.new_zeros(len(negatives)), negatives)
    if bool((by_positive[some] >= 0).any()) or bool((by_negatives < 0).any()):
        raise ContractError(
            f"{name}: at equal scores a descent step must raise the target and no negative; got gradients "
            f"{float(by_positive.max()):g} (target) and {float(by_negatives.min()):g} (negative): check the sign of the loss"
        )


def _check_correction(name: str, loss: ItemLoss, correction: SamplingCorrection, targets: Tensor) -> None:
    """Check the probabilities of being drawn against the draws of the loss, which is the correction too."""
    every = torch.arange(NUM_ITEMS + 1).expand(len(targets), -1)
    log_pi = _log_inclusion(name, correction, targets, every)
    if log_pi is None:
        return
    again = _log_inclusion(name, correction, targets, every)
    if again is None or not same(log_pi, again):
        raise ContractError(f"{name}: a second call of log_inclusion with the same items gives other values; keep no state")
    other = (every > 0) & (every != targets.unsqueeze(1))
    pi = log_pi.double().exp() * other
    counts = _times_drawn(name, loss, targets)
    deviation = torch.maximum(counts.std(0), (pi * (1 - pi)).sum(0).sqrt()) / NUM_DRAWS**0.5
    excess = (counts.mean(0) - pi.sum(0)).abs() - DEVIATIONS * deviation - TOLERANCE
    if bool((excess > 0).any()):
        item = int(excess.argmax())
        raise ContractError(
            f"{name}: {NUM_DRAWS} draws of {len(targets)} targets hold item {item} at {counts.mean(0)[item]:.3g} places, but the "
            f"probabilities of log_inclusion add up to {pi.sum(0)[item]:.3g}; return the logarithm of the probability that draw_items "
            "draws an item at least once for a place with another target"
        )


def _log_inclusion(name: str, loss: SamplingCorrection, targets: Tensor, items: Tensor) -> Tensor | None:
    """Return log_inclusion of items int64 [C, M]; check its form and that nothing else has changed."""
    copies = targets.clone(), items.clone()
    with check_no_global_draws(name, "log_inclusion must be pure: draw in draw_items"):
        found = call_plugin(name, _INCLUSION, lambda: loss.log_inclusion(*copies, NUM_ITEMS))
    if not same(copies[0], targets) or not same(copies[1], items):
        raise ContractError(f"{name}: log_inclusion modified its input in place; work on a copy")
    if found is None:
        return None
    if not isinstance(found, Tensor) or found.dtype != torch.float32 or found.shape != items.shape:
        raise ContractError(f"{name}: log_inclusion must return None or float32 {list(items.shape)}, got {form_of(found)}")
    if not bool(found.isfinite().all()) or bool((found > TOLERANCE).any()):
        raise ContractError(
            f"{name}: log_inclusion returned values from {found.min():g} to {found.max():g}; logarithms of probabilities are finite "
            "and at most 0, so every item must have a chance to be drawn, and item 0, which is none, gets any such value"
        )
    return found


def _times_drawn(name: str, loss: ItemLoss, targets: Tensor) -> Tensor:
    """Return at how many places of each draw every item is a negative, float64 [NUM_DRAWS, NUM_ITEMS + 1]; 0 for item 0."""
    counts = torch.zeros(NUM_DRAWS, NUM_ITEMS + 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(7)
    for row in counts:
        found = call_plugin(name, _DRAW, lambda: loss.draw_items(targets, NUM_ITEMS, generator))
        places = torch.zeros(len(targets), NUM_ITEMS + 1, dtype=torch.float64)
        row += places.scatter(1, found, 1.0).sum(0)
    counts[:, 0] = 0
    return counts
