"""Searches compared with a reference in plain Python, one user and one beam at a time, with many equal scores."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.errors import UsageError
from genrec.item_rows import keys, numbers, ranking, scores
from genrec.model import beam_search, exact_search, trie
from genrec.model.trie import Trie
from genrec.semantic_ids import SemanticIds


class Coarse:
    """A `Decoding` with integer log-probabilities from -`grid` to -1, a hash of the user, the codes before and the code.

    Many are equal (all with `grid` 1), and their sums are exact. The state is one number per beam that encodes its codes.
    """

    def __init__(self, sizes: tuple[int, ...], users: int, grid: int = 3, first_user: int = 0) -> None:
        self.sizes, self.grid = sizes, grid
        self.user = torch.arange(first_user, first_user + users)
        self.decoded: list[tuple[int, int]] = []  # level and number of beams per user, one entry per call

    def start(self) -> tuple[Tensor, Tensor]:
        path = torch.zeros(len(self.user), 1, dtype=torch.int64)
        return self.log_prob(0, path)[:, 0], path

    def advance(self, level: int, state: Tensor, beam: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        self.decoded.append((level, beam.shape[1]))
        path = state.gather(1, beam) * (max(self.sizes) + 1) + code + 1
        return self.log_prob(level + 1, path), path

    def log_prob(self, level: int, path: Tensor) -> Tensor:
        mixed = (path.unsqueeze(-1) * 31 + torch.arange(self.sizes[level])) * 7919 + self.user[:, None, None] * 104729 + level * 17
        return -1.0 - ((mixed * 2654435761 % 2**32) >> 13) % self.grid

    def score(self, user: int, codes: tuple[int, ...]) -> list[float]:
        """Return the log-probability of each code of one user's sequence."""
        path, found = torch.zeros(len(self.user), 1, dtype=torch.int64), []
        for level, code in enumerate(codes):
            found.append(float(self.log_prob(level, path)[user, 0, code]))
            path = path * (max(self.sizes) + 1) + code + 1
        return found


def reference(decoding: Coarse, codes: Tensor, user: int, width: int | None, n: int, out: set[int]) -> tuple[list[int], list[float]]:
    """Run beam search by its documented order; `width` None does not prune. Items of `out` are excluded."""
    allowed = {item: tuple(row) for item, row in enumerate(codes.tolist(), 1) if item not in out}
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    levels = codes.shape[1]
    for depth in range(1, levels + 1):
        children = {sid[:depth] for sid in allowed.values()}
        found = [
            (score + decoding.score(user, prefix)[-1], prefix) for score, beam in beams for prefix in children if prefix[:-1] == beam
        ]
        if depth < levels:
            found.sort(key=lambda each: (-each[0], each[1]))
        else:
            found.sort(key=lambda each: (-each[0], min(item for item, sid in allowed.items() if sid == each[1])))
        beams = found[:width]
    listed = sorted((-score, item) for score, beam in beams for item, sid in allowed.items() if sid == beam)[:n]
    missing = n - len(listed)
    return [item for _, item in listed] + [0] * missing, [-score for score, _ in listed] + [-torch.inf] * missing


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Tensor, tuple[int, ...], Tensor]:
    """Draw codes [N, L] of up to 30 items, often shared; level sizes, with unused codes; and the excluded items of three users."""
    levels = draw(st.integers(1, 4))
    sizes = tuple(draw(st.integers(1, 4)) for _ in range(levels))
    rows = draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in sizes)), min_size=1, max_size=30))
    width = draw(st.integers(0, 12))
    exclude = draw(st.lists(st.lists(st.integers(0, len(rows)), min_size=width, max_size=width), min_size=3, max_size=3))
    return torch.tensor(rows), sizes, torch.tensor(exclude, dtype=torch.int64).reshape(3, width)


