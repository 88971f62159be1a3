"""Three plug-ins of one's own, a sampler, a loss and a reward; `plugins.ipynb` explains them.

genrec check my_plugins.py:RoadsNotTaken
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from genrec.preference.exclusions import Exclusions, take_first
from genrec.types import DrawNegatives, LogProbs, PreferenceTerms, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class RoadsNotTaken:
    """What others took after the history's last item, and this user did not; filled up with any items."""

    tries: int = 10  # candidates for each negative, of others' next items and of any items, 1 or more

    def build(self, context: SamplerContext) -> DrawNegatives:
        """Sort all pairs of an item and the one after it by the first; an item's followers are then side by side."""
        exclusions, items = Exclusions(context), context.item_count
        log = context.interactions.sort_values(["user", "time"], kind="stable")
        user, item = (torch.from_numpy(log[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
        follows = user[1:] == user[:-1]
        before, order = item[:-1][follows].sort(stable=True)
        after = item[1:][follows][order]
        start = torch.searchsorted(before, torch.arange(items + 2))  # int64 [N + 2]: where an item's followers begin

        def draw(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
            last, shape = batch.history[:, -1:], (len(batch.target), self.tries * count)
            begin, end = start[last], start[last + 1]  # int64 [B, 1]
            place = begin + (torch.rand(shape, generator=generator) * (end - begin)).long()
            others = after[place.clamp(max=len(after) - 1)].masked_fill(begin == end, 0)
            anything = torch.randint(1, items + 1, shape, generator=generator)
            candidates = torch.cat([others, anything], 1)  # int64 [B, 2 x tries x count]
            return take_first(candidates, ~exclusions(batch, candidates), count)

        return draw


@dataclass(frozen=True)
class MarginDPO:
    """DPO that asks for more than a preference: the mean over negatives of `-log s(beta (D_w - D_k) - margin)`."""

    beta: float = 0.5  # strength of the tie to the reference, above 0
    margin: float = 1.0  # how far apart the rewards of a pair are to be, in nats

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        masked = policy.rejected.isneginf() | reference.rejected.isneginf()  # no negative; 0 before subtracting: -inf + inf is NaN
        chosen = self.beta * (policy.chosen - reference.chosen)  # float32 [B]
        rejected = self.beta * (policy.rejected.masked_fill(masked, 0) - reference.rejected.masked_fill(masked, 0))
        pairs = softplus(self.margin - (chosen.unsqueeze(1) - rejected)).masked_fill(masked, 0)  # float32 [B, K]
        loss = pairs.sum(1) / (~masked).sum(1).clamp(min=1)
        return PreferenceTerms(loss, chosen.detach(), rejected.detach().masked_fill(masked, -torch.inf))


@dataclass(frozen=True)
class Novelty:
    """How surprising an item is, `-log2` of its share of all training events: 1 bit more for an item half as popular."""

    smoothing: float = 1.0  # events that every item is given, above 0, so that an item without any is finite

    def rate(self, context: SamplerContext) -> Novel:
        """The bits of every item, once."""
        events = context.popularity + self.smoothing
        return Novel(-(events / events[1:].sum()).log2())


@dataclass(frozen=True, eq=False)
class Novel:
    """What rates items."""

    bits: Tensor  # float32 [N + 1]

    def __call__(self, batch: SequenceBatch, items: Tensor) -> Tensor:
        """Items int64 [B, M] -> float32 [B, M]; the same for every user."""
        return self.bits.to(items.device)[items]
