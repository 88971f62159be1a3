"""A small training set and policy for the checks of objectives and proposers."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genrec.data.examples import Examples, Windows, epoch_steps
from genrec.objectives.frozen_policy import FrozenCopy
from genrec.testing.check_worlds import context_examples, context_windows, sampler_context
from genrec.types import Feedback, ObjectiveContext, Padding, SamplerContext, SequenceBatch, WindowBatch

BATCH_SIZE = 16
STEPS = 20
HISTORY_LENGTH = 20


@dataclass(frozen=True, eq=False)
class ContextExamples:
    """The interactions of a sampler context as a `genrec.types.ExampleSource`."""

    context: SamplerContext

    def prefixes(self, feedback: Feedback = "not disliked") -> Examples:
        """Return one example for each event that `feedback` makes a target, but a user's first."""
        return context_examples(self.context, HISTORY_LENGTH, feedback)

    def windows(self, padding: Padding = "zero", feedback: Feedback = "not disliked") -> Windows:
        """Return windows with a target after every item that `feedback` makes a target."""
        return context_windows(self.context, HISTORY_LENGTH, padding, feedback)


def objective_world(seed: int = 0, held_out: int = 0) -> ObjectiveContext:
    """Return what an objective is built from, on the world of `genrec.testing.sampler_context`.

    The policy is trainable and differs from the reference. It reads a history causally, so it can train on windows. `held_out` seeds
    the held-out items of the validation users (`held_out_examples`) and changes nothing else.
    """
    data = sampler_context(seed)
    assert isinstance(data.policy, nn.Module)
    policy = copy.deepcopy(data.policy).requires_grad_(True)
    with torch.no_grad():
        for number, parameter in enumerate(policy.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    reference = FrozenCopy(data.policy)
    data = data._replace(policy=reference.policy)
    source = ContextExamples(data)
    return ObjectiveContext(
        policy=policy,
        reference=reference,
        source=source,
        data=lambda: data,
        frozen_copy=lambda name: FrozenCopy(policy, kept=True),
        normalize="codes",
        steps=STEPS,
        batch_size=BATCH_SIZE,
        seed=seed,
        epoch_steps=epoch_steps(len(source.prefixes()), BATCH_SIZE),
        validation=held_out_examples(data, held_out),
    )


def held_out_examples(context: SamplerContext, seed: int) -> Examples:
    """Return an example for each user, with all training items as the history and a random item that the user did not take."""
    generator = torch.Generator().manual_seed(seed)
    items: list[Tensor] = []
    users = []
    for user, rows in context.interactions.sort_values(["user", "time"], kind="stable").groupby("user")["item"]:
        taken = torch.from_numpy(rows.to_numpy("int64", copy=True))
        others = torch.ones(context.item_count + 1).index_fill(0, torch.cat([torch.zeros(1, dtype=torch.int64), taken]), 0.0)
        users.append(int(str(user)))
        items.append(torch.cat([taken, torch.multinomial(others, 1, generator=generator)]))
    lengths = torch.tensor([len(each) for each in items])
    begin = lengths.cumsum(0) - lengths
    return Examples(torch.cat(items), torch.tensor(users), begin, begin + lengths - 1, torch.arange(1, len(items) + 1), HISTORY_LENGTH)


def batches_of_kind(context: ObjectiveContext) -> dict[str, SequenceBatch | WindowBatch]:
    """Return a batch of prefixes and a batch of windows."""
    index = torch.arange(BATCH_SIZE)
    return {"prefixes": context.source.prefixes().batch(index), "windows": context.source.windows().batch(index)}
