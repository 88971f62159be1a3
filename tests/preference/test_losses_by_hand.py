"""Losses, compared with values worked out by hand in float64. By default D_w = 1.8 and D_l = -1.3, so D = 3.1."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_ids import stable_id
from torch import Tensor

from genrec.errors import InputError, NumericsError, UsageError
from genrec.preference.losses import (
    CPO,
    DMPO,
    DPO,
    IPO,
    ORPO,
    ConservativeDPO,
    Hinge,
    RecPO,
    RobustDPO,
    RosePO,
    SimPO,
    Smoothed,
    SoftmaxDPO,
)
from genrec.preference.losses.log_ratios import Scores
from genrec.preference.losses.reference_free import log_odds
from genrec.preference.losses.smoothing import MAX_SMOOTHING, flip_probability, pair_losses, smooth
from genrec.preference.losses.softmax import softmax_loss
from genrec.types import LogProbs, PreferenceLoss

D_W, D_L = 1.8, -1.3
SEVERAL = (-1.3, 0.4, 2.0)  # log-ratios of three negatives
INFINITY = float("inf")


def double(values: list[float] | list[list[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pair(chosen: float, rejected: tuple[float, ...], length: int = 1) -> tuple[LogProbs, LogProbs]:
    """Return a policy with these log-ratios to a reference: one example."""
    reference = LogProbs(double([-5.0]), double([[-7.0] * len(rejected)]), length)
    return LogProbs(reference.chosen + chosen, reference.rejected + double([list(rejected)]), length), reference


def without_reference(chosen: float, rejected: tuple[float, ...], length: int) -> tuple[LogProbs, LogProbs]:
    """Return a policy with these log-probabilities, and a reference that must not matter."""
    policy = LogProbs(double([chosen]), double([list(rejected)]), length)
    return policy, LogProbs(policy.chosen - 3, policy.rejected + 4, length)


def value(loss: PreferenceLoss, chosen: float = D_W, rejected: tuple[float, ...] = (D_L,), length: int = 1) -> float:
    return float(loss(*pair(chosen, rejected, length)).loss)


def rated(parts: tuple[LogProbs, LogProbs], rewards: list[float]) -> tuple[LogProbs, LogProbs]:
    policy, reference = parts
    return policy._replace(rewards=double([rewards])), reference


@pytest.mark.parametrize(("label_smoothing", "expected"), [(0.1, 0.581111886), (0.2, 0.612111886)])
def test_conservative_dpo_values(label_smoothing: float, expected: float) -> None:
    """-log s(0.31) + e * 0.31 = 0.550111886 + e * 0.31."""
    assert value(ConservativeDPO(0.1, label_smoothing)) == pytest.approx(expected, abs=5e-10)


def test_robust_dpo_value() -> None:
    """(0.9 * 0.550111886 - 0.1 * 0.860111886) / 0.8."""
    assert value(RobustDPO(0.1, 0.1)) == pytest.approx(0.511361886, abs=5e-10)
    by_hand = (0.9 * 0.550111886 - 0.1 * 0.860111886) / 0.8
    assert by_hand == pytest.approx(0.511361886, abs=5e-9)


@pytest.mark.parametrize("label_smoothing", [0.1, 0.3])
def test_robust_dpo_is_dpo_in_expectation(label_smoothing: float) -> None:
    """If labels are flipped with probability e, the expected loss (1-e) l(D) + e l(-D) is the DPO loss of the true label."""
    loss = RobustDPO(0.5, label_smoothing)
    flipped = (1 - label_smoothing) * value(loss) + label_smoothing * value(loss, D_L, (D_W,))
    assert flipped == pytest.approx(value(DPO(0.5)))


@pytest.mark.parametrize(("beta", "expected"), [(0.1, 3.61), (0.5, 4.41)])
def test_ipo_values(beta: float, expected: float) -> None:
    """(3.1 - 5)^2 and (3.1 - 1)^2."""
    assert value(IPO(beta)) == pytest.approx(expected, abs=1e-12)


def test_ipo_with_mean_averages_over_codes() -> None:
    """L = 4: the sum is (3.1 - 5)^2 and the mean (0.775 - 5)^2, so the mean's target is D = 20."""
    assert value(IPO(0.1), length=4) == pytest.approx(3.61)
    assert value(IPO(0.1, reduction="mean"), length=4) == pytest.approx((0.775 - 5) ** 2)
    assert value(IPO(0.1, reduction="mean"), 20.0, (0.0,), length=4) == pytest.approx(0, abs=1e-12)
    assert IPO(0.1, reduction="mean")(*pair(D_W, (D_L,), 4)).chosen_reward.tolist() == pytest.approx([0.1 * D_W / 4])


