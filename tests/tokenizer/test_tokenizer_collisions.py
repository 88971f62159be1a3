"""Resolving collisions: appended levels, reassigned last codes, codes for new items; by hand, against brute force and scipy."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import python_calls
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from genrec.errors import InputError, NumericsError
from genrec.semantic_ids import SemanticIds
from genrec.tokenizer import collisions
from genrec.tokenizer.assignment import cheapest_distinct
from genrec.tokenizer.collisions import append_level, place_free, prefix_groups, reassign, sinkhorn
from genrec.tokenizer.optimal_transport import soft_distinct

relaxed = settings(deadline=None)


def table(costs: object) -> Callable[[np.ndarray], np.ndarray]:
    """Return a cost function that reads a table float32 [N, C]."""
    values = np.array(costs, dtype=np.float32)
    return lambda rows: values[rows]


def total(costs: np.ndarray, codes: Tensor) -> float:
    """Return the total cost of the last codes."""
    return float(np.take_along_axis(np.float64(costs), codes[:, -1:].numpy(), 1).sum())


def distances(vectors: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Return squared distances float32 [N, C]."""
    return np.float32(np.square(vectors).sum(1)[:, None] + np.square(book).sum(1) - 2 * vectors @ book.T).clip(0)


def catalog(items: int, prefixes: int, size: int, width: int = 8, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Return codes [items, 2] with prefixes of equal frequency and the nearest last code, and their costs [items, size]."""
    source = np.random.default_rng(seed)
    book = source.standard_normal((size, width))
    vectors = book[source.integers(0, size, items)] + 0.5 * source.standard_normal((items, width))
    costs = distances(vectors, book)
    return torch.from_numpy(np.stack([source.permutation(items) % prefixes, costs.argmin(1)], 1)), costs


# Append a level


def test_append_level_by_hand() -> None:
    codes = torch.tensor([[1, 1], [0, 2], [1, 1], [0, 1], [1, 1], [0, 2]])
    expected = [[1, 1, 0], [0, 2, 0], [1, 1, 1], [0, 1, 0], [1, 1, 2], [0, 2, 1]]
    assert append_level(codes).tolist() == expected


@relaxed
@given(st.integers(1, 4).flatmap(lambda levels: st.lists(st.tuples(*[st.integers(0, 2)] * levels), min_size=1, max_size=40)))
def test_append_level_against_a_loop(rows: list[tuple[int, ...]]) -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    expected = []
    for row in rows:
        expected.append([*row, seen[row]])
        seen[row] += 1
    appended = append_level(torch.tensor(rows))
    assert appended.tolist() == expected
    assert SemanticIds(appended).collided == 0
    assert SemanticIds(appended).level_sizes[-1] == max(seen.values())
    groups = list(prefix_groups(torch.tensor(rows)))
    for length, (group, sizes) in enumerate(groups, start=1):
        counts = Counter(row[:length] for row in rows)
        assert [sizes[each] for each in group.tolist()] == [counts[row[:length]] for row in rows]


# Reassign at the least cost


def test_reassign_by_hand() -> None:
    """Items 1 and 2 share code 0 of prefix 7. The second cheapest code costs item 2 5 more and item 1 only 1: item 1 moves to code 2.

    Item 3 is alone with prefix 8 and stays, although code 1 is cheaper: its group has no collision, and its costs are not requested.
    """
    codes = torch.tensor([[7, 0], [7, 0], [8, 0]])
    costs = [[1.0, 9, 2], [1, 6, 7], [5, 0, 5]]
    requested: list[int] = []

    def recorded(rows: np.ndarray) -> np.ndarray:
        requested.extend(rows.tolist())
        return np.array(costs, dtype=np.float32)[rows]

    assert reassign(codes, recorded, 3).tolist() == [[7, 2], [7, 0], [8, 0]]
    assert requested == [0, 1]


def test_reassign_moves_an_item_without_collision_if_that_is_cheaper() -> None:
    """A and B share code 0, C has code 1. Moving B to 1 and C to 2 costs 1 + 1; moving A or B to 2 costs 10."""
    codes = torch.tensor([[0, 0], [0, 0], [0, 1]])
    assert reassign(codes, table([[0, 10, 10], [0, 1, 10], [10, 0, 1]]), 3).tolist() == [[0, 0], [0, 1], [0, 2]]


def test_equal_vectors_get_different_codes_in_item_order() -> None:
    """Of five equal items with code 2, the first keeps it and the others take the next cheapest codes; ties go to the lower code."""
    codes = torch.tensor([[0, 2]] * 5 + [[0, 5]])
    costs = [[4.0, 1, 0, 3, 3, 9]] * 5 + [[8.0, 8, 8, 8, 8, 0]]
    assert reassign(codes, table(costs), 6)[:, 1].tolist() == [2, 1, 3, 4, 0, 5]


def test_of_two_equal_items_the_first_keeps_its_code() -> None:
    assert reassign(torch.tensor([[0, 0], [0, 0]]), table([[0, 1, 2]] * 2), 3).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("seed", range(20))
def test_equal_items_among_others_get_their_codes_in_item_order(seed: int) -> None:
    """Fifteen items of three kinds in random order, on 20 codes: within a kind, items get codes by cost, the current code first."""
    source = np.random.default_rng(seed)
    kind = source.permutation(np.arange(15) % 3)
    costs = source.integers(0, 30, (3, 20)).astype(np.float32)[kind]
    codes = torch.from_numpy(np.stack([np.zeros(15, dtype=np.int64), costs.argmin(1)], 1))
    moved = reassign(codes, table(costs), 20)[:, 1].numpy()
    for each in range(3):
        rows = np.flatnonzero(kind == each)
        key = [(code != costs[row].argmin(), costs[row, code], code) for row, code in zip(rows, moved[rows], strict=True)]
        assert key == sorted(key)


def test_nearly_equal_vectors_get_different_codes() -> None:
    source = np.random.default_rng(0)
    book = source.standard_normal((64, 4))
    vectors = book[3] + 1e-6 * source.standard_normal((60, 4))
    costs = distances(vectors, book)
    codes = torch.from_numpy(np.stack([np.zeros(60, dtype=np.int64), costs.argmin(1)], 1))
    assert SemanticIds(codes).collided == 60
    assert SemanticIds(reassign(codes, table(costs), 64)).collided == 0


def test_a_code_is_kept_on_ties() -> None:
    """All costs are equal: only the second item of code 3 and of code 1 move, to 0 and 2."""
    codes = torch.tensor([[0, 3], [0, 3], [0, 1], [0, 1], [0, 4]])
    moved = reassign(codes, table(np.ones((5, 5))), 5)[:, 1].tolist()
    assert (moved[0], moved[2], moved[4]) == (3, 1, 4)
    assert sorted((moved[1], moved[3])) == [0, 2]


def test_another_item_of_the_group_keeps_its_code_on_ties() -> None:
    codes = torch.tensor([[0, 0], [0, 0], [0, 3]])
    assert reassign(codes, table([[0, 9, 1, 9], [0, 9, 5, 9], [9, 0, 9, 0]]), 4)[:, 1].tolist() == [2, 0, 3]


@st.composite
def priced_codes(draw: st.DrawFn, cheapest: bool = False) -> tuple[Tensor, np.ndarray]:
    """Draw codes [N, 2] with at most 4 items per prefix, and costs [N, 4] of small integers, so that ties are common."""
    prefixes = draw(st.lists(st.integers(0, 2), min_size=1, max_size=8).filter(lambda drawn: max(Counter(drawn).values()) <= 4))
    row = st.lists(st.integers(0, 5), min_size=4, max_size=4)
    costs = np.array(draw(st.lists(row, min_size=len(prefixes), max_size=len(prefixes))), dtype=np.float32)
    last = costs.argmin(1).tolist() if cheapest else draw(st.lists(st.integers(0, 3), min_size=len(prefixes), max_size=len(prefixes)))
    return torch.tensor(list(zip(prefixes, last, strict=True))), costs


@given(priced_codes())
def test_reassign_against_every_possible_choice(example: tuple[Tensor, np.ndarray]) -> None:
    codes, costs = example
    moved = reassign(codes, table(costs), 4)
    assert torch.equal(moved[:, 0], codes[:, 0])
    assert SemanticIds(moved).collided == 0
    for prefix in codes[:, 0].unique():
        rows = (codes[:, 0] == prefix).nonzero().squeeze(1).numpy()
        if len(codes[rows].unique(dim=0)) == len(rows):
            assert torch.equal(moved[rows], codes[rows])
            continue
        least = min(costs[rows, choice].sum() for choice in itertools.permutations(range(4), len(rows)))
        assert total(costs[rows], moved[rows]) == least


@relaxed
@given(priced_codes(cheapest=True))
def test_reassign_of_cheapest_codes_has_the_least_total_of_all(example: tuple[Tensor, np.ndarray]) -> None:
    """If every code is the item's cheapest, skipping groups without a collision is optimal: compare with scipy on all items."""
    codes, costs = example
    wide = np.full((len(codes), 3, 4), 1e6)
    wide[np.arange(len(codes)), codes[:, 0]] = costs
    rows, columns = linear_sum_assignment(wide.reshape(len(codes), 12))
    assert total(costs, reassign(codes, table(costs), 4)) == wide.reshape(len(codes), 12)[rows, columns].sum()


@pytest.mark.parametrize(("items", "prefixes", "size"), [(3000, 60, 256), (3000, 15, 256), (500, 2, 256), (2000, 900, 8)])
def test_reassign_against_scipy(items: int, prefixes: int, size: int) -> None:
    codes, costs = catalog(items, prefixes, size)
    moved = reassign(codes, table(costs), size)
    assert SemanticIds(moved).collided == 0
    least = 0.0
    for prefix in range(prefixes):
        rows = (codes[:, 0] == prefix).numpy().nonzero()[0]
        least += np.float64(costs[rows])[linear_sum_assignment(costs[rows])].sum()
    assert total(costs, moved) == pytest.approx(least, rel=1e-10)


@pytest.mark.parametrize("settle", [reassign, sinkhorn])
def test_chunks_do_not_change_the_result(settle: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    codes, costs = catalog(1000, 20, 64)
    once = settle(codes, table(costs), 64)
    monkeypatch.setattr(collisions, "CHUNK", 64)  # one row, and therefore one group, per chunk
    assert torch.equal(settle(codes, table(costs), 64), once)


@relaxed
@given(st.integers(0, 2**31), st.integers(2, 60))
def test_the_order_of_items_does_not_matter_without_ties(seed: int, items: int) -> None:
    codes, costs = catalog(items, 3, 64, seed=seed)
    order = np.random.default_rng(seed).permutation(items)
    assert torch.equal(reassign(codes[order], table(costs[order]), 64), reassign(codes, table(costs), 64)[order])


def test_more_items_than_codes_raise() -> None:
    codes = torch.tensor([[9, 4, 0]] * 4 + [[9, 5, 1]] * 6 + [[9, 6, 0]] * 3)
    message = r"6 items share the prefix \(9, 5\) but the last level has 3 codes; 2 prefixes have too many items\. Append a level"
    with pytest.raises(InputError, match=message) as error:
        reassign(codes, table(np.ones((13, 3))), 3)
    assert error.value.exit_code == 3
    assert SemanticIds(append_level(codes)).collided == 0


def test_a_full_prefix_is_valid() -> None:
    codes = torch.zeros(256, 2, dtype=torch.int64)
    costs = distances(np.random.default_rng(0).standard_normal((256, 4)), np.random.default_rng(1).standard_normal((256, 4)))
    assert sorted(reassign(codes, table(costs), 256)[:, 1].tolist()) == list(range(256))


@pytest.mark.parametrize("settle", [reassign, sinkhorn])
def test_invalid_costs_raise(settle: Callable[..., Tensor]) -> None:
    codes = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(InputError, match=r"2 rows and 3 codes must be float32 \[2, 3\], got \[2, 4\]"):
        settle(codes, table(np.ones((2, 4))), 3)
    with pytest.raises(NumericsError, match="non-finite costs in row 1"):
        settle(codes, table([[1, 1, 1], [1, np.nan, 1]]), 3)
    with pytest.raises(InputError, match=r"last level has codes 0\.\.2, got 0\.\.3"):
        settle(torch.tensor([[0, 0], [0, 3]]), table(np.ones((2, 3))), 3)


def test_no_costs_are_requested_without_collisions() -> None:
    codes = torch.tensor([[0, 0], [0, 1], [1, 0]])
    for settle in (reassign, sinkhorn):
        assert torch.equal(settle(codes, lambda rows: pytest.fail("priced"), 2), codes)


# Optimal transport


def test_sinkhorn_by_hand() -> None:
    """Two items on code 0. Moving to code 1 costs the first 1 and the second 3: the plan moves the first, like the assignment."""
    codes = torch.tensor([[0, 0], [0, 0]])
    assert sinkhorn(codes, table([[0, 1, 9], [0, 3, 9]]), 3).tolist() == [[0, 1], [0, 0]]


def test_sinkhorn_takes_no_code_of_another_item() -> None:
    """LC-Rec considers the colliding items only, and would move the first to code 1, which the third item has."""
    codes = torch.tensor([[0, 0], [0, 0], [0, 1]])
    assert sinkhorn(codes, table([[0, 1, 2], [0, 5, 5], [9, 0, 9]]), 3).tolist() == [[0, 2], [0, 0], [0, 1]]


def test_sinkhorn_lowers_collisions_at_little_cost() -> None:
    """Prefixes are three quarters full and a third of the items collide. Under a tenth of these remain, at nearly the exact cost."""
    codes, costs = catalog(2400, 50, 64)
    soft, exact = sinkhorn(codes, table(costs), 64), reassign(codes, table(costs), 64)
    before, after = SemanticIds(codes).collided, SemanticIds(soft).collided
    assert before > 600
    assert after < 0.1 * before
    assert total(costs, codes) < total(costs, soft) <= 1.001 * total(costs, exact)


def test_sinkhorn_leaves_equal_items_together() -> None:
    codes = torch.tensor([[0, 2]] * 3)
    assert torch.equal(sinkhorn(codes, table([[4.0, 1, 0, 3]] * 3), 4), codes)


@given(priced_codes(), st.integers(1, 60))
def test_sinkhorn_never_adds_collisions(example: tuple[Tensor, np.ndarray], rounds: int) -> None:
    codes, costs = example
    soft = sinkhorn(codes, table(costs), 4, rounds=rounds)
    assert torch.equal(soft[:, 0], codes[:, 0])
    assert SemanticIds(soft).collided <= SemanticIds(codes).collided
    untouched = SemanticIds(codes).shared(torch.arange(1, len(codes) + 1)) == 1
    for prefix in codes[untouched, 0].unique():
        rows = codes[:, 0] == prefix
        if untouched[rows].all():
            assert torch.equal(soft[rows], codes[rows])


def test_sinkhorn_of_more_items_than_codes_leaves_collisions() -> None:
    codes = torch.zeros(5, 2, dtype=torch.int64)
    soft = sinkhorn(codes, table(distances(np.arange(5.0)[:, None] / 9, np.arange(3.0)[:, None])), 3)
    assert 2 <= SemanticIds(soft).collided <= 5


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_sinkhorn_does_not_depend_on_the_unit_of_costs(scale: float) -> None:
    _, costs = catalog(200, 1, 256)
    group, present = np.zeros(200, dtype=np.int64), costs.argmin(1)
    expected = soft_distinct(costs * np.float32(2.0**10), group, present, 0.0005, 80)
    np.testing.assert_array_equal(
        soft_distinct(costs * np.float32(2.0 ** round(np.log2(scale))), group, present, 0.0005, 80), expected
    )


# New items


def test_place_free_by_hand() -> None:
    """In prefix 0, codes 1 and 2 are taken. Both new items have code 1; of the free codes 0 and 3, the first gets 3, the second 0."""
    taken = SemanticIds(torch.tensor([[0, 1], [0, 2], [1, 0]]), (2, 4))
    new = torch.tensor([[0, 1], [0, 1], [1, 3]])
    costs = [[5.0, 0, 1, 4], [3, 0, 1, 4], [9, 9, 9, 9]]
    assert place_free(new, table(costs), taken, 4).tolist() == [[0, 3], [0, 0], [1, 3]]


@given(priced_codes(), st.data())
def test_place_free_against_every_possible_choice(example: tuple[Tensor, np.ndarray], data: st.DataObject) -> None:
    new, costs = example
    used = {}
    for prefix, count in Counter(new[:, 0].tolist()).items():
        used[prefix] = data.draw(st.sets(st.integers(0, 3), max_size=4 - count))
    old = [[prefix, code] for prefix, some in used.items() for code in some] or [[3, 0]]
    taken = SemanticIds(torch.tensor(old), (4, 4))
    placed = place_free(new, table(costs), taken, 4)
    assert torch.equal(placed[:, 0], new[:, 0])
    assert SemanticIds(torch.cat([taken.codes, placed])).collided == 0
    for prefix, some in used.items():
        rows = (new[:, 0] == prefix).nonzero().squeeze(1).numpy()
        if len(new[rows].unique(dim=0)) == len(rows) and not some & set(new[rows, 1].tolist()):
            assert torch.equal(placed[rows], new[rows])
            continue
        choices = itertools.permutations(sorted(set(range(4)) - some), len(rows))
        assert total(costs[rows], placed[rows]) == min(costs[rows, choice].sum() for choice in choices)


def test_place_free_then_extend_keeps_existing_items() -> None:
    codes, costs = catalog(4000, 30, 256)
    old = SemanticIds(reassign(codes[:3000], table(costs[:3000]), 256), (30, 256))
    grown = old.extend(place_free(codes[3000:], table(costs[3000:]), old, 256))
    assert (grown.items, grown.collided, grown.level_sizes) == (4000, 0, (30, 256))
    assert grown.extends(old)


def test_place_free_raises_for_a_full_prefix() -> None:
    taken = SemanticIds(torch.tensor([[5, 0], [5, 1], [6, 0]]), (7, 3))
    message = r"2 items share the prefix \(5,\) but the last level has 3 codes, 2 of them taken by other items; 1 prefix has"
    with pytest.raises(InputError, match=message):
        place_free(torch.tensor([[5, 2], [6, 1], [5, 2]]), table(np.ones((3, 3))), taken, 3)
    with pytest.raises(InputError, match="codes of 2 levels, like the existing items, got 3"):
        place_free(torch.zeros(1, 3, dtype=torch.int64), table(np.ones((1, 3))), taken, 3)


def test_place_free_shares_codes_of_full_prefixes_on_request() -> None:
    """Both new items of prefix 5 keep code 2 and share it; the one of prefix 6 gets the cheapest free code."""
    taken = SemanticIds(torch.tensor([[5, 0], [5, 1], [6, 0]]), (7, 3))
    costs = table(np.array([[1.0, 2, 3], [0, 2, 1], [3, 2, 1]]))
    placed = place_free(torch.tensor([[5, 2], [6, 0], [5, 2]]), costs, taken, 3, share=True)
    assert placed.tolist() == [[5, 2], [6, 2], [5, 2]]


def test_place_free_of_no_items() -> None:
    taken = SemanticIds(torch.tensor([[5, 0]]))
    assert place_free(torch.empty(0, 2, dtype=torch.int64), table(np.ones((0, 1))), taken, 1).shape == (0, 2)


def test_the_exact_solver_never_gives_unavailable_codes() -> None:
    """Three items and three free codes of five: all free codes are used, at any cost."""
    costs = np.array([[np.inf, 1, np.inf, 2, 1e30], [np.inf, 1, np.inf, 3, 1e30], [np.inf, 1, np.inf, 9, 1e30]], dtype=np.float32)
    chosen = cheapest_distinct(costs, np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64))
    assert sorted(chosen.tolist()) == [1, 3, 4]


# Large and real catalogs


def million() -> tuple[Tensor, Callable[[np.ndarray], np.ndarray]]:
    """Return codes of a million items on 3 levels of 256 codes, and a cost function; the last code is nearest up to noise."""
    source = np.random.default_rng(0)
    codes = source.integers(0, 256, (1_000_000, 3))
    book = source.standard_normal((256, 16)).astype(np.float32)
    noise = 0.3 * source.standard_normal((1_000_000, 16)).astype(np.float32)
    squares = np.square(book).sum(1)

    def costs(rows: np.ndarray) -> np.ndarray:
        vectors = book[codes[rows, 2]] + noise[rows]
        return np.square(vectors).sum(1)[:, None] + squares - 2 * vectors @ book.T

    return torch.from_numpy(codes), costs


def test_no_loop_over_a_million_items() -> None:
    """Every call settles many items. Optimal transport, the slowest, gets the items with prefixes below 4 of 256."""
    codes, costs = million()
    rows = (codes[:, 0] < 4).nonzero().squeeze(1)
    for settle, items, share in (
        (append_level, codes, 0.0),
        (lambda codes: reassign(codes, costs, 256), codes, 0.0),
        (lambda codes: sinkhorn(codes, lambda chosen: costs(rows.numpy()[chosen]), 256), codes[rows], 0.05),
    ):
        collided = SemanticIds(items, (256,) * 3).collided
        assert collided > len(items) / 20
        calls, settled = python_calls(lambda settle=settle, items=items: settle(items))
        assert calls < len(items) / 10
        assert SemanticIds(settled).collided <= share * collided


@pytest.mark.realdata
def test_published_semantic_ids_of_office(real_data: Path) -> None:
    """The published file has 3,459 items on 3,444 Semantic IDs; appending separates them and keeps the published codes."""
    with gzip.open(real_data / "published-sids" / "Office_Products.index.json.gz", "rt") as file:
        index = json.load(file)
    codes = torch.tensor([[int(token[3:-1]) for token in index[str(item)]] for item in range(len(index))])
    ids = SemanticIds(codes, (256, 256, 256))
    assert (ids.items, ids.levels, ids.distinct) == (3459, 3, 3444)
    shared = Counter(map(tuple, codes.tolist()))
    assert ids.collided == sum(size for size in shared.values() if size > 1) > 3459 - 3444
    assert Counter(ids.shared(torch.arange(1, 3460)).tolist()) == Counter(shared[tuple(row)] for row in codes.tolist())
    appended = SemanticIds(append_level(codes))
    assert (appended.collided, appended.distinct) == (0, 3459)
    assert appended.level_sizes[3] == max(shared.values())
    assert torch.equal(appended.codes[:, :3], codes)
    assert torch.equal(appended.lookup(appended.codes), torch.arange(1, 3460))
    again = ids.extend(codes[:0])
    assert again.fingerprint == ids.fingerprint
    moved = SemanticIds(reassign(codes, table(np.random.default_rng(0).random((3459, 256))), 256), (256, 256, 256))
    assert (moved.collided, moved.distinct) == (0, 3459)
    grown = SemanticIds(append_level(codes[:3000])).extend(codes[3000:])
    assert grown.codes.tolist() == appended.codes.tolist()  # numbers depend on item order only, not on when items are added
