"""Semantic IDs: codes, tokens, lookup, collisions and the trie, by hand and against brute force."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import python_calls
from safetensors.torch import save_file
from torch import Tensor

from genrec.errors import ArtifactError, InputError
from genrec.semantic_ids import SemanticIds, lowest_free, row_keys

# Items 1..5. Sorted: (0,1) item 3, (0,2) items 2 and 5, (1,0) item 4, (2,1) item 1.
HAND = torch.tensor([[2, 1], [0, 2], [0, 1], [1, 0], [0, 2]])

relaxed = settings(deadline=None)  # the first example includes imports, and the machine may be busy


@st.composite
def code_tables(draw: st.DrawFn) -> Tensor:
    """Draw codes [N, L] from a small alphabet, so that collisions and shared prefixes are common."""
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
    assert {tensor.dtype for tensor in (root.start, root.code, second.start, second.code)} == {torch.int32}


def test_level_sizes_default_to_the_largest_code_plus_one() -> None:
    assert SemanticIds(HAND).level_sizes == (3, 3)
    assert SemanticIds(HAND, [256, 256]).level_sizes == (256, 256)


def test_one_item() -> None:
    ids = SemanticIds(torch.tensor([[7]]))
    assert [each.tolist() for each in ids.items_by_leaf()] == [[0, 1], [1]]
    assert ids.lookup(torch.tensor([[7], [6]])).tolist() == [1, 0]


def test_items_by_leaf_follow_lexicographic_order() -> None:
    start, items = SemanticIds(HAND).items_by_leaf()
    assert (start.tolist(), items.tolist()) == ([0, 1, 3, 4, 5], [3, 2, 5, 4, 1])


def test_shared_by_hand() -> None:
    assert SemanticIds(HAND).shared(torch.tensor([[1, 2], [5, 0]])).tolist() == [[1, 2], [2, 0]]


def test_keys_of_more_semantic_ids_than_an_int64_can_number() -> None:
    """Sixteen levels of 256 codes: 2^128 possible Semantic IDs."""
    codes = torch.randint(0, 256, (300, 16), generator=torch.Generator().manual_seed(0))
    codes = torch.cat([codes, codes[:50], torch.full((1, 16), 255)])
    ids = SemanticIds(codes)
    ordered = sorted(set(map(tuple, codes.tolist())))
    assert (ids.distinct, ids.collided) == (301, 100)
    assert [ordered[leaf] for leaf in ids.leaf(torch.arange(1, 352)).tolist()] == list(map(tuple, codes.tolist()))
    assert len(row_keys(codes).unique()) == 301


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
    requested = data.draw(st.lists(st.lists(st.integers(-2, 6), min_size=levels, max_size=levels), min_size=1, max_size=20))
    known = codes.tolist()
    expected = [known.index(row) + 1 if row in known else 0 for row in requested]
    assert SemanticIds(codes).lookup(torch.tensor(requested)).tolist() == expected


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
    assert ids.shared(torch.arange(1, len(codes) + 1)).tolist() == [groups[tuple(row)] for row in codes.tolist()]
    start, items = ids.items_by_leaf()
    for leaf, sid in enumerate(sorted(groups)):
        assert items[start[leaf] : start[leaf + 1]].tolist() == [i for i, row in enumerate(codes.tolist(), 1) if tuple(row) == sid]


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


def test_fingerprint_depends_on_codes_sizes_and_order() -> None:
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
def test_invalid_codes_raise(codes: Tensor, sizes: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SemanticIds(codes, sizes)


def test_items_outside_the_catalog_raise() -> None:
    ids = SemanticIds(HAND)
    for items in (torch.tensor([6]), torch.tensor([-1])):
        with pytest.raises(InputError, match=r"items must lie in 0\.\.5"):
            ids.tokens(items)
        with pytest.raises(InputError, match=r"items must lie in 0\.\.5"):
            ids.prefix_depth(torch.tensor([1]), items)


def test_shared_raises_for_items_outside_the_catalog() -> None:
    with pytest.raises(InputError, match=r"items must lie in 0\.\.5, got 6\.\.6"):
        SemanticIds(HAND).shared(torch.tensor([6]))


@pytest.mark.parametrize("levels", [1, 3])
def test_lookup_raises_for_another_number_of_levels(levels: int) -> None:
    with pytest.raises(InputError, match=f"2 levels, got codes of {levels}"):
        SemanticIds(HAND).lookup(torch.zeros(4, levels, dtype=torch.int64))


def test_leaf_raises_for_item_0() -> None:
    with pytest.raises(InputError, match=r"1\.\.5"):
        SemanticIds(HAND).leaf(torch.tensor([0, 1]))


# Extending a catalog. Prefix (0, 2) has taken last codes 0, 1 and 3, prefix (1, 1) has 0; the last level has 5 codes.
TAKEN = torch.tensor([[0, 2, 0], [0, 2, 3], [1, 1, 0], [0, 2, 1]])
GROWING = (3, 4, 5)


def test_extend_by_the_lowest_free_last_code() -> None:
    """(0, 2) gets 2, 4 and then 5, which enlarges the level; (1, 1) gets 1; the new prefix (2, 0) gets 0."""
    ids = SemanticIds(TAKEN, GROWING)
    extended = ids.extend(torch.tensor([[0, 2], [1, 1], [0, 2], [2, 0], [0, 2]]))
    assert extended.codes[:4].tolist() == TAKEN.tolist()
    assert extended.codes[4:].tolist() == [[0, 2, 2], [1, 1, 1], [0, 2, 4], [2, 0, 0], [0, 2, 5]]
    assert (extended.level_sizes, extended.collided) == ((3, 4, 6), 0)
    assert ids.level_sizes == GROWING


def test_extend_keeps_complete_codes_and_warns_of_shared_ones() -> None:
    ids = SemanticIds(TAKEN, GROWING)
    with pytest.warns(UserWarning, match="3 of 4 new items share their Semantic ID with another item"):
        extended = ids.extend(np.array([[0, 2, 3], [2, 3, 4], [2, 2, 2], [2, 2, 2]]))
    assert (extended.items, extended.collided, extended.level_sizes) == (8, 4, GROWING)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids.extend(torch.tensor([[0, 2, 2]])).collided == 0


def test_extend_by_no_items() -> None:
    ids = SemanticIds(TAKEN, GROWING)
    for width in (2, 3):
        assert ids.extend(torch.empty(0, width, dtype=torch.int64)).fingerprint == ids.fingerprint


def test_extend_one_level() -> None:
    """With one level there is no prefix: new items get the lowest unused codes."""
    ids = SemanticIds(torch.tensor([[4], [0], [1]]))
    assert ids.extend(torch.empty(4, 0, dtype=torch.int64)).codes.squeeze(1).tolist() == [4, 0, 1, 2, 3, 5, 6]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.tensor([[0, 4]]), r"level 2 has codes 0\.\.3, but 1 of 1 new items lie outside, the first in row 0 with 4"),
        (
            torch.tensor([[0, 0, 0], [0, 0, 5], [0, 0, 9]]),
            r"0\.\.4, but 2 of 3 new items lie outside, the first in row 1 with 5",
        ),
        (torch.tensor([[-1, 0]]), r"level 1 has codes 0\.\.2"),
        (torch.tensor([[0]]), r"codes int64 \[items, 3\], or \[items, 2\].*got int64 \[1, 1\]"),
        (torch.tensor([0, 0]), r"got int64 \[2\]"),
        (torch.tensor([[0.0, 0.0]]), r"got float32 \[1, 2\]"),
    ],
)
def test_extend_raises(codes: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SemanticIds(TAKEN, GROWING).extend(codes)


@st.composite
def growing(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw codes [N, L] of existing items and prefixes [M, L - 1] of new items from a small alphabet."""
    levels = draw(st.integers(1, 3))
    old = draw(st.lists(st.lists(st.integers(0, 4), min_size=levels, max_size=levels), min_size=1, max_size=20))
    new = draw(st.lists(st.lists(st.integers(0, 4), min_size=levels - 1, max_size=levels - 1), max_size=20))
    return torch.tensor(old), torch.tensor(new, dtype=torch.int64).reshape(len(new), levels - 1)


