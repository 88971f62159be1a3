"""Stage 5, alignment: the SFT policy learns to prefer the positive over drawn negatives; its frozen copy is the reference.

The policy encodes a history once for all 1 + K candidates, and so does the reference. Both run without dropout, so that the first
loss is exactly ln(1 + K) (before an anchor): `check_start` asserts it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from genrec.data.batches import Examples
from genrec.preference.contract import DrawContract
from genrec.preference.drawn import Drawn, Summary
from genrec.preference.losses import check_start
from genrec.randomness import generator
from genrec.training.loop import Outcome, train
from genrec.training.recipes import Align
from genrec.types import LogProbs, Policy, SamplerContext, SequenceBatch


def log_probs(levels: Tensor) -> LogProbs:
    """Level log-probabilities float32 [B, 1 + K, L], the positive first -> LogProbs."""
    total = levels.sum(-1)
    return LogProbs(total[:, 0], total[:, 1:], levels.shape[-1])


def align(
    policy: Policy, examples: Examples, context: SamplerContext, recipe: Align, seed: int, folder: Path,
    validate: Callable[[], float],
) -> tuple[Outcome, Summary]:  # fmt: skip
    """Train the SFT policy in place; `folder` holds the checkpoint, `validate` gives NDCG@10 on validation.

    Returns the outcome and a summary of the negatives that were drawn.
    """
    module = cast(nn.Module, policy).eval()
    frozen = copy.deepcopy(module).requires_grad_(False)
    reference = cast(Policy, frozen)
    draw = recipe.negatives.build(context._replace(policy=reference))
    contract, drawn = DrawContract(context), Drawn(context)

    def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        frozen.to(batch.target.device)
        negatives = draw(batch, recipe.count, generator(seed, "negatives", step))
        contract.check(batch, negatives, recipe.count)
        drawn.update(batch, negatives)
        candidates = torch.cat([batch.target.unsqueeze(1), negatives], 1)
        levels = policy.level_log_prob(batch.history, candidates)
        with torch.no_grad():
            reference_levels = reference.level_log_prob(batch.history, candidates)
        ours, theirs = log_probs(levels), log_probs(reference_levels)
        if step == 0:
            check_start(ours, theirs)
        terms = recipe.loss(ours, theirs)
        return terms.loss.mean(), preference_logs(levels.detach(), reference_levels, negatives)

    outcome = train(module, objective, examples, recipe, seed, folder, validate, "alignment", drawn.totals)
    return outcome, drawn.summary()


def preference_logs(levels: Tensor, reference: Tensor, negatives: Tensor) -> dict[str, Tensor]:
    """What is seen while training, each a mean over the batch; all in nats, rewards at beta = 1.

    Level log-probabilities float32 [B, 1 + K, L] under the policy and the reference; negatives int64 [B, K], 0 where masked.
    """
    valid = negatives > 0
    pairs = valid.sum().clamp(min=1)
    ratio = torch.where(valid.unsqueeze(-1), levels[:, 1:] - reference[:, 1:], 0.0)  # log-ratios of the negatives, [B, K, L]
    chosen = levels[:, 0] - reference[:, 0]  # [B, L]
    margin = torch.where(valid.unsqueeze(-1), chosen.unsqueeze(1) - ratio, 0.0)  # [B, K, L]
    total = margin.sum(-1)
    logs = {
        "chosen_reward": chosen.sum(-1).mean(),
        "rejected_reward": ratio.sum() / pairs,
        "margin": total.sum() / pairs,
        "accuracy": ((total > 0) & valid).sum() / pairs,
        "accuracy_all": (((total > 0) | ~valid).all(-1) & valid.any(-1)).sum() / valid.any(-1).sum().clamp(min=1),
        "chosen_log_prob": levels[:, 0].sum(-1).mean(),
        "rejected_log_prob": torch.where(valid, levels[:, 1:].sum(-1), 0.0).sum() / pairs,
    }
    return logs | {f"margin_level_{level + 1}": margin[..., level].sum() / pairs for level in range(levels.shape[-1])}
