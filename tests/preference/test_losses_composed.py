"""KTO, which looks at its batch, and losses made of losses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.losses import CPO, DPO, KTO, Anchored, ConservativeDPO, RosePO, SimPO, Smoothed, SoftmaxDPO, find_requirement
from genrec.preference.losses.kto import kto_parts, reference_point
from genrec.preference.losses.log_ratios import Scores
from genrec.preference.rewards import Popular, Similarity
from genrec.types import LogProbs, PreferenceLoss, PreferenceTerms

INFINITY = float("inf")


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ratios(
    chosen: list[float], rejected: list[list[float]], mismatched: list[float] | None = None
) -> tuple[LogProbs, LogProbs]:  # fmt: skip
    """A policy with these log-ratios to a reference of -5; what is -inf is masked."""
    ours = LogProbs(double(chosen) - 5, double(rejected) - 5, 1, None if mismatched is None else double(mismatched) - 5)

    def behind(part: Tensor) -> Tensor:
        return torch.where(part.isneginf(), -INFINITY, -5.0).double()

    return ours, LogProbs(behind(ours.chosen), behind(ours.rejected), 1, None if ours.mismatched is None else behind(ours.mismatched))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_kto_vectors() -> None:
    """1 - s(0.1 * 1.3) and 1 - s(0.1 * 1.8) for D_w = 1.8, D_l = -1.3, z0 = 0.5."""
    scores = Scores(double([1.8]), double([[-1.3]]), torch.tensor([[True]]))
    positive, negative = kto_parts(scores, 0.5, 0.1)
    assert float(positive) == pytest.approx(0.467545694, abs=5e-10)
    assert float(negative) == pytest.approx(0.455121108, abs=5e-10)


def test_kto_weighs_a_pair_half_and_half() -> None:
    """z0 = 0.5 from mismatched ratios 1 and 0; lambdas 2 and 3: half of 2 * 0.467545694 + 3 * 0.455121108."""
    parts = ratios([1.8, 1.8], [[-1.3], [-1.3]], [1.0, 0.0])
    terms = KTO(0.1, desirable_weight=2.0, undesirable_weight=3.0)(*parts)
    assert terms.loss.tolist() == pytest.approx([(2 * 0.467545694 + 3 * 0.455121108) / 2] * 2, abs=5e-9)
    assert terms.chosen_reward.tolist() == pytest.approx([0.18] * 2)
    assert terms.rejected_reward.flatten().tolist() == pytest.approx([-0.13] * 2)


@pytest.mark.parametrize(
    ("mismatched", "expected"),
    [
        ([1.0, 0.0, 2.0], 1.0),
        ([1.0, -INFINITY, 2.0], 1.5),
        ([-1.0, -3.0, 1.0], 0.0),
        ([-INFINITY, -INFINITY, -INFINITY], 0.0),
        (None, 0.0),
    ],
)
def test_the_reference_point(mismatched: list[float] | None, expected: float) -> None:
    """max(0, the mean over the pairs that are there)."""
    assert float(reference_point(*ratios([0.0] * 3, [[0.0]] * 3, mismatched))) == pytest.approx(expected)


def test_a_mismatched_pair_masked_on_one_side_is_none() -> None:
    """Log-ratios 1, 0.5 and 2, of which the reference lacks the first and the policy the last: the mean over 0.5 alone."""
    policy, reference = ratios([0.0] * 3, [[0.0]] * 3, [1.0, 0.5, -INFINITY])
    theirs = double([-INFINITY, -5.0, -5.0])
    assert float(reference_point(policy, reference._replace(mismatched=theirs))) == pytest.approx(0.5)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("side", [0, 1])
def test_a_positive_masked_on_one_side_is_none(paired: bool, side: int) -> None:
    """As where both say so: the loss, and a gradient of 0 at the masked place."""
    parts = list(ratios([1.8, -INFINITY], [[-1.3], [0.4]]))
    expected = KTO(paired=paired)(*parts)
    parts[1 - side] = parts[1 - side]._replace(chosen=parts[1 - side].chosen.nan_to_num(neginf=-4.0))
    chosen = parts[0].chosen.clone().requires_grad_()
    terms = KTO(paired=paired)(parts[0]._replace(chosen=chosen), parts[1])
    torch.testing.assert_close(tuple(terms), tuple(expected), rtol=0, atol=0)
    (slope,) = torch.autograd.grad(terms.loss.sum(), chosen)
    assert float(slope[0]) < 0
    assert float(slope[1]) == 0


def test_the_reference_point_has_no_gradient_and_is_the_batch_s() -> None:
    policy, reference = ratios([1.8, 0.3], [[-1.3], [0.4]], [1.0, 3.0])
    assert policy.mismatched is not None
    other = policy.mismatched.clone().requires_grad_()
    chosen = policy.chosen.clone().requires_grad_()
    loss = KTO()(policy._replace(chosen=chosen, mismatched=other), reference).loss
    found = torch.autograd.grad(loss.sum(), (chosen, other), allow_unused=True)
    assert (found[0] < 0).all()
    assert found[1] is None
    alone = ratios([1.8], [[-1.3]], [1.0])  # z0 = 1, and 2 beside the other row
    assert loss.tolist()[0] == pytest.approx(sigmoid(0.1 * (2 - 1.8)) / 2 + sigmoid(0.1 * (-1.3 - 2)) / 2)
    assert KTO()(*alone).loss.tolist()[0] == pytest.approx(sigmoid(0.1 * (1 - 1.8)) / 2 + sigmoid(0.1 * (-1.3 - 1)) / 2)


def test_a_pair_weighs_its_two_kinds_the_same_at_any_number_of_negatives() -> None:
    """z0 = 0: (1 - s(0.18)) / 2 + mean of s(0.1 D_k) / 2, over the two negatives that are there; a row without a positive is no pair."""
    terms = KTO(0.1)(*ratios([1.8, -INFINITY, 0.5], [[-1.3, 0.4, -INFINITY]] * 2 + [[-INFINITY] * 3]))
    expected = (1 - sigmoid(0.18)) / 2 + (sigmoid(-0.13) + sigmoid(0.04)) / 4
    assert terms.loss.tolist() == pytest.approx([expected, 0.0, 0.0])
    assert terms.chosen_reward.tolist() == pytest.approx([0.18, -INFINITY, 0.05])


def test_examples_of_their_own_weigh_the_same() -> None:
    """Rows of 1 + 2, 0 + 1, 1 + 0 and 0 + 0 examples: the mean over the rows is the mean over the 5 examples."""
    nothing = -INFINITY
    parts = ratios([1.8, nothing, 0.5, nothing], [[-1.3, 0.4], [2.0, nothing], [nothing, nothing], [nothing, nothing]])
    loss = KTO(0.1, desirable_weight=2.0, paired=False)(*parts).loss
    examples = [2 * sigmoid(-0.18), sigmoid(-0.13), sigmoid(0.04), sigmoid(0.2), 2 * sigmoid(-0.05)]
    assert float(loss.mean()) == pytest.approx(sum(examples) / 5)
    assert loss.tolist() == pytest.approx([0.8 * sum(examples[:3]), 0.8 * examples[3], 0.8 * examples[4], 0.0])  # B / N = 4 / 5


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=5))
@settings(deadline=None)
def test_with_one_negative_both_kinds_of_kto_are_one(rows: list[tuple[float, float, float]]) -> None:
    parts = ratios([row[0] for row in rows], [[row[1]] for row in rows], [row[2] for row in rows])
    torch.testing.assert_close(KTO(paired=True)(*parts).loss, KTO(paired=False)(*parts).loss)


def test_no_example_at_all_gives_no_loss() -> None:
    for paired in (True, False):
        assert KTO(paired=paired)(*ratios([-INFINITY] * 2, [[-INFINITY]] * 2, [-INFINITY] * 2)).loss.tolist() == [0, 0]


def test_mismatched_pairs_must_fit() -> None:
    policy, reference = ratios([0.0, 0.0], [[0.0], [0.0]], [1.0, 1.0])
    with pytest.raises(UsageError, match=r"must be \[B\] for policy and reference, or None for both, got \[2\] and None"):
        KTO()(policy, reference._replace(mismatched=None))
    with pytest.raises(UsageError, match=r"got \[1\] and \[1\]"):
        KTO()(policy._replace(mismatched=torch.zeros(1)), reference._replace(mismatched=torch.zeros(1)))


@pytest.mark.parametrize("name", ["beta", "desirable_weight", "undesirable_weight"])
def test_fields_of_kto_are_checked(name: str) -> None:
    with pytest.raises(UsageError, match=rf"KTO.{name} must be .* got -1"):
        KTO(**{name: -1.0})


def test_kto_is_paired_or_it_is_not() -> None:
    with pytest.raises(UsageError, match=r"KTO\.paired must be True or False, got 'no'"):
        KTO(paired="no")  # type: ignore[arg-type]


SEVERAL = ratios([1.8, 0.2], [[-1.3, 0.4, 2.0], [1.0, -INFINITY, -0.5]])


def test_conservative_dpo_is_smoothed_dpo() -> None:
    ours, theirs = ConservativeDPO(0.3, 0.2)(*SEVERAL), Smoothed(DPO(0.3), 0.2)(*SEVERAL)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_smoothing_by_zero_is_the_mean_over_pairs() -> None:
    """Pairs D = 3.1, 1.4, -0.2, and 0.2 - 1, 0.2 + 0.5 where one is masked."""
    found = Smoothed(DPO(1.0), 0.0)(*SEVERAL).loss
    each = [[3.1, 1.4, -0.2], [-0.8, 0.7]]
    assert found.tolist() == pytest.approx([sum(math.log1p(math.exp(-d)) for d in row) / len(row) for row in each])


def test_smoothing_of_any_loss_asks_it_for_both_directions() -> None:
    """SimPO of averages -0.9 and -1.4: 0.8 * -log s(0) + 0.2 * -log s(-2)."""
    policy = LogProbs(double([-3.6]), double([[-5.6]]), 4)
    found = float(Smoothed(SimPO(2.0, 1.0), 0.2)(policy, policy).loss)
    assert found == pytest.approx(0.8 * math.log(2) + 0.2 * math.log1p(math.exp(2)))


def test_smoothing_turns_rewards_round_with_the_pair() -> None:
    """RosePO smooths the reversed pair by the reversed rewards: 2 * 0.1 * s(ln 3) = 0.15 and 2 * 0.1 * s(-ln 3) = 0.05."""
    policy, reference = ratios([1.8], [[-1.3]])
    policy = policy._replace(rewards=double([[0.0, math.log(3)]]))
    kept = 0.85 * math.log1p(math.exp(-0.31)) + 0.15 * math.log1p(math.exp(0.31))
    swapped = 0.95 * math.log1p(math.exp(0.31)) + 0.05 * math.log1p(math.exp(-0.31))
    found = float(Smoothed(RosePO(0.1, 0.1, Popular()), 0.3)(policy, reference).loss)
    assert found == pytest.approx(0.7 * kept + 0.3 * swapped)


def test_an_anchor_may_be_outside_or_inside_the_smoothing() -> None:
    """lp_w = -3.2, lp_l = -6.3: outside the NLL is the positive's alone; inside it is 0.9 * 3.2 + 0.1 * 6.3."""
    parts = ratios([1.8], [[-1.3]])
    plain = float(Smoothed(DPO())(*parts).loss)
    assert float(Anchored(Smoothed(DPO()))(*parts).loss) == pytest.approx(plain + 3.2)
    assert float(Smoothed(Anchored(DPO()))(*parts).loss) == pytest.approx(plain + 0.9 * 3.2 + 0.1 * 6.3)


