"""Rows without a positive or without negatives: events that are labeled one by one, as liked or disliked."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_ids import stable_id
from torch import Tensor

from genrec.errors import InputError
from genrec.objectives.preference_logs import preference_logs
from genrec.objectives.prepared_rows import check_positives, mean_likelihood
from genrec.objectives.scored_candidates import log_probs
from genrec.own_ids import OwnIds
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
    LevelWeighted,
    RecPO,
    RobustDPO,
    RosePO,
    SimPO,
    Smoothed,
    SoftmaxDPO,
)
from genrec.types import Candidates, LogProbs, PreferenceLoss, SequenceBatch

INFINITY = float("inf")
PAIRED: list[PreferenceLoss] = [
    DPO(), SoftmaxDPO(), DMPO(), RecPO(), IPO(), Hinge(), ConservativeDPO(), RobustDPO(), RosePO(), SimPO(), CPO(), ORPO(),
    ContinuedSFT(), KTO(), Anchored(SoftmaxDPO()), Smoothed(SimPO()), Smoothed(KTO(paired=False)), LevelWeighted(SoftmaxDPO()),
]  # fmt: skip
UNPAIRED: list[PreferenceLoss] = [KTO(paired=False), Anchored(KTO(paired=False)), Anchored(KTO(0.5, 2.0, 0.5, paired=False), 0.3)]


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def inputs(count: int, missing: list[bool], seed: int = 0) -> tuple[LogProbs, LogProbs]:
    """Return random inputs of 2 codes with rewards and a row for each entry of `missing`: whether it has no positive."""
    source, hidden = torch.Generator().manual_seed(seed), torch.tensor(missing)
    rewards = 0.5 + torch.rand(len(missing), 1 + count, generator=source, dtype=torch.float64)
    rewards[hidden, 0] = -INFINITY  # a reward of item 0
    parts = []
    for _ in range(2):
        levels = -0.1 - 2 * torch.rand(len(missing), 1 + count, 2, generator=source, dtype=torch.float64)
        levels[hidden, 0] = -INFINITY
        parts.append(log_probs(levels, count, rewards))
    return parts[0], parts[1]


def slopes(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of each row, and its gradients with respect to levels of the positive [B, L] and of the negatives [B, K, L]."""
    assert policy.levels is not None
    leaf = policy.levels.clone().requires_grad_()
    value = loss(log_probs(leaf, policy.rejected.shape[1], policy.rewards), reference).loss
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope[:, 0], slope[:, 1:]


@pytest.mark.parametrize("loss", PAIRED + UNPAIRED, ids=stable_id)
def test_each_loss_states_what_it_accepts(loss: PreferenceLoss) -> None:
    """The statement is the truth: rows without a positive have a gradient exactly if the loss accepts them; no gradient is NaN."""
    value, by_positive, by_negative = slopes(loss, *inputs(1, [False, True, True]))
    assert loss.needs.positive == (loss in PAIRED)
    assert value.isfinite().all()
    assert by_positive.isfinite().all()
    assert by_negative.isfinite().all()
    assert not by_positive[1:].any()
    if loss.needs.positive:
        assert value[1:].tolist() == [0.0, 0.0]
        assert not by_negative[1:].any()
    else:
        assert (by_negative[1:] > 0).all()


@pytest.mark.parametrize("loss", [each for each in PAIRED if each != Smoothed(KTO(paired=False))], ids=stable_id)
def test_rows_with_a_positive_do_not_see_the_others(loss: PreferenceLoss) -> None:
    count = 1 if isinstance(loss, DPO) else 3
    policy, reference = inputs(count, [False, True, False])
    alone = [LogProbs(*(part[[0, 2]] if isinstance(part, Tensor) else part for part in each)) for each in (policy, reference)]
    together, apart = loss(policy, reference), loss(*alone)
    torch.testing.assert_close(together.loss[[0, 2]], apart.loss, rtol=0, atol=0)
    torch.testing.assert_close(together.chosen_reward[[0, 2]], apart.chosen_reward, rtol=0, atol=0)
    assert float(together.chosen_reward[1]) == -INFINITY


