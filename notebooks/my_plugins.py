"""A custom sampler, loss and reward, explained in `plugins.ipynb`.

genrec check my_plugins.py:RoadsNotTaken
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from genrec.preference.exclusions import Exclusions, take_first
from genrec.types import Draw, LogProbs, LossNeeds, PreferenceTerms, Rating, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class RoadsNotTaken:
    """Items that other users took after the last item of the history, then random items where these are too few."""

    tries: int = 10  # candidates of each kind (next items of others, random items) per negative, 1 or more

    def build(self, context: SamplerContext) -> Draw:
        """Sort all (item, next item) pairs by item, so that the next items of an item are contiguous."""
        exclusions, items = Exclusions(context), context.item_count
        log = context.interactions.sort_values(["user", "time"], kind="stable")
        user, item = (torch.from_numpy(log[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
        follows = user[1:] == user[:-1]
        before, order = item[:-1][follows].sort(stable=True)
        after = item[1:][follows][order]
        start = torch.searchsorted(before, torch.arange(items + 2))  # int64 [N + 2]  start of each item's next items in `after`

        def draw(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
            last, shape = batch.history[:, -1:], (len(batch.target), self.tries * num_negatives)
            begin, end = start[last], start[last + 1]  # int64 [B, 1]
            place = begin + (torch.rand(shape, generator=generator) * (end - begin)).long()
            others = after[place.clamp(max=len(after) - 1)].masked_fill(begin == end, 0)
            anything = torch.randint(1, items + 1, shape, generator=generator)
            candidates = torch.cat([others, anything], 1)  # int64 [B, 2 x tries x num_negatives]
            return take_first(candidates, ~exclusions(batch, candidates), num_negatives)

        return Draw(draw=draw)


@dataclass(frozen=True)
class MarginDPO:
    """DPO with a margin, `-log s(beta (D_w - D_k) - margin)`, averaged over the negatives."""

    beta: float = 0.5  # strength of the pull to the reference, above 0
    margin: float = 1.0  # target difference of the rewards of a pair, in nats

    needs = LossNeeds()  # no optional inputs

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example."""
        masked = policy.rejected.isneginf() | reference.rejected.isneginf()  # set to 0 before subtracting: -inf minus -inf is NaN
        chosen = self.beta * (policy.chosen - reference.chosen)  # float32 [B]
        rejected = self.beta * (policy.rejected.masked_fill(masked, 0) - reference.rejected.masked_fill(masked, 0))
        pairs = softplus(self.margin - (chosen.unsqueeze(1) - rejected)).masked_fill(masked, 0)  # float32 [B, K]
        loss = pairs.sum(1) / (~masked).sum(1).clamp(min=1)
        return PreferenceTerms(loss, chosen.detach(), rejected.detach().masked_fill(masked, -torch.inf))


@dataclass(frozen=True)
class Novelty:
    """Self-information of an item, `-log2` of its share of all training events: 1 bit more for half the popularity."""

    smoothing: float = 1.0  # events added to every item, above 0, so that an item without events has a finite reward

    def rate(self, context: SamplerContext) -> Rating:
        """Compute the bits of every item, once."""
        events = context.popularity + self.smoothing
        bits = -(events / events[1:].sum()).log2()  # float32 [N + 1]

        def rate(batch: SequenceBatch, items: Tensor) -> Tensor:
            return bits.to(items.device)[items].masked_fill(items == 0, -torch.inf)

        return Rating(rate=rate)
