"""Exclusions and the selection of negatives from candidates, compared with Python sets."""

from __future__ import annotations

import pandas as pd
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.preference.exclusions import Exclusions, on_cpu, rows_of, take_first
from genrec.semantic_ids import SemanticIds
from genrec.testing import batches_of, sampler_context
from genrec.types import SequenceBatch


@given(st.integers(0, 50))
def test_target_history_and_training_items_are_excluded_by_semantic_id(seed: int) -> None:
    context = sampler_context(seed, items=20, users=6)
    batch = next(batches_of(context, 16))
    excluded = Exclusions(context)(batch, torch.arange(context.item_count + 1).expand(len(batch.target), -1))
    codes = context.semantic_ids.codes.tolist()
    for row, (user, target) in enumerate(zip(batch.user.tolist(), batch.target.tolist(), strict=True)):
        training = set(context.interactions.loc[context.interactions["user"] == user, "item"])
        taken = [codes[item - 1] for item in {target} | training | set(batch.history[row].tolist()) - {0}]
        expected = {0} | {item for item in range(1, context.item_count + 1) if codes[item - 1] in taken}
        assert set(excluded[row].nonzero().flatten().tolist()) == expected


def test_filtered_items_are_excluded_also_from_the_history() -> None:
    """The filter rejects even items; items 7 and 8 are in the history."""
    context = sampler_context()._replace(
        filters=(lambda _, candidates: candidates % 2 == 0,), semantic_ids=SemanticIds(torch.arange(60).unsqueeze(1))
    )
    batch = SequenceBatch(torch.tensor([10_000]), torch.tensor([[7, 8]]), torch.tensor([3]))
    candidates = torch.tensor([[3, 4, 5, 7, 8, 9]])
    exclusions = Exclusions(context)
    assert exclusions(batch, candidates).tolist() == [[True, True, False, True, True, False]]
    assert exclusions.allowing_history(batch, candidates).tolist() == [[True, True, False, False, True, False]]
    assert exclusions.take_allowed(batch, candidates, 3).tolist() == [[5, 9, 0]]


def test_items_taken_outside_the_history() -> None:
    """The user takes 1, 2, 1, 3, 4, 5; items 4 and 6 share a Semantic ID, and so do 2 and 7.

    With the history 1, 2: item 1 is taken once more, 2 (like 7) is not; 3, 4 (like 6) and 5 are taken later; 8 is never taken.
    """
    codes = torch.arange(20).unsqueeze(1)
    codes[5], codes[6] = codes[3], codes[1]
    taken = pd.DataFrame({"user": 1, "item": [1, 2, 1, 3, 4, 5], "time": range(6)})
    exclusions = Exclusions(sampler_context(items=20)._replace(interactions=taken, semantic_ids=SemanticIds(codes)))
    batch = SequenceBatch(torch.tensor([1]), torch.tensor([[0, 1, 2]]), torch.tensor([5]))
    candidates = torch.arange(1, 9).unsqueeze(0)
    assert exclusions.outside_history(batch, candidates).tolist() == [[True, False, True, True, True, True, False, False]]
    shown_twice = batch._replace(history=torch.tensor([[1, 2, 1]]))
    assert exclusions.outside_history(shown_twice, candidates).tolist() == [[False, False, True, True, True, True, False, False]]


def test_negatives_of_a_row_have_distinct_semantic_ids() -> None:
    """Items 1 and 3 share a Semantic ID, and so do 2 and 4; 5 is the target."""
    context = sampler_context(items=20)
    codes = torch.arange(20).unsqueeze(1)
    codes[2], codes[3] = codes[0], codes[1]
    exclusions = Exclusions(context._replace(interactions=context.interactions.iloc[:0], semantic_ids=SemanticIds(codes)))
    batch = SequenceBatch(torch.tensor([0]), torch.tensor([[0]]), torch.tensor([5]))
    assert exclusions.take_allowed(batch, torch.tensor([[3, 4, 2, 1, 6]]), 4).tolist() == [[3, 4, 6, 0]]
    assert exclusions(batch._replace(history=torch.tensor([[3]])), torch.tensor([[1, 2, 3]])).tolist() == [[True, False, True]]


def test_a_history_outside_training_is_excluded() -> None:
    context = sampler_context()
    batch = SequenceBatch(torch.tensor([10_000]), torch.tensor([[0, 7, 9]]), torch.tensor([3]))
    candidates = torch.tensor([[7, 8, 9]])
    exclusions = Exclusions(context)
    assert exclusions.in_training(batch, candidates).tolist() == [[False, False, False]]
    assert exclusions.in_history(batch, candidates).tolist() == [[True, False, True]]
    assert not exclusions.in_history(batch._replace(history=torch.zeros(1, 0, dtype=torch.int64)), candidates).any()


def test_without_interactions_only_target_and_history_are_excluded() -> None:
    context = sampler_context()
    context = context._replace(
        interactions=context.interactions.iloc[:0], semantic_ids=SemanticIds(torch.arange(context.item_count).unsqueeze(1))
    )
    batch = SequenceBatch(torch.tensor([5]), torch.tensor([[2]]), torch.tensor([3]))
    assert Exclusions(context)(batch, torch.tensor([[0, 1, 2, 3, 60]])).tolist() == [[True, False, True, True, False]]


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=5, max_size=5), min_size=1, max_size=4),
    st.integers(1, 8),
    st.sets(st.integers(1, 6)),
)
def test_take_first_keeps_the_first_distinct_allowed(rows: list[list[int]], num_negatives: int, rejected: set[int]) -> None:
    candidates = torch.tensor(rows)
    allowed = ~torch.isin(candidates, torch.tensor(sorted(rejected), dtype=torch.int64))
    expected = [[item for item in dict.fromkeys(row) if item > 0 and item not in rejected][:num_negatives] for row in rows]
    expected = [row + [0] * (num_negatives - len(row)) for row in expected]
    assert take_first(candidates, allowed, num_negatives).tolist() == expected


def test_take_first_without_candidates() -> None:
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert take_first(none, none.bool(), 3).tolist() == [[0, 0, 0]] * 2
    assert take_first(none[:0], none[:0].bool(), 3).shape == (0, 3)


def test_rows_of_a_batch() -> None:
    batch = SequenceBatch(torch.tensor([1, 2, 3]), torch.tensor([[4], [5], [6]]), torch.tensor([7, 8, 9]))
    assert [tensor.tolist() for tensor in rows_of(on_cpu(batch), torch.tensor([2, 0]))] == [[3, 1], [[6], [4]], [9, 7]]
