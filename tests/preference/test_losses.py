"""DPO, S-DPO, the anchor and the start check: values worked out by hand and identities."""

from __future__ import annotations

import math
from typing import get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.errors import NumericsError, UsageError
from genrec.preference.losses import DPO, Anchored, ContinuedSFT, SoftmaxDPO, check_start, starting_loss
from genrec.preference.losses.log_ratios import log_ratios, preference_terms
from genrec.types import LogProbs, PreferenceLoss

D_W, D_L = 1.8, -1.3  # log-ratios of the positive and of the negative: D = 3.1
SEVERAL = (-1.3, 0.4, 2.0)  # log-ratios of three negatives
INFINITY = float("inf")


def pair(chosen: float, rejected: tuple[float, ...], length: int = 1) -> tuple[LogProbs, LogProbs]:
    """Return a policy with these log-ratios to a reference: one example, float64."""
    reference = LogProbs(double([-5.0]), double([[-7.0] * len(rejected)]), length)
    return LogProbs(reference.chosen + chosen, reference.rejected + double([rejected]), length), reference


def double(values: list[float] | list[list[float]] | list[tuple[float, ...]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def value(loss: PreferenceLoss, chosen: float, rejected: tuple[float, ...]) -> float:
    return float(loss(*pair(chosen, rejected)).loss)


def gradients(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to the policy's chosen [B] and rejected [B, K]."""
    chosen, rejected = policy.chosen.clone().requires_grad_(), policy.rejected.clone().requires_grad_()
    loss(LogProbs(chosen, rejected, policy.length), reference).loss.sum().backward()
    assert chosen.grad is not None
    return chosen.grad, torch.zeros_like(rejected) if rejected.grad is None else rejected.grad


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.1, 0.550111886), (0.5, 0.192476466), (1.0, 0.044063968)],  # -log s(0.31), -log s(1.55), -log s(3.1)
)
def test_dpo_values(beta: float, expected: float) -> None:
    assert value(DPO(beta), D_W, (D_L,)) == pytest.approx(expected, abs=5e-10)
    assert math.log1p(math.exp(-beta * (D_W - D_L))) == pytest.approx(expected, abs=5e-10)


def test_dpo_gradient() -> None:
    """d/dlp_w = -beta * s(-beta D) = -0.1 * s(-0.31) = -0.1 * 0.42311474."""
    chosen, rejected = gradients(DPO(0.1), *pair(D_W, (D_L,)))
    assert float(chosen) == pytest.approx(-0.042311474, abs=5e-10)
    assert float(rejected) == pytest.approx(0.042311474, abs=5e-10)


@pytest.mark.parametrize(
    ("beta", "rejected", "expected"),
    [(0.1, (-1.3, 0.4), 0.956589783), (0.1, SEVERAL, 1.287304215), (1.0, SEVERAL, 0.921496727)],
)
def test_softmax_dpo_values(beta: float, rejected: tuple[float, ...], expected: float) -> None:
    assert value(SoftmaxDPO(beta), D_W, rejected) == pytest.approx(expected, abs=5e-10)
    terms = [math.exp(beta * d) for d in (D_W, *rejected)]
    assert -math.log(terms[0] / sum(terms)) == pytest.approx(expected, abs=5e-10)


def test_softmax_dpo_gradients() -> None:
    """d/dlp_k = beta * softmax_k; the denominator is exp(0.18) + exp(-0.13) + exp(0.04) + exp(0.2) = 4.33752632."""
    chosen, rejected = gradients(SoftmaxDPO(0.1), *pair(D_W, SEVERAL))
    assert float(chosen) == pytest.approx(-0.072398614, abs=5e-10)
    assert rejected[0].tolist() == pytest.approx([0.020244152, 0.023995492, 0.028158970], abs=5e-10)


def test_rewards_of_the_positive_and_of_the_negatives() -> None:
    terms = SoftmaxDPO(0.5)(*pair(D_W, SEVERAL))
    assert terms.chosen_reward.tolist() == pytest.approx([0.9])
    assert terms.rejected_reward[0].tolist() == pytest.approx([-0.65, 0.2, 1.0])


