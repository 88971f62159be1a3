"""Surrogates of the policy gradient and the divergence from the reference: values, gradients and identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.losses import DMPO
from genrec.preference.policy_gradient import (
    BoundedGradient,
    Clip,
    EarlyClip,
    GroupAdvantage,
    LeaveOneOutAdvantage,
    Reinforce,
    SequenceClip,
    SiblingAdvantage,
    bounded_gradient_loss,
    group_advantages,
    k3_estimate,
    penalized_rewards,
)
from genrec.preference.policy_gradient.clipped_surrogates import clipped_loss, early_clipped
from genrec.preference.policy_gradient.group_masks import distinct_candidates, group_mean
from genrec.types import Advantages, CandidateGroups, GroupLogProbs, LogProbs, Surrogate

SURROGATES: list[Surrogate] = [Clip(), Clip(high=0.28), EarlyClip(), SequenceClip(), Reinforce(), BoundedGradient()]
LOG_RATIOS = st.lists(st.floats(-3, 3), min_size=1, max_size=6)


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_group(log_ratios: list[float], advantages: list[float], levels: int = 1) -> tuple[GroupLogProbs, Advantages]:
    """Return a group with these log-ratios to the policy that drew it, spread evenly over the levels."""
    behavior = double([[-5.0 - place for place in range(len(log_ratios))]])
    codes = ((behavior + double([log_ratios])) / levels).unsqueeze(2).repeat(1, 1, levels).requires_grad_()
    return GroupLogProbs(codes, behavior), Advantages(double([advantages]), torch.tensor([True]))


def random_group(dtype: torch.dtype = torch.float64, by_code: bool = False, seed: int = 0) -> tuple[GroupLogProbs, Advantages]:
    """Return 3 groups of 5 candidates of 2 codes."""
    source = torch.Generator().manual_seed(seed)
    levels = -3 * torch.rand(3, 5, 2, generator=source, dtype=torch.float64) - 0.05
    behavior = levels.sum(2) + 0.6 * torch.randn(3, 5, generator=source, dtype=torch.float64)
    values = torch.randn((3, 5, 2) if by_code else (3, 5), generator=source, dtype=torch.float64)
    return GroupLogProbs(levels.to(dtype).requires_grad_(), behavior.to(dtype)), Advantages(values.to(dtype), torch.ones(3).bool())


def gradient(surrogate: Surrogate, log_probs: GroupLogProbs, advantages: Advantages) -> tuple[Tensor, Tensor]:
    """Return the loss of each candidate and its gradient by the log-probability of each code."""
    loss = surrogate.terms(log_probs, advantages).loss
    return loss.detach(), torch.autograd.grad(loss.sum(), log_probs.levels)[0]


def test_clip_values_and_gradients() -> None:
    """e^.3 = 1.349858808 and e^-.3 = .740818221, bounds .8 and 1.2."""
    ratios, advantages = [0.3, -0.3, 0.3, -0.3], [1.0, 1.0, -1.0, -1.0]
    loss, found = gradient(Clip(), *one_group(ratios, advantages))
    assert loss[0].tolist() == pytest.approx([-1.2, -0.740818221, 1.349858808, 0.8], abs=5e-10)
    assert found[0, :, 0].tolist() == pytest.approx([0, -0.740818221, 1.349858808, 0], abs=5e-10)
    assert Clip().terms(*one_group(ratios, advantages)).clipped.tolist() == [[True, False, False, True]]


def test_higher_clip_of_dapo() -> None:
    loss, _ = gradient(Clip(high=0.28), *one_group([0.3], [1.0]))
    assert loss.item() == pytest.approx(-1.28)


def test_early_clip_values() -> None:
    """The ratio is at most 1 + .2 + .1, and GRPO's at log-ratio 2 is e^2."""
    ratios, advantages = [2.0, 0.1, -0.5], [-1.0] * 3
    loss, found = gradient(EarlyClip(), *one_group(ratios, advantages))
    assert loss[0].tolist() == pytest.approx([1.3, 1.105170918, 0.8], abs=5e-10)
    assert found[0, :, 0].tolist() == pytest.approx([1.3, 1.105170918, 0], abs=5e-10)  # the bound keeps the gradient
    assert EarlyClip().terms(*one_group(ratios, advantages)).clipped.tolist() == [[True, False, True]]
    plain, _ = gradient(Clip(), *one_group(ratios, advantages))
    assert plain[0].tolist() == pytest.approx([7.389056099, 1.105170918, 0.8], abs=5e-10)


