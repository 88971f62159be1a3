"""The check that an objective does not train on held-out events, which the policy is measured by."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from pandas import DataFrame
from torch import Tensor

from genrec.errors import InputError
from genrec.objectives.numbered_examples import without_numbers
from genrec.own_ids import name_item, name_user
from genrec.plugin_source import name_with_place, plugins_in
from genrec.preference.exclusions import UserItemPairs
from genrec.randomness import generator
from genrec.types import Objective, ObjectiveContext, Proposer, SamplerContext, TrainingExamples, TrainingStep

MOST_EXAMPLES = 8_192  # a random sample is compared, so that the check takes no longer with more data
BATCH = 1_024
ADVICE = (
    "train on context.source.prefixes() or context.source.windows(); context.validation is for measuring alone, and a policy that "
    "trains on held-out events has seen what it is evaluated on"
)


class _Targets(NamedTuple):
    """The targets of some examples, those without a user left out."""

    user: Tensor  # int64 [X]
    item: Tensor  # int64 [X]


def check_not_held_out(
    objective: object, step: TrainingStep, context: ObjectiveContext, held_out: Callable[[], DataFrame] | None
) -> None:
    """Raise InputError if an objective of the user, or a proposer in an objective, trains on held-out events.

    `held_out` reads the events of validation and test, with the columns user and item, int64; None: only `context.validation` itself
    is found. The targets of a sample of the examples are compared, if their batches have the fields `user` and `target`; an event that
    is a training event too is no held-out one. Objectives of genrec train on training events or check their files themselves.
    """
    plugins = [each for each in plugins_in(objective) if isinstance(each, Objective | Proposer)]  # the parts that choose examples
    if not plugins:
        return
    names, examples = " or ".join(dict.fromkeys(name_with_place(type(each)) for each in plugins)), without_numbers(step.examples)
    if examples is context.validation and examples is not None:
        raise InputError(f"{names}: TrainingStep.examples is context.validation, the held-out items of validation users; {ADVICE}")
    targets = None if held_out is None else _targets(examples)
    if held_out is None or targets is None or not len(targets.user):
        return
    found = _held_out(targets, held_out(), context.data())
    if bool(found.any()):
        first, own_ids = int(found.nonzero()[0]), context.data().own_ids
        shown = f"{name_user(own_ids, int(targets.user[first]))}, {name_item(own_ids, int(targets.item[first]))}"
        raise InputError(
            f"{names}: {int(found.sum())} of {len(found)} targets that were looked at in TrainingStep.examples are held-out events of "
            f"their users, such as {shown}; {ADVICE}"
        )


def _targets(examples: TrainingExamples) -> _Targets | None:
    """Return the targets of a random sample of examples, None if their batches have no users or targets."""
    chosen = torch.randperm(len(examples), generator=generator(0, "held-out examples"))[:MOST_EXAMPLES]
    users, items = [], []
    for index in torch.split(chosen, BATCH):
        batch = examples.batch(index)
        user, item = getattr(batch, "user", None), getattr(batch, "target", None)
        if not isinstance(user, Tensor) or not isinstance(item, Tensor) or user.shape != item.shape[:1]:
            return None
        every = user.view(-1, *[1] * (item.ndim - 1)).expand_as(item)
        named = (item > 0) & (every > 0)
        users.append(every[named])
        items.append(item[named])
    return _Targets(torch.cat(users), torch.cat(items)) if users else None


def _held_out(targets: _Targets, held_out: DataFrame, context: SamplerContext) -> Tensor:
    """Return which targets are held-out events of their user and no training events: bool [X]."""

    def has(events: DataFrame) -> Tensor:
        users, items = (torch.from_numpy(events[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
        return UserItemPairs(users, items, context.item_count).contains(targets.user, targets.item)

    return has(held_out) & ~has(context.interactions)
