"""The schedule of a recipe: numbers by the size of the data, numbers that are given, and what the training reports of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from trainings import constant, corpus, fine_tune, policy, training_examples

from genrec import loading
from genrec.data.examples import windows
from genrec.errors import UsageError
from genrec.experiment import SFT, Align, Optimization, Validation
from genrec.objectives import PolicyGradient, Preference, ProximalPolicy
from genrec.objectives.numbered_examples import NumberedExamples
from genrec.overrides import override
from genrec.preference.candidates import InvalidIds, Rollouts, Sampled, TopItems
from genrec.preference.negatives import BestOf, ModelBeams, Uniform
from genrec.preference.rewards import LogProbability
from genrec.training.schedule import Schedule, learning_rate, schedule
from genrec.types import Objective, Refresh


@pytest.mark.parametrize("examples", [127_745, 128_000, 10_000_000])
def test_large_data_gets_the_whole_default(examples: int) -> None:
    """127,745 examples are 500 batches of 256, and 40 x 500 = 20,000."""
    assert schedule(SFT(), examples) == Schedule(20_000, 1_000, 3e-4, 1_000, 256, examples)


def test_small_data_gets_forty_epochs_by_hand() -> None:
    """4,000 examples are 16 batches of 256: 640 steps, 32 of warm-up, 32 between validations, 3e-4 * sqrt(31.25) = 1.677e-3."""
    found = schedule(SFT(), 4_000)
    assert found[:2] == (640, 32)
    assert found.learning_rate == pytest.approx(1.67705e-3, rel=1e-5)
    assert (found.every, found.epochs) == (32, 40.0)


def test_the_smallest_data_gets_500_steps() -> None:
    """The learning rate is at its limit at 450 steps: 3e-4 * sqrt(20,000 / 500) = 1.897e-3."""
    found = schedule(SFT(), 10)
    assert (found.max_steps, found.warmup_steps, found.every) == (500, 25, 25)
    assert found.learning_rate == pytest.approx(1.897e-3, rel=1e-3)
    short = SFT(optimization=Optimization(max_steps=100, batch_size=8))
    assert schedule(short, 10).learning_rate == 2e-3


def test_numbers_that_are_given_stay() -> None:
    """A field alone can be given; the others follow from the number of steps."""
    given = SFT(
        optimization=Optimization(max_steps=7, batch_size=8, learning_rate=0.5, warmup_steps=3), validation=Validation(every=2)
    )
    assert schedule(given, 100_000) == Schedule(7, 3, 0.5, 2, 8, 100_000)
    steps = replace(SFT(), optimization=replace(SFT().optimization, max_steps=2_001))
    assert schedule(steps, 100)[:2] == (2_001, 100)
    assert schedule(steps, 100).every == 101  # 20 validations at most


def test_an_alignment_gives_its_steps_and_its_learning_rate() -> None:
    """Its rounds divide the steps, and the learning rate of SFT would make a preference loss collapse."""
    with pytest.raises(UsageError, match=r"align\.optimization\.max_steps must be a number, such as 500, got None"):
        Align(optimization=Optimization(batch_size=8, learning_rate=1e-4))
    with pytest.raises(UsageError, match=r"align\.optimization\.learning_rate must be a number, such as 1e-4, got None"):
        Align(optimization=Optimization(max_steps=8, batch_size=8))
    assert schedule(Align(validation=Validation()), 10).every == 25  # 500 steps


def test_a_training_prints_and_returns_its_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """420 examples in batches of 128 are 4 steps per epoch."""
    recipe = SFT(optimization=Optimization(max_steps=6, batch_size=128, warmup_steps=None))
    built = policy()
    outcome = fine_tune(built, training_examples(), recipe, 0, tmp_path / "last", constant)
    printed = capsys.readouterr().err
    line = "6 steps of 128 examples (1.5 epochs of 420 examples), warm-up 0 steps, learning rate 0.002, validation every 1 steps"
    assert f"SFT: {line}, 32-true\n" in printed
    assert outcome.recipe == {
        "max_steps": 6, "warmup_steps": 0, "learning_rate": 2e-3, "every": 1, "batch_size": 128, "examples": 420, "epochs": 1.5,
        "precision": "32-true", "parameters": sum(each.numel() for each in built.parameters()),
    }  # fmt: skip
    assert outcome.last_step == 6


def test_open_numbers_can_be_set_on_the_command_line_and_given_numbers_opened() -> None:
    shop = loading.load("experiments/shop.py:sft")
    (opened,) = override(shop, ["--sft.optimization.max-steps", "None", "--sft.validation.every", "None"])
    assert (opened.sft.optimization.max_steps, opened.sft.validation.every) == (None, None)
    (given,) = override(
        [replace(shop[0], sft=SFT())], ["--sft.optimization.max-steps", "30", "--sft.optimization.learning-rate", "0.1"]
    )
    assert (given.sft.optimization.max_steps, given.sft.optimization.learning_rate) == (30, 0.1)


def test_a_warm_up_of_all_steps_is_remarked() -> None:
    """With 50 steps of warm-up a training of 50 steps never lowers its learning rate; one of 51 steps does."""
    plan = Schedule(max_steps=50, warmup_steps=50, learning_rate=1e-3, every=10, batch_size=8, examples=80)
    (warning,) = plan.warnings("align", Align())
    assert warning.startswith("the warm-up takes all 50 steps, so the learning rate only rises; lower align.optimization.warmup_steps")
    assert "warm-up takes" not in plan.in_words(training_examples()), "a warning is a line of its own"
    assert learning_rate(plan, 49) == plan.learning_rate
    assert plan._replace(max_steps=51).warnings("align", Align()) == []


def test_a_validation_that_never_comes_before_the_end_is_remarked() -> None:
    plan = Schedule(max_steps=50, warmup_steps=5, learning_rate=1e-3, every=51, batch_size=8, examples=80)
    (warning,) = plan.warnings("sft", SFT())
    assert warning.startswith(
        "sft.validation.every is 51, more than the 50 steps, so the policy is validated at step 0 and at the end"
    )
    assert plan._replace(every=50).warnings("sft", SFT()) == []


@dataclass(frozen=True)
class Delayed(TopItems):
    """A user's proposer with another name for the steps between copies."""

    delay: int = 2

    def policy_refresh(self) -> Refresh:
        return Refresh(self.delay)