def test_early_clip_is_the_formula_with_another_behavior() -> None:
    """lo' = max(sg(lp) - log(1 + high + delta), lo) in GRPO's surrogate."""
    log_probs, advantages = one_group([2.0, 0.1, -0.5, 0.9], [-1.0, -2.0, -0.3, 0.7])
    lp = log_probs.levels.sum(2)
    raised = torch.maximum(lp.detach() - math.log(1.3), log_probs.behavior)
    behavior = torch.where(advantages.values < 0, raised, log_probs.behavior)
    expected = gradient(Clip(), log_probs._replace(behavior=behavior), advantages)
    for found, wanted in zip(gradient(EarlyClip(), log_probs, advantages), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-12)


@given(LOG_RATIOS, st.floats(0, 2))
def test_early_clip_bounds_the_ratio_and_becomes_grpo(ratios: list[float], delta: float) -> None:
    worse, better = [-1.0] * len(ratios), [1.0] * len(ratios)
    loss, _ = gradient(EarlyClip(delta=delta), *one_group(ratios, worse))
    assert float(loss.max()) <= 1.2 + delta + 1e-9
    for surrogate, advantages in ((EarlyClip(delta=1e9), worse), (EarlyClip(delta=delta), better)):
        for found, expected in zip(
            gradient(surrogate, *one_group(ratios, advantages)), gradient(Clip(), *one_group(ratios, advantages)), strict=True
        ):
            assert torch.allclose(found, expected, atol=1e-9)


def test_sequence_ratio_is_the_mean_over_the_codes() -> None:
    """Differences .1, -.2, .2, 0 have the mean .025: e^.025, while their sum gives e^.1."""
    behavior = double([[[-1.0, -2.0, -0.5, -0.1]]])
    levels = (behavior + double([0.1, -0.2, 0.2, 0.0])).requires_grad_()
    log_probs = GroupLogProbs(levels, behavior.sum(2))
    advantages = Advantages(double([[-1.0]]), torch.tensor([True]))
    loss, found = gradient(SequenceClip(), log_probs, advantages)
    assert loss.item() == pytest.approx(1.025315121, abs=5e-10)
    assert found[0, 0].tolist() == pytest.approx([1.025315121 / 4] * 4, abs=5e-10)
    assert gradient(Clip(), log_probs, advantages)[0].item() == pytest.approx(1.105170918, abs=5e-10)
    assert SequenceClip().terms(log_probs, Advantages(double([[1.0]]), torch.tensor([True]))).loss.item() == pytest.approx(-1.0004)


def test_bounded_gradient_values() -> None:
    """pi / pi': .5/.5, .01/.01, .5/max(.4, .5), .01/max(.01, .99)."""
    pi, old = double([0.5, 0.01, 0.5, 0.01]).log().requires_grad_(), double([0.4, 0.01, 0.4, 0.01]).log()
    loss = bounded_gradient_loss(pi, old, double([1.0, 1.0, -1.0, -1.0]))
    assert loss.tolist() == pytest.approx([-1, -1, 1, 0.010101010], abs=5e-10)
    found = torch.autograd.grad(loss.sum(), pi)[0]
    assert found.tolist() == pytest.approx([-1, -1, 1, 0.010101010], abs=5e-10)


@given(st.floats(-8, -1e-3), st.floats(-8, -1e-3))
def test_bounded_gradient_is_bounded(own: float, old: float) -> None:
    """At most 1 where A = 1, and pi / (1 - pi) where A = -1."""
    for advantage, bound in ((1.0, 1.0), (-1.0, math.exp(own) / (1 - math.exp(own)))):
        lp = double([own]).requires_grad_()
        loss = bounded_gradient_loss(lp, double([old]), double([advantage]))
        assert abs(torch.autograd.grad(loss.sum(), lp)[0].item()) <= bound + 1e-12


def test_bounded_gradient_survives_certain_codes() -> None:
    """A code with probability 1 has pi' = max(1, 0)."""
    levels = double([[[0.0, -1e-300, -700.0]]]).requires_grad_()
    log_probs = GroupLogProbs(levels, levels.detach().sum(2))
    _, found = gradient(BoundedGradient(), log_probs, Advantages(double([[-1.0]]), torch.tensor([True])))
    assert found[0, 0].tolist() == pytest.approx([1.0, 1.0, 0.0])


