"""Log-probabilities for the checks of losses: random and extreme inputs of 3 codes, and changes that keep their parts in step."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.types import LogProbs, PreferenceLoss

ROWS = 8  # examples per call
LEVELS = 3  # codes of a Semantic ID


def random_inputs(loss: PreferenceLoss, count: int) -> tuple[LogProbs, LogProbs]:
    """Return random inputs with `count` negatives for policy and reference, with the optional inputs that the loss needs.

    The last row has no mismatched pair.
    """
    source = torch.Generator().manual_seed(count)
    draws = [-0.1 - 10 * torch.rand(ROWS, 2 + count, generator=source) for _ in range(2)]
    rewards = 0.5 + 4.5 * torch.rand(ROWS, 1 + count, generator=source) if loss.needs.rewards else None
    parts = []
    for draw in draws:
        draw[-1, -1] = -torch.inf
        mismatched = draw[:, -1] if loss.needs.mismatched else None
        shares = torch.rand(ROWS, 1 + count, LEVELS, generator=source) + 0.1
        levels = draw[:, :-1].unsqueeze(2) * shares / shares.sum(2, keepdim=True)
        parts.append(LogProbs(draw[:, 0], draw[:, 1:-1], LEVELS, mismatched, rewards, levels))
    return parts[0], parts[1]


def extreme_inputs(loss: PreferenceLoss, count: int) -> tuple[LogProbs, LogProbs]:
    """Return inputs with log-ratios near +10,000 and -10,000, in all combinations for positive and negatives, and distant rewards."""
    high = torch.arange(ROWS)
    chosen, rejected, other = (torch.where(high // half % 2 == 0, -0.01, -1e4) for half in (1, 2, 4))
    rewards = torch.where(high // 4 % 2 == 0, 1e-2, 1e2).unsqueeze(1).repeat(1, 1 + count) if loss.needs.rewards else None
    if rewards is not None:
        rewards[:, 0] = 1.0
    mismatched = other if loss.needs.mismatched else None
    ours = with_log_probs(LogProbs(chosen, chosen, LEVELS, mismatched, rewards), chosen, rejected.unsqueeze(1).repeat(1, count))
    theirs = with_log_probs(ours, -1e4 - ours.chosen, -1e4 - ours.rejected)
    return ours, theirs._replace(mismatched=None if mismatched is None else -1e4 - mismatched)


def with_log_probs(part: LogProbs, chosen: Tensor, rejected: Tensor) -> LogProbs:
    """Replace the log-probabilities of the positive [B] and of the negatives [B, K]; the levels get equal parts."""
    levels = torch.cat([chosen.unsqueeze(1), rejected], 1).unsqueeze(2).repeat(1, 1, LEVELS) / LEVELS
    return part._replace(chosen=chosen, rejected=rejected, levels=levels)


def columns(part: LogProbs, places: list[int]) -> LogProbs:
    """Keep the negatives at `places`, in this order."""
    kept = [0, *(1 + place for place in places)]
    rewards, levels = (None if each is None else each[:, kept] for each in (part.rewards, part.levels))
    return part._replace(rejected=part.rejected[:, places], rewards=rewards, levels=levels)


def one_row(part: LogProbs, row: int) -> LogProbs:
    """Keep a single example."""
    chosen, rejected = part.chosen[row : row + 1], part.rejected[row : row + 1]
    mismatched, rewards, levels = (
        None if each is None else each[row : row + 1] for each in (part.mismatched, part.rewards, part.levels)
    )
    return LogProbs(chosen, rejected, part.length, mismatched, rewards, levels)


def masked(part: LogProbs, mask: Tensor, missing: Tensor | None = None) -> LogProbs:
    """Mask negatives where `mask`, bool [B, K], is true, and positives where `missing`, bool [B], is; their rewards become -inf."""
    missing = torch.zeros(len(mask), dtype=torch.bool) if missing is None else missing
    both = torch.cat([missing.unsqueeze(1), mask], 1)
    rewards = None if part.rewards is None else part.rewards.masked_fill(both, -torch.inf)
    levels = None if part.levels is None else part.levels.masked_fill(both.unsqueeze(2), -torch.inf)
    chosen, rejected = part.chosen.masked_fill(missing, -torch.inf), part.rejected.masked_fill(mask, -torch.inf)
    return part._replace(chosen=chosen, rejected=rejected, rewards=rewards, levels=levels)