PLAN = Schedule(max_steps=100, warmup_steps=5, learning_rate=1e-3, every=10, batch_size=8, examples=80)


@pytest.mark.parametrize(
    ("objective", "place", "kept"),
    [
        (PolicyGradient(candidates=Rollouts(refresh=100)), "candidates (Rollouts)", PolicyGradient(candidates=Rollouts(refresh=99))),
        (Preference(candidates=TopItems(refresh=100)), "candidates (TopItems)", Preference(candidates=TopItems(refresh=0))),
        (Preference(candidates=InvalidIds(refresh=100)), "candidates (InvalidIds)", Preference(candidates=InvalidIds(refresh=1))),
        (ProximalPolicy(refresh=100), "(ProximalPolicy)", ProximalPolicy(refresh=99)),
        (
            Preference(candidates=Sampled(ModelBeams(refresh_every=100))),
            "candidates.negatives (ModelBeams)",
            Preference(candidates=Sampled(ModelBeams(refresh_every=0))),
        ),
        (
            Preference(candidates=Sampled(BestOf(Uniform(), LogProbability(), refresh_every=100))),
            "candidates.negatives (BestOf)",
            Preference(candidates=Sampled(BestOf(Uniform(), LogProbability(), refresh_every=99))),
        ),
        (Preference(candidates=Delayed(delay=100)), "candidates (Delayed)", Preference(candidates=Delayed(delay=99))),
    ],
    ids=["rollouts", "top", "invalid", "ppo", "beams", "best of", "own"],
)
def test_a_copy_of_the_policy_that_is_never_refreshed_is_remarked(objective: Objective, place: str, kept: Objective) -> None:
    """The steps are 0 to 99: a refresh every 100 steps is due at step 0 alone, one every 99 steps also at step 99."""
    (warning,) = PLAN.warnings("align", Align(objective))
    assert warning == (
        f"align.objective{' ' if place[0] == '(' else '.'}{place} refreshes its copy of the policy every 100 steps, but the training "
        "has 100 steps, so the copy stays the policy of step 0; refresh it more often, or train longer"
    )
    assert PLAN.warnings("align", Align(kept)) == []


def test_a_refresh_in_epochs_is_compared_in_steps() -> None:
    """80 examples are 10 steps of 8, so 10 epochs are 100 steps, and 9 epochs 90."""
    beams = [Align(Preference(candidates=Sampled(ModelBeams(refresh_every=each, refresh_unit="epochs")))) for each in (9, 10)]
    assert PLAN.warnings("align", beams[0]) == []
    (warning,) = PLAN.warnings("align", beams[1])
    assert "every 10 epochs (100 steps), but the training has 100 steps" in warning


def test_windows_are_called_windows() -> None:
    """80 windows of 8 a step are 10 steps an epoch; they stand in a numbered wrapper where candidates belong to examples."""
    sequences = windows(corpus(), 8)
    assert PLAN.in_words(sequences).startswith("100 steps of 8 windows (10 epochs of 80 windows), ")
    assert PLAN._replace(parts=2).in_words(NumberedExamples(sequences, own=False)).startswith("100 steps of 8 windows in 2 parts (")
    assert PLAN.in_words(training_examples()).startswith("100 steps of 8 examples (10 epochs of 80 examples), ")
