"""Head and tail, popularity groups, genres, MGU and DGU: by hand, against plain loops, and their properties."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.errors import InputError
from genrec.evaluation.item_groups import (
    dgu,
    group_shares,
    groups_of_genres,
    groups_of_popularity,
    head_items,
    mgu,
    popularity_group,
)

counts = st.lists(st.integers(0, 30), min_size=1, max_size=40).map(lambda values: torch.tensor([0, *values]))


def by_popularity(popularity: Tensor) -> list[int]:
    return sorted(range(1, len(popularity)), key=lambda item: (-int(popularity[item]), item))


@pytest.mark.parametrize(
    ("popularity", "head"),
    [
        ([3, 9, 1, 4, 1], [2]),  # 20 % of 5 items is one: item 2
        ([7, 7, 7, 7, 7, 7], [1, 2]),  # 1.2 items, rounded up; equal counts by the lower id
        ([0, 2, 0, 0, 0, 0, 5, 0, 2, 0], [2, 7]),
        ([4], [1]),
    ],
)
def test_the_head_by_hand(popularity: list[int], head: list[int]) -> None:
    assert head_items(torch.tensor([0, *popularity])).nonzero().flatten().tolist() == head


def test_popularity_groups_by_hand() -> None:
    """20 interactions, 4 a group. Before the items, in the order 2 1 4 3 5, are 0, 8, 12, 16 and 19: groups 0, 2, 3, 4, 4.

    Item 2 has more than one group's share, so that the group after it is empty. Item 6 has no interaction: it is in the last group.
    """
    popularity = torch.tensor([0, 4, 8, 3, 4, 1, 0])
    assert popularity_group(popularity).tolist() == [-1, 2, 0, 4, 3, 4, 4]
    groups = groups_of_popularity(popularity)
    assert groups.names == ("popularity 1 of 5", "popularity 3 of 5", "popularity 4 of 5", "popularity 5 of 5")
    assert groups.totals(popularity).tolist() == [8, 4, 4, 4]


@given(counts, st.integers(1, 6))
def test_popularity_groups_agree_with_a_loop(popularity: Tensor, groups: int) -> None:
    """Group g begins where g / groups of the interactions lie before an item; whole numbers are compared, so nothing is rounded."""
    total, before = int(popularity.sum()), 0
    found = popularity_group(popularity, groups)
    for item in by_popularity(popularity):
        expected = sum(groups * before >= number * total for number in range(1, groups)) if popularity[item] else groups - 1
        assert int(found[item]) == expected
        before += int(popularity[item])


@given(counts)
def test_the_head_is_a_fifth_and_no_tail_item_is_more_popular(popularity: Tensor) -> None:
    head, items = head_items(popularity), len(popularity) - 1
    assert not head[0]
    assert (items + 4) // 5 == int(head.sum())
    assert set(head.nonzero().flatten().tolist()) == set(by_popularity(popularity)[: int(head.sum())])


def test_genres_by_hand() -> None:
    """Item 1 belongs to two genres with one half each, item 3 to none; a repeated genre and spaces change nothing."""
    groups = groups_of_genres(["Comedy|Action", "Action", "", " Comedy |Comedy"])
    assert groups is not None
    assert groups.names == ("Action", "Comedy")
    assert groups.totals(torch.tensor([0, 10, 1, 100, 1])).tolist() == [5 + 1, 5 + 1]
    assert groups_of_genres(["", "|"]) is None


def test_unfairness_by_hand() -> None:
    """Training: 5 + 1 = 6 of 12 interactions with a genre are Action, 6 Comedy. The lists hold item 2 twice, items 1 and 4 once.

    Action: 0.5 + 2 of 4 = 0.625, so that GU is +0.125 and -0.125: MGU = 0.125, DGU = 0.25. Item 3, without a genre, and empty slots
    count in neither share.
    """
    groups = groups_of_genres(["Comedy|Action", "Action", "", "Comedy"])
    assert groups is not None
    popularity, lists = torch.tensor([0, 10, 1, 100, 1]), torch.tensor([[2, 1, 3], [2, 4, 0]])
    shares, mean, disparity = (function(lists, groups, popularity) for function in (group_shares, mgu, dgu))
    assert shares is not None
    assert shares.tolist() == pytest.approx([0.125, -0.125])
    assert (float(mean), float(disparity)) == pytest.approx((0.125, 0.25))  # type: ignore[arg-type]


def test_disparity_is_of_signed_differences() -> None:
    """Three groups of 0.5, 0.3, 0.2 of the training; lists of 0.8, 0.1, 0.1. GU = +0.3, -0.2, -0.1.

    The differences without their signs, 0.3, 0.2 and 0.1, would give a disparity of 0.2 instead of 0.5.
    """
    groups = groups_of_genres(["a", "b", "c"])
    assert groups is not None
    lists = torch.tensor([[1]] * 8 + [[2], [3]])
    assert float(dgu(lists, groups, torch.tensor([0, 5, 3, 2]))) == pytest.approx(0.5)  # type: ignore[arg-type]
    assert float(mgu(lists, groups, torch.tensor([0, 5, 3, 2]))) == pytest.approx(0.2)  # type: ignore[arg-type]


def test_unfairness_without_a_group_is_not_defined() -> None:
    groups = groups_of_genres(["a", ""])
    assert groups is not None
    assert mgu(torch.tensor([[2, 0]]), groups, torch.tensor([0, 1, 1])) is None  # no recommended item has a genre
    assert dgu(torch.tensor([[1, 2]]), groups, torch.tensor([0, 0, 1])) is None  # no interaction has one
    with pytest.raises(InputError, match=r"recommended items must lie in 0\.\.2, got 3"):
        mgu(torch.tensor([[3]]), groups, torch.tensor([0, 1, 1]))


@given(counts.filter(lambda values: int(values.sum()) > 0), st.integers(0, 2**16))
def test_unfairness_agrees_with_a_loop(popularity: Tensor, seed: int) -> None:
    random = np.random.default_rng(seed)
    items = len(popularity) - 1
    genres = ["|".join(random.choice(list("abcd"), random.integers(0, 4), replace=False)) for _ in range(items)]
    lists = torch.tensor(random.integers(0, items + 1, (5, 3)))
    expected: list[dict[str, float]] = []
    listed = [(int(item), 1.0) for item in lists.flatten() if item]
    taken = [(item, float(popularity[item])) for item in range(1, items + 1)]
    for pairs in (listed, taken):
        total: dict[str, float] = defaultdict(float)
        for item, count in pairs:
            own = [name for name in genres[item - 1].split("|") if name]
            for name in own:
                total[name] += count / len(own)
        expected.append(total)
    groups = groups_of_genres(genres)
    if groups is None or not all(sum(total.values()) for total in expected):
        assert groups is None or mgu(lists, groups, popularity) is None
        return
    recommended, trained = ({name: value / sum(total.values()) for name, value in total.items()} for total in expected)
    differences = [recommended.get(name, 0) - trained.get(name, 0) for name in groups.names]
    assert float(mgu(lists, groups, popularity)) == pytest.approx(np.mean(np.abs(differences)))  # type: ignore[arg-type]
    assert float(dgu(lists, groups, popularity)) == pytest.approx(max(differences) - min(differences))  # type: ignore[arg-type]


@given(counts.filter(lambda values: int(values.sum()) > 0))
def test_lists_with_the_groups_of_the_training_data_are_fair(popularity: Tensor) -> None:
    """Lists that hold every training interaction once have the shares of the training data."""
    lists = torch.arange(len(popularity)).repeat_interleave(popularity).unsqueeze(1)
    groups = groups_of_popularity(popularity)
    assert float(mgu(lists, groups, popularity)) == pytest.approx(0, abs=1e-12)  # type: ignore[arg-type]
    assert float(dgu(lists, groups, popularity)) == pytest.approx(0, abs=1e-12)  # type: ignore[arg-type]