@pytest.mark.parametrize("surrogate", [Clip(), EarlyClip(), Reinforce()], ids=str)
@pytest.mark.parametrize("levels", [1, 3])
def test_gradient_on_policy_is_the_negative_advantage(surrogate: Surrogate, levels: int) -> None:
    """With a ratio of 1, d loss / d lp_i = -A_i / G after the mean over the group, and the gradients add up to 0."""
    advantages = group_advantages(double([[1, 0, 0.5, 0]]), torch.ones(1, 4).bool()).values
    log_probs, _ = one_group([0.0] * 4, advantages[0].tolist(), levels)
    mask = torch.ones(1, 4).bool()
    loss = group_mean(surrogate.terms(log_probs, Advantages(advantages, torch.tensor([True]))).loss, mask, mask[:, 0])
    found = torch.autograd.grad(loss, log_probs.levels)[0]
    assert torch.allclose(found, -(advantages / 4).unsqueeze(2).expand_as(found))
    assert float(found[..., 0].sum()) == pytest.approx(0, abs=1e-12)
    if not isinstance(surrogate, Reinforce):
        assert loss.item() == pytest.approx(0, abs=1e-12)  # -mean(A)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=str)
def test_equal_advantages_of_the_codes_give_the_gradient_of_the_item(surrogate: Surrogate) -> None:
    log_probs, advantages = random_group()
    by_code = advantages._replace(values=advantages.values.unsqueeze(2).repeat(1, 1, 2))
    assert torch.allclose(gradient(surrogate, log_probs, advantages)[1], gradient(surrogate, log_probs, by_code)[1], atol=1e-12)


@pytest.mark.parametrize("by_code", [False, True])
@pytest.mark.parametrize("surrogate", SURROGATES, ids=str)
def test_advantage_of_0_and_masks_give_no_gradient(surrogate: Surrogate, by_code: bool) -> None:
    log_probs, advantages = random_group(by_code=by_code)
    values = advantages.values.clone()
    values[0, 2], values[1] = 0.0, 0.0
    loss, found = gradient(surrogate, log_probs, advantages._replace(values=values))
    assert not loss[0, 2]
    assert not found[0, 2].any()
    assert not loss[1].any()
    assert not found[1].any()
    assert bool(found[2].any())


@pytest.mark.parametrize("surrogate", SURROGATES, ids=str)
def test_huge_log_ratios_are_finite(surrogate: Surrogate) -> None:
    log_probs, advantages = one_group([500.0, 500.0, -500.0, -500.0, 500.0], [1.0, -1.0, 1.0, -1.0, 0.0])
    parts = GroupLogProbs(log_probs.levels.detach().float().requires_grad_(), log_probs.behavior.float())
    loss, found = gradient(surrogate, parts, Advantages(advantages.values.float(), advantages.spread))
    assert bool(loss.isfinite().all())
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("by_code", [False, True])
def test_gradcheck_of_the_ratios(by_code: bool) -> None:
    """Where nothing is detached, autograd equals finite differences: log-ratio, clip and k3, away from the clip's corners."""
    log_probs, advantages = random_group()
    behavior, reference = log_probs.behavior, log_probs.behavior - 0.3

    def clipped(levels: Tensor) -> Tensor:
        return clipped_loss(levels.sum(2) - behavior, advantages.values, 0.2, 0.28)[0]

    def by_codes(levels: Tensor) -> Tensor:
        return clipped_loss((levels - behavior.unsqueeze(2) / 2) / 2, advantages.values.unsqueeze(2), 3e-4, 4e-4)[0]

    assert torch.autograd.gradcheck(by_codes if by_code else clipped, log_probs.levels)
    assert torch.autograd.gradcheck(lambda levels: k3_estimate(levels.sum(2), reference), log_probs.levels)


@pytest.mark.parametrize("by_code", [False, True])
@pytest.mark.parametrize("surrogate", SURROGATES, ids=str)
def test_gradients_equal_finite_differences_of_the_formula(surrogate: Surrogate, by_code: bool) -> None:
    """The part under stop-gradient is held fixed: the formula is differentiated by the place that carries the gradient."""
    log_probs, advantages = random_group(by_code=by_code, seed=1)
    own, lo = log_probs.levels.detach(), log_probs.behavior
    scale = 0.5 if isinstance(surrogate, SequenceClip) else 1.0

    def formula(levels: Tensor) -> Tensor:
        values = advantages.values if by_code else advantages.values.unsqueeze(2)
        if isinstance(surrogate, Reinforce):
            return -(values * levels).sum(2)
        if isinstance(surrogate, BoundedGradient):
            pi = own.exp()
            return -(values * levels.exp() / torch.where(values >= 0, pi, torch.maximum(pi, 1 - pi))).sum(2)
        fixed = scale * (own.sum(2) - lo).unsqueeze(2)
        ratio = torch.exp(fixed + (levels - own)) if by_code else torch.exp(scale * (levels.sum(2) - lo)).unsqueeze(2)
        now = torch.exp(fixed)
        if isinstance(surrogate, EarlyClip):
            largest = 1 + surrogate.high + surrogate.delta
            ratio = torch.where((values < 0) & (now > largest), ratio * largest / now, ratio)
        bounded = ratio.clamp(1 - surrogate.low, 1 + surrogate.high)
        return -torch.minimum(ratio * values, bounded * values).sum(2) * (scale if by_code else 1.0)

    step, numeric = 1e-6, torch.zeros_like(own)
    for place in range(own.numel()):
        shift = torch.zeros(own.numel(), dtype=torch.float64)
        shift[place] = step
        shifted = [formula(own + sign * shift.view_as(own)).sum() for sign in (1, -1)]
        numeric.view(-1)[place] = (shifted[0] - shifted[1]) / (2 * step)
    loss, found = gradient(surrogate, log_probs, advantages)
    assert torch.allclose(loss, formula(own), atol=1e-9)
    assert torch.allclose(found, numeric, atol=1e-6)
    assert bool(found.any())