ratios = st.floats(-20, 20)
betas = st.floats(0.01, 2)


@given(ratios, ratios, betas)
def test_identity_1_softmax_dpo_with_one_negative_is_dpo(chosen: float, rejected: float, beta: float) -> None:
    assert value(SoftmaxDPO(beta), chosen, (rejected,)) == value(DPO(beta), chosen, (rejected,))


@given(ratios, st.lists(ratios, min_size=2, max_size=6), betas, st.randoms(use_true_random=False))
def test_identity_2_the_order_of_negatives_does_not_matter(chosen: float, rejected: list[float], beta: float, random: object) -> None:
    shuffled = list(rejected)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert value(SoftmaxDPO(beta), chosen, tuple(shuffled)) == pytest.approx(value(SoftmaxDPO(beta), chosen, tuple(rejected)))


@pytest.mark.parametrize(("count", "expected"), [(1, 0.693147), (2, 1.098612), (3, 1.386294), (15, 2.772589)])
def test_identity_3_the_starting_loss_is_ln_one_plus_k(count: int, expected: float) -> None:
    policy = LogProbs(torch.randn(4), torch.randn(4, count))
    assert SoftmaxDPO(0.3)(policy, policy).loss.tolist() == pytest.approx([expected] * 4, abs=1e-6)
    assert starting_loss(torch.ones(4, count, dtype=torch.bool)).tolist() == pytest.approx([expected] * 4, abs=1e-6)


@given(ratios, ratios, betas, st.integers(1, 20))
def test_identity_4_equal_negatives_are_a_shifted_dpo(chosen: float, rejected: float, beta: float, count: int) -> None:
    shifted = value(DPO(beta), chosen - math.log(count) / beta, (rejected,))
    assert value(SoftmaxDPO(beta), chosen, (rejected,) * count) == pytest.approx(shifted, rel=1e-9, abs=1e-12)