@pytest.mark.parametrize("side", [0, 1])
def test_a_positive_is_missing_if_it_is_masked_on_one_side(side: int) -> None:
    parts = list(inputs(2, [False, False]))
    expected = [part._replace(chosen=double([float(part.chosen[0]), -INFINITY])) for part in parts]
    parts[side] = expected[side]
    for loss in (SoftmaxDPO(), SimPO(), KTO(), KTO(paired=False)):
        for found, wanted in zip(loss(parts[0], parts[1]), loss(expected[0], expected[1]), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_unpaired_kto_of_single_labels_by_hand() -> None:
    """Four events, beta 0.1, z0 = 0: liked with D = 2, disliked with 1 and -3, liked with -1, each in a row of its own.

    1 - s(0.2) + 1 - s(-0.1) + 1 - s(0.3) + 1 - s(-0.1), over N = 4 examples and B = 4 rows.
    """
    none = -INFINITY
    policy = LogProbs(double([2.0, none, none, -1.0]) - 5, double([[none], [1.0], [-3.0], [none]]) - 5)
    reference = LogProbs(double([-5.0, none, none, -5.0]), double([[none], [-5.0], [-5.0], [none]]))
    terms = KTO(0.1, paired=False)(policy, reference)
    expected = [1 / (1 + math.exp(x)) for x in (0.2, -0.1, 0.3, -0.1)]
    assert terms.loss.tolist() == pytest.approx(expected)
    assert terms.chosen_reward.tolist() == pytest.approx([0.2, none, none, -0.1])
    assert terms.rejected_reward.flatten().tolist() == pytest.approx([none, 0.1, -0.3, none])
    anchored = Anchored(KTO(0.1, paired=False), 0.5)(policy, reference)
    assert anchored.loss.tolist() == pytest.approx([expected[0] + 0.5 * 3, expected[1], expected[2], expected[3] + 0.5 * 6])


@given(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=1, max_size=6), st.integers(0, 2**20))
def test_unpaired_kto_does_not_depend_on_how_labels_are_put_into_rows(events: list[tuple[float, bool]], seed: int) -> None:
    """One event a row, and all events of one history in two columns, have the same mean loss over examples (z0 = 0)."""
    none, count = -INFINITY, len(events)
    chosen = double([ratio - 5 if liked else none for ratio, liked in events])
    rejected = double([[none] if liked else [ratio - 5] for ratio, liked in events])
    flat = KTO(paired=False)(LogProbs(chosen, rejected), LogProbs(_fives(chosen), _fives(rejected))).loss
    liked, disliked = ([ratio for ratio, label in events if label is wanted] for wanted in (True, False))
    rows = max(len(liked), -(-len(disliked) // 2), 1)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    first = double(([ratio - 5 for ratio in liked] + [none] * rows)[:rows])[order]
    second = double(([ratio - 5 for ratio in disliked] + [none] * 2 * rows)[: 2 * rows]).view(rows, 2)
    grouped = KTO(paired=False)(LogProbs(first, second), LogProbs(_fives(first), _fives(second))).loss
    assert float(grouped.mean()) == pytest.approx(float(flat.mean()))
    assert float(flat.mean()) == pytest.approx(sum(1 / (1 + math.exp(0.1 * d * (1 if like else -1))) for d, like in events) / count)


def _fives(part: Tensor) -> Tensor:
    return torch.where(part.isneginf(), -INFINITY, -5.0).double()


@pytest.mark.parametrize("loss", UNPAIRED, ids=stable_id)
def test_gradcheck_of_unpaired_rows(loss: PreferenceLoss) -> None:
    policy, reference = inputs(2, [False, True, True, False])
    hidden = torch.tensor([[False, False], [False, True], [False, False], [True, True]])
    missing = policy.chosen.isneginf()
    reference = reference._replace(rejected=reference.rejected.masked_fill(hidden, -INFINITY))

    def of(chosen: Tensor, rejected: Tensor) -> Tensor:
        ours = LogProbs(chosen.masked_fill(missing, -INFINITY), rejected.masked_fill(hidden, -INFINITY), 2)
        return loss(ours, reference).loss

    leaves = policy.chosen.masked_fill(missing, -1.0).requires_grad_(), policy.rejected.clone().requires_grad_()
    assert torch.autograd.gradcheck(of, leaves)


def rows(count: int) -> SequenceBatch:
    return SequenceBatch(torch.arange(count) + 7, torch.ones(count, 2, dtype=torch.int64), torch.ones(count, dtype=torch.int64))


def test_a_loss_of_pairs_refuses_rows_without_a_positive() -> None:
    """In the user's own ids. Rows that take no part, and rows without any candidate, are not refused."""
    items = torch.tensor([[5, 6, 0], [0, 0, 9], [0, 0, 0]])
    candidates = Candidates(items, items > 0)
    names = OwnIds(lambda user: f"u{user}", lambda item: f"i{item}")
    message = r"user 'u8' \(number 8\) has a rejected item, 'i9' \(number 9\), and no preferred one, but SoftmaxDPO .*paired=False"
    with pytest.raises(InputError, match=message):
        check_positives(SoftmaxDPO(), rows(3), candidates, names)
    check_positives(SoftmaxDPO(), rows(3), candidates._replace(rows=torch.tensor([True, False, True])), names)


def test_the_likelihood_is_a_mean_over_the_positives() -> None:
    levels = double([[-1.0, -2.0], [-INFINITY, -INFINITY], [-3.0, -6.0]]).requires_grad_()
    found = mean_likelihood(levels, False, None)
    assert float(found.detach()) == pytest.approx(-3.0)
    (slope,) = torch.autograd.grad(found, levels)
    assert slope.tolist() == [[0.25, 0.25], [0.0, 0.0], [0.25, 0.25]]
    assert float(mean_likelihood(levels.detach()[1:2], False, None)) == 0.0


def test_logs_count_the_items_that_there_are() -> None:
    """Two rows with a pair, one with a disliked item alone, one with a liked item alone."""
    none, hidden = -INFINITY, torch.tensor([[0, 0], [0, 0], [1, 0], [0, 1]], dtype=torch.bool)
    ratio = double([[1.0, 0.5], [0.2, 0.6], [none, -2.0], [0.4, none]])
    reference = torch.full((4, 2, 1), -5.0, dtype=torch.float64).masked_fill(hidden.unsqueeze(2), none)
    levels = (ratio - 5).unsqueeze(2)
    terms = KTO(1.0, paired=False)(log_probs(levels), log_probs(reference))
    negatives = torch.tensor([[1], [2], [3], [0]])
    logs = {name: float(value) for name, value in preference_logs(terms, levels, reference, negatives).items()}
    assert logs["chosen_reward"] == pytest.approx((1.0 + 0.2 + 0.4) / 3)
    assert logs["rejected_reward"] == pytest.approx((0.5 + 0.6 - 2.0) / 3)
    assert logs["chosen_drift"] == pytest.approx((1.0 + 0.2 + 0.4) / 3)
    assert logs["margin"] == pytest.approx((0.5 - 0.4) / 2)
    assert logs["accuracy"] == logs["accuracy_all"] == 0.5
    assert logs["chosen_log_prob"] == pytest.approx(-5 + 1.6 / 3)
    assert logs["rejected_log_prob"] == pytest.approx(-5 - 0.3)
