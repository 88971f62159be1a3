"""Supervised fine-tuning (SFT): train a policy to generate the Semantic ID of the next item.

A batch holds prefixes of user histories, each with one target, or windows with several targets, which a causal policy scores in one
pass. The loss is the negative log-likelihood, unless the policy has a loss of its own (`genrec.types.LossPolicy`).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from genrec.data.examples import Examples, Windows
from genrec.errors import UsageError
from genrec.randomness import generator, seed_of
from genrec.semantic_ids import SemanticIds
from genrec.training.curves import OnRow
from genrec.training.loop import Outcome, UserIds, Validate, train
from genrec.training.model_selection import Selection
from genrec.training.recipes import SFT
from genrec.types import LossPolicy, Policy, PolicySpecification, SequenceBatch, SequencePolicy, WindowBatch


def build_policy(specification: PolicySpecification, semantic_ids: SemanticIds, seed: int) -> Policy:
    """Build an untrained policy with initial weights that depend on the seed alone. Torch's global generator is left unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        return specification.build(semantic_ids)


def negative_log_likelihood(policy: Policy, batch: SequenceBatch) -> Tensor:
    """Return the mean of -log p(code | history, previous codes) over batch and levels: a scalar, in nats per code."""
    return -policy.level_log_prob(batch.history, batch.target.unsqueeze(1)).mean()


def window_loss(policy: SequencePolicy, batch: WindowBatch) -> Tensor:
    """Return the mean of -log p over all targets of the windows and over levels: a scalar, in nats per code."""
    levels = policy.sequence_log_prob(batch.history, batch.target)
    counts = (batch.target > 0).unsqueeze(-1)
    return -torch.where(counts, levels, 0.0).sum() / (counts.sum() * levels.shape[-1])


def own_loss(policy: LossPolicy, batch: SequenceBatch | WindowBatch, seed: int, step: int) -> Tensor | None:
    """Return the policy's own loss of a batch, a scalar, or None if it has none. Random numbers depend on the seed and the step."""
    targets = batch.target
    if isinstance(batch, SequenceBatch):
        targets = pad(targets.unsqueeze(1), (batch.history.shape[1] - 1, 0))
    return policy.sequence_loss(batch.history, targets, generator(seed, "sft loss", step))


def fine_tune(
    policy: Policy, examples: Examples | Windows, recipe: SFT, seed: int, folder: Path, validate: Validate,
    on_row: OnRow | None = None, selection: Selection | None = None, user_ids: UserIds | None = None, key: str = "",
) -> Outcome:  # fmt: skip
    """Train the policy in place and leave it with the weights of the best step on validation.

    `folder` holds the checkpoint, `validate` returns validation metrics, and `on_row` is called with every row of the curves. For
    `selection`, `user_ids` and `key` see `genrec.training.loop.train`.
    """

    def objective(batch: SequenceBatch | WindowBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss = own_loss(policy, batch, seed, step) if isinstance(policy, LossPolicy) else None
        if loss is not None:
            return loss, {}
        if isinstance(batch, WindowBatch):
            return window_loss(cast(SequencePolicy, policy), batch), {}
        return negative_log_likelihood(policy, batch), {}

    if isinstance(examples, Windows) and not isinstance(policy, SequencePolicy):
        raise UsageError(
            f"sft.targets 'all' needs a policy that scores all positions of a sequence (genrec.types.SequencePolicy), got "
            f"{type(policy).__name__}; set sft.targets one"
        )
    module = cast(nn.Module, policy)
    module.train()
    outcome = train(
        module, objective, examples, recipe, seed, folder, validate, "SFT", on_row=on_row, selection=selection, user_ids=user_ids,
        key=key,
    )  # fmt: skip
    module.eval()
    return outcome
