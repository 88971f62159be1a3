"""The checks of samples without replacement: correct policies pass, and each broken one gets a message with the violated rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from policies import GPT, TIGER, build, catalog, histories
from torch import Tensor

from genrec.testing import ContractError
from genrec.testing.sampling_checks import check_sampling
from genrec.types import ItemSample

Sample = Callable[..., Any]


def checked(policy: Any) -> None:
    history = histories(4, 6, 30)
    every = torch.arange(31).expand(4, -1).contiguous()
    with torch.no_grad():
        check_sampling("Policy", policy, history, policy.log_prob(history, every))


def excluded_too(right: Sample, history: Tensor, n: int, exclude: Tensor | None, generator: Any) -> ItemSample:
    return right(history, n, None, generator)


def from_global(right: Sample, history: Tensor, n: int, exclude: Tensor | None, generator: Any) -> ItemSample:
    return right(history, n, exclude, torch.default_generator)


def repeated(right: Sample, history: Tensor, n: int, exclude: Tensor | None, generator: Any) -> ItemSample:
    sample = right(history, n, exclude, generator)
    return sample._replace(items=sample.items[:, :1].expand(-1, n))


def shifted(right: Sample, history: Tensor, n: int, exclude: Tensor | None, generator: Any) -> ItemSample:
    sample = right(history, n, exclude, generator)
    return sample._replace(log_prob=sample.log_prob - 0.1)


def uniform(right: Sample, history: Tensor, n: int, exclude: Tensor | None, generator: Any) -> ItemSample:
    sample = right(history, 30, exclude, generator)
    order = torch.where(sample.items > 0, torch.rand(sample.items.shape, generator=generator), -1.0).argsort(1, descending=True)[:, :n]
    items, log_prob, constrained = (each.gather(1, order) for each in sample[:3])
    return ItemSample(items, log_prob, constrained, sample.threshold)


def without_threshold(right: Sample, history: Tensor, n: int, exclude: Tensor | None, generator: Any) -> ItemSample:
    sample = right(history, n, exclude, generator)
    return sample._replace(threshold=sample.log_prob)


def as_tuple(right: Sample, history: Tensor, n: int, exclude: Tensor | None, generator: Any) -> Any:
    return tuple(right(history, n, exclude, generator))


def out_of_range(right: Sample, history: Tensor, n: int, exclude: Tensor | None, generator: Any) -> ItemSample:
    sample = right(history, n, exclude, generator)
    return sample._replace(items=sample.items + 30)


BROKEN: dict[str, tuple[Any, str]] = {
    "excluded": (excluded_too, r"must draw \d distinct items that are not excluded"),
    "global": (from_global, "draws other items by the same generator, or from torch's global generator"),
    "repeated": (repeated, "must draw 8 distinct items"),
    "log-probabilities": (shifted, r"ItemSample.log_prob must be log_prob of the items; they differ by up to 0\.1"),
    "frequencies": (uniform, r"draws item \d+ first in \d+ of 4000 samples, where its probability"),
    "shape": (without_threshold, r"ItemSample.threshold must be float32 \[4\], got float32 \[4, 8\]"),
    "type": (as_tuple, "must return genrec.types.ItemSample, got tuple"),
    "range": (out_of_range, r"items are 1\.\.30, 0: none"),
}


@pytest.mark.parametrize("specification", [TIGER, GPT])
def test_correct_policies_pass(specification: Any) -> None:
    checked(build(specification, catalog(30)))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_policy_raises(name: str) -> None:
    policy = build(GPT, catalog(30))
    right, (wrong, message) = policy.sample_items, BROKEN[name]
    policy.sample_items = lambda *arguments: wrong(right, *arguments)
    with pytest.raises(ContractError, match=message):
        checked(policy)
