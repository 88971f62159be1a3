"""The contract of every policy, compared with brute force over a small catalog, prefix by prefix and candidate by candidate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import POLICIES, brute_force, build, catalog, histories
from torch import Tensor

from genrec.errors import ArtifactError, UsageError
from genrec.semantic_ids import SemanticIds
from genrec.testing import check_policy
from genrec.types import ExactRecommender, Policy, PolicySpecification, SequencePolicy

CAUSAL = [name for name, specification in POLICIES.items() if getattr(specification, "causal", False)]
EVERY = pytest.mark.parametrize("name", POLICIES)
OVER_CODES = pytest.mark.parametrize("name", [name for name in POLICIES if name != "tiger-catalog"])  # with a softmax over all codes
SEQUENCE = pytest.mark.parametrize("name", CAUSAL)
GROWN = [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 2, 0], [2, 1, 0]]  # codes of items 1..6, of 3 x 3 x 2


def policy_of(name: str, items: int = 50, seed: int = 0, sizes: tuple[int, ...] = (5, 4, 6), **change: Any) -> Any:
    return build(replace(POLICIES[name], **change), catalog(items, seed, sizes), seed)


def finite(log_probs: Tensor) -> Tensor:
    """Replace -inf by 1, which is not a log-probability."""
    return log_probs.masked_fill(log_probs == -torch.inf, 1.0)


@EVERY
def test_protocols(name: str) -> None:
    assert isinstance(POLICIES[name], PolicySpecification)
    assert isinstance(policy_of(name), Policy)
    assert isinstance(policy_of(name), SequencePolicy) or name not in CAUSAL


@EVERY
def test_the_contract_is_kept(name: str) -> None:
    check_policy(POLICIES[name])


@EVERY
def test_probabilities_of_all_codes_add_up_to_one(name: str) -> None:
    """Over every code sequence, real or not: with all 5*4*6 = 120 combinations as items, the sum of exp(log_prob) is 1."""
    policy = policy_of(name, 120)
    everything = torch.arange(1, 121).expand(4, 120)
    torch.testing.assert_close(policy.log_prob(histories(4, 6, 120), everything).exp().sum(1), torch.ones(4))


@OVER_CODES
def test_probabilities_of_a_catalog_add_up_to_less_than_one(name: str) -> None:
    total = policy_of(name).log_prob(histories(4, 6, 50), torch.arange(1, 51).expand(4, 50)).exp().sum(1)
    assert (total < 1).all()
    assert (total > 0).all()


@EVERY
@pytest.mark.parametrize("positions", [0, 5])
def test_the_order_of_a_history_matters(name: str, positions: int) -> None:
    """The same items in another order give another distribution, and beam search stays exact."""
    policy = policy_of(name, recency_positions=positions)
    forward, backward = torch.tensor([[3, 7, 9, 11]]), torch.tensor([[11, 9, 7, 3]])
    items = torch.arange(1, 51).unsqueeze(0)
    assert (policy.log_prob(forward, items) - policy.log_prob(backward, items)).abs().max() > 1e-3
    torch.testing.assert_close(policy.recommend(forward, 50).scores, brute_force(policy, forward)[1], atol=1e-4, rtol=1e-4)


@EVERY
def test_padding_and_batch_change_nothing(name: str) -> None:
    """A history alone, and the same history padded by 9 in a larger batch, give the same log-probabilities."""
    policy = policy_of(name)
    items = torch.arange(1, 51).unsqueeze(0)
    alone = policy.log_prob(torch.tensor([[3, 7, 9]]), items)
    padded = torch.zeros(2, 12, dtype=torch.int64)
    padded[0, -3:] = torch.tensor([3, 7, 9])
    padded[1] = torch.arange(1, 13)
    torch.testing.assert_close(policy.log_prob(padded, items.expand(2, 50))[:1], alone, atol=1e-5, rtol=1e-5)


@EVERY
def test_every_item_of_a_history_matters(name: str) -> None:
    """Each of 30 items, even the oldest, changes the log-probabilities: masks hide padding only."""
    policy = policy_of(name)
    history, items = torch.arange(1, 31).unsqueeze(0), torch.arange(1, 51).unsqueeze(0)
    changed = history.repeat(30, 1)
    changed[torch.arange(30), torch.arange(30)] = 50
    difference = (policy.log_prob(changed, items.expand(30, -1)) - policy.log_prob(history, items)).abs().amax(1)
    assert (difference > 1e-4).all()


@EVERY
def test_candidates_are_independent(name: str) -> None:
    policy = policy_of(name)
    history = histories(3, 5, 50)
    together = policy.level_log_prob(history, torch.tensor([[1, 2, 3]] * 3))
    for place in range(3):
        separate = policy.level_log_prob(history, torch.full((3, 1), place + 1))
        torch.testing.assert_close(together[:, place : place + 1], separate, atol=1e-5, rtol=1e-5)


@EVERY
def test_candidate_0_is_minus_infinity_and_has_no_gradient(name: str) -> None:
    policy = policy_of(name)
    levels = policy.level_log_prob(histories(2, 4, 50), torch.tensor([[1, 0], [2, 3]]))
    assert (levels[0, 1] == -torch.inf).all()
    levels.masked_fill(levels == -torch.inf, 0.0).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


@EVERY
def test_empty_history_is_finite(name: str) -> None:
    policy = policy_of(name)
    assert torch.isfinite(policy.log_prob(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[1, 2]]))).all()
    assert (policy.recommend(torch.zeros(1, 4, dtype=torch.int64), 5).items > 0).all()


@EVERY
def test_a_history_without_columns_is_one_of_padding(name: str) -> None:
    policy, items = policy_of(name), torch.tensor([[1, 2]])
    without, padding = (torch.zeros(1, columns, dtype=torch.int64) for columns in (0, 1))
    assert torch.equal(policy.log_prob(without, items), policy.log_prob(padding, items))
    assert torch.equal(policy.recommend(without, 5).items, policy.recommend(padding, 5).items)
    assert torch.equal(policy.history_states(without), policy.history_states(padding))


@EVERY
def test_bf16_autocast_is_near(name: str) -> None:
    """bfloat16 has 8 bits of precision: log-probabilities of about -5 differ by at most 0.1; results are float32, masks exact."""
    policy = policy_of(name)
    history, items = histories(4, 6, 50), torch.arange(51).expand(4, -1)
    exact = policy.level_log_prob(history, items)
    with torch.autocast("cpu", torch.bfloat16):
        rough = policy.level_log_prob(history, items)
        ranking = policy.recommend(history, 10)
    assert rough.dtype == ranking.scores.dtype == torch.float32
    assert (ranking.items > 0).all()
    torch.testing.assert_close(finite(rough), finite(exact), atol=0.1, rtol=0)


@EVERY
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_a_beam_as_wide_as_the_catalog_is_brute_force(name: str, seed: int, length: int) -> None:
    """Step-by-step decoding with a cache of keys and values gives the teacher-forced log-probabilities of all 50 items."""
    policy = policy_of(name, seed=seed)
    history = histories(3, length, 50, seed)
    ranking = policy.recommend(history, 50)
    items, scores = brute_force(policy, history)
    torch.testing.assert_close(ranking.scores, scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(policy.log_prob(history, ranking.items), ranking.scores, atol=1e-4, rtol=1e-4)
    assert torch.equal(ranking.items.sort(1).values, items.sort(1).values)
    if isinstance(policy, ExactRecommender):
        exact = policy.recommend_exactly(history, 50)
        torch.testing.assert_close(exact.scores, scores, atol=1e-4, rtol=1e-4)


@EVERY
def test_narrow_beams_are_real_and_unique(name: str) -> None:
    ranking = policy_of(name, num_beams=7).recommend(histories(16, 8, 50), 7)
    assert ranking.items.min() >= 1
    assert ranking.items.max() <= 50
    assert all(len(set(row)) == 7 for row in ranking.items.tolist())
    assert (ranking.scores.diff(dim=1) <= 0).all()


@EVERY
def test_excluded_items_never_come_back(name: str) -> None:
    history = histories(6, 8, 50)
    ranking = policy_of(name).recommend(history, 50, exclude=history)
    for row, taken in zip(ranking.items.tolist(), history.tolist(), strict=True):
        allowed = set(range(1, 51)) - set(taken)
        assert {item for item in row if item} == allowed
        assert row[len(allowed) :] == [0] * (50 - len(allowed))


@EVERY
def test_excluding_items_loses_no_beam(name: str) -> None:
    """With 45 of 50 items excluded even four beams find four of the other five, since no prefix without allowed items is followed."""
    exclude = torch.arange(1, 46).expand(3, 45)
    ranking = policy_of(name, num_beams=4).recommend(histories(3, 5, 50), 4, exclude=exclude)
    assert ((ranking.items > 45) & (ranking.items <= 50)).all()


@EVERY
def test_fewer_items_than_requested(name: str) -> None:
    ranking = policy_of(name, 4).recommend(histories(2, 3, 4), 10)
    assert (ranking.items[:, 4:] == 0).all()
    assert (ranking.scores[:, 4:] == -torch.inf).all()
    assert (ranking.items[:, :4].sort(1).values == torch.arange(1, 5)).all()


@OVER_CODES
def test_equal_scores_are_ordered_by_item(name: str) -> None:
    """With all output weights 0 every item is equally likely."""
    policy = policy_of(name)
    with torch.no_grad():
        for head in policy.heads:
            head.weight.zero_()
    assert policy.recommend(histories(1, 3, 50), 50).items[0].tolist() == list(range(1, 51))


@EVERY
@pytest.mark.parametrize("sizes", [(60,), (2, 2, 3, 2, 5)])
def test_semantic_ids_of_one_level_and_of_five(name: str, sizes: tuple[int, ...]) -> None:
    policy, history = policy_of(name, sizes=sizes), histories(3, 4, 50)
    torch.testing.assert_close(policy.recommend(history, 50).scores, brute_force(policy, history)[1], atol=1e-4, rtol=1e-4)


@EVERY
def test_errors(name: str) -> None:
    with pytest.raises(UsageError, match="a list of 51 items needs at least 51 beams"):
        policy_of(name).recommend(histories(1, 3, 50), 51)
    with pytest.raises(UsageError, match=r"policy\.dropout"):
        replace(POLICIES[name], dropout=1.0)
    with pytest.raises(UsageError, match=r"policy\.d_model must be at least 1, got 0"):
        replace(POLICIES[name], d_model=0)
    with pytest.raises(UsageError, match=r"policy\.recency_positions must be at least 0, got -1"):
        replace(POLICIES[name], recency_positions=-1)


def prefix_by_prefix(policy: Any, history: Tensor, targets: Tensor) -> Tensor:
    """Return `sequence_log_prob` by its definition, with every prefix as a separate history."""
    places = range(history.shape[1])
    return torch.stack([policy.level_log_prob(history[:, : t + 1], targets[:, t : t + 1])[:, 0] for t in places], 1)


def zeros_inside(batch: int, length: int, seed: int) -> Tensor:
    """Return histories with 0 at any place, as with repeated padding."""
    return torch.randint(0, 51, (batch, length), generator=torch.Generator().manual_seed(seed)) * (
        torch.rand(batch, length, generator=torch.Generator().manual_seed(seed + 1)) < 0.7
    )


@SEQUENCE
@pytest.mark.parametrize("padding", [histories, zeros_inside], ids=["left-padded", "zeros inside"])
@pytest.mark.parametrize("targets", ["next", "any"])
@pytest.mark.parametrize("sizes", [(5, 4, 6), (60,)])
def test_one_pass_equals_every_prefix(name: str, padding: Any, targets: str, sizes: tuple[int, ...]) -> None:
    """`next`: the window's next items, some of them 0, and one item after the window; `any`: unrelated items."""
    policy = policy_of(name, sizes=sizes)
    history = padding(8, 7, 50, seed=3) if padding is histories else padding(8, 7, seed=3)
    wanted = torch.randint(0, 51, history.shape, generator=torch.Generator().manual_seed(5))
    if targets == "next":
        wanted = torch.cat([history[:, 1:], wanted[:, -1:]], 1).masked_fill(torch.rand(8, 7, generator=torch.Generator()) < 0.2, 0)
    found = policy.sequence_log_prob(history, wanted)
    assert found.shape == (8, 7, policy.semantic_ids.levels)
    assert ((found == -torch.inf) == (wanted == 0).unsqueeze(-1)).all()
    torch.testing.assert_close(finite(found), finite(prefix_by_prefix(policy, history, wanted)), atol=1e-5, rtol=1e-5)


