"""LIGER: the loss of its dense head, its lists against a brute-force ranking, and its state_dict."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from policies import catalog, histories
from torch import Tensor

from genrec.errors import UsageError
from genrec.experiment import Experiment, Tokenize
from genrec.model import Liger, LigerPolicy, Tiger
from genrec.model.dense_head import cosine_loss, rank_candidates
from genrec.objectives.supervised import negative_log_likelihood, own_loss, window_loss
from genrec.semantic_ids import SemanticIds
from genrec.testing import Shop, check_policy
from genrec.types import SequenceBatch, WindowBatch

SMALL = Tiger(d_model=16, d_ff=32, num_heads=2, d_kv=8, num_encoder_layers=1, num_decoder_layers=1, dropout=0.0)
ITEMS, COLD = 30, [3, 11, 12, 29]


def liger(num_beams: int = 6, weight: float = 1.0, **change: Any) -> Liger:
    return Liger(tiger=replace(SMALL, **change), num_beams=num_beams, dense_weight=weight)


def build(specification: Liger, items: int = ITEMS, cold: list[int] | None = None, seed: int = 0) -> LigerPolicy:
    generator = torch.Generator().manual_seed(seed)
    vectors, popularity = torch.randn(items + 1, 5, generator=generator), torch.ones(items + 1, dtype=torch.int64)
    vectors[0], popularity[0] = 0.0, 0
    popularity[COLD if cold is None else cold] = 0
    torch.manual_seed(seed)
    return specification.build_with_vectors(catalog(items), vectors, popularity).eval()


def cosines(policy: LigerPolicy, history: Tensor) -> Tensor:
    """Return cosine / .07 of every item by a loop over histories and items, float64 [B, N]."""
    tokens = policy.dense(torch.arange(1, policy.semantic_ids.items + 1)).double()
    rows = []
    for each in history:
        state = policy.tiger.encode(each[each > 0].unsqueeze(0)).states[0, -1].double()
        rows.append(torch.stack([state @ item / (state.norm() * item.norm()) for item in tokens]) / 0.07)
    return torch.stack(rows)


# ---- the loss ----


def test_the_loss_of_the_vector_by_hand() -> None:
    """h (.6, .8), items (.6, .8), (1, 0), (0, 1): cosines 1, .6, .8; the loss of item 0 is log(1 + exp(-.4/.07) + exp(-.2/.07))."""
    states = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    items = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    target = torch.tensor([0])
    assert cosine_loss(states, items, target, 0.07).item() == pytest.approx(0.058958411, abs=1e-9)
    assert cosine_loss(7 * states, 3 * items, target, 0.07).item() == pytest.approx(0.058958411, abs=1e-9)  # lengths do not count


def test_unseen_items_are_no_negatives() -> None:
    """Without item 2, log(1 + exp(-.4 / .07)) = 0.00329, and its vector has no gradient."""
    states = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    items = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    loss = cosine_loss(states, items, torch.tensor([0]), 0.07, torch.tensor([False, False, True]))
    assert loss.item() == pytest.approx(0.003293, abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert items.grad is not None
    assert items.grad[1].any()
    assert not items.grad[2].any()


def test_the_gradient_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    items = torch.randn(6, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    unseen = torch.tensor([False, True, False, False, False, True])
    assert torch.autograd.gradcheck(lambda h, e: cosine_loss(h, e, torch.tensor([0, 4, 2]), 0.3, unseen), (states, items))


def test_many_rows_are_computed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    states, items = torch.randn(9, 4, generator=generator, requires_grad=True), torch.randn(5, 4, generator=generator)
    whole = cosine_loss(states, items, torch.arange(9) % 5, 0.5)
    monkeypatch.setattr("genrec.model.dense_head.MAX_LOGITS", 10)  # 2 rows of 5 items
    chunked = cosine_loss(states, items, torch.arange(9) % 5, 0.5)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(*(torch.autograd.grad(loss, states)[0] for loss in (chunked, whole)))


def test_cosines_are_computed_in_float32() -> None:
    """In bfloat16 a cosine has three digits, and divided by 0.07 an error of several hundredths."""
    generator = torch.Generator().manual_seed(0)
    states, items = torch.randn(9, 4, generator=generator), torch.randn(5, 4, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosine_loss(states, items, torch.arange(9) % 5, 0.07)
    assert torch.equal(found, cosine_loss(states, items, torch.arange(9) % 5, 0.07))


@pytest.mark.parametrize("history", ["codes", "items"])
def test_sft_adds_both_losses(history: str) -> None:
    """The mean of -log p over targets and codes, and the mean over targets of -log softmax(cosine / .07) among the warm items."""
    policy = build(liger(history=history))
    batch = SequenceBatch(torch.arange(7), histories(7, 6, ITEMS), torch.tensor([1, 5, 9, 1, 30, 2, 4]))
    found = own_loss(policy, batch, 0, 0)
    scores = cosines(policy, batch.history)
    scores[:, [item - 1 for item in COLD]] = -torch.inf
    dense = -scores.log_softmax(1).gather(1, batch.target.unsqueeze(1) - 1).mean()
    assert found is not None
    assert found.item() == pytest.approx((negative_log_likelihood(policy, batch) + dense).item(), abs=1e-4)
    half = build(liger(weight=0.5, history=history))
    assert own_loss(half, batch, 0, 0).item() == pytest.approx((negative_log_likelihood(policy, batch) + dense / 2).item(), abs=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize("history", ["codes", "items"])
def test_windows_have_the_loss_of_their_prefixes(history: str) -> None:
    policy = build(liger(encoder="causal", history=history))
    items = histories(4, 6, ITEMS)
    targets = torch.where(items > 0, items.roll(-1, 1).clamp(min=1), 0)
    targets[torch.isin(targets, torch.tensor(COLD))] = 1
    window = own_loss(policy, WindowBatch(torch.arange(4), items, targets), 0, 0)
    single = [
        own_loss(policy, SequenceBatch(torch.zeros(1), items[row : row + 1, : place + 1], targets[row, place].view(1)), 0, 0)
        for row, place in targets.nonzero().tolist()
    ]
    torch.testing.assert_close(window, torch.stack([each for each in single if each is not None]).mean())
    assert window is not None
    assert window > window_loss(policy, WindowBatch(torch.arange(4), items, targets))


def test_without_weight_it_is_sft_of_tiger() -> None:
    """The same seed gives the decoder the same initial weights, and weight 0 the same loss bit for bit."""
    policy = build(liger(weight=0.0))
    torch.manual_seed(0)
    tiger = replace(SMALL, num_beams=6).build(catalog(ITEMS)).eval()
    batch = SequenceBatch(torch.arange(7), histories(7, 6, ITEMS), torch.arange(1, 8))
    loss = own_loss(policy, batch, 0, 0)
    assert loss is not None
    assert torch.equal(loss, negative_log_likelihood(tiger, batch))


def test_a_cold_target_has_no_dense_loss() -> None:
    policy = build(liger())
    batch = SequenceBatch(torch.arange(2), histories(2, 6, ITEMS), torch.tensor([3, 11]))
    loss = own_loss(policy, batch, 0, 0)
    assert loss is not None
    torch.testing.assert_close(loss, negative_log_likelihood(policy, batch))
    loss.backward()  # type: ignore[no-untyped-call]


# ---- the lists ----


@given(
    seed=st.integers(0, 1000),
    beams=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.1, 0.5]),
    cold=st.sets(st.integers(1, 20), max_size=20),
)
def test_lists_are_the_brute_force_ranking_of_beams_and_cold_items(seed: int, beams: int, share: float, cold: set[int]) -> None:
    policy, n = build(liger(beams), 20, sorted(cold), seed), min(beams, 10)
    history = histories(3, 5, 20, seed)
    exclude = torch.arange(1, 21).expand(3, -1)[:, : int(share * 20)]
    found = policy.recommend(history, n, exclude)
    with torch.no_grad():
        scores = cosines(policy, history)
        gaps = scores.sort(1).values.diff(dim=1)
        assume(bool((gaps > 1e-5).all()))  # rounding may not change the order
        listed = policy.tiger.recommend(history, min(beams, 20), exclude).items if beams < 20 else torch.arange(1, 21).expand(3, -1)
    for row in range(3):
        candidates = (set(listed[row].tolist()) | cold) - {0} - set(exclude[row].tolist())
        expected = sorted(candidates, key=lambda item: -scores[row, item - 1].item())[:n]
        assert found.items[row].tolist() == expected + [0] * (n - len(expected))
        torch.testing.assert_close(
            found.scores[row, : len(expected)].double(), scores[row, [i - 1 for i in expected]], atol=1e-4, rtol=0
        )
        assert (found.scores[row, len(expected) :] == -torch.inf).all()


def test_with_as_many_beams_as_items_retrieval_is_dense_alone() -> None:
    policy, history = build(liger(ITEMS)), histories(5, 6, ITEMS)
    found, exact = policy.recommend(history, 10), build(liger(12)).recommend_exactly(history, 10)
    assert torch.equal(found.items, exact.items)
    order = cosines(policy, history).argsort(dim=1, descending=True)[:, :10] + 1
    assert torch.equal(found.items, order)


def test_with_all_other_items_excluded_the_cold_ones_are_ranked() -> None:
    policy, history = build(liger(4)), histories(5, 6, ITEMS)
    known = torch.tensor([[item for item in range(1, ITEMS + 1) if item not in COLD]] * 5)
    found = policy.recommend(history, 4, known).items
    order = cosines(policy, history)[:, [item - 1 for item in COLD]].argsort(dim=1, descending=True)
    assert torch.equal(found, torch.tensor(COLD)[order])


def test_equal_scores_are_ordered_by_item() -> None:
    """Of two own candidates and three cold items, all with score 0, item 4 is both and occurs once."""
    found = rank_candidates(torch.tensor([[9, 4]]), torch.tensor([2, 4, 7]), torch.zeros(1, 5), 6, None)
    assert found.items.tolist() == [[2, 4, 7, 9, 0, 0]]


def test_an_item_that_is_beam_and_cold_is_excluded_everywhere() -> None:
    scores = torch.tensor([[0.0, -torch.inf, 3.0, 2.0, 1.0]])
    found = rank_candidates(torch.tensor([[9, 0]]), torch.tensor([2, 4, 7]), scores, 3, torch.tensor([[4, 0]]))
    assert found.items.tolist() == [[2, 7, 9]]


def test_long_lists_are_refused() -> None:
    with pytest.raises(UsageError, match=r"a list of 7 items needs at least 7 beams, got policy\.num_beams = 6"):
        build(liger()).recommend(histories(1, 3, ITEMS), 7)


# ---- contract, state and growth ----


@pytest.mark.parametrize("change", [{}, {"history": "items"}, {"encoder": "causal"}, {"encoder": "causal", "history": "items"}])
@pytest.mark.parametrize("beams", [12, 50])
def test_it_keeps_the_contract(change: dict[str, Any], beams: int) -> None:
    check_policy(liger(beams, **change))


def test_a_trained_policy_is_restored_without_vectors() -> None:
    policy, history = build(liger()), histories(4, 6, ITEMS)
    restored = liger().build(catalog(ITEMS)).eval()
    with pytest.raises(UsageError, match="has read no item vectors; build it with build_with_vectors"):
        restored.recommend(history, 3)
    state = torch.get_rng_state()
    restored.load_state_dict(policy.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    for other in (restored, copy.deepcopy(restored)):
        assert torch.equal(other.recommend(history, 6).items, policy.recommend(history, 6).items)
        assert torch.equal(other.recommend(history, 6).scores, policy.recommend(history, 6).scores)


def test_a_larger_catalog_has_the_new_items_as_cold_ones() -> None:
    ids = SemanticIds(torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 2, 0], [2, 1, 0]]), (3, 3, 2))
    generator = torch.Generator().manual_seed(0)
    vectors, new = torch.randn(7, 5, generator=generator), torch.randn(2, 5, generator=generator)
    torch.manual_seed(0)
    policy = liger().build_with_vectors(ids, vectors, torch.tensor([0, 1, 1, 1, 1, 1, 1])).eval()
    history = torch.tensor([[0, 1, 2], [4, 3, 6]])
    grown = policy.extended(ids.extend(torch.tensor([[2, 2, 1], [0, 1, 1]])), new)
    assert grown.dense.cold.tolist() == [7, 8]
    assert not grown.training
    everyone = torch.arange(1, 9).expand(2, -1)
    user = torch.zeros(2, dtype=torch.int64)
    torch.testing.assert_close(grown.score_items(user, history, everyone)[:, :6], policy.score_items(user, history, everyone[:, :6]))
    assert (grown.recommend_exactly(history, 8).items.sort(1).values == everyone).all()
    with pytest.raises(UsageError, match=r"the new items need vectors float32 \[2, 5\] of the same encoder, got \[1, 5\]"):
        policy.extended(ids.extend(torch.tensor([[2, 2, 1], [0, 1, 1]])), new[:1])


def test_vectors_of_items_are_those_of_the_dense_head() -> None:
    policy = build(liger())
    vectors = policy.item_vectors()
    assert not vectors[0].any()
    assert not vectors.requires_grad
    torch.testing.assert_close(vectors[1:], policy.dense(torch.arange(1, ITEMS + 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "policy.temperature must be above 0, got 0.0"),
        ({"dense_weight": -1.0}, "policy.dense_weight must be 0 or more, got -1.0"),
        ({"num_beams": 0}, "policy.num_beams must be at least 1"),
        ({"tiger": replace(SMALL, num_beams=20)}, "policy.tiger.num_beams is not used, got 20; leave it out and set policy.num_beams"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Liger(**change)


def test_shared_semantic_ids_are_refused() -> None:
    with pytest.raises(UsageError, match=r"2 of 3 share their Semantic ID .*; set tokenize\.collisions to append or reassign"):
        liger().build(SemanticIds(torch.tensor([[0, 0], [0, 0], [1, 0]])))
    with pytest.raises(UsageError, match=r"shop: Liger ranks single items; set tokenize\.collisions to append or reassign"):
        Experiment(name="shop", source=Shop(), policy=liger(), tokenize=Tokenize(collisions="keep"))
    with pytest.raises(UsageError, match="shop: Liger writes Semantic IDs; set tokenize"):
        Experiment(name="shop", source=Shop(), policy=liger(), tokenize=None)
