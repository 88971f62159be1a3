"""Stage 4, SFT: an untrained policy learns to write the next item's Semantic ID; one target per prefix of length one or more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from genrec.data.batches import Examples
from genrec.randomness import seed_of
from genrec.semantic_ids import SemanticIds
from genrec.training.loop import Outcome, train
from genrec.training.recipes import SFT
from genrec.types import Policy, PolicySpecification, SequenceBatch


def build_policy(specification: PolicySpecification, semantic_ids: SemanticIds, seed: int) -> Policy:
    """The untrained policy; its weights are a function of the seed, and torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        return specification.build(semantic_ids)


def negative_log_likelihood(policy: Policy, batch: SequenceBatch) -> Tensor:
    """The mean over the batch and the levels of -log p(code | history, codes before): a scalar, in nats a code."""
    return -policy.level_log_prob(batch.history, batch.target.unsqueeze(1)).mean()


def fine_tune(policy: Policy, examples: Examples, recipe: SFT, seed: int, folder: Path, validate: Callable[[], float]) -> Outcome:
    """Train the policy in place; `folder` holds the checkpoint, `validate` gives NDCG@10 on validation."""

    def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Any]]:
        return negative_log_likelihood(policy, batch), {}

    module = cast(nn.Module, policy)
    module.train()
    outcome = train(module, objective, examples, recipe, seed, folder, validate, "SFT")
    module.eval()
    return outcome
