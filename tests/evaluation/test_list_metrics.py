"""Intra-list distance and overlap with a baseline's lists: by hand, against plain loops, and their properties."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from pandas import DataFrame
from torch import Tensor

from genrec.baselines import BPR, ItemKNN, Popularity
from genrec.embeddings import TfidfSvd
from genrec.errors import InputError, UsageError
from genrec.evaluation import IntraListDistance, ListOverlap
from genrec.evaluation.list_metrics import intra_list_distance, list_overlap
from genrec.evaluation.scored_lists import recommend_batch
from genrec.experiment import Evaluate, Experiment
from genrec.testing import Shop, evaluated_world

NAN = pytest.approx(math.nan, nan_ok=True)


def test_intra_list_distance_by_hand() -> None:
    """Directions: items 1 and 2 at a right angle, 3 at 45 degrees to both, 4 opposite to 1; lengths do not matter.

    List 1: 1 - cos of the pairs is 1, 1 - r and 1 - r with r = sqrt(1/2): mean 1 - 2 r / 3. List 2: 2. List 3: one item.
    """
    vectors = torch.tensor([[2.0, 0], [0, 3], [1, 1], [-5, 0]])
    found = intra_list_distance(torch.tensor([[1, 2, 3], [1, 0, 4], [2, 0, 0], [0, 0, 0]]), vectors)
    assert found.tolist() == [pytest.approx(1 - 2 * math.sqrt(0.5) / 3), pytest.approx(2), NAN, NAN]


@given(st.integers(0, 2**16), st.integers(2, 8), st.integers(1, 5))
def test_intra_list_distance_agrees_with_a_loop(seed: int, n: int, dim: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(12, dim))
    lists = np.stack([random.permutation(12)[:n] + 1 for _ in range(5)]) * (random.random((5, n)) < 0.7)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = intra_list_distance(torch.from_numpy(lists), torch.from_numpy(vectors)).tolist()
    for row, value in zip(lists.tolist(), found, strict=True):
        items = [item - 1 for item in row if item]
        pairs = [1 - unit[a] @ unit[b] for place, a in enumerate(items) for b in items[place + 1 :]]
        assert value == (pytest.approx(np.mean(pairs), abs=1e-9) if pairs else NAN)
        assert not pairs or 0 <= value <= 2


def test_items_with_one_vector_have_no_distance() -> None:
    vectors = torch.full((6, 3), 0.1)
    assert intra_list_distance(torch.tensor([[1, 2, 3, 4, 5, 6]]), vectors).tolist() == [pytest.approx(0, abs=1e-12)]


@dataclass(frozen=True)
class Fixed:
    """An encoder that returns stored vectors."""

    vectors: object

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        return self.vectors  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((59, 3)), r"Fixed \(.*test_list_metrics.py:\d+\): item vectors must be float \[60, D\], got float64 \[59, 3\]"),
        (np.ones((60, 3), dtype=np.int64), r"got int64 \[60, 3\]"),
        ([[1.0]] * 60, "got list"),
        (np.eye(60)[:, :59], "must be finite and not zero; 1 are not, the first of item 'item-60'"),
        (np.where(np.arange(60)[:, None] == 7, np.nan, np.ones((60, 2))), "the first of item 'item-8'"),
    ],
)
def test_vectors_are_checked(vectors: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        IntraListDistance(Fixed(vectors)).measure(evaluated_world())


def test_the_encoder_gets_the_catalog_and_the_training_interactions() -> None:
    evaluated = evaluated_world()
    encoder = TfidfSvd(dim=8, min_df=1)
    vectors = torch.from_numpy(encoder.encode(evaluated.catalog, evaluated.train()))
    found = IntraListDistance(encoder).measure(evaluated)
    assert list(found) == ["ild@10"]
    assert found["ild@10"].tolist() == intra_list_distance(evaluated.items, vectors).tolist()
    assert list(IntraListDistance(encoder).measure(replace(evaluated, cutoffs=(1, 5)))) == ["ild@5"]


def test_overlap_by_hand() -> None:
    """Two of three; none; all of the two filled slots; one of the longer list's two; two empty lists; a repeated item counts once."""
    items = torch.tensor([[1, 2, 3], [1, 2, 3], [4, 5, 0], [4, 0, 0], [0, 0, 0], [1, 2, 3]])
    others = torch.tensor([[3, 9, 1], [4, 5, 6], [5, 4, 0], [4, 5, 0], [0, 0, 0], [1, 1, 9]])
    assert list_overlap(items, others).tolist() == [pytest.approx(2 / 3), 0, 1, 0.5, NAN, pytest.approx(1 / 3)]


rows = st.lists(st.lists(st.integers(0, 6), min_size=4, max_size=4), min_size=1, max_size=6).map(torch.tensor)


@given(rows, st.randoms(use_true_random=False))
def test_overlap_agrees_with_sets(items: Tensor, random: object) -> None:
    others = items.flip(0)
    found = list_overlap(items, others)
    for one, two, value in zip(items.tolist(), others.tolist(), found.tolist(), strict=True):
        mine, theirs = set(one) - {0}, set(two) - {0}
        assert value == (pytest.approx(len(mine & theirs) / max(len(mine), len(theirs))) if mine or theirs else NAN)
    torch.testing.assert_close(found, list_overlap(others, items), equal_nan=True)  # symmetric
    whole = list_overlap(items, items)
    assert bool((whole[~whole.isnan()] == 1).all())


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("baseline", [ItemKNN(), Popularity(), BPR(epochs=1)], ids=lambda each: type(each).__name__)
def test_a_baseline_overlaps_with_itself(baseline: object, filter_seen: bool) -> None:
    """The lists of the evaluation are replaced by the baseline's own, under the same protocol: every user has the overlap 1."""
    evaluated = evaluated_world(filter_seen=filter_seen)
    fitted = baseline.fit(evaluated.train(), 60)  # type: ignore[attr-defined]
    own = evaluated.by_user(lambda batch: recommend_batch(fitted, batch, 10, evaluated.exclude(batch.user)).items)
    found = ListOverlap(baseline).measure(replace(evaluated, items=own))  # type: ignore[arg-type]
    assert found["overlap@10"].tolist() == [1.0] * 40
    other = ListOverlap(baseline, name="overlap_own").measure(replace(evaluated, filter_seen=not filter_seen, items=own))  # type: ignore[arg-type]
    assert float(other["overlap_own@10"].mean()) < 1


def test_metrics_refuse_other_components() -> None:
    with pytest.raises(UsageError, match=r"IntraListDistance\.encoder must be a genrec\.types\.ItemEncoder, got 'TfidfSvd'"):
        IntraListDistance("TfidfSvd")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"ListOverlap\.baseline must be .*got the class "):
        ListOverlap(ItemKNN)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"ListOverlap\.name must be letters, digits and '_'.*got 'over lap'"):
        ListOverlap(ItemKNN(), name="over lap")
    with pytest.raises(UsageError, match=r"training events alone, but Popularity\(count_validation=True\) is fitted on others too; "):
        ListOverlap(Popularity(count_validation=True))
    with pytest.raises(UsageError, match=r"IntraListDistance needs a cut-off of 2 or more, got evaluate\.cutoffs \(1,\)"):
        Experiment(name="x", source=Shop(), evaluate=Evaluate(cutoffs=(1,), metrics=(IntraListDistance(TfidfSvd()),)))