@pytest.mark.parametrize(("beta", "expected"), [(0.1, 0.69), (0.3, 0.07), (0.5, 0.0)])
def test_hinge_values(beta: float, expected: float) -> None:
    """max(0, 1 - 0.31), max(0, 1 - 0.93), max(0, 1 - 1.55)."""
    assert value(Hinge(beta)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("beta", "expected"), [(0.1, 0.624046374), (1.0, 0.213911106)])
def test_dmpo_values(beta: float, expected: float) -> None:
    """The mean of the negatives is 1.1 / 3 = 0.3666667: -log s(beta * 1.4333333)."""
    assert value(DMPO(beta), D_W, SEVERAL) == pytest.approx(expected, abs=5e-10)
    assert math.log1p(math.exp(-beta * (1.8 - 1.1 / 3))) == pytest.approx(expected, abs=5e-10)


def test_simpo_value() -> None:
    """Averages -0.9 and -1.4: 2 * 0.5 - 1 = 0, -log s(0) = ln 2; over 4 codes."""
    terms = SimPO(beta=2.0, gamma=1.0)(*without_reference(-3.6, (-5.6,), 4))
    assert float(terms.loss) == pytest.approx(0.693147181, abs=5e-10)
    assert terms.chosen_reward.tolist() == pytest.approx([-1.8])  # 2 * -0.9
    assert terms.rejected_reward[0].tolist() == pytest.approx([-2.8])


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 0.598138869), (1.0, 1.498138869), (2.0, 2.398138869)])
def test_cpo_values(alpha: float, expected: float) -> None:
    """-log s(0.1 * 2) + alpha * 3.6 / 4."""
    terms = CPO(0.1, alpha)(*without_reference(-3.6, (-5.6,), 4))
    assert float(terms.loss) == pytest.approx(expected, abs=5e-10)
    assert terms.chosen_reward.tolist() == pytest.approx([-0.36])


def test_orpo_value() -> None:
    """Odds of e^-0.9 and of e^-1.4: 0.9 - 0.1 * log s(log_odds_w - log_odds_l)."""
    terms = ORPO(0.1)(*without_reference(-3.6, (-5.6,), 4))
    assert float(terms.loss) == pytest.approx(0.939051652, abs=5e-10)
    odds = [math.exp(a) / (1 - math.exp(a)) for a in (-0.9, -1.4)]
    assert 0.9 - 0.1 * math.log(odds[0] / (odds[0] + odds[1])) == pytest.approx(0.939051652, abs=5e-10)
    assert terms.chosen_reward.tolist() == pytest.approx([-0.09])


def test_recpo_value() -> None:
    """log(1 + e^(4 - 3.1) + e^(2 - 1.4) + e^(2.5 + 0.2))."""
    scores = Scores(double([D_W]), double([list(SEVERAL)]), torch.ones(1, 3, dtype=torch.bool))
    found = softmax_loss(scores, 1.0, double([[4.0, 2.0, 2.5]]))
    assert float(found) == pytest.approx(3.003772546, abs=5e-10)
    assert math.log(1 + math.exp(0.9) + math.exp(0.6) + math.exp(2.7)) == pytest.approx(3.003772546, abs=5e-10)


def test_recpo_margins_are_ratios_of_rewards() -> None:
    """A positive with phi 4 and negatives with phi 1, 2 and 1.6 have margins 4, 2 and 2.5."""
    parts = rated(pair(D_W, SEVERAL), [4.0, 1.0, 2.0, 1.6])
    assert float(RecPO(1.0)(*parts).loss) == pytest.approx(3.003772546, abs=5e-10)
    assert float(RecPO(1.0, weight=0.0)(*parts).loss) == pytest.approx(value(SoftmaxDPO(1.0), D_W, SEVERAL))
    halved = math.log(1 + math.exp(2 - 3.1) + math.exp(1 - 1.4) + math.exp(1.25 + 0.2))
    assert float(RecPO(1.0, weight=0.5)(*parts).loss) == pytest.approx(halved)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), INFINITY])
