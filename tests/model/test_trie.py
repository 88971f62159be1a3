"""Trie: constrained log-probabilities, search below a prefix and item vectors, compared with brute force."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import POLICIES, build, catalog, histories
from torch import Tensor

from genrec.errors import UsageError
from genrec.model import trie
from genrec.model.trie import Trie
from genrec.semantic_ids import SemanticIds
from genrec.types import ConstrainedPolicy, PrefixPolicy, VectorPolicy

EVERY = pytest.mark.parametrize("name", POLICIES)
SIZES = (5, 4, 6)


@pytest.fixture(params=["dense", "sparse"], scope="module", autouse=True)
def tables(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run every test with a dense table for each level, and without dense tables."""
    cells = {"dense": (2**16, 10**6), "sparse": (0, 0)}[request.param]
    with mock.patch.object(trie, "SMALL_TABLE", cells[0]), mock.patch.object(trie, "MAX_CELLS_PER_CHILD", cells[1]):
        yield


@st.composite
def worlds(draw: st.DrawFn) -> SemanticIds:
    """Draw Semantic IDs of up to 30 items and 1 to 4 levels, often shared, with unused codes."""
    sizes = tuple(draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 4))))
    rows = draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in sizes)), min_size=1, max_size=30))
    return SemanticIds(torch.tensor(rows), sizes)


def siblings(ids: SemanticIds, item: int, level: int) -> list[int]:
    """Return the codes of a level that follow the item's first codes, found by a loop over all items."""
    mine = ids.codes[item - 1, :level].tolist()
    return sorted({int(row[level]) for row in ids.codes if row[:level].tolist() == mine})


def brute_force(ids: SemanticIds, levels: list[Tensor], items: Tensor) -> Tensor:
    """Return log(p(code) / sum of p(sibling)), candidate by candidate; `levels` are float32 [B, M, C] each."""
    found = torch.full((*items.shape, ids.levels), -torch.inf)
    for row, column in (items > 0).nonzero().tolist():
        item = int(items[row, column])
        for level, log_probs in enumerate(levels):
            share = log_probs[row, column].exp()
            own = share[ids.codes[item - 1, level]]
            found[row, column, level] = torch.log(own / share[siblings(ids, item, level)].sum())
    return found


def everything(policy: Any, batch: int) -> Tensor:
    return torch.arange(1, policy.semantic_ids.items + 1).expand(batch, -1)


