"""Building blocks of rewards: tables on the items' device, the value of item 0, and the check of a rating's result."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.plugin_source import name_with_place
from genrec.types import Rating, Reward, SamplerContext, SequenceBatch


class DeviceTable:
    """A tensor that is copied to each device once, so that a step on a GPU does not wait for it."""

    def __init__(self, values: Tensor) -> None:
        self._copies = {values.device: values}
        self._values = values

    def on(self, device: torch.device) -> Tensor:
        """Return the tensor on a device."""
        if device not in self._copies:
            self._copies[device] = self._values.to(device)
        return self._copies[device]


def mask_padding(rewards: Tensor, items: Tensor) -> Tensor:
    """Return the rewards on the items' device, with -inf for item 0."""
    return rewards.to(items.device).masked_fill(items == 0, -torch.inf)


def checked_rating(reward: Reward, context: SamplerContext) -> Rating:
    """Return a reward's rating. Its function gives item 0 the reward -inf, whatever the plug-in gives it.

    The function raises InputError if the reward does not return float [B, M]. Values are not checked, because reading them would
    make the CPU wait for the GPU.
    """
    name, rating = name_with_place(type(reward)), reward.rate(context)
    if not isinstance(rating, Rating):
        raise InputError(f"{name}: {not_a_rating(rating)}")

    def checked(batch: SequenceBatch, items: Tensor) -> Tensor:
        rewards = rating.rate(batch, items)
        if not isinstance(rewards, Tensor) or rewards.shape != items.shape or not rewards.is_floating_point():
            got = f"{rewards.dtype} {list(rewards.shape)}" if isinstance(rewards, Tensor) else type(rewards).__name__
            raise InputError(f"{name}: must return float32 {list(items.shape)}, one reward per item; got {got}")
        return mask_padding(rewards, items)

    return replace(rating, rate=checked)


def not_a_rating(result: object) -> str:
    """Return the message for a result of `rate(context)` that is no `Rating`, with the remedy."""
    if callable(result) and not isinstance(result, type):
        return (
            "rate(context) returned a function, but must return a genrec.types.Rating that holds it; write "
            "return Rating(rate=FUNCTION), with reads_policy=True if the function reads context.policy"
        )
    return f"rate(context) must return a genrec.types.Rating, got {result!r}; write return Rating(rate=FUNCTION)"
