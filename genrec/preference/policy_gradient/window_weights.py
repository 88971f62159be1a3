"""Weights that focus the negatives of a group on the places that decide Recall@n (TAWin, arXiv 2604.22504).

With x_j = -|j - place| for the j-th best negative (0 is the best), the weights are

    w_j = min(1, exp((x_j - lambda) / temperature)),  lambda such that sum_j w_j = size

and the advantage of a negative is multiplied by `w_j n / sum w`, n the number of negatives: the mean weight is 1. All weights are 1 in
a group with `size` negatives or fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from genrec.errors import UsageError, given
from genrec.preference.policy_gradient.group_advantages import GroupAdvantage
from genrec.preference.range_checks import check_range
from genrec.types import Advantage, Advantages, CandidateGroups
from genrec.types.specification import check_types


@dataclass(frozen=True)
class WindowedAdvantage:
    """An advantage with the weights of TAWin for the candidates below 0. Candidates must come best first, as beams do.

    For Recall@3 the paper has place 2 and size 3, for Recall@5 place 4.
    """

    advantage: Advantage = field(default_factory=GroupAdvantage)  # the advantage to weight
    place: int = 2  # the negative (0 is the best) in the middle of the window, 0 or more: n - 1 for Recall@n
    size: float = 3.0  # effective number of negatives, above 0
    temperature: float = 1.0  # how fast the weights fall outside of the window, in places, above 0

    def __post_init__(self) -> None:
        check_types(self, "WindowedAdvantage")
        check_range(self, "place", 0)
        for name in ("size", "temperature"):
            check_range(self, name, 0, above=True)
        if isinstance(self.advantage, type) or not isinstance(self.advantage, Advantage):
            raise UsageError(
                f"WindowedAdvantage.advantage must be an advantage, such as GroupAdvantage(), got {given(self.advantage)}"
            )

    def estimate(self, groups: CandidateGroups) -> Advantages:
        """Return the weighted advantages. Each code has its own weights where there is one advantage for each code."""
        values, spread = self.advantage.estimate(groups)
        if values.ndim == 3:
            weighted = [_weighted(each, self.place, self.size, self.temperature) for each in values.unbind(2)]
            return Advantages(torch.stack(weighted, 2), spread)
        return Advantages(_weighted(values, self.place, self.size, self.temperature), spread)


def _weighted(values: Tensor, place: int, size: float, temperature: float) -> Tensor:
    """Return advantages [X, M], those below 0 multiplied by weights with a mean of 1."""
    negative = values < 0
    weights = window_weights(negative, place, size, temperature).to(values)
    mean = weights.sum(1, keepdim=True) / negative.sum(1, keepdim=True).clamp(min=1)
    return torch.where(negative, values * weights / mean, values)


def window_weights(negative: Tensor, place: int, size: float, temperature: float = 1.0) -> Tensor:
    """Return the weights w of the negatives, float64 [X, M]; 0 elsewhere.

    `negative`, bool [X, M], marks the negatives of each row, which stand best first. With the m largest of `e_j = exp(x_j /
    temperature)` cut to 1, the others are `c e_j` with `c = (size - m) / (their sum)`; m is the smallest for which none exceeds 1.
    """
    rank = negative.cumsum(1) - 1
    distance = (rank - place).abs().double().masked_fill(~negative, torch.inf)
    nearest = distance.amin(1, keepdim=True)
    exponential = torch.exp(-(distance - nearest.nan_to_num(posinf=0.0)) / temperature)  # 0 where not negative; the largest is 1
    ordered = exponential.sort(1, descending=True).values
    rest = ordered.flip(1).cumsum(1).flip(1)  # the sum of the m-th largest and of all smaller ones
    cut = torch.arange(negative.shape[1], device=negative.device)
    scale = (size - cut).clamp(min=0) / rest.clamp(min=torch.finfo(torch.float64).tiny)
    fits = (ordered * scale <= 1) & (cut < size)
    first = fits.to(torch.int8).argmax(1, keepdim=True)
    weights = (exponential * scale.gather(1, first)).clamp(max=1)
    few = negative.sum(1, keepdim=True) <= size
    return torch.where(few, 1.0, weights) * negative