def test_by_hand() -> None:
    """Two levels of 3 codes; items (0, 0), (0, 2), (2, 1): first codes 0 and 2, after 0 the codes 0 and 2, after 2 only 1.

    p = 0.5, 0.3, 0.2 on both levels. Item 1: 0.5/(0.5+0.2) and 0.5/(0.5+0.2); item 2: 0.5/0.7 and 0.2/0.7; item 3: 0.2/0.7 and 1.
    """
    ids = Trie(SemanticIds(torch.tensor([[0, 0], [0, 2], [2, 1]]), (3, 3)))
    level = torch.tensor([0.5, 0.3, 0.2]).log().expand(1, 1, 3)
    found = ids.item_log_probs([level, level], torch.tensor([[1, 2, 3, 0]]), constrained=True).exp()
    expected = torch.tensor([[[5 / 7, 5 / 7], [5 / 7, 2 / 7], [2 / 7, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(found, expected)
    plain = ids.item_log_probs([level, level], torch.tensor([[1, 2, 3, 0]]), constrained=False).exp()
    torch.testing.assert_close(plain, torch.tensor([[[0.5, 0.5], [0.5, 0.2], [0.2, 0.3], [0.0, 0.0]]]))


@given(worlds(), st.integers(0, 1000))
def test_every_trie_against_brute_force(ids: SemanticIds, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    items = torch.randint(0, ids.items + 1, (2, 7), generator=source)
    levels = [(3 * torch.randn(2, 7, size, generator=source)).log_softmax(-1) for size in ids.level_sizes]
    found = Trie(ids).item_log_probs(levels, items, constrained=True)
    torch.testing.assert_close(found, brute_force(ids, levels, items), atol=1e-5, rtol=1e-5)
    assert (found <= 0).all()


@given(worlds())
def test_nodes_are_the_numbers_of_prefixes(ids: SemanticIds) -> None:
    """A node's number is the index of its prefix among all distinct prefixes of its length, in lexicographic order."""
    rows = [tuple(row) for row in ids.codes.tolist()]
    for depth, node in enumerate(Trie(ids).nodes(torch.arange(1, ids.items + 1))):
        prefixes = sorted({row[:depth] for row in rows})
        assert node.tolist() == [prefixes.index(row[:depth]) for row in rows]


@EVERY
def test_protocols(name: str) -> None:
    policy = build(POLICIES[name], catalog(50))
    assert isinstance(policy, ConstrainedPolicy)
    assert isinstance(policy, PrefixPolicy)
    assert isinstance(policy, VectorPolicy)


@EVERY
def test_probabilities_of_all_items_add_up_to_one(name: str) -> None:
    """Constrained probabilities add up to 1; those over all codes to less, since only 50 of 120 code sequences are items."""
    policy, history = build(POLICIES[name], catalog(50)), histories(4, 6, 50)
    items = everything(policy, 4)
    constrained = policy.constrained_level_log_prob(history, items)
    torch.testing.assert_close(constrained.sum(-1).exp().sum(1), torch.ones(4))
    plain = policy.level_log_prob(history, items)
    if name == "tiger-catalog":
        torch.testing.assert_close(plain, constrained)
    else:
        assert (plain.sum(-1).exp().sum(1) < 1).all()
    assert (constrained >= plain - 1e-5).all()


@EVERY
def test_a_full_trie_changes_nothing(name: str) -> None:
    """If all 120 code sequences are items, constrained and unconstrained log-probabilities are equal."""
    policy, history = build(POLICIES[name], catalog(120)), histories(3, 6, 120)
    items = everything(policy, 3)
    found = policy.constrained_level_log_prob(history, items)
    torch.testing.assert_close(found, policy.level_log_prob(history, items), atol=1e-5, rtol=0)


@EVERY
def test_candidate_0_is_minus_infinity_and_has_no_gradient(name: str) -> None:
    policy = build(POLICIES[name], catalog(50))
    found = policy.constrained_level_log_prob(histories(2, 4, 50), torch.tensor([[1, 0], [0, 3]]))
    assert ((found == -torch.inf).all(-1) == torch.tensor([[False, True], [True, False]])).all()
    found.masked_fill(found == -torch.inf, 0.0).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


@settings(deadline=None, max_examples=20)
@given(worlds(), st.integers(0, 1000))
def test_gradients_are_those_of_a_masked_softmax_and_of_finite_differences(ids: SemanticIds, seed: int) -> None:
    """d log p(c) / d logit j is [j = c] - p(j) among siblings and 0 elsewhere, since the softmax over all codes cancels."""
    source = torch.Generator().manual_seed(seed)
    items = torch.randint(1, ids.items + 1, (1, 3), generator=source)
    logits = [torch.randn(1, 3, size, generator=source, dtype=torch.float64).requires_grad_() for size in ids.level_sizes]
    ours, codes = Trie(ids), ids.codes[items - 1]

    def scored(*each: Tensor) -> Tensor:
        return ours.item_log_probs([level.log_softmax(-1) for level in each], items, constrained=True)

    gradients = torch.autograd.grad(scored(*logits).sum(), logits)
    for level, (logit, gradient) in enumerate(zip(logits, gradients, strict=True)):
        for place in range(3):
            some = siblings(ids, int(items[0, place]), level)
            expected = torch.zeros(ids.level_sizes[level], dtype=torch.float64)
            expected[some] = -logit[0, place, some].softmax(-1)
            expected[codes[0, place, level]] += 1
            torch.testing.assert_close(gradient[0, place], expected, atol=1e-6, rtol=0)
    assert torch.autograd.gradcheck(scored, logits)


@EVERY
def test_the_gradient_of_all_weights_equals_a_central_difference(name: str) -> None:
    """Compare the directional derivative with a central difference, in float64 along a random direction."""
    policy, history = build(POLICIES[name], catalog(30)).double(), histories(2, 4, 30)
    items = torch.tensor([[1, 9, 20], [4, 0, 30]])

    def total() -> Tensor:
        found = policy.constrained_level_log_prob(history, items)
        return found.masked_fill(found == -torch.inf, 0.0).sum()

    parameters = [p for p in policy.parameters() if p.requires_grad]
    with mock.patch.object(Tensor, "float", Tensor.double):
        gradients = torch.autograd.grad(total(), parameters, allow_unused=True, materialize_grads=True)
        torch.manual_seed(0)
        steps = [torch.randn_like(p) for p in parameters]
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter += sign * 1e-6 * step
                sides.append(float(total()))
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter -= sign * 1e-6 * step
    slope = sum(float((gradient * step).sum()) for gradient, step in zip(gradients, steps, strict=True))
    assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-5)


@EVERY
def test_bf16_autocast_is_near(name: str) -> None:
    policy, history = build(POLICIES[name], catalog(50)), histories(4, 6, 50)
    items = everything(policy, 4)
    exact = policy.constrained_level_log_prob(history, items)
    with torch.autocast("cpu", torch.bfloat16):
        rough = policy.constrained_level_log_prob(history, items)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0)
    torch.testing.assert_close(rough.sum(-1).exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)  # normalized after rounding


@EVERY
def test_scoring_does_not_synchronize_with_the_device(name: str) -> None:
    policy = build(POLICIES[name], catalog(50)).to("meta")
    history, items = (torch.zeros(3, length, dtype=torch.int64, device="meta") for length in (6, 4))
    found = policy.constrained_level_log_prob(history, items)
    assert (found.device.type, found.shape) == ("meta", (3, 4, 3))
    found.sum().backward()


def below(policy: Any, history: Tensor, items: Tensor, depth: int, n: int) -> tuple[list[list[int]], list[list[float]]]:
    """Return the exact list of all items, filtered to those that share the prefix."""
    ids = policy.semantic_ids
    whole = policy.recommend_exactly(history, ids.items)
    lists, scores = [], []
    for row, item in enumerate(items.tolist()):
        kept = [
            (int(each), float(score))
            for each, score in zip(whole.items[row], whole.scores[row], strict=True)
            if depth == 0 or (item > 0 and ids.codes[each - 1, :depth].tolist() == ids.codes[item - 1, :depth].tolist())
        ][:n]
        lists.append([each for each, _ in kept] + [0] * (n - len(kept)))
        scores.append([score for _, score in kept] + [-torch.inf] * (n - len(kept)))
    return lists, scores


@EVERY
@pytest.mark.parametrize("shared", [False, True])
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30))
def test_search_below_a_prefix_is_the_exact_list_filtered(name: str, shared: bool, seed: int, n: int) -> None:
    """At every depth, including 0 and the whole Semantic ID; the last row has item 0. There are as many beams as items."""
    sizes = (3, 2, 4) if shared else SIZES
    ids = catalog(50, seed % 7) if not shared else SemanticIds(random_codes(40, sizes, seed), sizes)
    policy = build(replace(POLICIES[name], num_beams=50), ids, seed)
    history = histories(4, 5, ids.items, seed)
    items = torch.cat([torch.randint(1, ids.items + 1, (3,), generator=torch.Generator().manual_seed(seed)), torch.tensor([0])])
    for depth in range(ids.levels + 1):
        found = policy.recommend_below(history, items, depth, n)
        lists, scores = below(policy, history, items, depth, n)
        torch.testing.assert_close(found.scores, torch.tensor(scores), atol=1e-4, rtol=1e-4)
        assert found.items.tolist() == lists
    torch.testing.assert_close(policy.recommend_below(history, items, 0, n), policy.recommend(history, n))


def random_codes(items: int, sizes: tuple[int, ...], seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, size, (items,), generator=source) for size in sizes], 1)


