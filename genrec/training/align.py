"""Stage 5, alignment: the SFT policy learns to prefer the positive over drawn negatives; its frozen copy is the reference.

The policy encodes a history once for all 1 + K candidates, and so does the reference. Negatives are drawn, checked and counted on the
host, ahead of the step, so that no step of a GPU waits for it. Policy and reference run without dropout, so that the first
loss is exactly ln(1 + K) (before an anchor): `check_start` asserts it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from genrec.data.batches import Examples
from genrec.preference.contract import DrawContract
from genrec.preference.drawn import Drawn, Summary
from genrec.preference.losses import check_start
from genrec.randomness import generator
from genrec.training.curves import OnRow
from genrec.training.loop import Outcome, Validate, train
from genrec.training.recipes import Align
from genrec.types import LogProbs, Policy, PreferenceTerms, SamplerContext, SequenceBatch


class OnHost:
    """What stays where it was drawn when its batch goes to a device, so that counting it waits for nothing; no tuple, no dataclass."""

    def __init__(self, batch: SequenceBatch, negatives: Tensor) -> None:
        self.batch, self.negatives = batch, negatives


class Pairs(NamedTuple):
    """What a step of alignment takes; drawn on the host, ahead of the step."""

    batch: SequenceBatch
    negatives: Tensor  # int64 [B, K]
    host: OnHost


def log_probs(levels: Tensor) -> LogProbs:
    """Level log-probabilities float32 [B, 1 + K, L], the positive first -> LogProbs."""
    total = levels.sum(-1)
    return LogProbs(total[:, 0], total[:, 1:], levels.shape[-1])


def align(
    policy: Policy, examples: Examples, context: SamplerContext, recipe: Align, seed: int, folder: Path,
    validate: Validate, on_row: OnRow | None = None,
) -> tuple[Outcome, Summary]:  # fmt: skip
    """Train the SFT policy in place; `folder` holds the checkpoint, `validate` gives metrics on validation, `on_row` sees every row.

    Returns the outcome and a summary of the negatives that were drawn.
    """
    module = cast(nn.Module, policy).eval()
    frozen = copy.deepcopy(module).requires_grad_(False)
    reference = cast(Policy, frozen)
    draw = recipe.negatives.build(context._replace(policy=reference))
    contract, drawn = DrawContract(context), Drawn(context)

    def prepare(batch: SequenceBatch, step: int) -> Pairs:
        negatives = draw(batch, recipe.count, generator(seed, "negatives", step))
        contract.check(batch, negatives, recipe.count)
        return Pairs(batch, negatives, OnHost(batch, negatives))

    def objective(batch: Pairs, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        (_, history, target), negatives = batch.batch, batch.negatives
        drawn.update(batch.host.batch, batch.host.negatives)
        if next(frozen.parameters()).device != negatives.device:
            frozen.to(negatives.device)
        candidates = torch.cat([target.unsqueeze(1), negatives], 1)
        levels = policy.level_log_prob(history, candidates)
        with torch.no_grad():
            reference_levels = reference.level_log_prob(history, candidates)
        ours, theirs = log_probs(levels), log_probs(reference_levels)
        if step == 0:
            check_start(ours, theirs)
        terms = recipe.loss(ours, theirs)
        return terms.loss.mean(), preference_logs(terms, levels.detach(), reference_levels, negatives)

    outcome = train(module, objective, examples, recipe, seed, folder, validate, "alignment", drawn.totals, prepare, on_row)
    return outcome, drawn.summary()


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
