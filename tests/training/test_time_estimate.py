"""The estimated time of a training, with a clock that the tests set."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainings import RECIPE, constant, likelihood, policy, train, training_examples

from genrec.training import time_estimate
from genrec.training.schedule import Schedule
from genrec.training.time_estimate import TimeEstimate, duration

FLAG = "--sft.optimization.max-steps"


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(plan: Schedule, start: int, steps: list[float], validation: float | None = None, stops_early: bool = False) -> list[str]:
    """Return the lines of a training whose steps take these seconds, with a validation before the first one."""
    clock = Clock()
    estimate = TimeEstimate("SFT", FLAG, plan, start, stops_early, clock)
    if validation is not None:
        estimate.validated(validation)
    found = []
    for number, seconds in enumerate(steps, start + 1):
        clock.now += seconds
        line = estimate.step_done(number)
        found += [line] if line is not None else []
    return found


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_estimate, "device", lambda: "2 threads")


def test_the_first_step_does_not_count_and_validations_do() -> None:
    """20,000 steps of 1.2 s and 20 validations of 30 s are 24,600 s, which are 6 h 50 min."""
    plan = Schedule(20_000, 1_000, 3e-4, 1_000, 256, 200_000)
    assert lines(plan, 0, [50.0, 1.0, 1.2, 1.4, 9.0, 9.0], 30.0, stops_early=True) == [
        "SFT: 20,000 steps at 1.2 s each and 20 validations of 30 s, on 2 threads: about 6 h 50 min, less if it stops early; Ctrl-C "
        "stops and saves; for fewer steps add --sft.optimization.max-steps N"
    ]


def test_a_short_training_gets_no_estimate() -> None:
    """100 steps of 1 s; with a validation of 20 s after every step it would be long."""
    assert lines(Schedule(100, 0, 1e-3, 100, 8, 80), 0, [1.0] * 6, 10.0) == []
    assert len(lines(Schedule(100, 0, 1e-3, 1, 8, 80), 0, [1.0] * 6, 20.0)) == 1


def test_a_resumed_training_counts_the_steps_that_are_left() -> None:
    """200 of 500 steps of 2 s are left; their validations have not been timed."""
    (line,) = lines(Schedule(500, 0, 1e-3, 10, 8, 80), 300, [2.0] * 6)
    assert line.startswith("SFT: 200 steps at 2 s each, validations not counted, on 2 threads: about 7 min; Ctrl-C")


def test_a_validation_between_timed_steps_does_not_count_as_a_step() -> None:
    """Validations of 60 s after each step of 1 s: 100 steps and 100 validations are 6,100 s."""
    clock = Clock()
    estimate = TimeEstimate("SFT", FLAG, Schedule(100, 0, 1e-3, 1, 8, 80), 0, False, clock)
    said = []
    for step in range(1, 6):
        clock.now += 1
        said.append(estimate.step_done(step))
        clock.now += 60
        estimate.validated(60.0)
    assert [line for line in said if line] == [said[3]]
    assert "100 steps at 1 s each and 100 validations of 60 s" in str(said[3])
    assert "about 1 h 42 min;" in str(said[3])


def test_a_training_prints_its_estimate_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However long its steps take here: the limit is set below 0."""
    monkeypatch.setattr(time_estimate, "SHORT", -1.0)
    built = policy()
    train(built, likelihood(built), training_examples(), RECIPE, 5, tmp_path / "last", constant, "SFT")
    printed = capsys.readouterr().err
    assert printed.count("SFT: 50 steps at ") == 1
    assert " s each and 3 validations of " in printed
    assert ", on 2 threads: about " in printed
    assert ", less if it stops early; Ctrl-C stops and saves; for fewer steps add --sft.optimization.max-steps N" in printed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.25, "0.25 s"), (45, "45 s"), (100, "2 min"), (3_599, "1 h"), (24_000, "6 h 40 min"), (200_000, "2 d 7 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