def test_rewards_of_a_composition_are_those_of_what_it_wraps() -> None:
    for loss in (SoftmaxDPO(0.3), KTO(0.3), CPO(0.3)):
        terms = loss(*SEVERAL)
        for outer in (Anchored(loss), Smoothed(loss), Anchored(Smoothed(loss))):
            torch.testing.assert_close(outer(*SEVERAL)[1:], terms[1:])


class Whole:
    """What asks for both, as an author may write it."""

    mismatched = True
    reward = Similarity()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return SoftmaxDPO()(policy, reference)


@pytest.mark.parametrize(
    ("loss", "mismatched", "reward"),
    [
        (DPO(), None, None),
        (KTO(), True, None),
        (Anchored(KTO()), True, None),
        (RosePO(), None, None),
        (RosePO(reward=Popular()), None, Popular()),
        (Anchored(Smoothed(RosePO(reward=Popular(2.0)))), None, Popular(2.0)),
        (Anchored(Whole()), True, Similarity()),
    ],
    ids=repr,
)
def test_what_a_loss_asks_for_is_found_through_compositions(loss: PreferenceLoss, mismatched: object, reward: object) -> None:
    assert find_requirement(loss, "mismatched") == mismatched
    assert find_requirement(loss, "reward") == reward


def test_a_loss_that_says_no_is_passed_over() -> None:
    class Outer:
        mismatched = False
        reward = None
        loss = Anchored(Whole())

        def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
            return self.loss(policy, reference)

    assert find_requirement(Outer(), "mismatched") is True
    assert find_requirement(Outer(), "reward") == Similarity()


@pytest.mark.parametrize("wrong", [DPO, 1.0])
def test_the_smoothed_loss_is_checked(wrong: object) -> None:
    with pytest.raises(UsageError, match=r"Smoothed.loss must be a preference loss"):
        Smoothed(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"Smoothed.label_smoothing must be in \[0, 0.5\), got 0.5"):
        Smoothed(DPO(), 0.5)
