"""Exact scoring and beam search compared with every item's log-probability, and the memory of a large catalog's tables."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import CountedElements
from torch import Tensor

from genrec.item_rows import keys, scores
from genrec.model import Tiger, TigerPolicy, exact_search
from genrec.model.beam_search import Level
from genrec.model.tiger_sizes import PAPER
from genrec.model.trie import Trie
from genrec.semantic_ids import SemanticIds

SMALL = Tiger(d_model=16, d_ff=32, num_heads=2, d_kv=8, num_encoder_layers=1, num_decoder_layers=1, dropout=0.1, num_beams=5)
LARGE = 1_000_000


def policy_of(items: int, sizes: tuple[int, ...], seed: int = 0) -> TigerPolicy:
    """Return an untrained policy over random Semantic IDs, some of them shared."""
    source = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, size, (items,), generator=source) for size in sizes], 1)
    torch.manual_seed(seed)
    return SMALL.build(SemanticIds(codes, sizes)).eval()


def histories(batch: int, length: int, items: int, seed: int = 1) -> Tensor:
    return torch.randint(0, items + 1, (batch, length), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 80), st.booleans(), st.sampled_from([3, 50, 2**13]))
def test_exact_scoring_is_every_items_log_probability(seed: int, n: int, filtered: bool, rows: int) -> None:
    """60 items share at most 24 Semantic IDs; chunks hold one, some or all prefixes; the number of beams (5) has no effect."""
    policy = policy_of(60, (3, 2, 4), seed)
    history = histories(3, 5, 60, seed)
    taken = histories(3, 30, 60, seed + 1) if filtered else None
    expected = policy.log_prob(history, torch.arange(1, 61).expand(3, -1))
    if taken is not None:
        expected = torch.nn.functional.pad(expected, (1, 0)).scatter(1, taken, -torch.inf)[:, 1:]
    with mock.patch.object(exact_search, "MAX_PREFIXES", rows):
        found = policy.recommend_exactly(history, n, taken)
    best = torch.nn.functional.pad(expected.sort(dim=1, descending=True).values, (0, 80), value=-torch.inf)[:, :n]
    torch.testing.assert_close(found.scores, best, atol=1e-4, rtol=1e-4)
    of_items = torch.nn.functional.pad(expected, (1, 0), value=-torch.inf).gather(1, found.items)
    torch.testing.assert_close(of_items, found.scores, atol=1e-4, rtol=1e-4)  # the items are those with these scores
    named = [[item for item in row if item] for row in found.items.tolist()]
    assert all(len(set(row)) == len(row) for row in named)


def test_a_wide_beam_and_exact_scoring_agree_and_a_narrow_one_loses() -> None:
    policy = policy_of(400, (8, 8, 8))
    history = histories(40, 6, 400)
    oracle = policy.recommend_exactly(history, 20)
    for beams, exactly in ((500, True), (20, False)):
        found = policy.trie.recommend(policy.decoding(history), beams, 20, None)
        assert torch.allclose(found.scores, oracle.scores, atol=1e-4) == exactly
        assert (found.scores <= oracle.scores + 1e-4).all()


@pytest.fixture(scope="module")
def large() -> Trie:
    codes = torch.randint(0, 256, (LARGE, 4), generator=torch.Generator().manual_seed(0))
    return Trie(SemanticIds(codes, (256,) * 4))


def num_bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_tables_of_a_million_items_take_less_than_100_mb(large: Trie) -> None:
    """Bound the tables on the device and those of the Semantic IDs on the CPU; on a CPU they share most of their memory."""
    ids = large.semantic_ids
    own = [ids.codes, *ids.items_by_leaf(), ids._leaf_of_item, *(each for table in ids.tables for each in (table.start, table.code))]
    assert num_bytes(list(large.buffers())) < 45e6
    assert num_bytes(own) < 60e6
    held = {tensor.data_ptr(): tensor for tensor in [*own, *large.buffers()]}
    assert num_bytes(list(held.values())) < 85e6
    assert [level.dense for level in large.levels] == [True, True, False, False]


@pytest.mark.parametrize("sizes", [(100,) * 3, (2,) * 20, (LARGE,), (1000, 1000), (16,) * 8])
def test_no_shape_of_the_trie_takes_more(sizes: tuple[int, ...]) -> None:
    """More levels have more codes to store; a dense table never has more cells than twice the number of items."""
    items = LARGE // 10
    codes = torch.stack([torch.randint(0, size, (items,), generator=torch.Generator().manual_seed(size)) for size in sizes], 1)
    trie = Trie(SemanticIds(codes, sizes))
    cells = sum(0 if level.child is None else level.child.numel() for level in trie.levels)
    assert cells <= max(2 * items, 2**16) * len(sizes)
    if len(sizes) <= 4:
        assert num_bytes(list(trie.buffers())) < 100e6 / 10


class RandomDecoding:
    """A `Decoding` with log-probabilities drawn in advance, which computes nothing."""

    def __init__(self, users: int, beams: int, sizes: tuple[int, ...]) -> None:
        source = torch.Generator().manual_seed(0)
        self.levels = [torch.randn(users, beams, size, generator=source).log_softmax(-1) for size in sizes]

    def start(self) -> tuple[Tensor, None]:
        return self.levels[0][:, 0], None

    def advance(self, level: int, state: None, beam: Tensor, code: Tensor) -> tuple[Tensor, None]:
        return self.levels[level + 1][:, : beam.shape[1]], None


@pytest.mark.parametrize("beams", [20, 50])
def test_the_trie_is_a_small_part_of_decoding_a_million_items(large: Trie, beams: int) -> None:
    """The search alone makes 5 numbers for each candidate of 4 levels, however many items there are; TIGER makes 100 times as many."""
    users, sizes = 8, (256,) * 4
    policy = Tiger(**PAPER._asdict(), num_beams=beams).build(SemanticIds(torch.arange(1024).view(256, 4) % 256, sizes)).eval()
    history, random_decoding = histories(users, 20, 256), RandomDecoding(users, beams, sizes)
    with torch.no_grad(), CountedElements() as search:
        large.recommend(random_decoding, beams, 20, None)
    with torch.no_grad(), CountedElements() as decoding:
        policy.trie.recommend(policy.decoding(history), beams, 20, None)
    assert search.elements < 6 * users * beams * sum(sizes)
    assert search.elements < 0.01 * decoding.elements


def test_one_level_of_many_codes_has_no_dense_table() -> None:
    """With one level in which every code is an item, the list equals a sort of all scores."""
    items = LARGE // 4
    order = torch.randperm(items, generator=torch.Generator().manual_seed(1))
    trie = Trie(SemanticIds(order.unsqueeze(1), (items,)))
    level: Level = trie.levels[0]
    assert (level.full, level.child) == (True, None)
    decoding = RandomDecoding(2, 1, (items,))
    for found in (trie.recommend(decoding, 10, 10, None), trie.recommend_exactly(decoding, 10, None)):
        values, codes = decoding.levels[0][:, 0].topk(10)
        assert torch.equal(found.scores, values)
        assert torch.equal(order[found.items - 1], codes)


def test_rows_of_narrower_parts_end_in_keys_that_lose_to_every_leaf() -> None:
    """Two users' leaves beside one user's: the padding has the score -inf, so that it is no leaf and no bound."""
    wide, narrow = keys(torch.tensor([[-1.0, -2.0]]), torch.tensor([[3, 4]])), keys(torch.tensor([[-1e30]]), torch.tensor([[7]]))
    key, leaf = exact_search.join_rows([wide, narrow], [torch.tensor([[3, 4]]), torch.tensor([[7]])])
    assert scores(key).tolist() == [[-1.0, -2.0], [pytest.approx(-1e30), -torch.inf]]
    assert leaf.tolist() == [[3, 4], [7, 0]]
    assert key[1, 0] < key[1, 1]
