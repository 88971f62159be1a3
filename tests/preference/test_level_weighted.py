"""Level-weighted losses: hand arithmetic, identities, masks, gradcheck, and levels in losses that rearrange their input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_ids import stable_id
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.losses import (
    CPO,
    DMPO,
    DPO,
    IPO,
    KTO,
    Anchored,
    ConservativeDPO,
    Hinge,
    LevelWeighted,
    RecPO,
    RobustDPO,
    RosePO,
    SimPO,
    Smoothed,
    SoftmaxDPO,
)
from genrec.testing import sampler_context
from genrec.types import LogProbs, LossNeeds, PreferenceLoss, PreferenceTerms

INFINITY = float("inf")
INSIDE: list[PreferenceLoss] = [
    SoftmaxDPO(0.7), DMPO(), IPO(0.5), Hinge(), ConservativeDPO(0.4), RobustDPO(), RosePO(), RecPO(), SimPO(), CPO(),
    Smoothed(DPO(0.6), 0.2), Anchored(SoftmaxDPO(0.3)), Anchored(Smoothed(CPO(alpha=0.0))),
]  # fmt: skip


def of_levels(levels: Tensor, rewards: Tensor | None = None) -> LogProbs:
    """Return log-probabilities from levels [B, 1 + K, L], as alignment does."""
    total = levels.sum(2)
    return LogProbs(total[:, 0], total[:, 1:], levels.shape[2], None, rewards, levels)


def random_levels(seed: int, rows: int = 4, items: int = 4, levels: int = 3) -> Tensor:
    return -0.1 - 3 * torch.rand(rows, items, levels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(seed: int = 0) -> tuple[LogProbs, LogProbs]:
    rewards = 0.5 + torch.rand(4, 4, generator=torch.Generator().manual_seed(seed + 90), dtype=torch.float64)
    return of_levels(random_levels(seed), rewards), of_levels(random_levels(seed + 50), rewards)


def same(first: PreferenceTerms, second: PreferenceTerms) -> None:
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_dpo_by_hand() -> None:
    """Log-ratios by level: positive 0.5, 0.2, -0.1; negative -0.3, 0.4, 0.6. Weights 1, 0.5, 0.25.

    D_w = 0.5 + 0.1 - 0.025 = 0.575 and D_l = -0.3 + 0.2 + 0.15 = 0.05: the loss is -log s(beta 0.525). Unweighted, D is -0.1.
    """
    reference = torch.full((1, 2, 3), -2.0, dtype=torch.float64)
    policy = reference + torch.tensor([[[0.5, 0.2, -0.1], [-0.3, 0.4, 0.6]]], dtype=torch.float64)
    for loss in (LevelWeighted(DPO(2.0), 0.5), LevelWeighted(DPO(2.0), (1.0, 0.5, 0.25))):
        terms = loss(of_levels(policy), of_levels(reference))
        assert float(terms.loss) == pytest.approx(math.log1p(math.exp(-2 * 0.525)))
        assert float(terms.chosen_reward) == pytest.approx(2 * 0.575)
        assert float(terms.rejected_reward) == pytest.approx(2 * 0.05)
    assert float(DPO(2.0)(of_levels(policy), of_levels(reference)).loss) == pytest.approx(math.log1p(math.exp(2 * 0.1)))


def test_softmax_dpo_by_hand_with_a_level_of_weight_0() -> None:
    """Weights 1, 0: log-ratios 0.4 against -0.2 and 0.1, whatever the second level. -log(e^0.4 / (e^0.4 + e^-0.2 + e^0.1))."""
    reference = torch.full((1, 3, 2), -1.0, dtype=torch.float64)
    policy = reference + torch.tensor([[[0.4, -9.0], [-0.2, 3.0], [0.1, 0.7]]], dtype=torch.float64)
    found = LevelWeighted(SoftmaxDPO(), (1.0, 0.0))(of_levels(policy), of_levels(reference)).loss
    assert float(found) == pytest.approx(-0.4 + math.log(math.exp(0.4) + math.exp(-0.2) + math.exp(0.1)))


@pytest.mark.parametrize("loss", INSIDE, ids=stable_id)
@pytest.mark.parametrize("weights", [1.0, (1.0, 1.0, 1.0)])
def test_weights_of_1_are_the_loss_itself(loss: PreferenceLoss, weights: float | tuple[float, ...]) -> None:
    same(LevelWeighted(loss, weights)(*inputs()), loss(*inputs()))


@pytest.mark.parametrize("loss", [SoftmaxDPO(), DMPO(0.4), Hinge(0.1), ConservativeDPO()], ids=stable_id)
def test_equal_weights_scale_beta(loss: SoftmaxDPO | DMPO | Hinge | ConservativeDPO) -> None:
    halved = type(loss)(beta=loss.beta / 2)
    torch.testing.assert_close(LevelWeighted(loss, (0.5, 0.5, 0.5))(*inputs()).loss, halved(*inputs()).loss)


@given(st.integers(0, 40), st.floats(0, 1))
@settings(deadline=None, max_examples=25)
def test_a_decay_is_the_tuple_of_its_powers(seed: int, decay: float) -> None:
    same(LevelWeighted(SoftmaxDPO(), decay)(*inputs(seed)), LevelWeighted(SoftmaxDPO(), (1.0, decay, decay**2))(*inputs(seed)))


@pytest.mark.parametrize("loss", INSIDE, ids=stable_id)
def test_the_loss_is_that_of_weighted_sums(loss: PreferenceLoss) -> None:
    """An oracle: weigh the levels outside, and call the loss inside with their sums."""
    weights = torch.tensor([1.0, 0.4, 0.7], dtype=torch.float64)
    policy, reference = inputs(3)
    assert policy.levels is not None
    assert reference.levels is not None
    expected = loss(of_levels(policy.levels * weights, policy.rewards), of_levels(reference.levels * weights, reference.rewards))
    for ours, theirs in zip(LevelWeighted(loss, (1.0, 0.4, 0.7))(policy, reference), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@given(st.integers(0, 30), st.integers(0, 2**12 - 1))
@settings(deadline=None, max_examples=25)
def test_masked_negatives_have_no_influence(seed: int, bits: int) -> None:
    """A row without its masked negatives has the same loss, and the gradient at a masked place is 0, also at a weight of 0."""
    mask = torch.tensor([bool(bits >> place & 1) for place in range(12)]).view(4, 3)
    loss, hidden = LevelWeighted(SoftmaxDPO(), (1.0, 0.0, 0.3)), torch.cat([torch.zeros(4, 1, dtype=torch.bool), mask], 1)
    leaf = random_levels(seed).masked_fill(hidden.unsqueeze(2), -INFINITY).requires_grad_()
    reference = random_levels(seed + 50).masked_fill(hidden.unsqueeze(2), -INFINITY)
    terms = loss(of_levels(leaf), of_levels(reference))
    (slope,) = torch.autograd.grad(terms.loss.sum(), leaf)
    assert slope.isfinite().all()
    assert not slope[hidden].any()
    assert terms.rejected_reward.isneginf().equal(mask)
    for row in range(4):
        keep = [0, *((~mask[row]).nonzero().flatten() + 1).tolist()]
        alone = loss(of_levels(leaf.detach()[row : row + 1, keep]), of_levels(reference[row : row + 1, keep]))
        torch.testing.assert_close(terms.loss[row : row + 1].detach(), alone.loss)


@pytest.mark.parametrize("loss", INSIDE, ids=stable_id)
def test_gradcheck(loss: PreferenceLoss) -> None:
    policy, reference = inputs(7)
    weighted = LevelWeighted(loss, (1.0, 0.25, 0.6))

    def of(levels: Tensor) -> Tensor:
        return weighted(of_levels(levels, policy.rewards), reference).loss

    assert policy.levels is not None
    assert torch.autograd.gradcheck(of, policy.levels.clone().requires_grad_())


def test_gradients_of_levels_have_the_ratio_of_their_weights() -> None:
    leaf = random_levels(1).requires_grad_()
    (slope,) = torch.autograd.grad(LevelWeighted(SoftmaxDPO(), 0.5)(of_levels(leaf), of_levels(random_levels(2))).loss.sum(), leaf)
    torch.testing.assert_close(slope[..., 1], slope[..., 0] / 2)
    torch.testing.assert_close(slope[..., 2], slope[..., 0] / 4)


@pytest.mark.parametrize("inside", [DPO(0.6), SimPO(), RosePO(0.3)], ids=stable_id)
def test_smoothing_and_weighing_levels_commute(inside: PreferenceLoss) -> None:
    """Smoothing calls the loss with pairs, swapped pairs and first negatives. Levels have to go along with all of them."""
    policy, reference = inputs(5)
    mask = torch.tensor([[False, True, False], [False, False, False], [True, True, True], [True, False, True]])

    def hide(part: LogProbs) -> LogProbs:
        assert part.levels is not None
        levels = torch.cat([part.levels[:, :1], part.levels[:, 1:].masked_fill(mask.unsqueeze(2), -INFINITY)], 1)
        return of_levels(levels, part.rewards)

    policy, reference = hide(policy), hide(reference)
    weights = (1.0, 0.3, 0.6)
    inner, outer = Smoothed(LevelWeighted(inside, weights), 0.2), LevelWeighted(Smoothed(inside, 0.2), weights)
    for ours, theirs in zip(inner(policy, reference), outer(policy, reference), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_half_precision_is_summed_in_float32() -> None:
    policy, reference = (of_levels(random_levels(seed).bfloat16()) for seed in (0, 1))
    terms = LevelWeighted(SoftmaxDPO(), 0.9)(policy, reference)
    assert {part.dtype for part in terms} == {torch.float32}
    upcast = [of_levels(random_levels(seed).bfloat16().float()) for seed in (0, 1)]
    torch.testing.assert_close(terms.loss, LevelWeighted(SoftmaxDPO(), 0.9)(*upcast).loss, rtol=0, atol=0)


def test_levels_are_required_and_must_fit() -> None:
    policy, reference = inputs()
    with pytest.raises(UsageError, match=r"LevelWeighted needs LogProbs\.levels of shape .* = \[4, 4, 'L'\], got None"):
        LevelWeighted(SoftmaxDPO())(policy._replace(levels=None), reference)
    assert policy.levels is not None
    with pytest.raises(UsageError, match=r"got \[4, 3, 3\]"):
        LevelWeighted(SoftmaxDPO())(policy._replace(levels=policy.levels[:, :3]), reference)
    with pytest.raises(UsageError, match=r"LevelWeighted\.weights has 2 numbers, \(1\.0, 0\.5\), but the Semantic IDs have 3 levels"):
        LevelWeighted(SoftmaxDPO(), (1.0, 0.5))(policy, reference)


def test_the_number_of_levels_is_checked_before_training() -> None:
    LevelWeighted(DPO(), (1.0, 0.5, 0.1)).check_context(sampler_context())
    with pytest.raises(UsageError, match=r"has 4 numbers, .*but the Semantic IDs have 3 levels.*give one number for each"):
        LevelWeighted(DPO(), (1.0, 0.5, 0.1, 0.1)).check_context(sampler_context())


@pytest.mark.parametrize(
    "wrong",
    [(), (0.0, 0.0), (1.0, -0.1), (1.0, float("nan")), (INFINITY,), (1.0, "x"), (True, 1.0), (10**400,),
     1.5, -0.1, float("nan"), None],
)  # fmt: skip
def test_weights_are_checked(wrong: object) -> None:
    with pytest.raises(UsageError, match=r"LevelWeighted\.weights must be a number from 0 to 1, or a tuple of finite numbers.*, got "):
        LevelWeighted(DPO(), wrong)  # type: ignore[arg-type]


def test_the_loss_inside_is_checked() -> None:
    with pytest.raises(UsageError, match=r"LevelWeighted\.loss must be a preference loss such as SoftmaxDPO\(\), got 3"):
        LevelWeighted(3)  # type: ignore[arg-type]
    for inside in (KTO(), Anchored(KTO(paired=False))):
        with pytest.raises(UsageError, match=r"cannot weigh the mismatched pairs that .*KTO\(.*; use a loss of pairs"):
            LevelWeighted(inside)
    assert LevelWeighted(Anchored(RecPO())).needs == LossNeeds(rewards=True)