def test_narrow_beams_lose_nothing_to_other_prefixes() -> None:
    """Below a prefix of one code two beams find two items of that prefix, even if items elsewhere are more likely."""
    policy = build(replace(POLICIES["tiger"], num_beams=2), catalog(120))
    history, items = histories(6, 5, 120), torch.arange(1, 7)
    found = policy.recommend_below(history, items, 1, 2)
    assert (policy.semantic_ids.prefix_depth(items.unsqueeze(1), found.items) >= 1).all()
    levels = policy.log_prob(history, found.items)
    torch.testing.assert_close(levels, found.scores, atol=1e-4, rtol=1e-4)


def test_nan_log_probabilities_give_nan_scores() -> None:
    """Also if only the prefix has NaN log-probabilities."""
    policy = build(POLICIES["gpt"], catalog(50))
    with torch.no_grad():
        policy.heads[0].weight.fill_(torch.nan)
    for depth in (0, 2, 3):
        assert policy.recommend_below(histories(2, 4, 50), torch.tensor([1, 2]), depth, 3).scores.isnan().all()


def test_errors() -> None:
    policy = build(POLICIES["gpt"], catalog(50))
    with pytest.raises(UsageError, match=r"depth must lie in 0\.\.3.*got 4"):
        policy.recommend_below(histories(1, 3, 50), torch.tensor([1]), 4, 5)
    with pytest.raises(UsageError, match="a list of 51 items needs at least 51 beams"):
        policy.recommend_below(histories(1, 3, 50), torch.tensor([1]), 1, 51)


