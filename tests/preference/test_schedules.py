"""Schedules of settings: values by hand, ranges of both ends, and specifications at a step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import cyclic

from genrec.errors import UsageError
from genrec.experiment import SFT, Align, Experiment, Optimization
from genrec.objectives import ListPolicyGradient, PolicyGradient, Preference, ProximalPolicy
from genrec.preference.losses import (
    CPO,
    DMPO,
    DPO,
    IPO,
    KTO,
    ORPO,
    Anchored,
    ConservativeDPO,
    Hinge,
    RecPO,
    RobustDPO,
    RosePO,
    SimPO,
    Smoothed,
    SoftmaxDPO,
)
from genrec.preference.schedules import Cosine, Linear, at_step, constant, schedules_in
from genrec.store import describe
from genrec.training.schedule import schedule
from genrec.types import PreferenceLoss, ValueSchedule

UP = Linear(start=0.5, end=1.5, steps=4)


def test_values_by_hand() -> None:
    """Linear: a quarter of the way each step. Cosine from 2 to 0 in 4 steps: 1 + cos(pi t / 4), 1 + 1 / sqrt(2) at step 1."""
    assert [UP.value_at(step) for step in range(6)] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.5]
    wave = Cosine(start=2.0, end=0.0, steps=4)
    assert [wave.value_at(step) for step in range(6)] == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0, 0])
    assert (wave.value_at(0), wave.value_at(4), wave.bounds()) == (2.0, 0.0, (0.0, 2.0))


@given(st.sampled_from([Linear, Cosine]), st.floats(0, 10), st.floats(0, 10), st.integers(1, 50), st.integers(0, 60))
def test_values_begin_and_end_exactly_and_stay_between(kind: type, start: float, end: float, steps: int, step: int) -> None:
    schedule = kind(start=start, end=end, steps=steps)
    assert (schedule.value_at(0), schedule.value_at(steps)) == (start, end)
    low, high = schedule.bounds()
    assert low - 1e-9 <= schedule.value_at(step) <= high + 1e-9


@pytest.mark.parametrize("kind", [Preference, PolicyGradient, ListPolicyGradient, ProximalPolicy])
def test_a_loss_that_is_always_0_is_refused(kind: Any) -> None:
    """A schedule that begins at 0, and one of the two weights, are enough."""
    row = cyclic()
    with pytest.raises(UsageError, match=rf"{kind.__name__}.weight and {kind.__name__}.likelihood are both 0"):
        replace(row, align=Align(kind(weight=0, likelihood=0.0), normalize="children"))
    replace(row, align=Align(kind(weight=Linear(start=0.0, end=1.0, steps=4), likelihood=0), normalize="children"))
    replace(row, align=Align(kind(weight=0, likelihood=1), normalize="children"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "Linear.steps must be at least 1, got 0"),
        ({"steps": 2.5}, r"Linear.steps must be an integer, got 2.5"),
        ({"start": float("nan")}, "Linear.start must be finite, got nan"),
        ({"end": "x"}, "Linear.end must be a number, got 'x'"),
    ],
)
def test_wrong_schedules_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(UP, **change)  # type: ignore[arg-type]


SCHEDULED = [
    *(
        (kind(beta=UP), "beta")
        for kind in (DPO, SoftmaxDPO, DMPO, RecPO, IPO, Hinge, ConservativeDPO, RobustDPO, RosePO, KTO, SimPO, CPO)
    ),
    *((CPO(alpha=UP), "alpha"), (ORPO(weight=UP), "weight"), (RecPO(weight=UP), "weight"), (Anchored(DPO(), alpha=UP), "alpha")),
]


@pytest.mark.parametrize(("loss", "name"), SCHEDULED)
def test_a_loss_at_a_step_is_the_loss_with_this_number(loss: PreferenceLoss, name: str) -> None:
    """A loss with a schedule is not called by itself, and its range holds for both ends."""
    assert schedules_in(loss) == {name: UP}
    assert at_step(loss, 1) == replace(loss, **{name: 0.75})  # type: ignore[type-var]
    with pytest.raises(UsageError, match=rf"{type(loss).__name__}.{name} is Linear\(.*at_step"):
        constant(loss, name)
    for wrong in (Linear(start=-1.0, end=1.0, steps=5), Cosine(start=1.0, end=-1.0, steps=5)):
        with pytest.raises(
            UsageError, match=rf"{type(loss).__name__}.{name} must be .*0.*, got -1.0 at one end of {type(wrong).__name__}"
        ):
            replace(loss, **{name: wrong})  # type: ignore[type-var]
    with pytest.raises(UsageError, match=rf"{name} must be"):
        replace(loss, **{name: Linear})  # type: ignore[type-var]


@dataclass(frozen=True)
class Steps:
    """A user's own schedule."""

    def value_at(self, step: int) -> float:
        return 1.0 if step < 10 else 2.0

    def bounds(self) -> tuple[float, float]:
        return 1.0, 2.0


