"""Item vectors for nearest neighbors: of the experiment, of another encoder, and of the policy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from genrec.embeddings import Collaborative
from genrec.errors import InputError, UsageError
from genrec.preference.vectors import Content, Encoded, LearnedVectors
from genrec.testing import sampler_context
from genrec.types import ItemVectors, SamplerContext


def context(**changes: object) -> SamplerContext:
    items = pd.DataFrame({"item_id": [f"i{item}" for item in range(1, 61)], "text": "a thing"})
    return sampler_context()._replace(items=items, **changes)


class Halves:
    """An encoder that maps item i to i / 2."""

    def encode(self, items: pd.DataFrame, interactions: pd.DataFrame) -> np.ndarray:
        return (np.arange(1, len(items) + 1, dtype=np.float64) / 2)[:, None]


class Short:
    """An encoder that returns one row too few."""

    def encode(self, items: pd.DataFrame, interactions: pd.DataFrame) -> np.ndarray:
        return np.zeros((len(items) - 1, 3), dtype=np.float32)


def test_content_returns_the_vectors_of_the_context() -> None:
    given = context()
    assert torch.equal(Content().vectors(given), given.vectors)


def test_encoded_returns_the_encoder_s_vectors() -> None:
    """Row 0 is padding; item i has i / 2."""
    found = Encoded(Halves()).vectors(context())
    assert found.dtype == torch.float32
    assert found.tolist() == [[item / 2] for item in range(61)]


def test_collaborative_vectors_come_from_training_interactions() -> None:
    given, encoder = context(), Collaborative(dim=8)
    found = Encoded(encoder).vectors(given)
    np.testing.assert_array_equal(found[1:].numpy(), encoder.encode(given.items, given.interactions))
    assert found.shape == (61, 8)
    assert not found[0].any()


def test_learned_vectors_come_from_the_policy() -> None:
    own = torch.randn(61, 4)

    def unused(*_: object) -> None:
        raise AssertionError

    policy = SimpleNamespace(recommend=unused, level_log_prob=unused, log_prob=unused, item_vectors=lambda: own)
    assert torch.equal(LearnedVectors().vectors(context(policy=policy)), own)


def test_missing_inputs_are_named() -> None:
    with pytest.raises(UsageError, match=r"Encoded\(Halves\) needs the catalog.*pass SamplerContext.items"):
        Encoded(Halves()).vectors(sampler_context()._replace(items=None))
    with pytest.raises(InputError, match=r"Short must return float32 \[60, D\], one row per item, got \[59, 3\]"):
        Encoded(Short()).vectors(context())
    with pytest.raises(
        UsageError, match=r"LearnedVectors needs a policy with item vectors.*got a context without a policy; use Content"
    ):
        LearnedVectors().vectors(context(policy=None))
    bare = SimpleNamespace(recommend=print, level_log_prob=print, log_prob=print)
    with pytest.raises(UsageError, match=r"LearnedVectors needs a policy with item vectors.*got SimpleNamespace"):
        LearnedVectors().vectors(context(policy=bare))


def test_all_classes_implement_item_vectors() -> None:
    parts: list[ItemVectors] = [Content(), Encoded(Halves()), LearnedVectors()]
    assert all(isinstance(part, ItemVectors) for part in parts)
    assert isinstance(Content().vectors(context()), Tensor)
