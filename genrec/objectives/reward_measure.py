"""The mean reward of the policy's lists on validation users: if it rises while NDCG falls, the policy exploits the reward model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from genrec.data.examples import Examples
from genrec.plugin_source import named_objects
from genrec.policy_modules import device_of
from genrec.preference.reward_models import BradleyTerry
from genrec.types import ObjectiveContext, SequenceBatch, TrainingExamples

if TYPE_CHECKING:
    from genrec.types.preference import RateItems

LIST = 10  # items of a list
ROWS = 128  # users who get lists at once


def reward_measure(reward: object, rate: RateItems, context: ObjectiveContext) -> Callable[[], Mapping[str, float]] | None:
    """Return the function that measures the mean reward of the first 10 items of each validation user's list.

    None unless the reward is or contains a reward model, which a policy can exploit. Held-out items are not used.
    """
    models = [each for _, each in named_objects((reward,)) if isinstance(each, BradleyTerry)]
    if not models or context.validation is None:
        return None
    users: TrainingExamples | Examples = context.validation

    @torch.no_grad()
    def measure() -> dict[str, float]:
        total, count, device = 0.0, 0, device_of(context.policy)
        for index in torch.split(torch.arange(len(users)), ROWS):
            rows = SequenceBatch(*(each.to(device) for each in users.batch(index)))
            items = context.policy.recommend(rows.history, LIST).items
            rewards = rate(rows._replace(target=torch.zeros_like(rows.target)), items)
            total, count = total + float(rewards[items > 0].double().sum()), count + int((items > 0).sum())
        return {"reward": total / max(count, 1)}

    return measure
