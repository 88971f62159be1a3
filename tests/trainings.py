"""A short training for tests: an untrained policy of 40 items in a cycle, its examples, and a recipe of 50 steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from alignments import Given, corpus
from torch import Tensor, nn
from worlds import TINY

from genrec.data.examples import Examples, examples
from genrec.model import TigerPolicy
from genrec.objectives.supervised import negative_log_likelihood
from genrec.semantic_ids import SemanticIds
from genrec.training import loop, sft
from genrec.training.curves import OnRow, Watcher
from genrec.training.loop import Outcome, Validate
from genrec.training.recipes import SFT, Align, Optimization, Validation
from genrec.training.sft import build_policy
from genrec.types import ObjectiveState, Policy, SequenceBatch, TrainingExamples, TrainingStep

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
    """Return the loss of SFT."""
    return lambda batch, step: (negative_log_likelihood(built, batch), {})


def train(
    built: nn.Module, objective: Objective, entries: TrainingExamples, recipe: SFT | Align, seed: int, folder: Path,
    validate: Validate, description: str, objective_state: ObjectiveState | None = None,
    prepare: Callable[[Any, int], Any] | None = None, on_row: OnRow | None = None, watchers: tuple[Watcher, ...] = (), **others: Any,
) -> Outcome:  # fmt: skip
    """Train a policy by a loss on these examples, as `genrec.training.loop.train` does."""
    step = TrainingStep(examples=entries, loss=objective, prepare=prepare, watchers=tuple(watchers))
    return loop.train(built, step, recipe, seed, seed, folder, validate, description, objective_state, on_row=on_row, **others)


def fine_tune(
    policy: Policy, entries: TrainingExamples, recipe: SFT, seed: int, folder: Path, validate: Validate, **others: Any
) -> Outcome:
    """Train a policy by SFT on these examples."""
    outcome, _ = sft.fine_tune(policy, Given(entries), recipe, seed, folder, validate, **others)
    return outcome


def constant() -> dict[str, float]:
    """Return the same validation score at every step."""
    return {"ndcg@10": 0.1}