@SEQUENCE
def test_one_pass_has_the_gradients_of_every_prefix(name: str) -> None:
    """Compare the gradients of the training loss, the mean over targets and levels."""
    policy, history = policy_of(name), histories(4, 6, 50)
    targets = torch.cat([history[:, 1:], torch.tensor([[1], [2], [3], [0]])], 1)
    gradients = []
    for log_probs in (policy.sequence_log_prob(history, targets), prefix_by_prefix(policy, history, targets)):
        loss = -log_probs[targets > 0].mean()
        gradients.append(torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True, materialize_grads=True))
    for one, separate in zip(*gradients, strict=True):
        torch.testing.assert_close(one, separate, atol=1e-6, rtol=1e-4)


@SEQUENCE
def test_zeros_inside_a_history_mask_nothing_else(name: str) -> None:
    """A zero inside a history is masked; the items around it and their order are not."""
    policy, items = policy_of(name), torch.arange(1, 51).unsqueeze(0)
    gap = policy.log_prob(torch.tensor([[0, 0, 4, 9, 0, 7]]), items)
    for other, same in (([9, 4, 0, 7], False), ([4, 9, 7, 7], False), ([4, 9, 0, 7], True)):
        log_probs = policy.log_prob(torch.tensor([other]), items)
        assert torch.allclose(log_probs, gap, atol=1e-5) == same


