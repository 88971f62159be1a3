"""Contract checks for rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.own_ids import name_item
from genrec.preference.rewards.reward_tables import not_a_rating
from genrec.testing.check_worlds import batches_of, context_or_small
from genrec.testing.plugin_watch import call_plugin, change_weights, check_unchanged, copied
from genrec.testing.specification_checks import ContractError, check_names, check_specification
from genrec.types import PolicyReward, Rating, Reward, SamplerContext, SequenceBatch
from genrec.value_forms import form_of

MAX_EXAMPLES = 64  # training examples to check
ITEMS = 5  # items rated per example


CAPABILITIES = ("rate", "needs_policy", "check", "check_context")  # attributes of a reward that genrec reads
FORMER = {"reads_policy": "return Rating(rate=..., reads_policy=True)", "compares": "return Rating(rate=..., compares=True)"}


def check_reward(reward: Reward, context: SamplerContext | None = None) -> None:
    """Raise ContractError if a reward breaks `genrec.types.Reward`.

    The reward runs on a small synthetic training set with ratings and a policy, or on your own `context`. Checked:

    - it is a frozen dataclass, `rate(context)` returns a `Rating`, and no attribute looks like a misspelt capability;
    - the result is float32 [B, M] on the items' device, detached, and finite for every real item;
    - it is the same on a second call and after a second `rate(context)`;
    - it does not depend on the other rows of the batch, or on the number and order of the other items of a row;
    - `Rating.reads_policy` is true if the result changes with the policy's weights, and `needs_policy()` returns the same;
    - the inputs, the context, the mode of the policy and global random state stay unchanged.
    """
    check_specification(reward, Reward, "rate(context)")
    check_names(reward, CAPABILITIES, FORMER)
    with context_or_small(context, "check_reward") as known:
        _check_on(known, reward)


def _check_on(context: SamplerContext, reward: Reward) -> None:
    batch = next(batches_of(context, MAX_EXAMPLES), None)
    if batch is None:
        raise InputError("the context is too small to check a reward: no user has 2 training items")
    items = _items(context, batch)
    name, inputs = type(reward).__name__, {"items": items} | {f"batch.{key}": tensor for key, tensor in batch._asdict().items()}
    with check_unchanged(name, context, inputs, "a reward must be deterministic"):
        rating = _build(reward, context)
        rewards = _rate(reward, rating, batch, items)
    _check_form(reward, rewards, items, context)
    with check_unchanged(name, context, inputs, "a reward must be deterministic"):
        _check_repeatable(reward, context, rating, batch, items, rewards)
        if not rating.compares:
            _check_independence(reward, rating, batch, items, rewards, context)
        _check_policy(reward, context, batch, items, rewards)


def _items(context: SamplerContext, batch: SequenceBatch) -> Tensor:
    """Return the target, the last item of the history and random items, with 0 at the end of every other row: int64 [B, ITEMS]."""
    generator = torch.Generator().manual_seed(0)
    others = torch.randint(1, context.item_count + 1, (len(batch.target), ITEMS - 2), generator=generator)
    others[::2, -1] = 0
    return torch.cat([batch.target.unsqueeze(1), batch.history[:, -1:], others], 1)


def _build(reward: Reward, context: SamplerContext) -> Rating:
    rating = call_plugin(type(reward).__name__, "rate(context)", lambda: reward.rate(context))
    if not isinstance(rating, Rating):
        raise ContractError(f"{type(reward).__name__}: {not_a_rating(rating)}")
    if not callable(rating.rate):
        raise ContractError(f"{type(reward).__name__}: Rating.rate must be a function of a batch and items, got {rating.rate!r}")
    if isinstance(reward, PolicyReward) and reward.needs_policy() is not rating.reads_policy:
        raise ContractError(
            f"{type(reward).__name__}: needs_policy() is {reward.needs_policy()}, but Rating.reads_policy is {rating.reads_policy}; "
            "return the same from both"
        )
    return rating


def _rate(reward: Reward, rating: Rating, batch: SequenceBatch, items: Tensor) -> Tensor:
    """Rate items. The message of a failure names the shape of the call."""
    action = f"rating {items.shape[1]} items (0 = padding) for {len(items)} examples"
    return call_plugin(type(reward).__name__, action, lambda: rating.rate(batch, items))


def _check_form(reward: Reward, rewards: Tensor, items: Tensor, context: SamplerContext) -> None:
    """Check shape, type and device, that no gradient is attached, and that real items have finite rewards."""
    name, expected = type(reward).__name__, f"float32 {list(items.shape)} on {items.device}, one reward per item"
    if not isinstance(rewards, Tensor):
        raise ContractError(f"{name}: must return {expected}; got {type(rewards).__name__}")
    if rewards.shape != items.shape or rewards.dtype != torch.float32 or rewards.device != items.device:
        raise ContractError(f"{name}: must return {expected}; got {form_of(rewards)} on {rewards.device}")
    if rewards.requires_grad:
        raise ContractError(f"{name}: rewards must be detached, because losses do not train through them; use torch.no_grad()")
    wrong = ~rewards.isfinite() & (items > 0)
    if bool(wrong.any()):
        row, place = wrong.nonzero()[0].tolist()
        raise ContractError(
            f"{name}: the reward of a real item must be finite, got {float(rewards[row, place])} for item "
            f"{name_item(context.own_ids, int(items[row, place]))} of example {row + 1}; return a default for items without data"
        )


def _check_repeatable(
    reward: Reward, context: SamplerContext, rating: Rating, batch: SequenceBatch, items: Tensor, first: Tensor
) -> None:  # fmt: skip
    """Check that a second call, a second `rate(context)` and another batch give the same rewards."""
    name = type(reward).__name__
    again = _rate(reward, rating, batch, items), _rate(reward, _build(reward, context), batch, items)
    if not all(_close(first, other, items) for other in again):
        raise ContractError(f"{name}: a second call with the same batch gives other rewards; draw nothing, and keep no state")
    rows = torch.arange(len(items)).flip(0)[: (len(items) + 1) // 2]
    part = SequenceBatch(*(tensor[rows] for tensor in batch))
    if not _close(first[rows], _rate(reward, rating, part, items[rows]), items[rows]):
        raise ContractError(
            f"{name}: an example gets other rewards in another batch; a row must not depend on the other rows, nor on its place"
        )


def _check_independence(
    reward: Reward, rating: Rating, batch: SequenceBatch, items: Tensor, first: Tensor, context: SamplerContext
) -> None:  # fmt: skip
    """Check that other items in a row, and their order, do not change the reward of an item."""
    for columns in ([*reversed(range(ITEMS))], [1, 0], [2]):
        part = items[:, columns]
        rewards = _rate(reward, rating, batch, part)
        _check_form(reward, rewards, part, context)
        if not _close(first[:, columns], rewards, part):
            raise ContractError(
                f"{type(reward).__name__}: an item gets another reward beside other items, or in another place of the row; compute "
                "it from the user, the history, the target and the item alone, or return Rating(rate=..., compares=True)"
            )


def _check_policy(reward: Reward, context: SamplerContext, batch: SequenceBatch, items: Tensor, first: Tensor) -> None:
    """Check that a reward that changes with the policy's weights has `Rating.reads_policy`."""
    other = copied(context)
    if _build(reward, context).reads_policy or other is None:
        return
    change_weights(other)
    if not _close(first, _rate(reward, _build(reward, other), batch, items), items):
        raise ContractError(
            f"{type(reward).__name__}: the rewards depend on context.policy, which training refreshes; declare it: "
            "Rating(rate=..., reads_policy=True)"
        )


def _close(first: Tensor, second: Tensor, items: Tensor) -> bool:
    """Return whether the rewards of real items are equal up to rounding."""
    return first.shape == second.shape and torch.allclose(first[items > 0], second[items > 0], rtol=1e-4, atol=1e-5)