@given(ratios, st.lists(ratios, min_size=1, max_size=6), betas)
def test_identity_5_gradients_sum_to_zero(chosen: float, rejected: list[float], beta: float) -> None:
    ours, theirs = gradients(SoftmaxDPO(beta), *pair(chosen, tuple(rejected)))
    assert float(ours + theirs.sum()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", [DPO(), SoftmaxDPO(), Anchored(SoftmaxDPO(0.2), 0.7), ContinuedSFT()])
def test_gradcheck(loss: PreferenceLoss) -> None:
    count = 1 if isinstance(loss, DPO) else 3
    source = torch.Generator().manual_seed(0)
    chosen, rejected, chosen_0, rejected_0 = (
        torch.randn(*shape, generator=source, dtype=torch.float64) for shape in ((4,), (4, count)) * 2
    )
    reference = LogProbs(chosen_0, rejected_0, 4)

    def scalar(a: Tensor, b: Tensor) -> Tensor:
        return loss(LogProbs(a, b, 4), reference).loss

    assert torch.autograd.gradcheck(scalar, (chosen.requires_grad_(), rejected.requires_grad_()))


@pytest.mark.parametrize("loss", [DPO(1.0), SoftmaxDPO(), Anchored(SoftmaxDPO())])
@pytest.mark.parametrize("chosen", [1e4, -1e4])
@pytest.mark.parametrize("rejected", [1e4, -1e4])
def test_finite_at_huge_log_ratios(loss: PreferenceLoss, chosen: float, rejected: float) -> None:
    policy, reference = LogProbs(torch.tensor([chosen]), torch.tensor([[rejected]])), LogProbs(torch.zeros(1), torch.zeros(1, 1))
    ours, theirs = gradients(loss, policy, reference)
    assert torch.isfinite(torch.cat([loss(policy, reference).loss, ours, theirs.flatten()])).all()
    if not isinstance(loss, Anchored):
        assert float(loss(policy, reference).loss) == pytest.approx(
            max(0.0, rejected - chosen) if rejected != chosen else math.log(2), rel=1e-6
        )


def masked(shape: tuple[int, int], mask: Tensor) -> tuple[LogProbs, LogProbs]:
    source = torch.Generator().manual_seed(3)
    policy, reference = (
        LogProbs(torch.randn(shape[0], generator=source), torch.randn(shape, generator=source).masked_fill(mask, -INFINITY))
        for _ in range(2)
    )
    return policy, reference


@given(st.integers(0, 2**12 - 1))
def test_a_masked_negative_has_no_influence(bits: int) -> None:
    mask = torch.tensor([bool(bits >> place & 1) for place in range(12)]).view(4, 3)
    policy, reference = masked((4, 3), mask)
    loss = SoftmaxDPO(0.7)
    terms = loss(policy, reference)
    ours, theirs = gradients(loss, policy, reference)
    for row in range(4):
        keep = ~mask[row]
        part = [LogProbs(lp.chosen[row : row + 1], lp.rejected[row : row + 1, keep]) for lp in (policy, reference)]
        torch.testing.assert_close(terms.loss[row : row + 1], loss(part[0], part[1]).loss)
        chosen, rejected = gradients(loss, part[0], part[1])
        torch.testing.assert_close(ours[row : row + 1], chosen)
        torch.testing.assert_close(theirs[row, keep], rejected[0])
    assert (theirs[mask] == 0).all()
    assert terms.rejected_reward[mask].isneginf().all()
    assert torch.isfinite(terms.rejected_reward[~mask]).all()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_row_without_negatives_has_loss_0(count: int) -> None:
    policy, reference = masked((2, count), torch.ones(2, count, dtype=torch.bool))
    for loss in (SoftmaxDPO(), *([DPO()] if count < 2 else [])):
        assert loss(policy, reference).loss.tolist() == [0, 0]
        ours, theirs = gradients(loss, policy, reference)
        assert not ours.any()
        assert not theirs.any()


def test_rewards_are_detached() -> None:
    policy = LogProbs(torch.zeros(2, requires_grad=True), torch.zeros(2, 1, requires_grad=True))
    for loss in (DPO(), SoftmaxDPO(), Anchored(DPO()), ContinuedSFT()):
        terms = loss(policy, LogProbs(torch.ones(2), torch.ones(2, 1)))
        assert terms.loss.requires_grad
        assert not terms.chosen_reward.requires_grad
        assert not terms.rejected_reward.requires_grad


def test_the_anchor_adds_the_mean_nll() -> None:
    """The value of CPO: no reference, lp -3.6 and -5.6 over 4 codes, beta 0.1: 0.598138869 + 3.6 / 4."""
    policy = LogProbs(double([-3.6]), double([[-5.6]]), 4)
    zeros = LogProbs(double([0.0]), double([[0.0]]), 4)
    assert float(DPO(0.1)(policy, zeros).loss) == pytest.approx(0.598138869, abs=5e-10)
    terms = Anchored(DPO(0.1))(policy, zeros)
    assert float(terms.loss) == pytest.approx(1.498138869, abs=5e-10)
    assert terms.chosen_reward.tolist() == pytest.approx([-0.36])
    assert float(Anchored(DPO(0.1), alpha=0.0)(policy, zeros).loss) == pytest.approx(0.598138869, abs=5e-10)


def test_continued_sft_ignores_negatives_and_reference() -> None:
    policy, reference = pair(D_W, SEVERAL, length=4)
    terms = ContinuedSFT()(policy, reference)
    assert float(terms.loss) == pytest.approx(3.2 / 4)  # lp_w = -5 + 1.8
    assert terms.rejected_reward[0].tolist() == pytest.approx(SEVERAL)
    ours, theirs = gradients(ContinuedSFT(), policy, reference)
    assert ours.tolist() == [-0.25]
    assert not theirs.any()


def test_dpo_raises_for_several_negatives() -> None:
    with pytest.raises(UsageError, match=r"K = 3: let the proposer give one, .* or use SoftmaxDPO"):
        DPO()(*pair(D_W, SEVERAL))


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (0.0, "0.0"), (-1.0, "-1.0"), (float("nan"), "nan"), (INFINITY, "inf"), ("x", "'x'"), (None, "None"), (True, "True"),
        (torch.tensor(1.0), r"tensor\(1.\)"), (10**400, "an integer too large for a float"), (10**5000, "an integer too large"),
    ],
    ids=["0", "-1", "nan", "inf", "text", "none", "bool", "tensor", "1e400", "1e5000"],
)  # fmt: skip
def test_beta_is_checked(wrong: object, got: str) -> None:
    for kind in (DPO, SoftmaxDPO):
        with pytest.raises(UsageError, match=rf"{kind.__name__}.beta must be above 0 and finite, got {got}"):
            kind(beta=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("beta", [1, 0.5, 10**300])
def test_integers_are_accepted(beta: float) -> None:
    assert SoftmaxDPO(beta).beta == beta


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), INFINITY])
def test_alpha_is_checked(wrong: float) -> None:
    with pytest.raises(UsageError, match=r"Anchored.alpha must be 0 or more and finite, got"):
        Anchored(DPO(), alpha=wrong)


