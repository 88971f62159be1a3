"""Metrics that alignment logs at every step: rewards, log-ratios, margins and accuracies as means over a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.types import PreferenceTerms


def preference_logs(terms: PreferenceTerms, levels: Tensor, reference: Tensor, negatives: Tensor) -> dict[str, Tensor]:
    """Return the logged metrics of a batch as detached scalars, log-probabilities in nats per Semantic ID.

    `chosen` is the positive; `rejected` is the mean over all negatives of the batch.

    - `chosen_reward`, `rejected_reward`: implicit rewards, as the loss defines them.
    - `chosen_drift`, `rejected_drift`: log-ratio to the reference, log p(y) - log p_ref(y).
    - `margin`: drift of the positive minus drift of a negative, mean over pairs. `margin_level_i` is the part of level i.
    - `accuracy`: share of pairs with a margin above 0. For a reward of beta * drift these are the pairs in the right order.
    - `accuracy_all`: share of examples in which all pairs have a margin above 0, among examples with negatives.
    - `chosen_log_prob`, `rejected_log_prob`: log-probability under the policy.

    Arguments: `levels` and `reference` float32 [B, 1 + K, L] are level log-probabilities under the policy and the reference;
    `negatives` int64 [B, K], 0 where masked.
    """
    valid = negatives > 0
    pairs, rows = valid.sum().clamp(min=1), valid.any(-1)

    def over_pairs(values: Tensor) -> Tensor:
        return torch.where(valid, values, 0.0).sum() / pairs

    drift = levels - reference  # NaN where masked; `over_pairs` leaves these out
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
