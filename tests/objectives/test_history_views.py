"""Views of histories: lengths, subsets and permutations of augmented histories, and histories with the same target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from genrec.errors import UsageError
from genrec.objectives import Augmentations, SameTarget
from genrec.objectives.history_views import crop_items, mask_items, reorder_items
from genrec.testing import objective_world
from genrec.types import SequenceBatch, TwoViews


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def padded(rows: list[list[int]], width: int | None = None) -> Tensor:
    longest = max(map(len, rows)) if width is None else width
    return torch.tensor([[0] * (longest - len(row)) + row for row in rows])


def items(row: Tensor) -> list[int]:
    return [int(each) for each in row if each > 0]


HISTORIES = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), min_size=1, max_size=6)
SHARES = st.floats(0.05, 0.95)
SEEDS = st.integers(0, 2**31)


def left_padded(view: Tensor) -> bool:
    return bool((view[:, -1] > 0).all())


@given(HISTORIES, SHARES, SEEDS)
def test_a_cropped_history_is_a_run_of_it(rows: list[list[int]], share: float, seed: int) -> None:
    view = crop_items(padded(rows), share, seeded(seed))
    assert left_padded(view)
    for row, each in zip(rows, view, strict=True):
        found, count = items(each), max(1, math.floor(share * len(row)))
        assert len(found) == count
        assert any(row[begin : begin + count] == found for begin in range(len(row)))


@given(HISTORIES, SHARES, SEEDS)
def test_a_masked_history_loses_so_many_items_and_keeps_the_places_of_the_others(
    rows: list[list[int]], share: float, seed: int
) -> None:
    """Zeros at the end are cut, so the view is the history with zeros for some items, up to its last item that stays."""
    numbered = [[100 * (place + 1) + item for place, item in enumerate(row)] for row in rows]  # each item occurs once
    view = mask_items(padded(numbered), share, seeded(seed))
    assert left_padded(view)
    for row, each in zip(numbered, view, strict=True):
        found = items(each)
        assert len(found) == len(row) - math.floor(share * len(row))
        assert found == [item for item in row if item in found]
        distances = [int((each == item).nonzero()) - row.index(item) for item in found]
        assert len(set(distances)) == 1  # all items move by the same number of places


@given(HISTORIES, SHARES, SEEDS)
def test_a_reordered_history_is_a_permutation_within_one_run(rows: list[list[int]], share: float, seed: int) -> None:
    view = reorder_items(padded(rows, 14), share, seeded(seed))
    for row, each in zip(rows, view, strict=True):
        found = items(each)
        assert Counter(found) == Counter(row)
        assert each.tolist() == [0] * (14 - len(row)) + found
        moved = [place for place, (before, after) in enumerate(zip(row, found, strict=True)) if before != after]
        assert not moved or moved[-1] - moved[0] < math.floor(share * len(row))


def test_places_are_uniform() -> None:
    """10 items: a crop to 6 begins at 5 places; 3 of 10 are masked; 6 shuffled items begin at 5 places and stay 1 time in 720."""
    history = torch.arange(1, 11).expand(20_000, -1)
    first = crop_items(history, 0.6, seeded())[:, 4]
    assert first.unique(return_counts=True)[1].tolist() == pytest.approx([4_000] * 5, rel=0.07)
    stays = mask_items(history, 0.3, seeded())
    counts = torch.stack([(stays == item).any(1).sum() for item in range(1, 11)])
    assert counts.tolist() == pytest.approx([14_000] * 10, rel=0.03)
    ends_moved = (reorder_items(history, 0.6, seeded())[:, 9] != 10).float().mean()
    assert float(ends_moved) == pytest.approx(1 / 5 * 5 / 6, rel=0.05)


def test_two_different_augmentations_are_drawn_for_each_history() -> None:
    """A crop has 6 of 10 items, a mask 7, a reordering all 10: three pairs in either order, equally often."""
    rows = SequenceBatch(torch.arange(6_000), torch.arange(1, 11).expand(6_000, -1), torch.ones(6_000, dtype=torch.int64))
    context = objective_world()
    views = Augmentations().build_views(context, context.source.prefixes())(rows, seeded())
    kinds = Counter(zip(*((each > 0).sum(1).tolist() for each in views), strict=True))
    assert set(kinds) == {(a, b) for a in (6, 7, 10) for b in (6, 7, 10) if a != b}
    assert list(kinds.values()) == pytest.approx([1_000] * 6, rel=0.12)


def test_a_history_of_one_item_stays() -> None:
    for change in (crop_items, mask_items, reorder_items):
        assert change(torch.tensor([[0, 0, 7]]), 0.6, seeded()).tolist() == [[0, 0, 7]]


class Listed:
    """Examples with given users, histories and targets."""

    def __init__(self, *rows: tuple[int, list[int], int]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> SequenceBatch:
        chosen = [self.rows[int(each)] for each in index]
        users, histories, targets = zip(*chosen, strict=True)
        return SequenceBatch(torch.tensor(users), padded(list(histories)), torch.tensor(targets))


EXAMPLES = Listed((1, [1, 2], 9), (2, [3], 9), (3, [4, 5, 6], 9), (1, [1, 2, 9], 5), (4, [8], 7), (1, [1, 2, 9, 5], 9))


def same_target() -> Callable[[SequenceBatch, Generator], TwoViews]:
    return SameTarget().build_views(objective_world(), EXAMPLES)


def test_the_other_history_has_the_same_target_and_another_user() -> None:
    """Item 9 is the target of users 1 (twice), 2 and 3, items 5 and 7 of one user each: they keep their own history."""
    rows, views = EXAMPLES.batch(torch.arange(6)), same_target()
    seen: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(6)]
    for seed in range(400):
        first, second = views(rows, seeded(seed))
        assert torch.equal(first, rows.history)
        for found, row in zip(seen, second, strict=True):
            found[tuple(items(row))] += 1
    assert set(seen[0]) == set(seen[5]) == {(3,), (4, 5, 6)}
    assert set(seen[1]) == {(1, 2), (4, 5, 6), (1, 2, 9, 5)}
    assert set(seen[2]) == {(1, 2), (3,), (1, 2, 9, 5)}
    assert set(seen[3]) == {(1, 2, 9)}
    assert set(seen[4]) == {(8,)}
    assert list(seen[1].values()) == pytest.approx([400 / 3] * 3, rel=0.25)


@pytest.mark.parametrize(("field", "value"), [("crop", 0.0), ("crop", 1.5), ("mask", 1.0), ("mask", -0.1), ("reorder", 1.1)])
def test_shares_outside_their_interval_are_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"Augmentations\.{field} must lie in "):
        Augmentations(**{field: value})
