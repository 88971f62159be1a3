"""The preference objective on labels of single events, with weights of levels, and with judges from a baseline."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from alignments import built_step, recipe, take
from torch import Tensor

from genrec.baselines import ItemKNN
from genrec.errors import InputError, UsageError
from genrec.objectives import PolicyGradient, Preference
from genrec.preference.candidates import Rollouts, Sampled
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.losses import DPO, KTO, Anchored, LevelWeighted, SoftmaxDPO
from genrec.preference.losses.kto import reference_point
from genrec.preference.rewards import BaselineScore, Hit, RankPenalty, WeightedSum
from genrec.training.early_checks import check_alignment
from genrec.types import Candidates, LogProbs, ObjectiveContext, Proposals, SequenceBatch


@dataclass(frozen=True)
class Labels:
    """The target of every other row is liked; in the rows between it is disliked, and nothing is liked."""

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        def on_host(rows: SequenceBatch, step: int) -> Candidates:
            liked = torch.arange(len(rows.target)) % 2 == 0
            items = torch.stack([rows.target * liked, rows.target * ~liked], 1)
            return Candidates(items, items > 0)

        return Proposals(on_host=on_host)


def moved(context: ObjectiveContext) -> None:
    """Change the policy, so that it differs from the reference."""
    with torch.no_grad():
        for parameter in context.policy.parameters():  # type: ignore[attr-defined]
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def test_kto_learns_from_single_labels() -> None:
    """16 examples in 16 rows, so each weighs the same: 1 - s(beta (D - z0)) if liked, 1 - s(beta (z0 - D)) if disliked.

    The likelihood is the mean over the 8 liked targets and their 2 levels.
    """
    step, context, frozen, batch = built_step(recipe(loss=KTO(0.5, paired=False), candidates=Labels(), likelihood=0.5))
    moved(context)
    loss, logs = take(step, frozen, batch, 0)
    assert step.prepare is not None
    other = step.prepare(batch, 0).mismatched
    with torch.no_grad():
        items = torch.stack([batch.target, other], 1)
        ours, theirs = (each.log_prob(batch.history, items) for each in (context.policy, frozen.reference.policy))
    shift = reference_point(*(LogProbs(each[:, 0], each[:, :0], 2, each[:, 1]) for each in (ours, theirs)))
    liked, ratio = torch.arange(16) % 2 == 0, ours[:, 0] - theirs[:, 0] - shift
    expected = torch.where(liked, 1 - (0.5 * ratio).sigmoid(), 1 - (-0.5 * ratio).sigmoid()).mean()
    likelihood = -ours[liked, 0].mean() / 2
    assert float(loss.detach()) == pytest.approx(float(expected + 0.5 * likelihood), abs=1e-5)
    assert float(logs["likelihood_loss"]) == pytest.approx(float(likelihood), abs=1e-5)
    assert all(bool(value.isfinite()) for value in logs.values())
    loss.backward()  # type: ignore[no-untyped-call]
    slopes = [each.grad for each in context.policy.parameters() if each.grad is not None]  # type: ignore[attr-defined]
    assert all(bool(slope.isfinite().all()) for slope in slopes)
    assert any(bool(slope.any()) for slope in slopes)


def test_a_loss_of_pairs_refuses_single_labels_before_the_step() -> None:
    for loss in (SoftmaxDPO(), Anchored(LevelWeighted(SoftmaxDPO())), KTO()):
        step, _, _, batch = built_step(recipe(loss=loss, candidates=Labels()))
        assert step.prepare is not None
        with pytest.raises(InputError, match=r"has a rejected item, .* and no preferred one, but .* use KTO\(paired=False\)"):
            step.prepare(batch, 0)


def losses(loss: object) -> Tensor:
    step, context, frozen, batch = built_step(recipe(loss=loss))
    moved(context)
    return take(step, frozen, batch, 0)[0].detach()


def test_weights_of_1_change_no_digit_of_a_step() -> None:
    assert losses(LevelWeighted(SoftmaxDPO(), 1.0)).equal(losses(SoftmaxDPO()))
    assert not losses(LevelWeighted(SoftmaxDPO(), 0.5)).equal(losses(SoftmaxDPO()))


def test_a_step_weighs_the_levels_of_its_candidates() -> None:
    """Weights 1 and 0: only the first code of each candidate counts."""
    step, context, frozen, batch = built_step(recipe(loss=LevelWeighted(SoftmaxDPO(), (1.0, 0.0))))
    moved(context)
    assert step.prepare is not None
    items = step.prepare(batch, 0).candidates.items
    with torch.no_grad():
        ours, theirs = (
            scores_of(each, batch, None, batch, "codes").level_log_prob(items)[..., 0]
            for each in (context.policy, frozen.reference.policy)
        )
    ratios = ours - theirs
    expected = (torch.logsumexp(ratios, 1) - ratios[:, 0]).mean()
    assert float(take(step, frozen, batch, 0)[0].detach()) == pytest.approx(float(expected), abs=1e-5)


def test_a_wrong_number_of_weights_is_refused_before_training() -> None:
    settings = recipe(loss=Anchored(LevelWeighted(SoftmaxDPO(), (1.0, 0.5, 0.5))))
    _, context, _, _ = built_step(recipe())
    with pytest.raises(UsageError, match=r"LevelWeighted\.weights has 3 numbers, .* but the Semantic IDs have 2 levels"):
        check_alignment(context.policy, context.data(), settings)


def test_dpo_of_weighted_levels_takes_one_negative() -> None:
    with pytest.raises(UsageError, match=r"DPO takes one negative, got 3"):
        Preference(loss=Anchored(LevelWeighted(DPO())))
    assert Preference(loss=LevelWeighted(DPO()), candidates=Sampled(num_negatives=1)).loss.needs.positive


def test_a_baseline_chooses_the_preferred_candidate() -> None:
    """The candidate with the highest score of ItemKNN comes first; those that score as high are not rejected."""
    step, context, frozen, batch = built_step(recipe(loss=SoftmaxDPO(0.5), reward=BaselineScore(ItemKNN()), chosen="best"))
    moved(context)
    assert step.prepare is not None
    items = step.prepare(batch, 0).candidates.items
    scores = BaselineScore(ItemKNN()).rate(context.data()).rate(batch, items)
    best, order = scores.sort(dim=1, descending=True, stable=True)
    with torch.no_grad():
        ours, theirs = (each.log_prob(batch.history, items) for each in (context.policy, frozen.reference.policy))
    ratios = 0.5 * (ours - theirs).gather(1, order)
    rejected = ratios.masked_fill(best == best[:, :1], -torch.inf)
    rows = (best < best[:, :1]).any(1)
    total = torch.cat([ratios[:, :1], rejected], 1).logsumexp(1) - ratios[:, 0]
    assert rows.any()
    assert float(take(step, frozen, batch, 0)[0].detach()) == pytest.approx(float(total[rows].mean()), abs=1e-5)


def test_a_group_is_judged_by_a_weighted_sum() -> None:
    """A group of 4 with its hit at place p has the mean reward (1 - 0.5 (1 - w_p)) / 4, between 0.1460 and 0.1738."""
    reward = WeightedSum((Hit(), RankPenalty()), (1.0, 0.5))
    objective = PolicyGradient(candidates=Rollouts(size=4, include_target=True), reward=reward, likelihood=0.0)
    step, _, frozen, batch = built_step(recipe(objective=objective))
    loss, logs = take(step, frozen, batch, 0)
    assert bool(loss.isfinite())
    assert float(logs["hit_share"]) == float(logs["gradient_share"]) == 1.0  # the target takes a place
    lowest, highest = ((1 - 0.5 * (1 - weight)) / 4 for weight in (0.168127536, 0.390380050))
    assert lowest - 1e-6 <= float(logs["reward"]) <= highest + 1e-6
