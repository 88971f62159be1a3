"""Objectives whose targets depend on labels: rounds have one choice of targets, and liked targets need labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from alignments import built_step, recipe

from genrec.data.splits import GlobalTemporal, HoldOutLast, LeaveOneOut
from genrec.errors import UsageError
from genrec.experiment import SFT, Align, Experiment
from genrec.model import Tiger
from genrec.objectives import PolicyGradient, Preference, Rounds, Supervised
from genrec.testing import Taste
from genrec.testing.objective_worlds import objective_world


@pytest.mark.parametrize(
    ("objectives", "feedback"),
    [
        (None, "not disliked"),
        ((Supervised(feedback="liked"), Preference()), "liked"),
        ((PolicyGradient(feedback="liked"), Supervised(), Preference()), "liked"),
        ((Supervised(), Supervised()), "all"),
    ],
)
def test_rounds_train_on_the_targets_of_their_strictest_part(
    objectives: Any, feedback: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    context = objective_world()
    counts = {name: len(context.source.prefixes(name)) for name in ("all", "not disliked", "liked")}  # type: ignore[arg-type]
    assert counts["all"] > counts["not disliked"] > counts["liked"]
    rounds = Rounds() if objectives is None else Rounds(objectives=objectives, steps=(1,) * len(objectives))
    step = rounds.build_step(context)
    assert len(step.examples) == counts[feedback]
    batch = step.examples.batch(torch.arange(16))
    assert step.prepare is not None
    assert step.loss(step.prepare(batch, 0), 0)[0].isfinite()
    said = f"Rounds: all objectives train on the same targets, those that are {feedback} (feedback)\n"
    assert capsys.readouterr().err == ("" if feedback == "all" else said)


def test_rounds_say_nothing_of_targets_without_labels(capsys: pytest.CaptureFixture[str]) -> None:
    built_step(recipe(objective=Rounds()))
    assert "Rounds" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"align": Align(Preference(feedback="liked"))},
        {"align": Align(PolicyGradient(feedback="liked"))},
        {"align": (Align(Preference()), Align(Rounds(objectives=(Supervised(feedback="liked"), Preference()), steps=(250, 250))))},
        {"sft": SFT(objective=Supervised(feedback="liked"))},
    ],
)
def test_liked_targets_without_labels_are_refused_when_the_experiment_is_made(change: dict[str, Any]) -> None:
    for split in (LeaveOneOut(), GlobalTemporal()):
        with pytest.raises(UsageError, match=r"taste: \w+\.feedback 'liked' needs labels, and the split sets no bounds of ratings"):
            Experiment(name="taste", source=Taste(), split=split, policy=Tiger(), **change)
    Experiment(name="taste", source=Taste(), split=HoldOutLast(n=6, liked=4), policy=Tiger(), **change)
