"""Stage 5, what is seen of preferences while training: means over a batch, as detached scalars."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.types import PreferenceTerms


def preference_logs(terms: PreferenceTerms, levels: Tensor, reference: Tensor, negatives: Tensor) -> dict[str, Tensor]:
    """What is seen while training, each a mean over the batch, in nats.

    Rewards are the loss's own; drifts are log-ratios to the reference, and a margin is the positive's drift minus a negative's,
    which for a reward of beta * drift has its sign. Level log-probabilities float32 [B, 1 + K, L] under the policy and the
    reference; negatives int64 [B, K], 0 where masked.
    """
    valid = negatives > 0
    pairs, rows = valid.sum().clamp(min=1), valid.any(-1)

    def over_pairs(values: Tensor) -> Tensor:
        return torch.where(valid, values, 0.0).sum() / pairs

    drift = levels - reference  # NaN where masked, which `over_pairs` leaves out
    chosen, rejected = drift[:, 0], drift[:, 1:]  # [B, L], [B, K, L]
    margin = chosen.unsqueeze(1) - rejected
    better = valid & (margin.sum(-1) > 0)
    logs = {
        "chosen_reward": terms.chosen_reward.mean(),
        "rejected_reward": over_pairs(terms.rejected_reward),
        "chosen_drift": chosen.sum(-1).mean(),
        "rejected_drift": over_pairs(rejected.sum(-1)),
        "margin": over_pairs(margin.sum(-1)),
        "accuracy": better.sum() / pairs,
        "accuracy_all": ((better | ~valid).all(-1) & rows).sum() / rows.sum().clamp(min=1),
        "chosen_log_prob": levels[:, 0].sum(-1).mean(),
        "rejected_log_prob": over_pairs(levels[:, 1:].sum(-1)),
    }
    return logs | {f"margin_level_{level + 1}": over_pairs(margin[..., level]) for level in range(levels.shape[-1])}
