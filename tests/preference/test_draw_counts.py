"""Counts of drawn negatives by user and item, against a plain counter, and through a checkpoint."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from genrec.preference import draw_counts
from genrec.preference.draw_counts import DrawCounts

BATCH = st.lists(st.tuples(st.integers(1, 5), st.tuples(*[st.integers(0, 6)] * 3)), max_size=6)


def test_by_hand() -> None:
    """User 2 got item 3 twice, in two batches; 0 is no draw. The item count is 3, so a pair is user * 4 + item."""
    counts = DrawCounts(3)
    counts.update(torch.tensor([2, 1]), torch.tensor([[3, 0], [1, 2]]))
    counts.update(torch.tensor([2, 2]), torch.tensor([[3, 1], [0, 0]]))
    assert counts.table().to_dict("list") == {"user": [1, 1, 2, 2], "item": [1, 2, 1, 3], "count": [1, 1, 1, 2]}
    assert counts.tensors()["drawn_pairs"].tolist() == [5, 6, 9, 11]
    assert [str(dtype) for dtype in counts.table().dtypes] == ["int64"] * 3


def test_no_draw_is_an_empty_table() -> None:
    counts = DrawCounts(3)
    assert counts.table().to_dict("list") == {"user": [], "item": [], "count": []}
    counts.update(torch.tensor([1]), torch.zeros(1, 2, dtype=torch.int64))
    assert len(counts.table()) == 0


@given(st.lists(BATCH, max_size=8), st.integers(0, 8))
def test_equal_to_a_counter_and_resumed_anywhere(batches: list[list[tuple[int, tuple[int, int, int]]]], stop: int) -> None:
    expected = Counter((user, item) for batch in batches for user, row in batch for item in row if item)
    counts = DrawCounts(6)
    for place, batch in enumerate(batches):
        if place == stop:
            resumed = DrawCounts(6)
            resumed.restore({name: value.clone() for name, value in counts.tensors().items()})
            counts.update(torch.tensor([1]), torch.tensor([[1]]))  # after the checkpoint, so it must not count
            counts = resumed
        users = torch.tensor([user for user, _ in batch], dtype=torch.int64)
        counts.update(users, torch.tensor([row for _, row in batch], dtype=torch.int64).reshape(-1, 3))
    assert {(user, item): count for user, item, count in counts.table().itertuples(index=False)} == expected


def test_draws_are_merged_while_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a threshold of 4 draws at most 4 wait, or as many as there are pairs."""
    monkeypatch.setattr(draw_counts, "MIN_WAITING", 4)
    counts, random = DrawCounts(50), torch.Generator().manual_seed(0)
    expected: Counter[tuple[int, int]] = Counter()
    for _ in range(60):
        user, drawn = torch.randint(1, 9, (2,), generator=random), torch.randint(1, 51, (2, 1), generator=random)
        counts.update(user, drawn)
        expected.update(zip(user.tolist(), drawn.flatten().tolist(), strict=True))
        assert counts._num_waiting < max(4, len(counts.pairs))
    assert {(user, item): count for user, item, count in counts.table().itertuples(index=False)} == expected


def test_an_empty_state_survives_a_file(tmp_path: Path) -> None:
    save_file(DrawCounts(3).tensors(), tmp_path / "state.safetensors")
    counts = DrawCounts(3)
    counts.restore(load_file(tmp_path / "state.safetensors"))
    counts.update(torch.tensor([1]), torch.tensor([[2]]))
    assert counts.table().to_numpy().tolist() == [[1, 2, 1]]


def test_a_state_of_another_form_is_refused() -> None:
    pairs = torch.tensor([5, 6])
    for counts in (torch.tensor([1]), torch.tensor([1.0, 1.0])):
        with pytest.raises(ValueError, match=r"int64 of one length, got torch.int64 \[2\] and"):
            DrawCounts(3).restore({"drawn_pairs": pairs, "drawn_counts": counts})