def extended_pair(name: str, more: list[list[int]]) -> tuple[Any, Any]:
    """Return a policy of items 1..6, and the same policy extended to further items."""
    policy = build(replace(POLICIES[name], num_beams=20), SemanticIds(torch.tensor(GROWN), (3, 3, 2)))
    return policy, policy.extended(policy.semantic_ids.extend(torch.tensor(more)))


HISTORY = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])


@OVER_CODES
def test_without_a_new_code_old_probabilities_are_equal_bit_for_bit(name: str) -> None:
    policy, grown = extended_pair(name, [[2, 2, 1], [0, 1, 1]])
    old = torch.arange(1, 7).expand(2, -1)
    assert torch.equal(grown.level_log_prob(HISTORY, old), policy.level_log_prob(HISTORY, old))


@OVER_CODES
def test_a_larger_last_level_takes_the_same_share_from_all_codes(name: str) -> None:
    """Item 7 has the prefix 1 0, which is full, so that the last level grows. Earlier levels keep their probabilities."""
    policy, grown = extended_pair(name, [[1, 0]])
    old = torch.arange(1, 7).expand(2, -1)
    before, after = policy.level_log_prob(HISTORY, old), grown.level_log_prob(HISTORY, old)
    assert torch.equal(after[..., :2], before[..., :2])
    lost = (before - after)[..., 2]
    assert (lost > 0).all()
    torch.testing.assert_close(lost[:, 2], lost[:, 3], atol=1e-5, rtol=0)  # items 3 and 4 share a prefix
    old_head, new_head = policy.heads[2].weight, grown.heads[2].weight
    assert torch.equal(new_head, torch.cat([old_head, old_head[-1:]]))  # the new code starts as a copy of the last one
    assert torch.equal(grown.embedding.weight, torch.cat([policy.embedding.weight, policy.embedding.weight[-1:]]))
    ranking, (_, scores) = grown.recommend(torch.tensor([[7, 1]]), 7), brute_force(grown, torch.tensor([[7, 1]]))
    torch.testing.assert_close(ranking.scores, scores, atol=1e-4, rtol=1e-4)


