"""Rewards that are not finite: the training stops, and the message names the reward, the item, the user and the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from alignments import align, constant, parts, recipe
from torch import Tensor, nn

from genrec.errors import NumericsError
from genrec.objectives import PolicyGradient, Preference, Rounds
from genrec.objectives.reward_check import RewardCheck
from genrec.preference.candidates import Rollouts
from genrec.testing import objective_world
from genrec.training.numerics import FiniteCheck
from genrec.types import Rating, SamplerContext, SequenceBatch

ROWS = SequenceBatch(torch.tensor([4, 9]), torch.tensor([[1], [2]]), torch.tensor([3, 5]))
ITEMS = torch.tensor([[3, 7, 0], [5, 8, 6]])


@dataclass(frozen=True)
class Broken:
    """A reward with one value for the second candidate of the second row, or for all."""

    value: float
    everywhere: bool = False

    def rate(self, context: SamplerContext) -> Rating:
        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            rewards = items.float()
            if self.everywhere:
                rewards[:] = self.value
            else:
                rewards[1, 1] = self.value
            return rewards.masked_fill(items == 0, -math.inf)

        return Rating(rate=rate_items)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("kind", ["group", "best"])
def test_a_reward_that_is_not_finite_stops_the_training(value: float, everywhere: bool, kind: str, tmp_path: Path) -> None:
    reward = Broken(value, everywhere)
    objective = (
        PolicyGradient(candidates=Rollouts(size=4), reward=reward, gate=False)
        if kind == "group"
        else Preference(reward=reward, chosen="best")
    )
    with pytest.raises(
        NumericsError,
        match=rf"the reward Broken \(.*\) is {value} for item .* of user .* in step 0 \(counted from 0\), expected a finite",
    ):
        align(*parts(), recipe(objective=objective), 0, tmp_path / "a", constant)


def test_masked_items_have_no_finite_reward() -> None:
    check = RewardCheck(Broken(math.nan), None)
    check.add(0, ROWS, ITEMS, torch.tensor([[1.0, 2.0, -math.inf], [1.0, 2.0, 3.0]]))
    assert check.fault() is None


def remembered(*rewards: tuple[int, Tensor]) -> RewardCheck:
    """Return a check that has remembered the bad rewards of steps, as on a GPU: nothing is read before the end."""
    check = RewardCheck(Broken(math.nan), None)
    for step, values in rewards:
        check._remember(step, ROWS.user, ITEMS, values, (~values.isfinite() & (ITEMS > 0)).flatten())
    return check


GOOD = torch.ones(2, 3)
BAD = torch.tensor([[1.0, 1.0, math.nan], [1.0, -math.inf, math.nan]])  # place (0, 2) is masked, so item 8 of user 9 is the first


def test_the_first_bad_reward_is_remembered() -> None:
    assert remembered((0, GOOD), (1, GOOD)).fault() is None
    fault = remembered((3, GOOD), (4, BAD), (5, torch.full((2, 3), math.nan))).fault()
    assert fault is not None
    assert fault.step == 4
    assert "is -inf for item 8 of user 9 in step 4 (counted from 0)" in fault.message


@pytest.mark.parametrize(("bad_loss", "message"), [(None, "is -inf for item 8"), (4, "is -inf for item 8"), (3, "the loss is nan")])
def test_a_remembered_reward_stops_the_training_unless_the_loss_failed_before(
    bad_loss: int | None, message: str, tmp_path: Path
) -> None:
    check = FiniteCheck("alignment", "align", tmp_path, lambda step: ["a"], remembered((4, BAD)).fault)
    if bad_loss is not None:
        check.steps.add(bad_loss, torch.tensor(math.nan), torch.tensor(1.0))
    with pytest.raises(NumericsError, match=message):
        check.check_weights(nn.Linear(1, 1), 20)


def test_rounds_report_the_first_fault_of_their_parts() -> None:
    parts = (Preference(reward=Broken(math.nan)), PolicyGradient(reward=Broken(math.nan)))
    step = Rounds(objectives=parts, steps=(1, 1)).build_step(objective_world())
    assert step.fault is not None
    assert step.fault() is None
    for part, number in ((0, 7), (1, 2)):
        built = step.fault.__self__.parts[part].fault.__self__  # type: ignore[attr-defined]
        built._remember(number, ROWS.user, ITEMS, BAD, (~BAD.isfinite() & (ITEMS > 0)).flatten())
    found = step.fault()
    assert found is not None
    assert found.step == 2
