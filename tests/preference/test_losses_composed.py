"""KTO, which depends on its batch, and losses that wrap other losses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from preference_stages import stage
from stable_ids import stable_id
from torch import Tensor
from worlds import cyclic

from genrec.errors import UsageError
from genrec.experiment import Experiment, Optimization
from genrec.preference.losses import (
    CPO,
    DPO,
    KTO,
    Anchored,
    ConservativeDPO,
    LevelWeighted,
    RecPO,
    RosePO,
    SimPO,
    Smoothed,
    SoftmaxDPO,
)
from genrec.preference.losses.kto import check_mismatched_pairs, kto_parts, reference_point
from genrec.preference.losses.log_ratios import Scores
from genrec.types import LogProbs, LossNeeds, PreferenceLoss, PreferenceTerms

INFINITY = float("inf")


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ratios(
    chosen: list[float], rejected: list[list[float]], mismatched: list[float] | None = None
) -> tuple[LogProbs, LogProbs]:  # fmt: skip
    """Return a policy with these log-ratios to a reference of -5; -inf is masked."""
    ours = LogProbs(double(chosen) - 5, double(rejected) - 5, 1, None if mismatched is None else double(mismatched) - 5)

    def reference_of(part: Tensor) -> Tensor:
        return torch.where(part.isneginf(), -INFINITY, -5.0).double()

    return ours, LogProbs(
        reference_of(ours.chosen), reference_of(ours.rejected), 1, None if ours.mismatched is None else reference_of(ours.mismatched)
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_kto_values() -> None:
    """1 - s(0.1 * 1.3) and 1 - s(0.1 * 1.8) for D_w = 1.8, D_l = -1.3, z0 = 0.5."""
    scores = Scores(double([1.8]), double([[-1.3]]), torch.tensor([[True]]))
    positive, negative = kto_parts(scores, 0.5, 0.1)
    assert float(positive) == pytest.approx(0.467545694, abs=5e-10)
    assert float(negative) == pytest.approx(0.455121108, abs=5e-10)


def test_paired_kto_weighs_both_kinds_equally() -> None:
    """z0 = 0.5 from mismatched ratios 1 and 0; weights 2 and 3: (2 * 0.467545694 + 3 * 0.455121108) / 2."""
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
    """max(0, mean over the valid pairs)."""
    assert float(reference_point(*ratios([0.0] * 3, [[0.0]] * 3, mismatched))) == pytest.approx(expected)


def test_a_mismatched_pair_masked_on_one_side_is_left_out() -> None:
    """Of log-ratios 1, 0.5 and 2 the first is masked in the reference and the last in the policy: the mean is 0.5."""
    policy, reference = ratios([0.0] * 3, [[0.0]] * 3, [1.0, 0.5, -INFINITY])
    theirs = double([-INFINITY, -5.0, -5.0])
    assert float(reference_point(policy, reference._replace(mismatched=theirs))) == pytest.approx(0.5)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("side", [0, 1])
def test_a_positive_masked_on_one_side_is_masked(paired: bool, side: int) -> None:
    """The terms equal those with both sides masked, and the gradient at the masked place is 0."""
    parts = list(ratios([1.8, -INFINITY], [[-1.3], [0.4]]))
    expected = KTO(paired=paired)(*parts)
    parts[1 - side] = parts[1 - side]._replace(chosen=parts[1 - side].chosen.nan_to_num(neginf=-4.0))
    chosen = parts[0].chosen.clone().requires_grad_()
    terms = KTO(paired=paired)(parts[0]._replace(chosen=chosen), parts[1])
    torch.testing.assert_close(tuple(terms), tuple(expected), rtol=0, atol=0)
    (slope,) = torch.autograd.grad(terms.loss.sum(), chosen)
    assert float(slope[0]) < 0
    assert float(slope[1]) == 0


def test_the_reference_point_is_detached_and_shared_by_the_batch() -> None:
    policy, reference = ratios([1.8, 0.3], [[-1.3], [0.4]], [1.0, 3.0])
    assert policy.mismatched is not None
    other = policy.mismatched.clone().requires_grad_()
    chosen = policy.chosen.clone().requires_grad_()
    loss = KTO()(policy._replace(chosen=chosen, mismatched=other), reference).loss
    found = torch.autograd.grad(loss.sum(), (chosen, other), allow_unused=True)
    assert (found[0] < 0).all()
    assert found[1] is None
    alone = ratios([1.8], [[-1.3]], [1.0])  # z0 is 1 alone, and 2 with the other row
    assert loss.tolist()[0] == pytest.approx(sigmoid(0.1 * (2 - 1.8)) / 2 + sigmoid(0.1 * (-1.3 - 2)) / 2)
    assert KTO()(*alone).loss.tolist()[0] == pytest.approx(sigmoid(0.1 * (1 - 1.8)) / 2 + sigmoid(0.1 * (-1.3 - 1)) / 2)


def test_paired_kto_with_several_negatives() -> None:
    """z0 = 0: (1 - s(0.18)) / 2 + mean of s(0.1 D_k) / 2 over the two valid negatives; rows that lack a side have loss 0."""
    terms = KTO(0.1)(*ratios([1.8, -INFINITY, 0.5], [[-1.3, 0.4, -INFINITY]] * 2 + [[-INFINITY] * 3]))
    expected = (1 - sigmoid(0.18)) / 2 + (sigmoid(-0.13) + sigmoid(0.04)) / 4
    assert terms.loss.tolist() == pytest.approx([expected, 0.0, 0.0])
    assert terms.chosen_reward.tolist() == pytest.approx([0.18, -INFINITY, 0.05])


def test_unpaired_kto_weighs_all_items_equally() -> None:
    """Rows of 1 + 2, 0 + 1, 1 + 0 and 0 + 0 examples: the mean over the rows is the mean over the 5 examples."""
    none = -INFINITY
    parts = ratios([1.8, none, 0.5, none], [[-1.3, 0.4], [2.0, none], [none, none], [none, none]])
    loss = KTO(0.1, desirable_weight=2.0, paired=False)(*parts).loss
    examples = [2 * sigmoid(-0.18), sigmoid(-0.13), sigmoid(0.04), sigmoid(0.2), 2 * sigmoid(-0.05)]
    assert float(loss.mean()) == pytest.approx(sum(examples) / 5)
    assert loss.tolist() == pytest.approx([0.8 * sum(examples[:3]), 0.8 * examples[3], 0.8 * examples[4], 0.0])  # B / N = 4 / 5


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=5))
def test_paired_and_unpaired_kto_are_equal_for_one_negative(rows: list[tuple[float, float, float]]) -> None:
    parts = ratios([row[0] for row in rows], [[row[1]] for row in rows], [row[2] for row in rows])
    torch.testing.assert_close(KTO(paired=True)(*parts).loss, KTO(paired=False)(*parts).loss)


def test_kto_without_examples_is_0() -> None:
    for paired in (True, False):
        assert KTO(paired=paired)(*ratios([-INFINITY] * 2, [[-INFINITY]] * 2, [-INFINITY] * 2)).loss.tolist() == [0, 0]


def test_the_shape_of_mismatched_is_checked() -> None:
    policy, reference = ratios([0.0, 0.0], [[0.0], [0.0]], [1.0, 1.0])
    with pytest.raises(UsageError, match=r"must be \[B\] for policy and reference, or None for both, got \[2\] and None"):
        KTO()(policy, reference._replace(mismatched=None))
    with pytest.raises(UsageError, match=r"got \[1\] and \[1\]"):
        KTO()(policy._replace(mismatched=torch.zeros(1)), reference._replace(mismatched=torch.zeros(1)))


@pytest.mark.parametrize("name", ["beta", "desirable_weight", "undesirable_weight"])
def test_fields_of_kto_are_checked(name: str) -> None:
    with pytest.raises(UsageError, match=rf"KTO.{name} must be .* got -1"):
        KTO(**{name: -1.0})


def test_kto_paired_must_be_a_bool() -> None:
    with pytest.raises(UsageError, match=r"KTO\.paired must be True or False, got 'no'"):
        KTO(paired="no")  # type: ignore[arg-type]


SEVERAL = ratios([1.8, 0.2], [[-1.3, 0.4, 2.0], [1.0, -INFINITY, -0.5]])


def test_conservative_dpo_is_smoothed_dpo() -> None:
    ours, theirs = ConservativeDPO(0.3, 0.2)(*SEVERAL), Smoothed(DPO(0.3), 0.2)(*SEVERAL)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_smoothing_by_0_is_the_mean_over_pairs() -> None:
    """Pairs with D = 3.1, 1.4, -0.2 in the first row, and D = -0.8, 0.7 in the second, where one is masked."""
    found = Smoothed(DPO(1.0), 0.0)(*SEVERAL).loss
    each = [[3.1, 1.4, -0.2], [-0.8, 0.7]]
    assert found.tolist() == pytest.approx([sum(math.log1p(math.exp(-d)) for d in row) / len(row) for row in each])


def test_smoothing_weighs_both_directions_of_a_pair() -> None:
    """SimPO with averages -0.9 and -1.4: 0.8 * -log s(0) + 0.2 * -log s(-2)."""
    policy = LogProbs(double([-3.6]), double([[-5.6]]), 4)
    found = float(Smoothed(SimPO(2.0, 1.0), 0.2)(policy, policy).loss)
    assert found == pytest.approx(0.8 * math.log(2) + 0.2 * math.log1p(math.exp(2)))


def test_smoothing_swaps_rewards_with_the_pair() -> None:
    """RosePO smooths the swapped pair with swapped rewards: 2 * 0.1 * s(ln 3) = 0.15 and 2 * 0.1 * s(-ln 3) = 0.05."""
    policy, reference = ratios([1.8], [[-1.3]])
    policy = policy._replace(rewards=double([[0.0, math.log(3)]]))
    labeled = 0.85 * math.log1p(math.exp(-0.31)) + 0.15 * math.log1p(math.exp(0.31))
    swapped = 0.95 * math.log1p(math.exp(0.31)) + 0.05 * math.log1p(math.exp(-0.31))
    found = float(Smoothed(RosePO(0.1, 0.1), 0.3)(policy, reference).loss)
    assert found == pytest.approx(0.7 * labeled + 0.3 * swapped)


def test_an_anchor_may_be_outside_or_inside_the_smoothing() -> None:
    """lp_w = -3.2, lp_l = -6.3: outside, the anchor is 3.2; inside, it is smoothed to 0.9 * 3.2 + 0.1 * 6.3."""
    parts = ratios([1.8], [[-1.3]])
    plain = float(Smoothed(DPO())(*parts).loss)
    assert float(Anchored(Smoothed(DPO()))(*parts).loss) == pytest.approx(plain + 3.2)
    assert float(Smoothed(Anchored(DPO()))(*parts).loss) == pytest.approx(plain + 0.9 * 3.2 + 0.1 * 6.3)


def test_a_composition_keeps_the_rewards_of_its_loss() -> None:
    for loss in (SoftmaxDPO(0.3), KTO(0.3), CPO(0.3)):
        terms = loss(*SEVERAL)
        for outer in (Anchored(loss), Smoothed(loss), Anchored(Smoothed(loss))):
            torch.testing.assert_close(outer(*SEVERAL)[1:], terms[1:])


class NeedsBoth:
    """A loss with both optional inputs."""

    needs = LossNeeds(mismatched=True, rewards=True, positive=False)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return SoftmaxDPO()(policy, reference)


@pytest.mark.parametrize(
    ("loss", "needs"),
    [
        (DPO(), LossNeeds()),
        (KTO(), LossNeeds(mismatched=True, batch=True)),
        (KTO(paired=False), LossNeeds(mismatched=True, positive=False, batch=True)),
        (RosePO(), LossNeeds()),
        (RecPO(), LossNeeds(rewards=True)),
        (Anchored(KTO(paired=False)), LossNeeds(mismatched=True, positive=False, batch=True)),
        (Smoothed(KTO(paired=False)), LossNeeds(mismatched=True, batch=True)),  # without a positive there is no pair
        (LevelWeighted(RecPO()), LossNeeds(rewards=True)),
        (Anchored(NeedsBoth()), LossNeeds(mismatched=True, rewards=True, positive=False)),
        (Anchored(Smoothed(NeedsBoth())), LossNeeds(mismatched=True, rewards=True)),
    ],
    ids=stable_id,
)
def test_a_composition_needs_what_its_loss_needs(loss: PreferenceLoss, needs: LossNeeds) -> None:
    assert loss.needs == needs


@pytest.mark.parametrize("wrong", [DPO, 1.0])
def test_the_smoothed_loss_is_checked(wrong: object) -> None:
    with pytest.raises(UsageError, match=r"Smoothed.loss must be a preference loss"):
        Smoothed(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"Smoothed.label_smoothing must be in \[0, 0.5\), got 0.5"):
        Smoothed(DPO(), 0.5)


def experiment(batch_size: int, loss: PreferenceLoss) -> Experiment:
    optimization = Optimization(max_steps=10, batch_size=batch_size, learning_rate=1e-4)
    return replace(cyclic(), align=stage(loss=loss, num_negatives=1, optimization=optimization))


@pytest.mark.parametrize("loss", [KTO(), Anchored(KTO()), Smoothed(KTO()), Anchored(Smoothed(KTO(paired=False)))])
def test_kto_with_batches_of_one_is_refused_before_any_stage(loss: PreferenceLoss) -> None:
    """z0 needs the positive of another example of the batch. Two examples have one; other losses take any batch."""
    with pytest.raises(UsageError, match=r"got 1 from align\.optimization\.batch_size: .*z0.*2402\.01306, Eq\. 8"):
        experiment(1, loss)
    assert experiment(2, loss).align is not None
    assert experiment(1, SoftmaxDPO()).align is not None


def test_a_last_batch_of_one_is_reported_if_training_reaches_it(capsys: pytest.CaptureFixture[str]) -> None:
    """33 examples in batches of 16 are 16 + 16 + 1: the third step has no pair. 32 and 34 leave no batch of one."""
    check_mismatched_pairs(33, 16, steps=2)
    check_mismatched_pairs(32, 16, steps=99)
    check_mismatched_pairs(34, 16, steps=99)
    assert capsys.readouterr().err == ""
    check_mismatched_pairs(33, 16, steps=3)
    said = capsys.readouterr().err
    assert "the last batch of each epoch has 1 of the 33 examples" in said
    assert "batch_size other than 16 avoids it" in said
    with pytest.raises(UsageError, match=r"got 1 from batches of 1 training examples \(align\.optimization\.batch_size 16\)"):
        check_mismatched_pairs(1, 16, steps=3)
