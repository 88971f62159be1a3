"""check_item_vectors: the built-in item vectors and one written as by a user pass, and each broken one raises its message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from stable_ids import stable_id
from torch import Tensor

from genrec.embeddings import Collaborative
from genrec.errors import UsageError
from genrec.preference.vectors import Content, Encoded, LearnedVectors
from genrec.testing import ContractError, check_item_vectors, sampler_context
from genrec.types import ItemVectors, SamplerContext


@dataclass(frozen=True)
class Shifted:
    """The content vectors, changed by a function."""

    change: Callable[[Tensor, SamplerContext], Any] = lambda vectors, context: vectors

    def vectors(self, context: SamplerContext) -> Any:
        return self.change(context.vectors.clone(), context)


@pytest.mark.filterwarnings("ignore:.*without training interactions")
@pytest.mark.parametrize("vectors", [Content(), LearnedVectors(), Encoded(Collaborative(dim=8)), Shifted()], ids=stable_id)
def test_built_in_vectors_and_those_of_a_user_keep_the_contract(vectors: ItemVectors) -> None:
    check_item_vectors(vectors)
    check_item_vectors(vectors, sampler_context(seed=5, items=30))


def with_value(row: int, value: float) -> Callable[[Tensor, SamplerContext], Tensor]:
    def change(vectors: Tensor, context: SamplerContext) -> Tensor:
        vectors[row] = value
        return vectors

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vectors, context: vectors[1:], r"must return 61 rows, one for padding and one per item, got \[60, 16\]"),
        (lambda vectors, context: vectors.flatten(), r"must return 61 rows"),
        (lambda vectors, context: vectors.numpy(), r"must return a tensor float32 \[61, D\], .* got ndarray"),
        (lambda vectors, context: vectors.long(), r"got torch\.int64 \[61, 16\]"),
        (lambda vectors, context: vectors.double(), r"must return float32, got float64"),
        (with_value(3, float("nan")), r"must be finite, got \[nan.*\] for item 'item-3' \(number 3\)"),
        (with_value(0, 1.0), r"row 0 is padding and must be zeros, got \[1\.0"),
        (lambda vectors, context: torch.ones_like(vectors) * (torch.arange(61) > 0).unsqueeze(1), "all 60 items have the same vector"),
        (lambda vectors, context: vectors.requires_grad_(), "must be detached"),
        (lambda vectors, context: vectors * torch.rand(1), "torch's global generator was drawn from"),
        (
            lambda vectors, context: vectors * torch.rand(1, generator=GENERATOR),
            "a second call gives other vectors; take randomness from a seed that is a field",
        ),
        (lambda vectors, context: context.vectors.add_(1).mul_(1).clone(), r"row 0 is padding|context\.vectors was modified"),
        (lambda vectors, context: vectors.missing, r"vectors\(context\) raised .* at .*test_conformance_item_vectors\.py:\d+"),
    ],
)
def test_broken_vectors_raise_their_message(change: Callable[[Tensor, SamplerContext], Any], message: str) -> None:
    with pytest.raises(ContractError, match=rf"^Shifted.*({message})"):
        check_item_vectors(Shifted(change))


GENERATOR = torch.Generator().manual_seed(0)


def test_vectors_that_need_a_policy_say_so() -> None:
    with pytest.raises(UsageError, match="LearnedVectors needs a policy with item vectors"):
        check_item_vectors(LearnedVectors(), sampler_context()._replace(policy=None))
