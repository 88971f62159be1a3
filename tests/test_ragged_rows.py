"""Rows of different lengths against lists of Python."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.ragged_rows import RaggedRows, joined, ragged

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=6)


def padded(rows: list[list[int]], width: int, fill: int) -> list[list[int]]:
    return [(row + [fill] * width)[:width] for row in rows]


def trimmed(row: list[int]) -> list[int]:
    return trimmed(row[:-1]) if row and row[-1] == 0 else row


@given(ROWS, st.integers(1, 6), st.integers(0, 6), st.data())
def test_rows_are_those_of_lists(rows: list[list[int]], size: int, width: int, data: st.DataObject) -> None:
    """Batches of `size` rows, each as wide as its longest row, are joined; zeros at the ends of rows are not stored."""
    parts = []
    for begin in range(0, len(rows), size):
        batch = rows[begin : begin + size]
        parts.append(ragged(torch.tensor(padded(batch, max(map(len, batch)), 0)).reshape(len(batch), -1), 0))
    found, expected = joined(parts), [trimmed(row) for row in rows]
    assert (len(found), len(found.values)) == (len(rows), sum(map(len, expected)))
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    number, chosen = torch.tensor(index, dtype=torch.int64), [expected[each] for each in index]
    assert found.longest(number) == max(map(len, chosen), default=0)
    assert found.padded(number, width, -1).tolist() == padded(chosen, width, -1)


def test_entries_of_several_values() -> None:
    """An entry is left out at the end of a row if all of its values are empty."""
    batch = torch.tensor([[[1, 2], [0, 0], [0, 3]], [[4, 5], [0, 0], [0, 0]], [[0, 0], [0, 0], [0, 0]]])
    found = ragged(batch, 0)
    assert found.first.tolist() == [0, 3, 4, 4]
    assert found.values.tolist() == [[1, 2], [0, 0], [0, 3], [4, 5]]
    assert torch.equal(found.padded(torch.arange(3), 3, 0), batch)
    assert found.to(torch.device("cpu")).padded(torch.tensor([1]), 2, 7).tolist() == [[[4, 5], [7, 7]]]


def test_rows_without_entries() -> None:
    empty = RaggedRows(torch.zeros(0, 2), torch.zeros(3, dtype=torch.int64))
    assert empty.padded(torch.tensor([0, 1]), 2, 5).tolist() == [[[5, 5], [5, 5]]] * 2
