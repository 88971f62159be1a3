"""A short training for tests: an untrained policy of 40 items in a cycle, its examples, and a recipe of 50 steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from alignments import corpus
from torch import Tensor
from worlds import TINY

from genrec.data.examples import Examples, examples
from genrec.model import TigerPolicy
from genrec.semantic_ids import SemanticIds
from genrec.training.recipes import SFT, Optimization, Validation
from genrec.training.sft import build_policy, negative_log_likelihood
from genrec.types import SequenceBatch

RECIPE = SFT(
    optimization=Optimization(max_steps=50, batch_size=16, learning_rate=1e-3, warmup_steps=10, weight_decay=0.035),
    validation=Validation(every=20, patience=15),
)
Objective = Callable[[SequenceBatch, int], tuple[Tensor, dict[str, Tensor]]]


def training_examples() -> Examples:
    """Return the 420 training examples of 60 users."""
    return examples(corpus(), "train", 8)


def policy() -> TigerPolicy:
    """Return an untrained policy, the same at each call."""
    codes = torch.stack(torch.unravel_index(torch.arange(40), (8, 5)), 1)
    built = build_policy(TINY, SemanticIds(codes, (8, 5)), seed=3)
    assert isinstance(built, TigerPolicy)
    return built


def likelihood(built: TigerPolicy) -> Objective:
    """Return the objective of SFT."""
    return lambda batch, step: (negative_log_likelihood(built, batch), {})


def constant() -> dict[str, float]:
    """Return the same validation score at every step."""
    return {"ndcg@10": 0.1}