@pytest.mark.parametrize("wrong", [DPO, 1.0])
def test_the_anchored_loss_is_checked(wrong: object) -> None:
    with pytest.raises(UsageError, match=r"Anchored.loss must be a preference loss"):
        Anchored(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [((3,), (3, 1)), ((3, 1), (3, 2)), ((3,), (3,)), ((2,), (3, 2))],
)
def test_shapes_that_would_broadcast_raise(chosen: tuple[int, ...], rejected: tuple[int, ...]) -> None:
    reference = LogProbs(torch.zeros(3), torch.zeros(3, 2))
    with pytest.raises(UsageError, match=r"chosen \[B\] and rejected \[B, K\]"):
        SoftmaxDPO()(LogProbs(torch.zeros(chosen), torch.zeros(rejected)), reference)


def test_starting_loss_counts_valid_negatives() -> None:
    valid = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    assert starting_loss(valid).tolist() == pytest.approx([math.log(3), 0, math.log(4)])


def test_equal_policy_and_reference_pass() -> None:
    policy, _ = masked((6, 3), torch.arange(18).view(6, 3) % 4 == 0)
    check_start(policy, policy)
    check_start(LogProbs(torch.zeros(0), torch.zeros(0, 3)), LogProbs(torch.zeros(0), torch.zeros(0, 3)))


def test_a_wrong_start_names_likely_causes() -> None:
    policy, _ = masked((6, 3), torch.zeros(6, 3, dtype=torch.bool))
    reference = policy._replace(chosen=policy.chosen - torch.tensor([0, 0, 0.5, 0, 0, 0]))  # row 2: -ln(e^0.5 / (e^0.5 + 3))
    with pytest.raises(NumericsError, match=r"row 2 is 1\.03659\d, expected ln\(1 \+ K\) = 1\.386294.*reference.*dropout.*off-by-one"):
        check_start(policy, reference)
    check_start(policy, reference, tolerance=0.5)


def test_a_start_with_nan_raises() -> None:
    policy, _ = masked((2, 1), torch.zeros(2, 1, dtype=torch.bool))
    with pytest.raises(NumericsError, match="row 1 is nan"):
        check_start(policy._replace(chosen=torch.tensor([0.0, float("nan")])), policy._replace(chosen=torch.zeros(2)))


def test_the_scale_of_the_rewards_may_be_a_tensor_by_its_type() -> None:
    """mypy reads the annotation of a loss of the user with a beta that follows the batch."""
    assert get_type_hints(preference_terms)["scale"] == float | Tensor
    scores = log_ratios(*pair(D_W, SEVERAL))
    terms = preference_terms(scores.chosen, scores, double([0.5]).squeeze(0))
    assert terms.chosen_reward.tolist() == pytest.approx([0.5 * D_W])
    assert terms.rejected_reward.squeeze(0).tolist() == pytest.approx([0.5 * each for each in SEVERAL])


def test_rewards_have_no_gradient_of_their_scale() -> None:
    scores, scale = log_ratios(*pair(D_W, SEVERAL)), torch.tensor(0.5, requires_grad=True)
    terms = preference_terms(scores.chosen * scale, scores, scale)
    assert terms.loss.requires_grad
    assert not terms.chosen_reward.requires_grad
    assert not terms.rejected_reward.requires_grad