def test_recpo_raises_for_rewards_it_cannot_divide(wrong: float) -> None:
    kind = InputError if math.isfinite(wrong) else NumericsError
    with pytest.raises(kind, match=r"above 0 and finite, got .* for negative 1 of row 0; use another align.objective.reward"):
        RecPO()(*rated(pair(D_W, SEVERAL), [4.0, 1.0, wrong, 1.6]))
    with pytest.raises(kind, match="for the positive of row 0"):
        RecPO()(*rated(pair(D_W, SEVERAL), [wrong, 1.0, 1.0, 1.6]))


def test_recpo_ignores_rewards_of_masked_negatives() -> None:
    policy, reference = (part._replace(rejected=double([[-7.0, -INFINITY]])) for part in pair(D_W, (0.0, 0.0)))
    for masked in (-INFINITY, float("nan"), 0.0):
        terms = RecPO()(*rated((policy, reference), [3.0, 1.5, masked]))
        assert float(terms.loss) == pytest.approx(math.log1p(math.exp(2.0 - 1.8)))  # gamma = 3 / 1.5, D_l = 0


def test_rosepo_is_cdpo_with_a_smoothing_per_pair() -> None:
    """Smoothings 0.1 and 0.2 for two pairs with D = 3.1: the mean of 0.581111886 and 0.612111886."""
    parts = pair(D_W, (D_L, D_L))
    found = smooth(pair_losses(DPO(0.1), *parts), double([[0.1, 0.2]]))
    assert float(found.loss) == pytest.approx((0.581111886 + 0.612111886) / 2, abs=5e-10)
    assert value(RosePO(0.1, 0.2)) == pytest.approx(0.612111886, abs=5e-10)  # no reward: cDPO


def test_rosepo_smooths_more_where_the_negative_has_the_higher_reward() -> None:
    """2 * 0.1 * s(r_k - r_w) for r_k - r_w = 0, ln 3, -ln 3: 0.1, 0.2 * 0.75, 0.2 * 0.25."""
    found = flip_probability(double([1.0]), double([[1.0, 1.0 + math.log(3), 1.0 - math.log(3)]]), 0.1)
    assert found[0].tolist() == pytest.approx([0.1, 0.15, 0.05])
    assert flip_probability(double([0.0]), double([[50.0]]), 0.4).tolist() == [[MAX_SMOOTHING]]
    loss = RosePO(0.1, 0.1)
    got = loss(*rated(pair(D_W, (D_L,)), [0.0, math.log(3)]))
    assert float(got.loss) == pytest.approx(0.550111886 + 0.15 * 0.31, abs=5e-10)  # identity 6


@pytest.mark.parametrize("wrong", [float("nan"), INFINITY, -INFINITY])
def test_rosepo_names_a_non_finite_reward(wrong: float) -> None:
    """The second row has it. The reward of a masked negative is ignored."""
    rejected = double([[-7.0, -6.0], [-7.0, -INFINITY]])
    policy, reference = (LogProbs(part.chosen.repeat(2), rejected) for part in pair(D_W, (0.0, 0.0)))
    loss = RosePO()
    valid = double([[1.0, 2.0, 3.0], [1.0, 2.0, wrong]])
    assert loss(policy._replace(rewards=valid), reference).loss.isfinite().all()
    for place, which in ((0, "the positive"), (1, "negative 0")):
        rewards = valid.clone()
        rewards[1, place] = wrong
        message = rf"RosePO needs finite rewards, got -?(nan|inf) for {which} of row 1"
        with pytest.raises(NumericsError, match=message):
            loss(policy._replace(rewards=rewards), reference)


def test_recpo_needs_rewards_and_rosepo_does_not() -> None:
    assert (RecPO().needs.rewards, RosePO().needs.rewards) == (True, False)
    with pytest.raises(UsageError, match=r"RecPO needs LogProbs.rewards, got None; set align\.objective\.reward, such as Rating"):
        RecPO()(*pair(D_W, SEVERAL))


@pytest.mark.parametrize("loss", [RosePO(), RecPO()])
def test_rewards_of_a_wrong_shape_raise(loss: PreferenceLoss) -> None:
    with pytest.raises(UsageError, match=r"must be \[B, 1 \+ K\] = \[1, 4\], the positive first, got \[1, 3\]"):
        loss(*rated(pair(D_W, SEVERAL), [1.0, 1.0, 1.0]))


ratios = st.floats(-20, 20)