@EVERY
def test_extending_changes_neither_the_policy_nor_global_randomness(name: str) -> None:
    policy = build(POLICIES[name], SemanticIds(torch.tensor(GROWN), (3, 3, 2))).train()
    before, state = {key: value.clone() for key, value in policy.state_dict().items()}, torch.get_rng_state()
    grown = policy.extended(policy.semantic_ids.extend(torch.tensor([[1, 0]])))
    assert torch.equal(torch.get_rng_state(), state)
    assert grown.training
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())
    other = SemanticIds(torch.tensor(GROWN[:-1]), (3, 3, 2))
    with pytest.raises(ArtifactError, match=f"{other.fingerprint} do not extend those of .* {policy.semantic_ids.fingerprint}"):
        policy.extended(other)


@EVERY
def test_no_step_synchronizes_with_the_device(name: str) -> None:
    """On the meta device reading a value raises an error: no step reads one, and every tensor is created on the policy's device."""
    policy = policy_of(name).to("meta")
    history, items = (torch.zeros(3, length, dtype=torch.int64, device="meta") for length in (6, 4))
    log_probs = policy.level_log_prob(history, items)
    assert (log_probs.device.type, log_probs.shape) == ("meta", (3, 4, 3))
    log_probs.sum().backward()
    decoding = policy.decoding(history)
    first, state = decoding.start()
    second, state = decoding.advance(0, state, items, items)
    third, _ = decoding.advance(1, state, items[:, :2], items[:, :2])
    assert [tuple(each.shape) for each in (first, second, third)] == [(3, 5), (3, 4, 4), (3, 2, 6)]
    if name in CAUSAL:
        assert policy.sequence_log_prob(history, history).shape == (3, 6, 3)