def test_k3_values() -> None:
    found = k3_estimate(torch.zeros(3, dtype=torch.float64), double([0.3, -0.3, 2.0]))
    assert found.tolist() == pytest.approx([0.049858808, 0.040818221, 4.389056099], abs=5e-10)


def test_mean_of_k3_is_the_divergence() -> None:
    policy, reference = double([0.2, 0.5, 0.3]), double([0.5, 0.3, 0.2])
    expected = float((policy * (policy / reference).log()).sum())
    assert float((policy * k3_estimate(policy.log(), reference.log())).sum()) == pytest.approx(expected)
    assert expected == pytest.approx(0.193794198, abs=5e-10)


@given(st.floats(-6, 6))
def test_k3_is_0_where_equal_and_above_0_elsewhere(difference: float) -> None:
    found = float(k3_estimate(double(difference), double(0.0)))
    assert found >= 0
    assert (found == 0) == (abs(difference) < 1e-8) or found < 1e-15


def test_gradients_of_the_two_penalties() -> None:
    """Over draws of the policy k3 has the gradient of KL(reference || policy), the penalty in the rewards that of KL(policy || .)."""
    logits, reference = double([0.3, -0.4, 0.9]).requires_grad_(), double([0.5, 0.3, 0.2]).log()
    lp = logits.log_softmax(0)
    drawn = lp.detach().exp()
    forward = (reference.exp() * (reference - lp)).sum()
    backward = (lp.exp() * (lp - reference)).sum()
    k3 = (drawn * k3_estimate(lp, reference)).sum()
    in_reward = -(drawn * penalized_rewards(torch.zeros_like(lp), lp, reference, 1.0) * lp).sum()
    found = [torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (k3, forward, in_reward, backward)]
    assert torch.allclose(found[0], found[1])
    assert torch.allclose(found[2], found[3])
    assert not torch.allclose(found[0], found[2], atol=1e-2)


@pytest.mark.parametrize(("count", "beta"), [(4, 0.866), (8, 0.661), (16, 0.484), (50, 0.28)])
def test_one_hit_has_the_gradient_of_dmpo_at_a_margin_of_0(count: int, beta: float) -> None:
    """DMPO with beta = 2 sqrt(G - 1) / G; at G = 16 the gradients are -.242061459 and .016137431."""
    exact = 2 * math.sqrt(count - 1) / count
    assert exact == pytest.approx(beta, abs=5e-4)
    advantages = group_advantages(double([[1.0] + [0.0] * (count - 1)]), torch.ones(1, count).bool(), "population", 0.0)
    log_probs, _ = one_group([0.0] * count, [0.0] * count)
    loss = Clip().terms(log_probs, advantages).loss.mean()
    found = torch.autograd.grad(loss, log_probs.levels)[0][0, :, 0]
    lp = log_probs.behavior.clone().requires_grad_()
    reference = LogProbs(log_probs.behavior[:, 0], log_probs.behavior[:, 1:])
    dmpo = DMPO(exact)(LogProbs(lp[:, 0], lp[:, 1:]), reference).loss.sum()
    assert torch.allclose(found, torch.autograd.grad(dmpo, lp)[0][0], atol=1e-12)
    if count == 16:
        assert found[:2].tolist() == pytest.approx([-0.242061459, 0.016137431], abs=5e-10)


