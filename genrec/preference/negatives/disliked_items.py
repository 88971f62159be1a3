"""A sampler of the items that the user dislikes in training, before or after the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from genrec.errors import InputError
from genrec.preference.disliked_pairs import disliked_events
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, on_cpu, take_first
from genrec.preference.rating_requirements import check_has_dislikes
from genrec.types import Draw, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class DislikedItems:
    """Disliked negatives: a uniform draw without replacement among the training items that the user dislikes.

    Labels are those of the split (`LeaveOneOut(liked=4, disliked=2)`). If a user has several training events with an item, the last
    one counts. The items may stand in the history, before it, or after the target: all of them are training data. A user without
    dislikes gets no negatives. `Disliked` takes dislikes by a rating, and from the history alone.

    With targets that are liked (`feedback="liked"`), a row is a preference of a liked over disliked items of the same user.
    """

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the split labels no event as disliked."""
        check_has_dislikes(self, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise InputError if no user dislikes an item in training."""
        if "label" not in context.interactions:
            columns = ", ".join(map(str, context.interactions))
            raise InputError(
                f"DislikedItems needs interactions with a label, got the columns {columns}; set split.liked and split.disliked, or "
                "use another sampler, such as AlreadySeen()"
            )
        if not len(disliked_events(context, Exclusions(context).representative)[0]):
            raise InputError(
                "DislikedItems: no user dislikes a training item; raise split.disliked, or use another sampler, such as AlreadySeen()"
            )

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw."""
        self.check_context(context)
        exclusions = Exclusions(context)
        draw = _OfDisliked(exclusions, *disliked_events(context, exclusions.representative))
        return Draw(draw=draw, by_example=True, offers_disliked=True)


class _OfDisliked:
    """Draws from (user, item) pairs, int64 [P] each, sorted by user."""

    def __init__(self, exclusions: Exclusions, users: Tensor, items: Tensor) -> None:
        self.exclusions, self.items = exclusions, items
        self.users, count = torch.unique_consecutive(users, return_counts=True)
        self.end = count.cumsum(0)
        self.begin = self.end - count

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        cpu_batch = on_cpu(batch)
        randomness = ExampleRandomness(cpu_batch, generator)
        row = torch.searchsorted(self.users, cpu_batch.user).clamp(max=len(self.users) - 1)
        known = self.users[row] == cpu_batch.user
        begin, count = self.begin[row], (self.end - self.begin)[row] * known
        steps = torch.arange(int(count.max()) if len(count) else 0)
        items = torch.where(steps < count.unsqueeze(1), self.items[(begin.unsqueeze(1) + steps).clamp(max=len(self.items) - 1)], 0)
        items = items.gather(1, randomness.uniform(len(steps)).masked_fill(items == 0, 1.0).argsort(dim=1, stable=True))
        allowed = ~self.exclusions.always(cpu_batch, items)
        return take_first(items, allowed, num_negatives, self.exclusions.representative).to(batch.target.device)
