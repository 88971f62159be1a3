"""Losses of policies over items that compare the target with sampled negatives instead of the whole catalog.

A loss is a frozen dataclass, `genrec.types.ItemLoss`: it draws the negatives of each target and is a function of scores. A step then
costs O(C (1 + K) D) for C targets, K negatives and states of width D, where the softmax over all items costs O(C N D). That pays for
large catalogs; below some ten thousand items the full softmax (`loss=None`) is as fast and is the likelihood itself.

**The softmax of the scores, which is the policy's p(item | history), is what SFT fitted only with `SampledSoftmax(log_q=True)`.**
Let p be the true probability of an item after a history, and let every score be allowed.

- `GBCE` is least at the score log(p / (1 - p)) plus a constant, since an item is a negative where it is not the target. The
  ranking is that of p, but the softmax of these scores is larger than p for likely items.
- `SampledSoftmax` without log_q is least near log p minus the logarithm of the item's frequency among negatives: with `in_batch`,
  popular items get too little. Uniform negatives have one frequency, and the softmax is near p as long as K is far below the number of
  items; more of them repeat items, and likely items get too much.
- With log_q it is least near log p for any K: at log p itself if the items were drawn independently of each other.

A policy that is aligned afterwards starts from these values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log1p

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genrec.errors import UsageError
from genrec.store import NEW_IN_KEY
from genrec.types.specification import check_at_least, check_types


@dataclass(frozen=True)
class GBCE:
    """The generalized binary cross-entropy (gBCE) of gSASRec; a `genrec.types.ItemLoss`.

        alpha = K / (N - 1)                                             the sampling rate of negatives
        beta  = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha)
        loss  = -1 / (K + 1) (beta log sigmoid(s+) + sum over negatives i of log(1 - sigmoid(s_i)))

    s+ is the target's score, s_i a negative's, K `num_negatives`, N the number of items. Negatives make positives look more frequent
    than they are; at the minimum sigmoid(s) = beta p / (beta p + alpha (1 - p)), which is p for t = 1. t = 0 is the binary
    cross-entropy.

    Source: A. Petrov and C. Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative
    Sampling" (2023), arXiv 2308.07192. Deviation: a negative is never the target (the authors' code draws from all items).
    """

    num_negatives: int = 256  # K, negatives of each target, drawn uniformly with replacement, at least 1
    t: float = 0.75  # calibration, in [0, 1]: 0 is the binary cross-entropy, 1 is calibrated

    def __post_init__(self) -> None:
        check_at_least(self, "policy.loss", 1, "num_negatives")
        if not 0 <= self.t <= 1:
            raise UsageError(f"policy.loss.t must lie in [0, 1], got {self.t}")

    def check_catalog(self, num_items: int) -> None:
        """Raise UsageError if the catalog has no second item."""
        check_has_negatives(num_items)

    def draw_items(self, targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
        """Return uniform negatives int64 [C, K] of targets int64 [C]."""
        return uniform_negatives(targets, self.num_negatives, num_items, generator)

    def beta(self, num_items: int) -> float:
        """Return beta, the exponent of the positive's sigmoid."""
        return 1 - self.t * (1 - self.num_negatives / (num_items - 1))

    def item_loss(self, positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
        """Return the loss of each target, float32 [C], of scores float32 [C] and [C, K]."""
        likelihood = self.beta(num_items) * logsigmoid(positive) + logsigmoid(-negatives).sum(1)
        return -likelihood / (negatives.shape[1] + 1)


@dataclass(frozen=True)
class SampledSoftmax:
    """The cross-entropy of the target among itself and K sampled negatives; a `genrec.types.ItemLoss`.

        loss = -log(exp(s+) / (exp(s+) + sum over negatives i of exp(s_i)))

    With `in_batch` above 0 the negatives are mixed: this share of them are targets of other places of the batch, so that popular items
    are drawn more often. Without `log_q` the score of an item is then lower by the logarithm of its frequency among negatives: rare
    items rise. `log_q` makes this loss a consistent estimate of the softmax over all items: an item counts once, and s - log pi takes
    the place of s, also for the target. pi is the probability that the item is drawn (it is the target of c other places of the C):

        pi = 1 - (1 - 1 / (N - 1))^(uniform negatives) (1 - c / C)^(negatives of the batch)

    It is a `genrec.types.SamplingCorrection`; see `genrec.sampled_item_loss` for the reason and the sources.

    Source: D. Tikhonovich et al., "eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion" (2025),
    arXiv 2508.06450, whose Beauty run has 256 uniform negatives. Deviations: eSASRec's LiGR layers are not part of this loss; a
    negative is never the target.
    """

    num_negatives: int = 256  # K, negatives of each target, drawn with replacement, at least 1
    in_batch: float = 0.0  # share of the negatives that are targets of the batch, rounded down to whole negatives, in [0, 1]
    log_q: bool = field(default=False, metadata=NEW_IN_KEY)  # correct scores for the sampling; needs uniform negatives

    def __post_init__(self) -> None:
        check_types(self, "policy.loss")
        check_at_least(self, "policy.loss", 1, "num_negatives")
        if not 0 <= self.in_batch <= 1:
            raise UsageError(f"policy.loss.in_batch must lie in [0, 1], got {self.in_batch}")
        if self.log_q and self.num_in_batch == self.num_negatives:
            raise UsageError(
                f"policy.loss.log_q needs a uniform negative, but in_batch {self.in_batch} makes all {self.num_negatives} negatives "
                "targets of the batch, and other items are never drawn; set policy.loss.in_batch below 1, such as 0.5, or log_q False"
            )

    @property
    def num_in_batch(self) -> int:
        """Return the number of negatives that are targets of the batch."""
        return int(self.in_batch * self.num_negatives)

    def check_catalog(self, num_items: int) -> None:
        """Raise UsageError if the catalog has no second item."""
        check_has_negatives(num_items)

    def draw_items(self, targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
        """Return negatives int64 [C, K] of targets int64 [C]; 0 where a target of the batch is the place's own."""
        uniform = uniform_negatives(targets, self.num_negatives - self.num_in_batch, num_items, generator)
        places = torch.randint(len(targets), (len(targets), self.num_in_batch), generator=generator).to(targets.device)
        others = targets[places]
        return torch.cat([uniform, others.masked_fill(others == targets.unsqueeze(1), 0)], 1)

    def log_inclusion(self, targets: Tensor, items: Tensor, num_items: int) -> Tensor | None:
        """Return log pi of items int64 [C, M] for targets int64 [C], float32 [C, M]; None without `log_q`."""
        if not self.log_q:
            return None
        if num_items == 2:
            return torch.zeros(items.shape, device=items.device)  # the one other item is drawn always
        uniform = (self.num_negatives - self.num_in_batch) * log1p(-1 / (num_items - 1))
        missed = torch.full(items.shape, uniform, device=items.device)  # log probability that no draw is the item
        if self.num_in_batch:
            ones = torch.ones(len(targets), device=targets.device)
            count = torch.zeros(num_items + 1, device=targets.device).index_add(0, targets, ones)
            others = count[items] - (items == targets.unsqueeze(1)).float()
            missed += self.num_in_batch * torch.log1p(-others / len(targets))
        return torch.log(-torch.expm1(missed))

    def item_loss(self, positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
        """Return the loss of each target, float32 [C], of scores float32 [C] and [C, K]."""
        return torch.cat([positive.unsqueeze(1), negatives], 1).logsumexp(1) - positive


def uniform_negatives(targets: Tensor, num_negatives: int, num_items: int, generator: torch.Generator) -> Tensor:
    """Return items 1..N other than the target, int64 [C, K], uniform with replacement, for targets int64 [C].

    Raises UsageError if the catalog has no second item.
    """
    check_has_negatives(num_items)
    drawn = torch.randint(1, num_items, (len(targets), num_negatives), generator=generator).to(targets.device)
    return drawn + (drawn >= targets.unsqueeze(1))


def check_has_negatives(num_items: int) -> None:
    """Raise UsageError if the catalog has no second item, which could be a negative of the first."""
    if num_items < 2:
        raise UsageError(
            f"policy.loss needs negatives, and a catalog of {num_items} item(s) has none; set policy.loss to None (--policy.loss None)"
        )