def test_optimum_over_a_catalog() -> None:
    """Gradient ascent with the penalty in the rewards reaches reference exp(r / beta) / Z, with the value beta log Z."""
    reference, rewards, beta = double([0.5, 0.3, 0.2]).log(), double([0.0, 1.0, 0.5]), 0.5
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(400):
        lp = logits.log_softmax(0)
        optimizer.zero_grad()
        judged = penalized_rewards(rewards, lp, reference, beta)
        baseline = (lp.detach().exp() * judged).sum()
        (-(lp.detach().exp() * (judged - baseline) * lp).sum()).backward()
        optimizer.step()
    lp = logits.detach().log_softmax(0)
    assert lp.exp().tolist() == pytest.approx([0.153356677, 0.679896655, 0.166746668], abs=5e-9)
    weights = reference.exp() * (rewards / beta).exp()
    assert torch.allclose(lp.exp(), weights / weights.sum())
    value = float((lp.exp() * (rewards - beta * (lp - reference))).sum())
    assert value == pytest.approx(0.590920833, abs=5e-9)
    assert value == pytest.approx(beta * math.log(float(weights.sum())))


def test_group_mean_leaves_out_groups_and_candidates() -> None:
    """Groups 0 and 2 count: ((1 + 3) / 2 + 5 / 1) / 2."""
    values = double([[1.0, math.nan, 3.0], [math.inf, 7.0, 8.0], [5.0, math.nan, math.nan]]).requires_grad_()
    mask, counted = torch.tensor([[1, 0, 1], [1, 1, 1], [1, 0, 0]]).bool(), torch.tensor([True, False, True])
    mean = group_mean(values, mask, counted)
    assert mean.item() == 3.5
    assert torch.autograd.grad(mean, values)[0].tolist() == [[0.25, 0, 0.25], [0, 0, 0], [0.5, 0, 0]]
    weighted = group_mean(values, mask, counted, torch.tensor([3.0, 100.0, 1.0], dtype=torch.float64))
    assert weighted.item() == (3 * 2 + 1 * 5) / 4
    nothing = group_mean(values, mask, torch.zeros(3).bool())
    assert nothing.item() == 0
    assert group_mean(values, mask, torch.zeros(3).bool(), torch.ones(3)).item() == 0
    assert not torch.autograd.grad(nothing, values)[0].any()


def test_distinct_candidates() -> None:
    """Items 1 and 2 share a Semantic ID: the later, other one is masked, a repeated draw is not, and a masked one hides nobody."""
    items = torch.tensor([[1, 2, 3, 1, 2], [2, 1, 3, 2, 0], [2, 1, 1, 3, 3]])
    numbers = torch.tensor([-1, 7, 7, 9])[items]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 1, 1, 1, 0]]).bool()
    assert distinct_candidates(items, numbers, mask).int().tolist() == [[1, 0, 1, 1, 0], [1, 0, 1, 1, 0], [0, 1, 1, 1, 0]]


@given(st.permutations(range(5)))
def test_the_order_of_candidates_does_not_matter(order: list[int]) -> None:
    log_probs, _ = random_group()
    source = torch.Generator().manual_seed(5)
    rewards, codes = torch.rand(3, 5, generator=source, dtype=torch.float64), torch.randint(0, 3, (3, 5, 2), generator=source)
    mask = torch.ones(3, 5).bool()
    for advantage in (GroupAdvantage(), LeaveOneOutAdvantage(), SiblingAdvantage()):
        for surrogate in SURROGATES:
            found = gradient(surrogate, log_probs, advantage.estimate(CandidateGroups(rewards, mask, codes)))[1]
            moved = GroupLogProbs(log_probs.levels.detach()[:, order].requires_grad_(), log_probs.behavior[:, order])
            groups = CandidateGroups(rewards[:, order], mask, codes[:, order])
            assert torch.allclose(gradient(surrogate, moved, advantage.estimate(groups))[1], found[:, order], atol=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Clip(low=1.0), "Clip.low must be in \\[0, 1\\)"),
        (lambda: Clip(high=-0.1), "Clip.high must be 0 or more"),
        (lambda: EarlyClip(delta=-1.0), "EarlyClip.delta must be 0 or more"),
        (lambda: EarlyClip(delta=math.nan), "EarlyClip.delta must be 0 or more"),
        (lambda: SequenceClip(low="small"), "SequenceClip.low must be a number, got 'small'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_fields_are_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(UsageError, match=message):
        build()


def test_early_clipped_marks_bad_candidates_only() -> None:
    bounded, early = early_clipped(double([0.5, 0.5]), double([-1.0, 1.0]), 0.2, 0.1)
    assert early.tolist() == [True, False]
    assert bounded.tolist() == pytest.approx([math.log(1.3), 0.5])