@relaxed
@given(growing())
def test_lowest_free_against_a_loop(pair: tuple[Tensor, Tensor]) -> None:
    taken, prefixes = pair
    held = {tuple(row) for row in taken.tolist()}
    expected = []
    for prefix in prefixes.tolist():
        code = next(code for code in range(1000) if (*prefix, code) not in held)
        held.add((*prefix, code))
        expected.append(code)
    assert lowest_free(prefixes, taken).tolist() == expected


@relaxed
@given(growing(), st.integers(0, 20))
def test_extending_twice_equals_extending_once_and_existing_tokens_stay(pair: tuple[Tensor, Tensor], cut: int) -> None:
    taken, prefixes = pair
    ids = SemanticIds(taken, [5] * taken.shape[1])
    once = ids.extend(prefixes)
    twice = ids.extend(prefixes[:cut]).extend(prefixes[cut:])
    assert (once.fingerprint, once.level_sizes) == (twice.fingerprint, twice.level_sizes)
    old = torch.arange(ids.items + 1)
    assert torch.equal(once.tokens(old), ids.tokens(old))
    assert torch.equal(once.offsets, ids.offsets)
    assert once.extends(ids)
    assert once.extends(twice)
    assert ids.extends(once) == (len(prefixes) == 0)
    assert (once.fingerprint != ids.fingerprint) == (len(prefixes) > 0)
    new = torch.arange(ids.items + 1, once.items + 1)
    assert (once.shared(new) == 1).all()