@EVERY
def test_item_vectors_are_the_sums_of_code_embeddings(name: str) -> None:
    """Codes (1, 2, 0) of sizes 5, 4, 6 are tokens 1 + 1, 1 + 5 + 2 and 1 + 9 + 0."""
    ids = SemanticIds(torch.tensor([[0, 0, 5], [1, 2, 0]]), SIZES)
    policy = build(POLICIES[name], ids)
    table = policy.embedding.weight
    found = policy.item_vectors()
    assert (tuple(found.shape), found.dtype, found.requires_grad) == ((3, table.shape[1]), torch.float32, False)
    assert not found[0].any()
    torch.testing.assert_close(found[2], (table[2] + table[8] + table[10]).detach())
    torch.testing.assert_close(found[1], (table[1] + table[6] + table[15]).detach())


@given(worlds(), st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_codes_are_normalized_over_the_children_of_every_node(ids: SemanticIds, seed: int) -> None:
    """By a loop over all items: the log-probability of each code after each item's prefix, -inf where no item follows."""
    table, generator = Trie(ids), torch.Generator().manual_seed(seed)
    items = torch.arange(1, ids.items + 1).unsqueeze(0)
    nodes = table.nodes(items)
    for level, size in enumerate(ids.level_sizes):
        log_prob = torch.randn(1, ids.items, size, generator=generator).log_softmax(-1)
        found = table.log_prob_of_children(level, nodes[level], log_prob)
        for item in range(ids.items):
            real = siblings(ids, item + 1, level)
            expected = torch.full((size,), -torch.inf)
            expected[real] = log_prob[0, item, real].log_softmax(0)
            torch.testing.assert_close(found[0, item], expected)
        assert torch.equal(table.child(level, nodes[level], ids.codes[None, :, level]), nodes[level + 1])


def test_a_node_with_a_nan_is_all_nan_and_the_others_are_not() -> None:
    table = Trie(SemanticIds(torch.tensor([[0, 0], [0, 2], [1, 1]]), (3, 3)))
    log_prob = torch.zeros(1, 2, 3)
    log_prob[0, 0, 1] = torch.nan  # code 1 is no child of the first node
    found = table.log_prob_of_children(1, torch.tensor([[0, 1]]), log_prob)
    assert found[0, 0].isnan().all()
    assert found[0, 1].tolist() == [-torch.inf, 0.0, -torch.inf]
