"""Losses of policies over items that compare the target with sampled negatives instead of the whole catalog.

A loss is a frozen dataclass, `genrec.types.ItemLoss`: it draws the negatives of each target and is a function of scores. A step then
costs O(C (1 + K) D) for C targets, K negatives and states of width D, where the softmax over all items costs O(C N D). That pays for
large catalogs; below some ten thousand items the full softmax (`loss=None`) is as fast and is the likelihood itself.

**The softmax of the scores, which is the policy's p(item | history), is then not what SFT fitted.** Let p be the true probability of
an item after a history. Uniform negatives other than the target meet an item in proportion to 1 - p, so both losses are least, for
many negatives and with any score allowed, at the score log(p / (1 - p)) plus a constant. The ranking is the same, but the softmax
of these scores is larger than p for likely items. A policy that is aligned afterwards starts from these uncalibrated values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genrec.errors import UsageError
from genrec.types.specification import check_at_least


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
    are drawn more often. The score of an item is then lower by the logarithm of its frequency among negatives: rare items rise.

    Source: D. Tikhonovich et al., "eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion" (2025),
    arXiv 2508.06450, whose Beauty run has 256 uniform negatives. Deviations: eSASRec's LiGR layers are not part of this loss; a
    negative is never the target; the scores of mixed negatives are not corrected for their frequency (logQ).
    """

    num_negatives: int = 256  # K, negatives of each target, drawn with replacement, at least 1
    in_batch: float = 0.0  # share of the negatives that are targets of the batch, rounded down to whole negatives, in [0, 1]

    def __post_init__(self) -> None:
        check_at_least(self, "policy.loss", 1, "num_negatives")
        if not 0 <= self.in_batch <= 1:
            raise UsageError(f"policy.loss.in_batch must lie in [0, 1], got {self.in_batch}")

    def check_catalog(self, num_items: int) -> None:
        """Raise UsageError if the catalog has no second item."""
        check_has_negatives(num_items)

    def draw_items(self, targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
        """Return negatives int64 [C, K] of targets int64 [C]; 0 where a target of the batch is the place's own."""
        num_in_batch = int(self.in_batch * self.num_negatives)
        uniform = uniform_negatives(targets, self.num_negatives - num_in_batch, num_items, generator)
        places = torch.randint(len(targets), (len(targets), num_in_batch), generator=generator).to(targets.device)
        others = targets[places]
        return torch.cat([uniform, others.masked_fill(others == targets.unsqueeze(1), 0)], 1)

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
