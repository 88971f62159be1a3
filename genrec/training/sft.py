"""Supervised fine-tuning (SFT): train a policy from its initial weights, by default to generate the Semantic ID of the next item."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from pandas import DataFrame

from genrec.errors import UsageError
from genrec.objectives.built_steps import build_step
from genrec.objectives.frozen_policy import FrozenCopy
from genrec.objectives.held_out_examples import check_not_held_out
from genrec.policy_modules import as_module
from genrec.randomness import seed_of
from genrec.semantic_ids import SemanticIds
from genrec.training.curves import OnRow
from genrec.training.loop import Outcome, UserIds, Validate, train
from genrec.training.model_selection import Selection
from genrec.training.recipes import SFT
from genrec.types import (
    ExampleSource,
    ObjectiveContext,
    Policy,
    PolicySpecification,
    SamplerContext,
    TrainingStep,
    VectorSpecification,
)


def build_policy(
    specification: PolicySpecification, semantic_ids: SemanticIds, seed: int, data: Callable[[], SamplerContext] | None = None
) -> Policy:
    """Build an untrained policy with initial weights that depend on the seed alone. Torch's global generator is left unchanged.

    `data` reads the training data, for a `genrec.types.VectorSpecification`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        if isinstance(specification, VectorSpecification) and data is not None:
            known = data()
            return specification.build_with_vectors(semantic_ids, known.vectors, known.popularity)
        return specification.build(semantic_ids)


def fine_tune(
    policy: Policy, source: ExampleSource, recipe: SFT, seed: int, folder: Path, validate: Validate, on_row: OnRow | None = None,
    selection: Selection | None = None, user_ids: UserIds | None = None, key: str = "",
    data: Callable[[], SamplerContext] | None = None, held_out_events: Callable[[], DataFrame] | None = None,
) -> tuple[Outcome, TrainingStep]:  # fmt: skip
    """Train the policy in place and leave it with the weights of the best step on validation. Return the outcome and the objective.

    `folder` holds the checkpoint, `validate` returns validation metrics, and `on_row` is called with every row of the curves. For
    `selection`, `user_ids` and `key` see `genrec.training.loop.train`. `data` reads the training data for objectives that need them,
    `held_out_events` the events of validation and test, on which an objective may not train.
    """

    def no_data() -> SamplerContext:
        raise AssertionError("fine_tune was called without data")

    def frozen_copy(name: str) -> FrozenCopy:
        raise UsageError(
            f"a proposer or sampler reads a frozen copy of the policy ({name}), which SFT has not; set its refresh to 1, which reads "
            "the policy in training, or refresh_every to 0; or use it in an alignment"
        )

    module = as_module(policy)
    module.train()
    context = ObjectiveContext(
        policy=policy,
        reference=None,
        source=source,
        data=no_data if data is None else cache(data),
        frozen_copy=frozen_copy,
        normalize="codes",
        steps=recipe.optimization.max_steps or 0,
        batch_size=recipe.optimization.batch_size,
        parts=recipe.optimization.accumulate,
        seed=seed,
    )
    step = build_step(recipe.objective, context)
    check_not_held_out(recipe.objective, step, context, None if data is None else held_out_events)

    def measure() -> dict[str, float]:
        return {**validate(), **({} if step.measure is None else step.measure())}

    outcome = train(
        module, step, recipe, seed, seed, folder, measure, "SFT", step.state, None, on_row, selection, user_ids, key
    )  # fmt: skip
    module.eval()
    return outcome, step
