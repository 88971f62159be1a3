"""Semantic IDs: codes, tokens, the inverse map, collisions and the trie, by hand and against brute force."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.errors import InputError
from genrec.semantic_ids import SemanticIds

# Items 1..5. Sorted: (0,1) item 3, (0,2) items 2 and 5, (1,0) item 4, (2,1) item 1.
HAND = torch.tensor([[2, 1], [0, 2], [0, 1], [1, 0], [0, 2]])

relaxed = settings(deadline=None)  # the first example pays for imports, and other work may hold the cores


@st.composite
def code_tables(draw: st.DrawFn) -> Tensor:
    """Codes [N, L] over a small alphabet, so that collisions and shared prefixes are common."""
    levels = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(st.integers(0, 3), min_size=levels, max_size=levels), min_size=1, max_size=30))
    return torch.tensor(rows)


def test_by_hand() -> None:
    ids = SemanticIds(HAND, (3, 4))
    assert (ids.items, ids.levels, ids.vocabulary) == (5, 2, 1 + 3 + 4)
    assert (ids.distinct, ids.collided) == (4, 2)
    # Level 1 holds tokens 1..3, level 2 tokens 4..7; item 1 is (2, 1) -> 1 + 0 + 2, 1 + 3 + 1.
    assert ids.tokens(torch.tensor([[1, 0], [4, 2]])).tolist() == [[[3, 5], [0, 0]], [[2, 4], [1, 6]]]
    assert ids.leaf(torch.tensor([1, 2, 3, 4, 5])).tolist() == [3, 1, 0, 2, 1]
    assert ids.lookup(torch.tensor([[2, 1], [0, 2], [0, 0], [2, 3], [-1, 1], [9, 1]])).tolist() == [1, 2, 0, 0, 0, 0]
    assert ids.prefix_depth(torch.tensor([1, 2, 2, 3, 0]), torch.tensor([1, 5, 3, 4, 0])).tolist() == [2, 2, 1, 0, 0]


def test_trie_by_hand() -> None:
    root, second = SemanticIds(HAND, (3, 4)).tables
    assert (root.start.tolist(), root.code.tolist(), root.branch) == ([0, 3], [0, 1, 2], 3)
    assert (second.start.tolist(), second.code.tolist(), second.branch) == ([0, 2, 3, 4], [1, 2, 0, 1], 2)
    assert (root.leaf.tolist(), second.leaf.tolist()) == ([0, 2, 3, 4], [0, 1, 2, 3, 4])  # two leaves below the first code


def test_sizes_come_from_the_codes_unless_given() -> None:
    assert SemanticIds(HAND).level_sizes == (3, 3)
    assert SemanticIds(HAND, [256, 256]).level_sizes == (256, 256)


def test_one_item() -> None:
    ids = SemanticIds(torch.tensor([[7]]))
    assert ids.items_of_leaf().tolist() == [1]
    assert ids.lookup(torch.tensor([[7], [6]])).tolist() == [1, 0]


def test_items_of_leaf_follow_lexicographic_order() -> None:
    assert SemanticIds(HAND[:4]).items_of_leaf().tolist() == [3, 2, 4, 1]


@relaxed
@given(code_tables())
def test_tokens_and_lookup_are_inverse(codes: Tensor) -> None:
    ids = SemanticIds(codes)
    items = torch.arange(1, len(codes) + 1)
    assert torch.equal(ids.tokens(items) - 1 - ids.offsets, codes)
    found = ids.lookup(codes)
    assert torch.equal(codes[found - 1], codes)
    lowest = {tuple(row): item for item, row in reversed(list(enumerate(codes.tolist(), 1)))}
    assert found.tolist() == [lowest[tuple(row)] for row in codes.tolist()]


@relaxed
@given(code_tables(), st.data())
def test_lookup_of_any_codes(codes: Tensor, data: st.DataObject) -> None:
    levels = codes.shape[1]
    asked = data.draw(st.lists(st.lists(st.integers(-2, 6), min_size=levels, max_size=levels), min_size=1, max_size=20))
    known = codes.tolist()
    expected = [known.index(row) + 1 if row in known else 0 for row in asked]
    assert SemanticIds(codes).lookup(torch.tensor(asked)).tolist() == expected


@relaxed
@given(code_tables())
def test_trie_enumerates_exactly_the_distinct_semantic_ids_in_order(codes: Tensor) -> None:
    ids = SemanticIds(codes)
    prefixes: list[list[int]] = [[]]
    for table in ids.tables:
        assert table.start.tolist() == sorted(table.start.tolist())
        assert (int(table.start[0]), int(table.start[-1])) == (0, len(table.code))
        assert table.branch == int(table.start.diff().max())
        assert int(table.start.diff().min()) >= 1
        ranges = zip(table.start[:-1].tolist(), table.start[1:].tolist(), strict=True)
        prefixes = [
            [*prefix, code] for prefix, (low, high) in zip(prefixes, ranges, strict=True) for code in table.code[low:high].tolist()
        ]
    assert prefixes == sorted(map(list, set(map(tuple, codes.tolist()))))
    items = torch.arange(1, len(codes) + 1)
    assert [prefixes[leaf] for leaf in ids.leaf(items).tolist()] == codes.tolist()


@relaxed
@given(code_tables())
def test_counts_against_brute_force(codes: Tensor) -> None:
    ids = SemanticIds(codes)
    groups = Counter(map(tuple, codes.tolist()))
    assert ids.distinct == len(groups)
    assert ids.collided == sum(size for size in groups.values() if size > 1)


@relaxed
@given(code_tables())
def test_prefix_depth_against_brute_force(codes: Tensor) -> None:
    items = torch.arange(len(codes) + 1)
    depth = SemanticIds(codes).prefix_depth(items[:, None], items[None, :])
    for one in items.tolist():
        for other in items.tolist():
            expected = 0
            if one and other:
                same = (codes[one - 1] == codes[other - 1]).tolist()
                expected = same.index(False) if False in same else len(same)
            assert depth[one, other] == expected


@given(codes=code_tables())
@settings(max_examples=20, deadline=None)
def test_save_and_load(tmp_path_factory: pytest.TempPathFactory, codes: Tensor) -> None:
    path: Path = tmp_path_factory.mktemp("ids") / "codes.safetensors"
    ids = SemanticIds(codes, [9] * codes.shape[1])
    ids.save(path)
    loaded = SemanticIds.load(path)
    assert torch.equal(loaded.codes, ids.codes)
    assert (loaded.level_sizes, loaded.fingerprint) == (ids.level_sizes, ids.fingerprint)


def test_fingerprint_tells_codes_sizes_and_order_apart() -> None:
    ids = [SemanticIds(HAND, (3, 4)), SemanticIds(HAND, (3, 5)), SemanticIds(HAND.flip(0), (3, 4)), SemanticIds(HAND[:4], (3, 4))]
    assert len({each.fingerprint for each in ids}) == 4
    assert SemanticIds(HAND.clone(), (3, 4)).fingerprint == ids[0].fingerprint


@pytest.mark.parametrize(
    ("codes", "sizes", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), None, "shape"),
        (torch.zeros(0, 2, dtype=torch.int64), None, "shape"),
        (HAND, (3,), "2 levels of codes but 1 level sizes"),
        (HAND, (3, 2), r"level 2 must lie in 0\.\.1, got 0\.\.2"),
        (HAND - 1, (3, 3), r"level 1 must lie in 0\.\.2, got -1\.\.1"),
    ],
)
def test_refuses_codes_that_do_not_fit(codes: Tensor, sizes: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SemanticIds(codes, sizes)


def test_refuses_items_outside_the_catalogue() -> None:
    ids = SemanticIds(HAND)
    for items in (torch.tensor([6]), torch.tensor([-1])):
        with pytest.raises(InputError, match=r"items must lie in 0\.\.5"):
            ids.tokens(items)
        with pytest.raises(InputError, match=r"items must lie in 0\.\.5"):
            ids.prefix_depth(torch.tensor([1]), items)


def test_refuses_to_lose_items_that_share_a_semantic_id() -> None:
    with pytest.raises(InputError, match="2 of 5 items share a Semantic ID"):
        SemanticIds(HAND).items_of_leaf()


@pytest.mark.parametrize("levels", [1, 3])
def test_lookup_refuses_another_number_of_levels(levels: int) -> None:
    with pytest.raises(InputError, match=f"2 levels, got codes of {levels}"):
        SemanticIds(HAND).lookup(torch.zeros(4, levels, dtype=torch.int64))


def test_leaf_refuses_no_item() -> None:
    with pytest.raises(InputError, match=r"1\.\.5"):
        SemanticIds(HAND).leaf(torch.tensor([0, 1]))
