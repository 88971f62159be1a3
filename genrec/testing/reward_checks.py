"""The checks of rewards. In: a reward's specification, and the context to rate in. Out: nothing, or a `ContractError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.testing.check_worlds import batches_of, sampler_context
from genrec.testing.plugin_watch import call_plugin, change_weights, check_unchanged, copied
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import Reward, SamplerContext, SequenceBatch

if TYPE_CHECKING:
    from genrec.types.preference import Rates

EXAMPLES = 64  # looked at, at most
ITEMS = 5  # rated for each


def check_reward(reward: Reward, context: SamplerContext | None = None) -> None:
    """Refuse a reward that breaks `genrec.types.Reward`, on a synthetic world with ratings and a policy, or on your own `context`.

    Checked: a frozen dataclass; shape, type and device; detached; a finite number for every real item; the same from the same, built
    once or twice; a row that does not depend on the batch around it, nor an item's reward on the others of its row, their number or
    its place; `reads_policy` where it does; global random state, context (the policy's mode too) and inputs left alone. What the
    reward raises is told with the call that raised it.
    """
    check_specification(reward, Reward, "rate(context)")
    context = context if context is not None else sampler_context()
    batch = next(batches_of(context, EXAMPLES), None)
    if batch is None:
        raise InputError("the context is too small to check a reward: users of 1 item only")
    items = _items(context, batch)
    name, given = type(reward).__name__, {"items": items} | {f"batch.{key}": tensor for key, tensor in batch._asdict().items()}
    with check_unchanged(name, context, given, "a reward is deterministic"):
        rates = _rates(reward, context)
        rewards = _rate(reward, rates, batch, items)
    _check_form(reward, rewards, items)
    with check_unchanged(name, context, given, "a reward is deterministic"):
        _check_same(reward, context, rates, batch, items, rewards)
        _check_row(reward, rates, batch, items, rewards)
        _check_policy(reward, context, batch, items, rewards)


def _items(context: SamplerContext, batch: SequenceBatch) -> Tensor:
    """The target, the last item of the history, others at random, and nothing at the end of every other row: int64 [B, ITEMS]."""
    source = torch.Generator().manual_seed(0)
    others = torch.randint(1, context.item_count + 1, (len(batch.target), ITEMS - 2), generator=source)
    others[::2, -1] = 0
    return torch.cat([batch.target.unsqueeze(1), batch.history[:, -1:], others], 1)


def _rates(reward: Reward, context: SamplerContext) -> Rates:
    rates = call_plugin(type(reward).__name__, "rate(context)", lambda: reward.rate(context))
    if not callable(rates):
        raise ContractError(f"{type(reward).__name__}: rate must return what rates, called with (batch, items); got {rates!r}")
    return rates


def _rate(reward: Reward, rates: Rates, batch: SequenceBatch, items: Tensor) -> Tensor:
    """One call, whose failure is told with its circumstances."""
    what = f"rating {items.shape[1]} items (0 = none) for {len(items)} examples"
    return call_plugin(type(reward).__name__, what, lambda: rates(batch, items))


def _check_form(reward: Reward, rewards: Tensor, items: Tensor) -> None:
    """Shape, type, device, no gradient, finite for real items."""
    name, wanted = type(reward).__name__, f"float32 {list(items.shape)} on {items.device}, one an item"
    if not isinstance(rewards, Tensor):
        raise ContractError(f"{name}: must return {wanted}; got {type(rewards).__name__}")
    if rewards.shape != items.shape or rewards.dtype != torch.float32 or rewards.device != items.device:
        got = f"{str(rewards.dtype).removeprefix('torch.')} {list(rewards.shape)} on {rewards.device}"
        raise ContractError(f"{name}: must return {wanted}; got {got}")
    if rewards.requires_grad:
        raise ContractError(f"{name}: rewards must be detached, since no loss learns through them; use torch.no_grad()")
    wrong = ~rewards.isfinite() & (items > 0)
    if bool(wrong.any()):
        row, place = wrong.nonzero()[0].tolist()
        raise ContractError(
            f"{name}: a real item must have a finite reward; item {int(items[row, place])} of example {row + 1} has "
            f"{float(rewards[row, place])}: what it is not known for needs a default"
        )


def _check_same(
    reward: Reward, context: SamplerContext, rates: Rates, batch: SequenceBatch, items: Tensor, first: Tensor
) -> None:  # fmt: skip
    """The same rewards again, from what is built again, and for some of the rows in another order."""
    name = type(reward).__name__
    again = _rate(reward, rates, batch, items), _rate(reward, _rates(reward, context), batch, items)
    if not all(_alike(first, other, items) for other in again):
        raise ContractError(
            f"{name}: the same items of the same batch are rated differently the second time; draw nothing, keep no state"
        )
    rows = torch.arange(len(items)).flip(0)[: (len(items) + 1) // 2]
    part = SequenceBatch(*(tensor[rows] for tensor in batch))
    if not _alike(first[rows], _rate(reward, rates, part, items[rows]), items[rows]):
        raise ContractError(
            f"{name}: an example is rated differently in another batch; a row must not depend on the rows around it, nor on its place"
        )


def _check_row(reward: Reward, rates: Rates, batch: SequenceBatch, items: Tensor, first: Tensor) -> None:
    """The same rewards in another order of the row, and for some of its items alone."""
    for columns in ([*reversed(range(ITEMS))], [1, 0], [2]):
        given = items[:, columns]
        rewards = _rate(reward, rates, batch, given)
        _check_form(reward, rewards, given)
        if not _alike(first[:, columns], rewards, given):
            raise ContractError(
                f"{type(reward).__name__}: an item is rated differently beside other items, or in another place of the row; its "
                "reward must come from the user, the history, the target and the item alone"
            )


def _check_policy(reward: Reward, context: SamplerContext, batch: SequenceBatch, items: Tensor, first: Tensor) -> None:
    """One that rates otherwise by another policy reads it, and must say so."""
    other = copied(context)
    if getattr(reward, "reads_policy", False) or other is None:
        return
    change_weights(other)
    if not _alike(first, _rate(reward, _rates(reward, other), batch, items), items):
        raise ContractError(
            f"{type(reward).__name__}: it rates by context.policy, which training refreshes, and does not say so: give it a class "
            "attribute reads_policy = True"
        )


def _alike(first: Tensor, second: Tensor, items: Tensor) -> bool:
    """Equal for real items, but for rounding."""
    return first.shape == second.shape and torch.allclose(first[items > 0], second[items > 0], rtol=1e-4, atol=1e-5)
