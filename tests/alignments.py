"""A small alignment for tests: an untrained policy on the cyclic data set, its examples, and a recipe of 40 steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import torch
from worlds import TINY

from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.examples import Examples, examples
from genrec.data.splits import LeaveOneOut
from genrec.model import TigerPolicy
from genrec.preference.losses import SoftmaxDPO
from genrec.semantic_ids import SemanticIds
from genrec.stages import sampler_context
from genrec.testing import Cyclic
from genrec.training.recipes import Align, Optimization, Validation
from genrec.training.sft import build_policy
from genrec.types import SamplerContext

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
    """Return a short alignment. Fields of `Optimization` and `Validation` are given by their own names."""
    settings: dict[str, object] = {
        "loss": SoftmaxDPO(), "num_negatives": 3,
        "max_steps": 40, "batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 1, "every": 20,
    }  # fmt: skip
    return Align(**nested(settings | change))  # type: ignore[arg-type]


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