def test_extends_requires_equal_codes_and_tokens() -> None:
    ids = SemanticIds(TAKEN, GROWING)
    assert SemanticIds(TAKEN, (3, 4, 9)).extends(ids)
    others = [
        SemanticIds(TAKEN[:3], GROWING),
        SemanticIds(TAKEN.flip(0), GROWING),
        SemanticIds(TAKEN, (3, 4, 4)),
        SemanticIds(TAKEN, (3, 5, 5)),
        SemanticIds(TAKEN[:, :2], (3, 4)),
    ]
    assert not any(other.extends(ids) for other in others)


def test_a_million_items_and_a_hundred_thousand_new_items() -> None:
    """No loop runs over the items: the number of calls is the same for any number of them."""
    source = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 64, (1_000_000, 4), generator=source)
    codes[:, 3] = lowest_free(codes[:, :3], codes[:0])
    calls, ids = python_calls(lambda: SemanticIds(codes))
    more_calls, extended = python_calls(lambda: ids.extend(torch.randint(0, 64, (100_000, 3), generator=source)))
    assert calls + more_calls < 1000
    assert (ids.collided, extended.collided, extended.items) == (0, 0, 1_100_000)
    assert extended.extends(ids)


def test_load_raises_for_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    with pytest.raises(ArtifactError, match=r"codes\.safetensors can't be read"):
        SemanticIds.load(path)
    SemanticIds(TAKEN, GROWING).save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-8], b"", b"PK\x03\x04" + whole):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"codes\.safetensors can't be read") as error:
            SemanticIds.load(path)
        assert error.value.exit_code == 4
    sizes = torch.tensor(GROWING)
    foreign = [
        {"vectors": torch.ones(3, 2)},
        {"codes": TAKEN},
        {"codes": TAKEN.float(), "level_sizes": sizes},
        {"codes": sizes.clone(), "level_sizes": sizes},
    ]
    for tensors in foreign:
        save_file(tensors, path)
        with pytest.raises(ArtifactError, match="holds no Semantic IDs: expected codes int64"):
            SemanticIds.load(path)
    save_file({"codes": TAKEN, "level_sizes": torch.tensor([3, 4, 3])}, path)
    with pytest.raises(ArtifactError, match=r"is damaged: codes of level 3 must lie in 0\.\.2, got 0\.\.3"):
        SemanticIds.load(path)


def test_float_codes_raise() -> None:
    with pytest.raises(InputError, match=r"Semantic IDs need integer codes, got torch\.float32"):
        SemanticIds(torch.rand(3, 3) * 5)
