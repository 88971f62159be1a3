"""Semantic IDs that several items share: a beam is a leaf, and each of its items takes a slot of the list."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.errors import UsageError
from genrec.model import Tiger, TigerPolicy
from genrec.model.item_lists import Beams, LeafItems, exclude_items, rank_items
from genrec.semantic_ids import SemanticIds

SMALL = Tiger(d_model=16, d_ff=32, num_heads=2, d_kv=8, num_encoder_layers=1, num_decoder_layers=1, dropout=0.1, num_beams=30)

# Leaf 0 is items 4 and 9, leaf 1 item 1, leaf 2 items 2, 3 and 8, leaf 3 items 5, 6 and 7.
ITEMS = torch.tensor([4, 9, 1, 2, 3, 8, 5, 6, 7], dtype=torch.int32)
PLACES = torch.tensor([9, *((item == ITEMS).int().argmax() for item in range(1, 10))], dtype=torch.int32)
LEAVES = LeafItems(torch.tensor([0, 2, 3, 6, 9], dtype=torch.int32), ITEMS, PLACES, 3)
STARTS = [torch.tensor([0, 4], dtype=torch.int32)]  # one level: all leaves are children of the root


def shared_policy(items: int = 60, sizes: tuple[int, ...] = (3, 2, 4), seed: int = 0, specification: Tiger = SMALL) -> TigerPolicy:
    """Return an untrained policy of random codes: 60 items share at most 24 Semantic IDs."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, size, (items,), generator=generator) for size in sizes], 1)
    torch.manual_seed(seed)
    return specification.build(SemanticIds(codes, sizes)).eval()


def histories(batch: int, length: int, items: int, seed: int = 1) -> Tensor:
    return torch.randint(0, items + 1, (batch, length), generator=torch.Generator().manual_seed(seed))


def lists(beams: Beams, n: int, exclude: list[list[int]] | None = None) -> list[list[int]]:
    excluded = exclude_items(LEAVES, STARTS, None if exclude is None else torch.tensor(exclude))
    return rank_items(beams, LEAVES, excluded, n).items.tolist()


def test_leaves_are_expanded_to_their_items() -> None:
    """With scores 2, 1, 0 and none, all items of a leaf come before those of the next, by id within a leaf, up to `n` items."""
    beams = Beams(torch.tensor([[2, 0, 1, 3]]), torch.tensor([[2.0, 1.0, 0.0, -torch.inf]]))
    assert lists(beams, 4) == [[2, 3, 8, 4]]
    assert lists(beams, 1) == [[2]]
    assert lists(beams, 8) == [[2, 3, 8, 4, 9, 1, 0, 0]]
    ranking = rank_items(beams, LEAVES, None, 8)
    assert ranking.scores.tolist() == [[2, 2, 2, 1, 1, 0, -torch.inf, -torch.inf]]


def test_items_of_leaves_with_equal_scores_are_ordered_by_id() -> None:
    beams = Beams(torch.tensor([[2, 3, 0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert lists(beams, 7) == [[2, 3, 5, 6, 7, 8, 4]]


def test_excluded_items_make_room_for_the_rest_of_their_leaf() -> None:
    """Each user has other excluded items, some twice, 0 = none; a leaf is excluded only if all of its items are."""
    beams = Beams(torch.tensor([[2, 0, 1], [2, 3, 1]]), torch.tensor([[2.0, 1.0, 0.0]] * 2))
    exclude = [[3, 3, 9, 0], [2, 8, 7, 5]]
    assert lists(beams, 2, exclude) == [[2, 8], [3, 6]]
    assert lists(beams, 5, exclude) == [[2, 8, 4, 1, 0], [3, 6, 1, 0, 0]]
    excluded = exclude_items(LEAVES, STARTS, torch.tensor([[4, 9, 1, 2], [5, 6, 7, 9]]))
    assert excluded is not None
    assert [nodes.tolist() for nodes in excluded.nodes] == [[[0, 1], [3, 4]]]  # 4 is not a leaf, it pads the row


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.booleans())
def test_a_beam_as_wide_as_the_leaves_is_brute_force(seed: int, n: int, exclude: bool) -> None:
    """All items by log-probability, equal scores by id, without excluded items."""
    policy = shared_policy(seed=seed)
    history = histories(4, 5, 60, seed)
    taken = histories(4, 25, 60, seed + 1) if exclude else None
    scores = policy.log_prob(history, torch.arange(1, 61).expand(4, -1))
    if taken is not None:
        scores = torch.nn.functional.pad(scores, (1, 0)).scatter(1, taken, -torch.inf)[:, 1:]
    ranking = policy.recommend(history, n, taken)
    expected = scores.sort(dim=1, descending=True).values[:, :n]
    torch.testing.assert_close(ranking.scores, expected, atol=1e-4, rtol=1e-4)
    assert ((ranking.items == 0) == (expected == -torch.inf)).all()
    named = [[item for item in row if item] for row in ranking.items.tolist()]
    assert all(len(set(row)) == len(row) for row in named)
    if taken is not None:
        assert not any(set(row) & set(out) for row, out in zip(named, taken.tolist(), strict=True))
    leaves = policy.semantic_ids.leaf(ranking.items.clamp(min=1))
    for row, leaf in zip(ranking.items.tolist(), leaves.tolist(), strict=True):
        assert all(a < b for a, b, x, y in zip(row, row[1:], leaf, leaf[1:], strict=False) if x == y and b)


def test_one_leaf_can_fill_the_list() -> None:
    """40 items share one Semantic ID and 2 another: the list has the first n ids of the likelier one, whatever the number of beams."""
    ids = SemanticIds(torch.tensor([[0]] * 40 + [[1]] * 2), (2,))
    policy = replace(SMALL, num_beams=10).build(ids).eval()
    with torch.no_grad():
        policy.heads[0].weight.zero_()
    history = torch.ones(1, 3, dtype=torch.int64)
    assert policy.recommend(history, 10).items.tolist() == [list(range(1, 11))]
    assert policy.recommend(history, 10, torch.arange(1, 36)[None]).items.tolist() == [[36, 37, 38, 39, 40, 41, 42, 0, 0, 0]]
    with pytest.raises(UsageError, match="a list of 11 items needs at least 11 beams"):
        policy.recommend(history, 11)


def test_no_beam_is_lost_to_an_excluded_leaf() -> None:
    """Two beams, three leaves; all items of the likeliest leaf are excluded, and the beams find both others."""
    policy = replace(SMALL, num_beams=2).build(SemanticIds(torch.tensor([[0], [0], [1], [2]]), (3,))).eval()
    with torch.no_grad():
        policy.heads[0].weight.zero_()
    assert policy.recommend(torch.tensor([[1]]), 2, torch.tensor([[1, 2]])).items.tolist() == [[3, 4]]
    assert policy.recommend(torch.tensor([[1]]), 2, torch.tensor([[1, 0]])).items.tolist() == [[2, 3]]


def test_lists_do_not_depend_on_the_batch() -> None:
    policy = shared_policy()
    history, taken = histories(6, 5, 60), histories(6, 40, 60, 3)
    together = policy.recommend(history, 20, taken).items
    for row in range(6):
        assert torch.equal(policy.recommend(history[row : row + 1], 20, taken[row : row + 1]).items[0], together[row])
