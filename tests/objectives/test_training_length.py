"""The length of a training that its recipe leaves open: what the objectives of SFT know of it before the first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from alignments import parts
from proposals import Growing
from trainings import RECIPE, constant, fine_tune, policy, training_examples

from genrec.errors import UsageError
from genrec.objectives import PolicyGradient, PrefixContrast
from genrec.objectives.training_length import default_steps, with_length
from genrec.preference.candidates import Rollouts, Sampled, TopItems
from genrec.testing import objective_world
from genrec.types import Objective, SamplerContext


def test_open_steps_follow_from_the_examples_and_given_ones_stay() -> None:
    """1,000 examples in batches of 20 are 50 steps an epoch, and 40 epochs 2,000 steps."""
    context, examples = objective_world(), range(1_000)
    assert default_steps(1_000, 20) == 2_000
    opened = with_length(context._replace(steps=0, batch_size=20), examples)  # type: ignore[arg-type]
    assert (opened.epoch_steps, opened.steps) == (50, 2_000)
    given = with_length(context._replace(steps=7, batch_size=20), examples)  # type: ignore[arg-type]
    assert (given.epoch_steps, given.steps) == (50, 7)


@pytest.mark.parametrize("kind", [PrefixContrast, PolicyGradient])
def test_a_sampler_gets_its_progress_in_an_sft_with_open_steps(kind: type) -> None:
    """The world has few examples, so that 500 steps stand for None: step 100 is a fifth of the training."""
    growing = Growing()
    objective: Objective = kind(candidates=Sampled(growing, 3))
    step = objective.build_step(objective_world()._replace(steps=0, reference=None))
    assert step.prepare is not None
    prepared = step.prepare(step.examples.batch(torch.arange(4)), 100)
    assert step.loss(prepared, 100)[0].isfinite()
    assert growing.calls == [0.2]


@pytest.mark.parametrize(
    "objective", [PrefixContrast(candidates=TopItems(size=4, refresh=5)), PolicyGradient(candidates=Rollouts(size=4, refresh=5))]
)
def test_sft_refuses_a_copy_of_the_policy_with_what_to_do(objective: Objective, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"reads a frozen copy of the policy.*which SFT has not; set its refresh to 1"):
        fine_tune(policy(), training_examples(), replace(RECIPE, objective=objective), 0, tmp_path / "last", constant, data=no_policy)


def no_policy() -> SamplerContext:
    """Return the training data of SFT, which has no policy."""
    return parts()[2]._replace(policy=None)
