"""Statistics of negatives, compared with values worked out by hand; several batches add up to one."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.preference.negative_statistics import NegativeStatistics, Summary
from genrec.preference.negatives import Uniform
from genrec.semantic_ids import SemanticIds
from genrec.testing import batches_of, sampler_context
from genrec.types import SamplerContext, SequenceBatch

CONTEXT = SamplerContext(
    item_count=4,
    interactions=pd.DataFrame({"user": [0], "item": [1], "time": [0]}),
    popularity=torch.tensor([0, 10, 2, 2, 6]),
    vectors=torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]]),
    semantic_ids=SemanticIds(torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0]])),
)
BATCH = SequenceBatch(torch.tensor([0, 1, 2]), torch.zeros(3, 1, dtype=torch.int64), torch.tensor([1, 1, 2]))


def summary_of(batch: SequenceBatch, negatives: Tensor, context: SamplerContext) -> Summary:
    """The statistics of one batch."""
    statistics = NegativeStatistics(context)
    statistics.update(batch, negatives)
    return statistics.summary()


def test_by_hand() -> None:
    summary = summary_of(BATCH, torch.tensor([[2, 3], [4, 0], [0, 0]]), CONTEXT)
    assert summary == {
        "examples": 3,
        "examples_without_negatives": 1,
        "negatives": 3,
        "shortfall_share": 0.5,
        "distinct_items": 3,
        "catalog_share": 0.75,
        "draws_per_item": 1.0,
        "cosine_to_positive": pytest.approx((0 + 2**-0.5 - 1) / 3),
        "popularity": pytest.approx((2 + 2 + 6) / 3),
        "popularity_percentile": pytest.approx((0.25 + 0.25 + 0.625) / 3),  # events 2, 2, 6, 10: mid-ranks
        "prefix_depth_shares": pytest.approx([1 / 3, 1 / 3, 1 / 3]),  # items 3, 2 and 4 against item 1
    }


def test_curves_by_hand() -> None:
    """Items 3, 2 and 4 share 0, 1 and 2 codes with item 1; percentiles and cosines as above; 3 of 6 places are empty."""
    statistics = NegativeStatistics(CONTEXT)
    statistics.update(BATCH, torch.tensor([[4, 4], [4, 4], [4, 4]]))
    curves = statistics.update(BATCH, torch.tensor([[2, 3], [4, 0], [0, 0]]))
    assert {name: value.item() for name, value in curves.items()} == {
        "drawn_depth": pytest.approx((1 + 0 + 2) / 3),
        "drawn_popularity": pytest.approx((0.25 + 0.25 + 0.625) / 3),
        "drawn_cosine": pytest.approx((0 + 2**-0.5 - 1) / 3),
        "drawn_shortfall": 0.5,
    }
    assert all(value.shape == () and value.dtype == torch.float32 and not value.requires_grad for value in curves.values())


def test_curves_without_negatives_are_zero() -> None:
    statistics = NegativeStatistics(CONTEXT)
    without = statistics.update(BATCH, torch.zeros(3, 2, dtype=torch.int64))
    assert {name: value.item() for name, value in without.items()} == {
        "drawn_depth": 0, "drawn_popularity": 0, "drawn_cosine": 0, "drawn_shortfall": 1,
    }  # fmt: skip
    empty = statistics.update(SequenceBatch(*(tensor[:0] for tensor in BATCH)), torch.zeros(0, 2, dtype=torch.int64))
    assert not any(value.item() for value in empty.values())


def test_a_summary_without_negatives() -> None:
    empty = NegativeStatistics(CONTEXT).summary()
    assert empty["examples"] == empty["negatives"] == 0
    assert empty["cosine_to_positive"] is None
    assert empty["prefix_depth_shares"] is None
    none = summary_of(BATCH, torch.zeros(3, 2, dtype=torch.int64), CONTEXT)
    assert none["shortfall_share"] == 1.0
    assert none["examples_without_negatives"] == 3


def test_batches_add_up_and_totals_hold_the_whole_state() -> None:
    context = sampler_context()
    draw = Uniform().build(context).draw
    batch = next(batches_of(context, 200))
    negatives = draw(batch, 3, torch.Generator().manual_seed(0))
    parts = NegativeStatistics(context)
    for rows in torch.arange(len(batch.target)).split(30):
        restored = NegativeStatistics(context)
        restored.totals = {name: total.clone() for name, total in parts.totals.items()}
        parts = restored
        parts.update(SequenceBatch(*(tensor[rows] for tensor in batch)), negatives[rows])
    whole = summary_of(batch, negatives, context)
    for name, value in parts.summary().items():
        assert value == pytest.approx(whole[name]), name
    assert json.loads(json.dumps(whole)) == whole
    assert sum(whole["prefix_depth_shares"]) == pytest.approx(1)  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_cosines_are_those_of_torch(seed: int) -> None:
    """Vectors of very different sizes, one of zeros, and empty places."""
    draws = torch.Generator().manual_seed(seed)
    vectors = torch.randn(8, 5, generator=draws) * 10.0 ** torch.randint(-3, 4, (8, 1), generator=draws)
    vectors[[0, 3]] = 0
    context = CONTEXT._replace(
        vectors=vectors, popularity=torch.arange(8), semantic_ids=SemanticIds(torch.arange(7).unsqueeze(1)), item_count=7
    )
    target = torch.randint(1, 8, (6,), generator=draws)
    negatives = torch.randint(0, 8, (6, 4), generator=draws)
    batch = SequenceBatch(torch.arange(6), torch.zeros(6, 1, dtype=torch.int64), target)
    curves = NegativeStatistics(context).update(batch, negatives)
    expected = torch.nn.functional.cosine_similarity(vectors[negatives], vectors[target].unsqueeze(1), dim=2)[negatives > 0]
    assert curves["drawn_cosine"].item() == pytest.approx(float(expected.double().sum()) / max(1, len(expected)), abs=1e-6)
