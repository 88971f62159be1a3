"""Candidate filters: values by hand, the contract of the built-in filters, and the messages for broken ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from stable_ids import stable_id
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference import filters
from genrec.preference.filters import NearDuplicates, PopularityWindow, SimilarityWindow
from genrec.semantic_ids import SemanticIds
from genrec.testing import ContractError, sampler_context
from genrec.testing.filter_checks import check_filter
from genrec.types import CandidateFilter, SamplerContext, SequenceBatch

# Semantic IDs (0 0 0), (0 0 1), (0 1 0), (1 0 0); events 10, 2, 2, 6; vectors at 0, 90, 45 and 180 degrees.
CONTEXT = SamplerContext(
    item_count=4,
    interactions=pd.DataFrame({"user": [0], "item": [1], "time": [0]}),
    popularity=torch.tensor([0, 10, 2, 2, 6]),
    vectors=torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]]),
    semantic_ids=SemanticIds(torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])),
)
BATCH = SequenceBatch(torch.tensor([0, 1]), torch.zeros(2, 1, dtype=torch.int64), torch.tensor([1, 4]))
EVERYTHING = torch.arange(1, 5).repeat(2, 1)


@pytest.mark.parametrize(
    ("candidate_filter", "first", "second"),
    [
        (NearDuplicates(), {1, 2}, {4}),
        (NearDuplicates(2), {1, 2, 3}, {4}),
        (SimilarityWindow(), set(), set()),
        (SimilarityWindow(high=0.9), {1}, {4}),
        (SimilarityWindow(low=-0.1, high=0.5), {1, 3, 4}, {1, 3, 4}),  # cosines 1, 0, 0.71, -1 and -1, 0, -0.71, 1
        (SimilarityWindow(low=0.7), {2, 4}, {1, 2, 3}),
        (PopularityWindow(), set(), set()),
        (PopularityWindow(low=0.3), {2, 3}, {2, 3}),  # percentiles 0.875, 0.25, 0.25, 0.625
        (PopularityWindow(0.25, 0.7), {1}, {1}),
    ],
    ids=stable_id,
)  # fmt: skip
def test_by_hand(candidate_filter: CandidateFilter, first: set[int], second: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (1 << 24, 1):
        monkeypatch.setattr(filters, "CHUNK", chunk)
        rejected = candidate_filter.refuse(CONTEXT)(BATCH, EVERYTHING)
        assert [set((row.nonzero().flatten() + 1).tolist()) for row in rejected] == [first, second]


def test_a_zero_vector_has_cosine_0() -> None:
    context = CONTEXT._replace(vectors=torch.zeros(5, 2))
    assert not SimilarityWindow(-0.1, 0.1).refuse(context)(BATCH, EVERYTHING).any()
    assert SimilarityWindow(0.1, 1).refuse(context)(BATCH, EVERYTHING).all()


FILTERS = [NearDuplicates(), NearDuplicates(2), SimilarityWindow(-0.5, 0.8), PopularityWindow(0.2, 0.9)]


@pytest.mark.parametrize("candidate_filter", FILTERS, ids=stable_id)
def test_built_in_filters_keep_the_contract(candidate_filter: CandidateFilter) -> None:
    check_filter(candidate_filter)
    check_filter(candidate_filter, sampler_context(seed=3, items=100))


@dataclass(frozen=True)
class Broken:
    """A filter with the given predicate."""

    predicate: Callable[[SequenceBatch, Tensor], object]

    def refuse(self, context: SamplerContext) -> Callable[[SequenceBatch, Tensor], object]:
        return self.predicate


def with_state() -> Callable[[SequenceBatch, Tensor], Tensor]:
    calls: list[int] = []

    def predicate(_: SequenceBatch, candidates: Tensor) -> Tensor:
        calls.append(1)
        return (candidates + len(calls)) % 2 == 0

    return predicate


def odd(candidates: Tensor) -> Tensor:
    return candidates % 2 == 1


BROKEN: dict[str, tuple[Callable[[SequenceBatch, Tensor], object], str]] = {
    "not bool": (lambda _, candidates: candidates % 2, r"the result must be bool \[64, 61\], .*got int64 \[64, 61\]"),
    "too narrow": (lambda _, candidates: odd(candidates)[:, 1:], r"the result must be bool \[64, 61\], .*got bool \[64, 60\]"),
    "array": (lambda _, candidates: odd(candidates).numpy(), r"got ndarray"),
    "all": (lambda _, candidates: candidates > 0, r"all 60 items are rejected for all of 64 examples"),
    "state": (with_state(), r"a second call with the same candidates gives another result"),
    "draws": (lambda _, candidates: torch.rand(candidates.shape) < 0.5, r"torch's global generator was drawn from"),
    "other candidates": (lambda _, candidates: candidates > candidates.float().mean(1, keepdim=True), r"on the other candidates"),
    "other rows": (lambda batch, candidates: candidates > len(batch.target) / 2, r"for user .* depends on the other rows"),
    "modifies": (lambda _, candidates: odd(candidates.sub_(1)), r"the batch or the candidates were modified"),
    "modifies the batch": (lambda batch, candidates: odd(candidates) & (batch.target.fill_(3) == 3)[:, None], r"were modified"),
    "crash": (lambda _, candidates: candidates[:, 99] > 0, r"a call with candidates \[64, 61\] raised IndexError"),
    "no candidates": (lambda _, candidates: odd(candidates) & (candidates.max() > 0), r"a call with candidates \[64, 0\] raised"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_filter_raises_its_message(name: str) -> None:
    predicate, message = BROKEN[name]
    with pytest.raises(ContractError, match=rf"^Broken: .*{message}"):
        check_filter(Broken(predicate))


def test_objects_that_are_not_filters() -> None:
    with pytest.raises(ContractError, match=r"NearDuplicates does not implement CandidateFilter: pass an instance"):
        check_filter(NearDuplicates)  # type: ignore[arg-type]

    @dataclass(frozen=True)
    class Nothing:
        def refuse(self, context: SamplerContext) -> None:
            return None

    with pytest.raises(
        ContractError, match=r"refuse\(context\) must return a callable with arguments \(batch, candidates\), got None"
    ):
        check_filter(Nothing())  # type: ignore[arg-type]


def test_fields_are_checked() -> None:
    with pytest.raises(UsageError, match=r"NearDuplicates.num_codes must be at least 1, got 0"):
        NearDuplicates(0)
    with pytest.raises(UsageError, match=r"NearDuplicates.num_codes must be below 3, the levels of a Semantic ID, got 3"):
        NearDuplicates(3).refuse(CONTEXT)
    for wrong in ((-2, 1), (0.5, 0.4), (0, 1.1), (float("nan"), 1)):
        with pytest.raises(UsageError, match=r"SimilarityWindow must have -1 <= low <= high <= 1, got low"):
            SimilarityWindow(*wrong)
    with pytest.raises(UsageError, match=r"PopularityWindow must have 0 <= low <= high <= 1"):
        PopularityWindow(-0.5)
