"""Properties that every loss has: gradients, masks, order, finiteness, dtypes, and a margin that grows under descent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stable_ids import stable_id
from torch import Tensor

from genrec.preference.losses import (
    CPO,
    DMPO,
    DPO,
    IPO,
    KTO,
    ORPO,
    Anchored,
    ConservativeDPO,
    ContinuedSFT,
    Hinge,
    RecPO,
    RobustDPO,
    RosePO,
    SimPO,
    Smoothed,
    SoftmaxDPO,
)
from genrec.types import LogProbs, PreferenceLoss, PreferenceTerms

INFINITY = float("inf")
RATED = RosePO(0.3)  # the tests give it rewards, which RosePO can do without
ONE_NEGATIVE: list[PreferenceLoss] = [DPO(), DPO(2.0), Anchored(DPO())]
ANY_NEGATIVES: list[PreferenceLoss] = [
    ConservativeDPO(),
    RobustDPO(0.3, 0.2),
    IPO(),
    IPO(reduction="mean"),
    Hinge(),
    SoftmaxDPO(),
    DMPO(),
    KTO(),
    KTO(desirable_weight=0.5, undesirable_weight=2.0),
    KTO(paired=False),
    SimPO(),
    CPO(),
    ORPO(),
    RosePO(),
    RATED,
    RecPO(),
    RecPO(0.1),
    ContinuedSFT(),
    Anchored(SoftmaxDPO(0.2), 0.7),
    Anchored(KTO()),
    Smoothed(DPO()),
    Smoothed(SimPO(), 0.2),
    Smoothed(RecPO()),
    Smoothed(KTO()),
    Anchored(Smoothed(CPO(alpha=0.0))),
]
LOSSES = ONE_NEGATIVE + ANY_NEGATIVES
WITH_NLL = (CPO, ORPO, ContinuedSFT, Anchored)


def gets_rewards(loss: PreferenceLoss) -> bool:
    return loss.needs.rewards or loss == RATED


def count_of(loss: PreferenceLoss) -> int:
    return 1 if loss in ONE_NEGATIVE else 3


def random_inputs(loss: PreferenceLoss, rows: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[LogProbs, LogProbs]:
    """Return random policy and reference of 4 codes, with the optional inputs of the loss."""
    source, count = torch.Generator().manual_seed(seed), count_of(loss)
    parts = [-0.1 - 4 * torch.rand(rows, 2 + count, generator=source, dtype=torch.float64) for _ in range(2)]
    rewards = (0.5 + torch.rand(rows, 1 + count, generator=source)).to(dtype) if gets_rewards(loss) else None
    ours, theirs = (
        LogProbs(
            part[:, 0].to(dtype),
            part[:, 1:-1].to(dtype),
            4,
            part[:, -1].to(dtype) if loss.needs.mismatched else None,
            rewards,
        )
        for part in parts
    )
    return ours, theirs


def masked(part: LogProbs, mask: Tensor) -> LogProbs:
    rewards = part.rewards
    if rewards is not None:
        rewards = torch.cat([rewards[:, :1], rewards[:, 1:].masked_fill(mask, -INFINITY)], 1)
    return part._replace(rejected=part.rejected.masked_fill(mask, -INFINITY), rewards=rewards)


def select(part: LogProbs, rows: list[int], places: list[int]) -> LogProbs:
    """Keep these rows and these negatives; mismatched pairs stay with their rows."""
    rewards = None if part.rewards is None else part.rewards[rows][:, [0, *(1 + place for place in places)]]
    mismatched = None if part.mismatched is None else part.mismatched[rows]
    return LogProbs(part.chosen[rows], part.rejected[rows][:, places], part.length, mismatched, rewards)


def gradients(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> tuple[PreferenceTerms, Tensor, Tensor]:
    chosen, rejected = policy.chosen.clone().requires_grad_(), policy.rejected.clone().requires_grad_()
    terms = loss(policy._replace(chosen=chosen, rejected=rejected), reference)
    found = torch.autograd.grad(terms.loss.sum(), (chosen, rejected), allow_unused=True, materialize_grads=True)
    return terms, *found


def mask_of(bits: int, count: int) -> Tensor:
    return torch.tensor([bool(bits >> place & 1) for place in range(4 * count)]).view(4, count)


@pytest.mark.parametrize("loss", LOSSES, ids=stable_id)
def test_gradcheck_with_masks(loss: PreferenceLoss) -> None:
    policy, reference = random_inputs(loss)
    mask = mask_of(0b001_101_000_010 if count_of(loss) == 3 else 0b0010, count_of(loss))
    policy, reference = masked(policy, mask), masked(reference, mask)

    def of(chosen: Tensor, rejected: Tensor) -> Tensor:
        return loss(policy._replace(chosen=chosen, rejected=rejected.masked_fill(mask, -INFINITY)), reference).loss

    inputs = policy.chosen.clone().requires_grad_(), policy.rejected.masked_fill(mask, -1.0).requires_grad_()
    assert torch.autograd.gradcheck(of, inputs)


@pytest.mark.parametrize("loss", LOSSES, ids=stable_id)
@given(bits=st.integers(0, 2**12 - 1), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=12)
def test_masked_negatives_and_other_rows_have_no_influence(loss: PreferenceLoss, bits: int, seed: int) -> None:
    """Each row alone, without its masked negatives, has the same loss, gradients and rewards. For KTO, z0 = 0."""
    policy, reference = random_inputs(loss, seed=seed)
    if loss.needs.mismatched:
        policy, reference = policy._replace(mismatched=None), reference._replace(mismatched=None)
    mask = mask_of(bits, count_of(loss))
    terms, by_chosen, by_rejected = gradients(loss, masked(policy, mask), masked(reference, mask))
    scale = 1.0
    if isinstance(loss, KTO) and not loss.paired:
        scale = 4 / float(4 + (~mask).sum())  # B / N of the batch; alone it is 1 / (1 + K)
    for row in range(4):
        keep = (~mask[row]).nonzero().flatten().tolist()
        own = scale * (1 + len(keep)) if isinstance(loss, KTO) and not loss.paired else 1.0
        part, chosen, rejected = gradients(loss, *(select(one, [row], keep) for one in (policy, reference)))
        torch.testing.assert_close(terms.loss[row], own * part.loss[0])
        torch.testing.assert_close(by_chosen[row], own * chosen[0])
        torch.testing.assert_close(by_rejected[row, keep], own * rejected[0])
        torch.testing.assert_close(terms.chosen_reward[row], part.chosen_reward[0])
        torch.testing.assert_close(terms.rejected_reward[row, keep], part.rejected_reward[0])
    assert (by_rejected[mask] == 0).all()
    assert terms.rejected_reward[mask].isneginf().all()
    assert terms.rejected_reward[~mask].isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=stable_id)
@given(ours=st.integers(0, 2**12 - 1), theirs=st.integers(0, 2**12 - 1), seed=st.integers(0, 5))
@example(ours=2**12 - 1, theirs=0, seed=0)
@example(ours=0, theirs=2**12 - 1, seed=0)
@settings(deadline=None, max_examples=8)
def test_masked_on_one_side_is_masked(loss: PreferenceLoss, ours: int, theirs: int, seed: int) -> None:
    """-inf under the policy only, or under the reference only, has the same result as -inf under both; the gradient there is 0."""
    policy, reference = random_inputs(loss, seed=seed)
    mine, other = (mask_of(bits, count_of(loss)) for bits in (ours, theirs))
    both = mine | other
    terms, by_chosen, by_rejected = gradients(loss, masked(policy, mine), masked(reference, other))
    expected = gradients(loss, masked(policy, both), masked(reference, both))
    torch.testing.assert_close((*terms, by_chosen, by_rejected), (*expected[0], *expected[1:]), rtol=0, atol=0)
    assert torch.cat([terms.loss, by_chosen, by_rejected.flatten()]).isfinite().all()
    assert not by_rejected[both].any()
    assert terms.rejected_reward.isneginf().equal(both)


@pytest.mark.parametrize("loss", ANY_NEGATIVES, ids=stable_id)
@given(order=st.permutations([0, 1, 2]), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=6)
def test_the_order_of_negatives_does_not_matter(loss: PreferenceLoss, order: list[int], seed: int) -> None:
    policy, reference = random_inputs(loss, seed=seed)
    shuffled = loss(*(select(part, [0, 1, 2, 3], order) for part in (policy, reference)))
    torch.testing.assert_close(shuffled.loss, loss(policy, reference).loss)
    torch.testing.assert_close(shuffled.rejected_reward, loss(policy, reference).rejected_reward[:, order])


@pytest.mark.parametrize("loss", LOSSES, ids=stable_id)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_huge_log_ratios(loss: PreferenceLoss, dtype: torch.dtype) -> None:
    """Log-ratios of +-10,000 in all combinations of positive, negatives and mismatched pair."""
    count, row = count_of(loss), torch.arange(8)
    chosen, rejected, other = (torch.where(row // half % 2 == 0, 0.0, -1e4).to(dtype) for half in (1, 2, 4))
    rewards = torch.full((8, 1 + count), 2.0, dtype=dtype) if gets_rewards(loss) else None
    mismatched = other if loss.needs.mismatched else None
    policy = LogProbs(chosen, rejected.unsqueeze(1).repeat(1, count), 4, mismatched, rewards)
    reference = policy._replace(
        chosen=-1e4 - chosen, rejected=-1e4 - policy.rejected, mismatched=None if mismatched is None else -1e4 - mismatched
    )
    terms, by_chosen, by_rejected = gradients(loss, policy, reference)
    assert torch.isfinite(torch.cat([terms.loss.detach(), by_chosen, by_rejected.flatten(), terms.chosen_reward])).all()
    assert torch.isfinite(terms.rejected_reward).all()
    assert {part.dtype for part in terms} == {dtype}


@pytest.mark.parametrize("loss", LOSSES, ids=stable_id)
def test_half_precision_is_computed_in_float32(loss: PreferenceLoss) -> None:
    policy, reference = random_inputs(loss, dtype=torch.bfloat16)
    terms, by_chosen, _ = gradients(loss, policy, reference)
    assert {part.dtype for part in terms} == {torch.float32}
    assert by_chosen.dtype == torch.bfloat16
    upcast = [LogProbs(*(part.float() if isinstance(part, Tensor) else part for part in one)) for one in (policy, reference)]
    torch.testing.assert_close(terms.loss, loss(*upcast).loss, rtol=0, atol=0)


@pytest.mark.parametrize("loss", LOSSES, ids=stable_id)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_row_without_negatives_has_only_its_nll(loss: PreferenceLoss, count: int) -> None:
    if count > 1 and loss in ONE_NEGATIVE:
        return
    policy = LogProbs(
        torch.tensor([-2.0, -3.0]),
        torch.full((2, count), -INFINITY),
        4,
        torch.tensor([-1.0, -2.0]) if loss.needs.mismatched else None,
        torch.ones(2, 1 + count) if gets_rewards(loss) else None,
    )
    reference = policy._replace(chosen=torch.tensor([-2.5, -2.0]))
    terms, by_chosen, by_rejected = gradients(loss, policy, reference)
    assert not by_rejected.any()
    if loss == KTO(paired=False):  # the positive is an example: 1 - s(0.1 * D_w), D_w = 0.5 and -1
        assert terms.loss.tolist() == pytest.approx([1 - torch.tensor(0.05).sigmoid().item(), 1 - torch.tensor(-0.1).sigmoid().item()])
    else:
        alpha = (0.7 if loss == Anchored(SoftmaxDPO(0.2), 0.7) else 1.0) if isinstance(loss, WITH_NLL) else 0.0
        assert terms.loss.tolist() == pytest.approx([alpha * 2 / 4, alpha * 3 / 4])
        assert by_chosen.tolist() == pytest.approx([-alpha / 4] * 2)


@pytest.mark.parametrize("loss", LOSSES, ids=stable_id)
def test_rewards_are_detached_and_inputs_unchanged(loss: PreferenceLoss) -> None:
    policy, reference = random_inputs(loss)
    inputs = [part for part in (*policy, *reference) if isinstance(part, Tensor)]
    copies = [part.clone() for part in inputs]
    terms, _, _ = gradients(loss, policy, reference)
    assert terms.loss.requires_grad
    assert not terms.chosen_reward.requires_grad
    assert not terms.rejected_reward.requires_grad
    assert all(torch.equal(old, new) for old, new in zip(copies, inputs, strict=True))


@pytest.mark.parametrize(
    "loss", [SoftmaxDPO(0.3), DMPO(0.3), RecPO(0.3), ConservativeDPO(0.3), RobustDPO(0.3), Hinge(0.3)], ids=stable_id
)
def test_gradients_sum_to_zero_where_only_differences_count(loss: PreferenceLoss) -> None:
    """Identity 5, for every loss of differences of log-ratios."""
    _, by_chosen, by_rejected = gradients(loss, *random_inputs(loss))
    torch.testing.assert_close(by_chosen + by_rejected.sum(1), torch.zeros(4, dtype=torch.float64))
    assert (by_chosen < 0).all()


@pytest.mark.parametrize("loss", [one for one in LOSSES if not isinstance(one, ContinuedSFT)], ids=stable_id)
def test_descent_raises_the_margin(loss: PreferenceLoss) -> None:
    """30 steps of Adam on logits [users, items], from the reference. Item 0 is the positive, the next items are negatives."""
    source, count = torch.Generator().manual_seed(0), count_of(loss)
    start = 0.3 * torch.randn(6, 8, generator=source)
    logits = start.clone().requires_grad_()
    rewards = torch.tensor([[3.0] + [1.0] * count] * 6) if gets_rewards(loss) else None

    def log_probs(table: Tensor) -> LogProbs:
        scores = table.log_softmax(1)
        other = scores[:, -1].detach() if loss.needs.mismatched else None
        return LogProbs(scores[:, 0], scores[:, 1 : 1 + count], 1, other, rewards)

    reference, optimizer = log_probs(start), torch.optim.Adam([logits], 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        loss(log_probs(logits), reference).loss.mean().backward()
        optimizer.step()
    policy = log_probs(logits.detach())
    margin = (policy.chosen - reference.chosen).unsqueeze(1) - (policy.rejected - reference.rejected)
    assert (margin > 0.3).all()


def test_beta_scales_the_log_ratios() -> None:
    """Half the beta with twice the log-ratios gives the same loss: only the product counts."""
    for loss in (SoftmaxDPO(1.0), DMPO(1.0), ConservativeDPO(1.0), RobustDPO(1.0), Hinge(1.0), KTO(1.0)):
        policy, reference = random_inputs(loss)
        zero = reference._replace(chosen=reference.chosen * 0, rejected=reference.rejected * 0)
        if zero.mismatched is not None:
            zero = zero._replace(mismatched=zero.mismatched * 0)
        double = policy._replace(
            chosen=2 * policy.chosen,
            rejected=2 * policy.rejected,
            mismatched=None if policy.mismatched is None else 2 * policy.mismatched,
        )
        torch.testing.assert_close(replace(loss, beta=0.5)(double, zero).loss, loss(policy, zero).loss)
