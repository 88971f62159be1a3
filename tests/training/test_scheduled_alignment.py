"""Schedules in training, and resumed runs that log as uninterrupted ones do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from alignments import align, parts, recipe

from genrec.errors import Stopped
from genrec.objectives import PolicyGradient, Preference
from genrec.objectives.group_logs import JudgedGroups, group_logs
from genrec.preference.candidates import TopItems
from genrec.preference.losses import DPO, Anchored, SoftmaxDPO
from genrec.preference.schedules import Cosine, Linear
from genrec.testing.objective_checks import check_objective
from genrec.testing.objective_worlds import objective_world
from genrec.types import TrainingStep

BETA = Linear(start=1.0, end=3.0, steps=40)


def losses(objective: Preference | PolicyGradient, steps: tuple[int, ...]) -> list[tuple[float, dict[str, float]]]:
    """Return the loss and the logs of one batch at some steps, without an update."""
    step: TrainingStep = objective.build_step(objective_world())
    batch, found = step.examples.batch(torch.arange(16)), []
    assert step.prepare is not None
    for number in steps:
        if step.begin is not None:
            step.begin(number)
        loss, logs = step.loss(step.prepare(batch, number), number)
        found.append((float(loss.detach()), {name: float(value) for name, value in logs.items()}))
    return found


@pytest.mark.parametrize(
    ("scheduled", "constants"),
    [
        (
            Preference(loss=Anchored(SoftmaxDPO(beta=BETA)), likelihood=Linear(start=2.0, end=0.0, steps=10), weight=BETA),
            {
                0: Preference(loss=Anchored(SoftmaxDPO(beta=1.0)), likelihood=2.0, weight=1.0),
                10: Preference(loss=Anchored(SoftmaxDPO(beta=1.5)), likelihood=0.0, weight=1.5),
                50: Preference(loss=Anchored(SoftmaxDPO(beta=3.0)), likelihood=0.0, weight=3.0),
            },
        ),
        *(
            (
                PolicyGradient(kl=Linear(start=0.0, end=0.2, steps=20), likelihood=BETA, weight=BETA, gate=False, kl_in=kl_in),
                {
                    10: PolicyGradient(kl=0.1, likelihood=1.5, weight=1.5, gate=False, kl_in=kl_in),
                    40: PolicyGradient(kl=0.2, likelihood=3.0, weight=3.0, gate=False, kl_in=kl_in),
                },
            )
            for kl_in in ("loss", "reward")
        ),
    ],
)
def test_a_step_has_the_loss_of_the_constants_in_force(scheduled: Any, constants: dict[int, Any]) -> None:
    for (number, constant), (loss, logs) in zip(constants.items(), losses(scheduled, tuple(constants)), strict=True):
        expected, others = losses(constant, (number,))[0]
        assert loss == pytest.approx(expected, abs=1e-6)
        assert not any(name.startswith("scheduled_") for name in others)
        assert logs["scheduled_weight"] == constant.weight
        assert logs["scheduled_likelihood"] == constant.likelihood


def test_scheduled_objectives_keep_the_contract() -> None:
    check_objective(Preference(loss=DPO(beta=Cosine(start=0.1, end=1.0, steps=3)), candidates=TopItems(size=2, gate=False)))


def interrupted(calls: int) -> Callable[[], dict[str, float]]:
    """Return a validation that stops the training in a call."""
    made: list[int] = []

    def validate() -> dict[str, float]:
        made.append(1)
        if len(made) == calls:
            os.kill(os.getpid(), signal.SIGINT)
        return {"ndcg@10": 0.1}

    return validate


def trained(folder: Path, change: dict[str, Any], stop: int = 0) -> tuple[Any, list[dict[str, float]]]:
    """Train for 40 steps with validations at 0, 20 and 40; stop in validation number `stop`. Return the weights and the curves."""
    built, entries, context = parts()
    outcome, *_ = align(built, entries, context, recipe(keep="last", **change), 0, folder / "last", interrupted(stop))
    return built.state_dict(), outcome.curves


def test_a_resumed_schedule_continues_at_the_right_step(tmp_path: Path) -> None:
    """Mean beta of steps 0 to 19: 1 + 2 * 9.5 / 40 = 1.475; of 20 to 39: 1 + 2 * 29.5 / 40 = 2.475."""
    change = {"loss": SoftmaxDPO(beta=BETA), "weight": Cosine(start=1.0, end=0.5, steps=40)}
    whole, curves = trained(tmp_path / "whole", change)
    assert [row["scheduled_loss.beta"] for row in curves if "loss" in row] == pytest.approx([1.475, 2.475], abs=1e-6)
    with pytest.raises(Stopped):
        trained(tmp_path / "parts", change, stop=2)
    again, resumed = trained(tmp_path / "parts", change)
    assert resumed == curves
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


def test_a_resumed_gate_gives_no_warning_of_missing_negatives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Most rows do not pass the gate, on purpose. After a stop in the last validation no step tells that there is a gate."""
    change = {"objective": Preference(loss=SoftmaxDPO(), candidates=TopItems(size=2), likelihood=1.0)}
    _, curves = trained(tmp_path / "whole", change)
    assert curves[-1]["preference_share"] < 0.5
    with pytest.raises(Stopped):
        trained(tmp_path / "parts", change, stop=3)
    _, resumed = trained(tmp_path / "parts", change)
    assert resumed == curves
    assert "got no negative" not in capsys.readouterr().err


@pytest.mark.parametrize("by_level", [False, True])
def test_the_gradient_of_groups_without_a_hit(by_level: bool) -> None:
    """|A| is 1 + 1 in the group with a hit, 3 + 3 in the one without, and the third has no gradient: 6 / 8."""
    advantages = torch.tensor([[1.0, -1.0], [3.0, -3.0], [5.0, -5.0]])
    advantages = advantages.unsqueeze(2).expand(-1, -1, 2) if by_level else advantages
    hits = torch.tensor([[True, False], [False, False], [False, False]])
    yes, no = torch.ones(3, 2, dtype=torch.bool), torch.zeros(3, 2, dtype=torch.bool)
    log_prob = torch.tensor([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]])

    def logs(*counted: bool) -> dict[str, float]:
        found = group_logs(JudgedGroups(yes, hits, torch.zeros(3, 2), log_prob, advantages, no, torch.tensor(counted)))
        return {name: float(value) for name, value in found.items()}

    assert logs(True, True, False)["no_hit_gradient"] == 0.75
    assert logs(True, False, False)["no_hit_gradient"] == 0.0
    assert logs(False, False, False)["no_hit_gradient"] == 0.0
    assert logs(True, True, False)["advantage_magnitude"] == 2.0
