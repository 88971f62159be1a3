"""Stage 4, SFT: an untrained policy learns to write the next item's Semantic ID, after every prefix of length one or more.

A batch holds prefixes, each with its target, or windows, which a causal policy reads once for all targets in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from genrec.data.examples import Examples, Windows
from genrec.errors import UsageError
from genrec.randomness import seed_of
from genrec.semantic_ids import SemanticIds
from genrec.training.curves import OnRow
from genrec.training.loop import Outcome, Validate, train
from genrec.training.recipes import SFT
from genrec.types import Policy, PolicySpecification, SequenceBatch, SequencePolicy, WindowBatch


def build_policy(specification: PolicySpecification, semantic_ids: SemanticIds, seed: int) -> Policy:
    """The untrained policy; its weights are a function of the seed, and torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        return specification.build(semantic_ids)


def negative_log_likelihood(policy: Policy, batch: SequenceBatch) -> Tensor:
    """The mean over the batch and the levels of -log p(code | history, codes before): a scalar, in nats a code."""
    return -policy.level_log_prob(batch.history, batch.target.unsqueeze(1)).mean()


def window_loss(policy: SequencePolicy, batch: WindowBatch) -> Tensor:
    """The same over every target of the windows: the mean over targets and levels, in nats a code."""
    levels = policy.sequence_log_prob(batch.history, batch.target)
    counts = (batch.target > 0).unsqueeze(-1)
    return -torch.where(counts, levels, 0.0).sum() / (counts.sum() * levels.shape[-1])


def fine_tune(
    policy: Policy, examples: Examples | Windows, recipe: SFT, seed: int, folder: Path, validate: Validate, on_row: OnRow | None = None
) -> Outcome:
    """Train the policy in place; `folder` holds the checkpoint, `validate` gives metrics on validation, `on_row` sees every row."""

    def objective(batch: SequenceBatch | WindowBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if isinstance(batch, WindowBatch):
            return window_loss(cast(SequencePolicy, policy), batch), {}
        return negative_log_likelihood(policy, batch), {}

    if isinstance(examples, Windows) and not isinstance(policy, SequencePolicy):
        raise UsageError(
            f"sft.targets all needs a policy that scores every place of a sequence (genrec.types.SequencePolicy), got "
            f"{type(policy).__name__}; set sft.targets one"
        )
    module = cast(nn.Module, policy)
    module.train()
    outcome = train(module, objective, examples, recipe, seed, folder, validate, "SFT", on_row=on_row)
    module.eval()
    return outcome