def test_schedules_inside_compositions_are_found_by_key_path() -> None:
    own = Steps()
    assert isinstance(own, ValueSchedule)
    loss = Anchored(Smoothed(DPO(beta=own)), alpha=UP)
    objective = Preference(loss=loss, likelihood=Cosine(start=1.0, end=0.0, steps=5), weight=own)
    assert set(schedules_in(objective)) == {"loss.loss.loss.beta", "loss.alpha", "likelihood", "weight"}
    assert at_step(objective, 20) == Preference(loss=Anchored(Smoothed(DPO(beta=2.0)), alpha=1.5), likelihood=0.0, weight=2.0)
    gradient = PolicyGradient(kl=UP, likelihood=own)
    assert at_step(gradient, 2) == PolicyGradient(kl=1.0, likelihood=1.0)


def test_a_specification_without_a_schedule_is_the_same_object_and_keeps_its_key() -> None:
    objective = Preference(loss=Anchored(SoftmaxDPO(beta=0.3)))
    assert at_step(objective, 7) is objective
    assert schedules_in(objective) == {}
    described = describe(DPO(beta=0.3), None, "loss")  # type: ignore[arg-type]
    assert described == {"class": "genrec.preference.losses.softmax:DPO", "beta": 0.3}
    assert describe(DPO(beta=UP), None, "loss")["beta"] == {  # type: ignore[arg-type, index]
        "class": "genrec.preference.schedules:Linear",
        "start": 0.5,
        "end": 1.5,
        "steps": 4,
    }


@pytest.mark.parametrize("field", ["likelihood", "weight"])
def test_the_weights_of_objectives_are_checked_at_both_ends(field: str) -> None:
    wrong = Linear(start=1.0, end=-0.5, steps=5)
    for kind in (Preference, PolicyGradient):
        with pytest.raises(UsageError, match=rf"{kind.__name__}.{field} must be 0 or more and finite, got -0.5 at one end of Linear"):
            kind(**{field: wrong})
        with pytest.raises(UsageError, match=rf"{kind.__name__}.{field} must be 0 or more and finite, got True"):
            kind(**{field: True})
    with pytest.raises(UsageError, match=r"PolicyGradient.kl must be 0 or more and finite, got -0.5 at one end"):
        PolicyGradient(kl=wrong)


def test_a_schedule_is_no_longer_than_its_alignment() -> None:
    """8 steps of an alignment of 8 are accepted, also where another schedule has no length; 9 name the field of the stage."""
    row = cyclic(align_steps=8)

    def aligned(steps: int, *before: Align) -> Experiment:
        loss = Anchored(SoftmaxDPO(beta=Linear(start=0.5, end=2.0, steps=steps)))
        last = Align(Preference(loss, weight=Steps()), optimization=Optimization(max_steps=8, batch_size=4, learning_rate=1e-4))
        return replace(row, align=(*before, last) if before else last)

    assert aligned(8).alignments[0].steps == 8
    with pytest.raises(UsageError) as raised:
        aligned(9)
    assert str(raised.value) == (
        "align.objective.loss.loss.beta changes over 9 steps, but its stage has 8, so it would not reach its end 2.0; "
        "set --align.objective.loss.loss.beta.steps to 8 or fewer, or --align.optimization.max-steps to 9 or more"
    )
    with pytest.raises(
        UsageError, match=r"^align\.1\.objective\.loss\.loss\.beta .* or --align\.1\.optimization\.max-steps to 9 or more"
    ):
        aligned(9, *row.alignments)


@pytest.mark.parametrize(("max_steps", "examples", "allowed"), [(20, None, 20), (None, 40, 500), (None, 4000, 2520)])
def test_a_schedule_is_no_longer_than_sft(max_steps: int | None, examples: int | None, allowed: int) -> None:
    """Open steps are known by the number of examples: 40 epochs, at least 500 steps; 4,000 of 64 a step are 63 steps an epoch."""

    def recipe(steps: int) -> SFT:
        objective = Preference(likelihood=Cosine(start=1.0, end=0.0, steps=steps))
        return SFT(Optimization(max_steps=max_steps, batch_size=64), objective=objective)

    def check(steps: int) -> None:
        if examples is None:
            recipe(steps).check(None)
        else:
            schedule(recipe(steps), examples)

    check(allowed)  # no error
    with pytest.raises(UsageError, match=rf"^sft\.objective\.likelihood changes over {allowed + 21} steps, but its stage has"):
        check(allowed + 21)