@pytest.fixture(params=["dense", "sparse"], scope="module", autouse=True)
def tables(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run every test with a dense table for each level, and without dense tables; chunks hold one or two users."""
    cells = {"dense": (2**16, 10**6), "sparse": (0, 0)}[request.param]
    changed = (mock.patch.object(trie, "SMALL_TABLE", cells[0]), mock.patch.object(trie, "MAX_CELLS_PER_CHILD", cells[1]))
    with changed[0], changed[1], mock.patch.dict(beam_search.MAX_CELLS, cpu=20), mock.patch.object(exact_search, "MAX_PREFIXES", 7):
        yield


@given(worlds(), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 2, 5]), st.booleans())
def test_beams_are_those_of_the_reference(
    world: tuple[Tensor, tuple[int, ...], Tensor], width: int, n: int, grid: int, filtered: bool
) -> None:
    codes, sizes, exclude = world
    n = min(n, width)
    decoding = Coarse(sizes, 3, grid)
    found = Trie(SemanticIds(codes, sizes)).recommend(decoding, width, n, exclude if filtered else None)
    for user in range(3):
        items, values = reference(decoding, codes, user, width, n, set(exclude[user].tolist()) if filtered else set())
        assert found.items[user].tolist() == items
        assert found.scores[user].tolist() == values


@given(worlds(), st.integers(1, 35), st.sampled_from([1, 2, 5]), st.booleans(), st.integers(1, 40), st.sampled_from([1, 20, 2**19]))
def test_exact_scoring_is_the_reference_without_pruning(
    world: tuple[Tensor, tuple[int, ...], Tensor], n: int, grid: int, filtered: bool, cells: int, row_cells: int
) -> None:
    codes, sizes, exclude = world
    decoding = Coarse(sizes, 3, grid)
    with mock.patch.object(exact_search, "MAX_CELLS", cells), mock.patch.dict(beam_search.MAX_CELLS, cpu=row_cells):
        found = Trie(SemanticIds(codes, sizes)).recommend_exactly(decoding, n, exclude if filtered else None)
    for user in range(3):
        items, values = reference(decoding, codes, user, None, n, set(exclude[user].tolist()) if filtered else set())
        assert found.items[user].tolist() == items
        assert found.scores[user].tolist() == values


@given(worlds(), st.integers(1, 6), st.booleans())
def test_lists_do_not_depend_on_other_users_of_the_batch(
    world: tuple[Tensor, tuple[int, ...], Tensor], width: int, filtered: bool
) -> None:
    codes, sizes, exclude = world
    ids = Trie(SemanticIds(codes, sizes))
    out = exclude if filtered else None
    together = ids.recommend(Coarse(sizes, 3), width, width, out)
    for user in range(3):
        alone = ids.recommend(Coarse(sizes, 1, first_user=user), width, width, None if out is None else out[user : user + 1])
        assert torch.equal(alone.items[0], together.items[user])
        assert torch.equal(alone.scores[0], together.scores[user])


def test_equal_scores_inside_the_search_go_by_the_codes() -> None:
    """Two beams, all scores equal. First codes 0 and 1 survive; of their items 1, 2 and 4, the lower two are kept. Item 3 has the
    first code 2 and is pruned, although its id is lower than 4: before the last level ties are broken by codes."""
    codes = torch.tensor([[1, 1], [0, 0], [2, 0], [1, 0]])
    found = Trie(SemanticIds(codes)).recommend(Coarse((3, 2), 1, grid=1), 2, 2, None)
    assert found.items.tolist() == [[1, 2]]
    assert Trie(SemanticIds(codes)).recommend_exactly(Coarse((3, 2), 1, grid=1), 3, None).items.tolist() == [[1, 2, 3]]


class Scripted(Coarse):
    """First codes 0 and 1 score -2 and -1; after 0 codes score -1 and -9, after 1 they score -1 and -2; the last level all -1."""

    def log_prob(self, level: int, path: Tensor) -> Tensor:
        table = {0: [[-2.0, -1.0]], 1: [[0.0, 0.0], [-1.0, -9.0], [-1.0, -2.0]]}.get(level, [[-1.0, -1.0]])
        return torch.tensor(table)[path % len(table)]


def test_equal_scores_go_by_the_codes_even_if_a_beam_was_better_before() -> None:
    """(1, 0) scores -2; (0, 0) and (1, 1) score -3. Two beams keep the lower codes, although 1 was the better first code."""
    ids = Trie(SemanticIds(torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]), (2, 2, 2)))
    assert ids.recommend(Scripted((2, 2, 2), 1), 2, 2, None).items.tolist() == [[2, 3]]
    assert ids.recommend(Scripted((2, 2, 2), 1), 2, 2, torch.tensor([[3]])).items.tolist() == [[2, 1]]
    assert ids.recommend(Scripted((2, 2, 2), 1), 2, 2, torch.tensor([[2]])).items.tolist() == [[1, 3]]


def test_ties_ignore_excluded_items_of_a_shared_leaf() -> None:
    """Items 1 and 9 share a Semantic ID. With item 1 excluded, item 2 of the other leaf comes before item 9, even with one beam."""
    codes = torch.tensor([[0], [1], [2], [2], [2], [2], [2], [2], [0]])
    ids = Trie(SemanticIds(codes))
    exclude = torch.tensor([[1, 3, 4, 5, 6, 7, 8, 0, 3]])
    assert ids.recommend(Coarse((3,), 1, grid=1), 1, 1, exclude).items.tolist() == [[2]]


def test_every_prefix_is_decoded_once_in_exact_scoring() -> None:
    """Four first codes and ten pairs, in chunks of at most 7 prefixes; none is decoded twice.

    The list has all items, so that no prefix is left out.
    """
    codes = torch.tensor([[a, b, c] for a in range(4) for b in range(a + 1) for c in range(2)])
    decoding = Coarse((4, 4, 2), 1)
    Trie(SemanticIds(codes)).recommend_exactly(decoding, len(codes), None)
    assert sum(beams for level, beams in decoding.decoded if level == 0) == 4
    assert sum(beams for level, beams in decoding.decoded if level == 1) == 10
    assert max(beams for _, beams in decoding.decoded) <= 7


class Peaked(Coarse):
    """Code 0 scores -1 and every other code -10, on every level."""

    def log_prob(self, level: int, path: Tensor) -> Tensor:
        found = torch.full((*path.shape, self.sizes[level]), -10.0)
        found[..., 0] = -1.0
        return found


def test_exact_scoring_leaves_out_prefixes_below_the_list() -> None:
    """Three levels of four codes, one prefix decoded at a time. The best items are (0, 0, 0), -3, and (0, 0, 1), -12.

    After (0) and (0, 0) the list of two is full. (0, 1) scores -11, above -12, so that it is decoded, as are the other pairs after 0
    and the first codes, -10; their pairs (a, 0), -11, are decoded as well, but no (a, b), -20.
    """
    codes = torch.cartesian_prod(*(torch.arange(4) for _ in range(3)))
    decoding = Peaked((4, 4, 4), 1)
    with mock.patch.object(exact_search, "MAX_PREFIXES", 1):
        found = Trie(SemanticIds(codes)).recommend_exactly(decoding, 2, None)
    assert found.items.tolist() == [[1, 2]]
    assert found.scores.tolist() == [[-3.0, -12.0]]
    assert [sum(level == each for level, _ in decoding.decoded) for each in (0, 1)] == [4, 4 + 3]  # of 4 and 16


def test_nan_log_probabilities_give_nan_scores() -> None:
    """A user with NaN log-probabilities gets NaN scores, which evaluation reports as an error; other users get their lists."""

    class WithNaN(Coarse):
        def log_prob(self, level: int, path: Tensor) -> Tensor:
            found = super().log_prob(level, path)
            found[1] = torch.nan if level == 1 else found[1]
            return found

    ids = Trie(SemanticIds(torch.tensor([[0, 0], [0, 1], [1, 0]])))
    for found in (ids.recommend(WithNaN((2, 2), 3), 2, 2, None), ids.recommend_exactly(WithNaN((2, 2), 3), 2, None)):
        assert found.scores[1].isnan().all()
        assert torch.isfinite(found.scores[[0, 2]]).all()


def test_more_items_than_beams_raise_but_not_in_exact_scoring() -> None:
    ids = Trie(SemanticIds(torch.tensor([[0], [1], [2]])))
    with pytest.raises(UsageError, match="a list of 3 items needs at least 3 beams"):
        ids.recommend(Coarse((3,), 1), 2, 3, None)
    assert sorted(ids.recommend_exactly(Coarse((3,), 1), 3, None).items[0].tolist()) == [1, 2, 3]


@given(st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.integers(0, 2**31 - 1)), min_size=1, max_size=20))
def test_keys_are_in_the_order_of_score_then_number(pairs: list[tuple[float, int]]) -> None:
    score, number = torch.tensor([pair[0] for pair in pairs]), torch.tensor([pair[1] for pair in pairs])
    key = keys(score, number)
    assert torch.equal(scores(key), score)
    assert torch.equal(numbers(key), number)
    order = key.argsort(stable=True).tolist()
    assert [pairs[place] for place in order] == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


def test_a_ranking_with_fewer_items_than_requested() -> None:
    key = keys(torch.tensor([[0.0, -torch.inf, -2.0]]), torch.tensor([[4, 5, 6]]))
    found = ranking(key, 4, torch.tensor([False]))
    assert found.items.tolist() == [[4, 6, 0, 0]]
    assert found.scores.tolist() == [[0.0, -2.0, -torch.inf, -torch.inf]]
