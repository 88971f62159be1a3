"""Losses that wrap another loss: an anchor (`Anchored`), label smoothing (`Smoothed`) and weights of levels (`LevelWeighted`).

A composition needs what the loss inside needs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec.errors import UsageError, given
from genrec.preference.level_checks import check_has_levels
from genrec.preference.losses.log_ratios import at_least_float32, negative_log_likelihood
from genrec.preference.losses.smoothing import pair_losses, smooth
from genrec.preference.range_checks import check_range
from genrec.preference.schedules import check_scheduled, constant
from genrec.types import LogProbs, LossNeeds, NumberOrSchedule, PreferenceLoss, PreferenceTerms, SamplerContext


@dataclass(frozen=True)
class Anchored:
    """A loss plus `alpha * NLL(y_w)`, which keeps the positive likely (Pang et al. 2024, arXiv 2404.19733).

    The NLL is the mean over the L codes, as in the paper, so alpha has the same meaning for every L. A row without negatives keeps
    its NLL; one without a positive has none.
    """

    loss: PreferenceLoss  # the loss to anchor
    alpha: NumberOrSchedule = 1.0  # weight of the positive's NLL, 0 or more

    @property
    def needs(self) -> LossNeeds:
        """The needs of the loss inside."""
        return self.loss.needs

    def __post_init__(self) -> None:
        _check_loss(self)
        check_scheduled(self, "alpha", 0)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example, with the rewards of the anchored loss."""
        alpha = constant(self, "alpha")
        terms = self.loss(policy, reference)
        return terms._replace(loss=terms.loss + alpha * negative_log_likelihood(policy))


@dataclass(frozen=True)
class Smoothed:
    """Label smoothing of a pairwise loss: `(1-e) loss(w, l) + e loss(l, w)`, with e = `label_smoothing`, averaged over the pairs.

    `Smoothed(DPO())` equals `ConservativeDPO`. The loss is called with one pair at a time, so DPO accepts any K and S-DPO equals DPO.
    An NLL inside the loss (CPO, ORPO, Anchored) would be smoothed too, which raises the negative; put the anchor outside:
    `Anchored(Smoothed(CPO(alpha=0)))`.
    """

    loss: PreferenceLoss  # the loss to smooth
    label_smoothing: float = 0.1  # e, the assumed probability of a wrong label, in [0, 0.5)

    @property
    def needs(self) -> LossNeeds:
        """The needs of the loss inside, and a positive in every row: without one there is no pair."""
        return self.loss.needs._replace(positive=True)

    def __post_init__(self) -> None:
        _check_loss(self)
        check_range(self, "label_smoothing", 0, 0.5)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example, with the rewards of the smoothed loss."""
        return smooth(pair_losses(self.loss, policy, reference), self.label_smoothing)


@dataclass(frozen=True)
class LevelWeighted:
    """A loss of weighted levels: the log-probability of an item is `sum_l w_l log p(code l)`, under policy and reference.

    Level-weighted DPO and S-DPO are `LevelWeighted(DPO())` and `LevelWeighted(SoftmaxDPO())`. With weights that fall, a preference
    is learned at the first codes, which choose among coarse groups of items, more than at the last ones, where a negative may differ
    from the positive by nothing but its last code. Weights of 1 are the loss itself. An anchor inside is weighted too; outside it is
    not: `Anchored(LevelWeighted(SoftmaxDPO()))`. A loss that averages over the codes still divides by L.

    A loss that needs mismatched pairs, such as KTO, is refused: `LogProbs.levels` does not hold their levels.
    """

    loss: PreferenceLoss  # the loss of the weighted log-probabilities
    weights: float | tuple[float, ...] = 0.5  # w of each level, 0 or more; a number d in [0, 1] means 1, d, d^2, ...

    @property
    def needs(self) -> LossNeeds:
        """The needs of the loss inside."""
        return self.loss.needs

    def __post_init__(self) -> None:
        _check_loss(self)
        if self.loss.needs.mismatched:
            raise UsageError(
                f"LevelWeighted cannot weigh the mismatched pairs that {self.loss!r} needs, since LogProbs.levels holds only the "
                "candidates; use a loss of pairs such as SoftmaxDPO(), or the loss without level weights"
            )
        if isinstance(self.weights, tuple):
            valid = all(_is_number(each, sys.float_info.max) for each in self.weights) and any(self.weights)
        else:
            valid = _is_number(self.weights, 1.0)
        if not valid:
            raise UsageError(
                "LevelWeighted.weights must be a number from 0 to 1, or a tuple of finite numbers of 0 or more, one for each level "
                f"and not all 0, got {self.weights!r}"
            )

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the policy scores an item as one code, so that there are no levels to weigh."""
        check_has_levels(self, "log-probabilities of levels", experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError unless there is a weight for each level of the Semantic IDs."""
        self.level_weights(context.semantic_ids.levels)

    def level_weights(self, levels: int) -> tuple[float, ...]:
        """Return the weight of each level. Raise UsageError if there are other than `levels` weights."""
        if not isinstance(self.weights, tuple):
            return tuple(float(self.weights) ** level for level in range(levels))
        if len(self.weights) != levels:
            raise UsageError(
                f"LevelWeighted.weights has {len(self.weights)} numbers, {self.weights!r}, but the Semantic IDs have {levels} levels "
                "(a level for collisions counts); give one number for each, or a single number d for 1, d, d^2, ..."
            )
        return self.weights

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example."""
        return self.loss(self._weighted(policy), self._weighted(reference))

    def _weighted(self, log_probs: LogProbs) -> LogProbs:
        """Weigh the levels, and sum them again. An item with a level of -inf stays masked, also where the level's weight is 0."""
        levels, candidates = log_probs.levels, 1 + log_probs.rejected.shape[1]
        if levels is None or levels.shape[:2] != (len(log_probs.chosen), candidates):
            expected = [len(log_probs.chosen), candidates, "L"]
            got = "None" if levels is None else list(levels.shape)
            raise UsageError(f"LevelWeighted needs LogProbs.levels of shape [B, 1 + K, L] = {expected}, got {got}")
        masked = levels.isneginf().any(2, keepdim=True) | _totals(log_probs).isneginf()
        filled = at_least_float32(levels.masked_fill(masked, 0.0)).unbind(2)
        weights = self.level_weights(len(filled))  # numbers, not a tensor, which a GPU would wait for
        weighted = torch.stack([weight * level for weight, level in zip(weights, filled, strict=True)], 2)
        weighted = weighted.masked_fill(masked, -torch.inf)
        total = weighted.sum(2)
        return log_probs._replace(chosen=total[:, 0], rejected=total[:, 1:], levels=weighted)


def _totals(log_probs: LogProbs) -> Tensor:
    """Return the log-probabilities of positive and negatives, [B, 1 + K, 1]."""
    return torch.cat([log_probs.chosen.unsqueeze(1), log_probs.rejected], 1).unsqueeze(2)


def _is_number(value: object, largest: float) -> bool:
    """Return whether a value is a number from 0 to `largest`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= largest


def _check_loss(composition: Anchored | Smoothed | LevelWeighted) -> None:
    if isinstance(composition.loss, type) or not isinstance(composition.loss, PreferenceLoss):
        raise UsageError(
            f"{type(composition).__name__}.loss must be a preference loss such as SoftmaxDPO(), got {given(composition.loss)}"
        )