@given(ratios, ratios, st.floats(0.01, 2), st.floats(0, 0.499))
def test_identity_6_cdpo_is_dpo_plus_e_beta_d(chosen: float, rejected: float, beta: float, label_smoothing: float) -> None:
    expected = value(DPO(beta), chosen, (rejected,)) + label_smoothing * beta * (chosen - rejected)
    for loss in (ConservativeDPO(beta, label_smoothing), Smoothed(DPO(beta), label_smoothing), RosePO(beta, label_smoothing)):
        assert value(loss, chosen, (rejected,)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("loss", [ConservativeDPO(0.5), RobustDPO(0.5), IPO(0.5), Hinge(0.2)], ids=stable_id)
def test_several_negatives_are_the_mean_over_pairs(loss: PreferenceLoss) -> None:
    each = [value(loss, D_W, (rejected,)) for rejected in SEVERAL]
    assert value(loss, D_W, SEVERAL) == pytest.approx(sum(each) / 3)
    assert len({round(one, 6) for one in each}) == 3


@pytest.mark.parametrize("loss", [SimPO(), CPO(alpha=0.0), CPO(), ORPO()], ids=stable_id)
def test_several_negatives_without_a_reference_are_the_mean_over_pairs(loss: PreferenceLoss) -> None:
    each = [float(loss(*without_reference(-3.6, (one,), 4)).loss) for one in (-5.6, -3.0, -8.0)]
    assert float(loss(*without_reference(-3.6, (-5.6, -3.0, -8.0), 4)).loss) == pytest.approx(sum(each) / 3)


@pytest.mark.parametrize("loss", [SimPO(), CPO(), ORPO()], ids=stable_id)
def test_the_reference_does_not_matter(loss: PreferenceLoss) -> None:
    policy, reference = without_reference(-3.6, (-5.6,), 4)
    assert float(loss(policy, reference).loss) == float(loss(policy, policy).loss)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("average", [-1e-7, -1e-6, -1e-5, -0.01, -0.69, -0.7, -1.0, -50.0, -1e4, 0.0])
def test_log_odds_are_stable(average: float, kind: torch.dtype) -> None:
    """The value is a - log(-expm1(a)) with a clamped to -1e-6; the derivative is 1 / (1 - exp(a)), and 0 above -1e-6."""
    a = torch.tensor([average], dtype=kind, requires_grad=True)
    found = log_odds(a)
    (slope,) = torch.autograd.grad(found.sum(), a)
    clamped = min(average, -1e-6)
    assert float(found.detach()) == pytest.approx(clamped - math.log(-math.expm1(clamped)), rel=1e-5, abs=1e-6)
    assert float(slope) == pytest.approx(-1 / math.expm1(average) if average < -1e-6 else slope.item(), rel=1e-3)
    assert math.isfinite(float(slope))
    assert (float(slope) == 0) == (average > -1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConservativeDPO(label_smoothing=0.5), r"ConservativeDPO.label_smoothing must be in \[0, 0.5\), got 0.5"),
        (lambda: RobustDPO(label_smoothing=-0.1), r"RobustDPO.label_smoothing must be in \[0, 0.5\), got -0.1"),
        (lambda: RosePO(label_smoothing=float("nan")), r"RosePO.label_smoothing must be in \[0, 0.5\), got nan"),
        (lambda: RosePO(label_smoothing=None), r"RosePO.label_smoothing must be in \[0, 0.5\), got None"),
        (lambda: Hinge(beta=True), r"Hinge.beta must be above 0 and finite, got True"),
        (lambda: RecPO(weight=-1.0), r"RecPO.weight must be 0 or more and finite, got -1.0"),
        (lambda: IPO(beta=0.0), r"IPO.beta must be above 0 and finite, got 0.0"),
        (lambda: IPO(reduction="max"), r"IPO.reduction must be 'sum' or 'mean', got 'max'"),
        (lambda: Hinge(beta=INFINITY), r"Hinge.beta must be above 0 and finite"),
        (lambda: DMPO(beta=-1.0), r"DMPO.beta must be above 0 and finite"),
        (lambda: SimPO(gamma=-0.1), r"SimPO.gamma must be 0 or more and finite"),
        (lambda: CPO(alpha=-0.1), r"CPO.alpha must be 0 or more and finite"),
        (lambda: ORPO(weight=-0.1), r"ORPO.weight must be 0 or more and finite"),
    ],
)  # fmt: skip
def test_fields_are_checked(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]
