"""Metrics that alignment logs at every step: rewards, log-ratios, margins and accuracies as means over a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.types import PreferenceTerms


def preference_logs(terms: PreferenceTerms, levels: Tensor, reference: Tensor, negatives: Tensor) -> dict[str, Tensor]:
    """Return the logged metrics of a batch as detached scalars, log-probabilities in nats per Semantic ID.

    `chosen` is the positive, over the rows that have one; `rejected` is the mean over all negatives of the batch.

    - `chosen_reward`, `rejected_reward`: implicit rewards, as the loss defines them.
    - `chosen_drift`, `rejected_drift`: log-ratio to the reference, log p(y) - log p_ref(y).
    - `margin`: drift of the positive minus drift of a negative, mean over pairs. `margin_level_i` is the part of level i.
    - `accuracy`: share of pairs with a margin above 0, ties counted as 1/2 (the convention of the area under the ROC curve, as in
      `genrec.objectives.validation_pairs`): 1/2 where policy and reference are equal. For a reward of beta * drift a margin above 0 is
      a pair in the right order.
    - `accuracy_all`: share of examples in which all pairs have a margin above 0, among examples with negatives.
    - `chosen_log_prob`, `rejected_log_prob`: log-probability under the policy.

    Arguments: `levels` and `reference` float32 [B, 1 + K, L] are level log-probabilities under the policy and the reference;
    `negatives` [B, K], items int64 or bool, is 0 where masked.
    """
    present, rejections = ~levels[:, 0].isneginf().any(-1), negatives > 0
    valid = rejections & present.unsqueeze(1)
    rows = valid.any(-1)

    def over_pairs(values: Tensor, counted: Tensor = valid) -> Tensor:
        return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)

    def over_positives(values: Tensor) -> Tensor:
        return torch.where(present, values, 0.0).sum() / present.sum().clamp(min=1)

    drift = levels - reference  # NaN where masked; `over_pairs` leaves these out
    chosen, rejected = drift[:, 0], drift[:, 1:]  # [B, L], [B, K, L]
    margin = chosen.unsqueeze(1) - rejected
    better, tied = valid & (margin.sum(-1) > 0), valid & (margin.sum(-1) == 0)
    logs = {
        "chosen_reward": over_positives(terms.chosen_reward),
        "rejected_reward": over_pairs(terms.rejected_reward, rejections & ~terms.rejected_reward.isneginf()),
        "chosen_drift": over_positives(chosen.sum(-1)),
        "rejected_drift": over_pairs(rejected.sum(-1), rejections),
        "margin": over_pairs(margin.sum(-1)),
        "accuracy": (better.sum() + tied.sum() / 2) / valid.sum().clamp(min=1),
        "accuracy_all": ((better | ~valid).all(-1) & rows).sum() / rows.sum().clamp(min=1),
        "chosen_log_prob": over_positives(levels[:, 0].sum(-1)),
        "rejected_log_prob": over_pairs(levels[:, 1:].sum(-1), rejections),
    }
    return logs | {f"margin_level_{level + 1}": over_pairs(margin[..., level]) for level in range(levels.shape[-1])}
