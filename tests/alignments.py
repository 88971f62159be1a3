"""A small alignment for tests: an untrained policy on the cyclic data set, its examples, and a recipe of 40 steps."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from pandas import DataFrame, read_parquet
from preference_stages import stage
from torch import Tensor
from worlds import TINY

from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.examples import Examples, examples
from genrec.data.splits import LeaveOneOut
from genrec.model import TigerPolicy
from genrec.objective_state import FixedTensors
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negative_statistics import Summary
from genrec.semantic_ids import SemanticIds
from genrec.stage_inputs import sampler_context
from genrec.testing import Cyclic
from genrec.training import align as training
from genrec.training.align import AlignmentData, FrozenPolicies
from genrec.training.loop import Outcome, Validate
from genrec.training.recipes import Align, Optimization, Validation
from genrec.training.sft import build_policy
from genrec.types import Feedback, ObjectiveContext, Padding, Policy, SamplerContext, SequenceBatch, TrainingExamples, TrainingStep

IDS = SemanticIds(torch.stack(torch.unravel_index(torch.arange(40), (8, 5)), 1), (8, 5))


@functools.cache
def corpus() -> Corpus:
    """Return the data set. It is prepared at the first call, so that no module needs DuckDB when it is imported."""
    return prepare(Cyclic(num_items=40, num_users=60, length=10).load(Path()), LeaveOneOut())


def parts() -> tuple[TigerPolicy, Examples, SamplerContext]:
    """Return an untrained policy, training examples and a sampler context."""
    built = build_policy(TINY, IDS, seed=0)
    assert isinstance(built, TigerPolicy)
    return (
        built,
        examples(corpus(), "train", 8),
        sampler_context(corpus(), torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), IDS),
    )


def recipe(**change: object) -> Align:
    """Return a short alignment by S-DPO with three uniform negatives.

    Fields of `Optimization`, `Validation`, `Preference` and `Sampled` are given by their own names, others are those of `Align`.
    """
    settings: dict[str, object] = {
        "max_steps": 40, "batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 1, "every": 20,
    }  # fmt: skip
    if "objective" not in change:
        settings["loss"] = SoftmaxDPO()
    return stage(**nested(settings | change))


@dataclass(frozen=True)
class Given:
    """The training examples of a test as a `genrec.types.ExampleSource`."""

    entries: TrainingExamples

    def prefixes(self, feedback: Feedback = "not disliked") -> TrainingExamples:
        return self.entries

    def windows(self, padding: Padding = "zero", feedback: Feedback = "not disliked") -> TrainingExamples:
        return self.entries


def align(
    policy: Policy, entries: TrainingExamples, context: SamplerContext, settings: Align, seed: int, folder: Path, validate: Validate,
    held_out: Examples | None = None, **others: Any,
) -> tuple[Outcome, Summary, DataFrame]:  # fmt: skip
    """Align a policy. Return the outcome, and the statistics and counts of its negatives, as the artifact holds them."""
    outcome, step = training.align(
        policy, AlignmentData(Given(entries), context, held_out), settings, seed, folder, validate, **others
    )
    files = folder.parent / f"{folder.name} files"
    files.mkdir(parents=True, exist_ok=True)
    if step.save is not None:
        step.save(files)
    if not (files / "negatives.json").is_file():
        return outcome, {}, DataFrame()
    return outcome, json.loads((files / "negatives.json").read_text()), read_parquet(files / "drawn_negatives.parquet")


def built_step(settings: Align, seed: int = 0) -> tuple[TrainingStep, ObjectiveContext, FrozenPolicies, SequenceBatch]:
    """Return a built objective, its context, the frozen policies and a batch of 16 examples."""
    built, entries, data = parts()
    built.train(settings.dropout)
    frozen = FrozenPolicies(built, None, settings.refresh_reference)
    context = training.context_of(built, AlignmentData(Given(entries), data), settings, seed, frozen)
    step = settings.objective.build_step(context)
    frozen.objective = FixedTensors() if step.state is None else step.state
    return step, context, frozen, entries.batch(torch.arange(16))


def take(step: TrainingStep, frozen: FrozenPolicies, batch: Any, number: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the logs of one step, as the training loop takes it."""
    prepared = batch if step.prepare is None else step.prepare(batch, number)
    frozen.begin(number)
    if step.begin is not None:
        step.begin(number)
    return step.loss(prepared, number)


def nested(settings: dict[str, object]) -> dict[str, object]:
    """Group flat settings into the keyword arguments of a recipe, with one `Optimization` and one `Validation`."""
    result = dict(settings)
    for name, kind in (("optimization", Optimization), ("validation", Validation)):
        chosen = {field.name: result.pop(field.name) for field in fields(kind) if field.name in result}
        result[name] = kind(**chosen)  # type: ignore[arg-type]
    return result


def constant() -> dict[str, float]:
    """Return the same validation score at every step."""
    return {"ndcg@10": 0.1}


def following(scores: Iterator[float]) -> Callable[[], dict[str, float]]:
    """Return a validation function that returns one score after another."""
    return lambda: {"ndcg@10": next(scores)}
