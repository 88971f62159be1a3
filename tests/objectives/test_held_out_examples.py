"""Objectives of the user that train on held-out events are refused before the first step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from alignments import align, constant, corpus, parts, recipe
from pandas import DataFrame
from proposals import context_of, data_of, one_level, sasrec
from torch import Tensor
from worlds import cyclic

from genrec import pipeline
from genrec.data.examples import examples
from genrec.errors import InputError
from genrec.experiment import SFT, Align
from genrec.objectives import Preference, Supervised
from genrec.objectives.held_out_examples import check_not_held_out
from genrec.preference.losses import SoftmaxDPO
from genrec.types import Candidates, ObjectiveContext, Proposals, SequenceBatch, TrainingStep, WindowBatch


@dataclass(frozen=True)
class TrainsOn:
    """An objective of the likelihood that trains on some examples."""

    chosen: str = "validation"  # the field of the context, or "wrapped": validation users after an example of training

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        policy: Any = context.policy

        def loss(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            return -policy.log_prob(batch.history, batch.target.unsqueeze(1)).mean(), {}

        if self.chosen == "training":
            return TrainingStep(examples=context.source.prefixes(), loss=loss)
        assert context.validation is not None
        chosen = context.validation if self.chosen == "validation" else Wrapped(context.validation)
        return TrainingStep(examples=chosen, loss=loss)


@dataclass(frozen=True, eq=False)
class Wrapped:
    """Examples in a class of the user."""

    examples: Any

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, index: Tensor) -> Any:
        return self.examples.batch(index)


@dataclass(frozen=True)
class ProposesValidation:
    """A proposer whose own examples are the validation users."""

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        items = context.data().item_count

        def propose(rows: SequenceBatch, step: int) -> Candidates:
            found = torch.stack([rows.target, rows.target % items + 1], 1)
            return Candidates(found, found > 0)

        return Proposals(on_host=propose, examples=context.validation)


def aligned(objective: Any, tmp_path: Path, **others: Any) -> None:
    policy, entries, data = parts()
    settings = replace(recipe(max_steps=1), objective=objective)
    align(policy, entries, data, settings, 0, tmp_path / "align", constant, examples(corpus(), "validation", 8), **others)


def test_validation_users_as_training_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"TrainsOn \(.*\): TrainingStep\.examples is context\.validation, .* train on context\.source"
    ):
        aligned(TrainsOn(), tmp_path)
    with pytest.raises(InputError, match=r"ProposesValidation \(.*\): TrainingStep\.examples is context\.validation"):
        aligned(Preference(SoftmaxDPO(), ProposesValidation()), tmp_path)
    aligned(TrainsOn("training"), tmp_path)


@pytest.mark.parametrize("stage", ["align", "sft"])
def test_examples_with_held_out_events_are_refused_in_a_stage(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever class they are of. SFT has no validation users in its context, so the objective reads them by itself."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    experiment = cyclic(steps=2)
    optimization = replace(experiment.sft.optimization, max_steps=2)
    if stage == "align":
        experiment = replace(experiment, align=Align(TrainsOn("wrapped"), optimization=optimization))
    else:
        experiment = replace(experiment, sft=SFT(optimization, objective=Leaks(str(tmp_path))))
    with pytest.raises(InputError, match=r"(\d+) of \1 targets .* are held-out events of their users, such as user '.*'"):
        pipeline.run(experiment)


@dataclass(frozen=True)
class Leaks:
    """An SFT objective that reads the held-out events of the data artifact by itself."""

    home: str

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        from genrec.data.corpus import Corpus

        (folder,) = (Path(self.home) / "artifacts" / "data").glob("[!.]*")
        step = Supervised().build_step(context)
        return replace(step, examples=Wrapped(examples(Corpus.load(folder), "test", 8)))


def test_targets_are_compared_as_events_by_hand() -> None:
    """User 1 trains on 1, 2 and has 3 and 2 held out: 3 is refused, 2 is a training event too. 3 is no held-out event of user 2."""
    data = data_of(one_level(6), {1: [1, 2], 2: [4, 5]})
    context = context_of(sasrec(6), data)
    held_out = DataFrame({"user": [1, 1, 2], "item": [3, 2, 6]})

    def check(batch: Any) -> None:
        class Fixed:
            def __len__(self) -> int:
                return len(batch.user)

            def batch(self, index: Tensor) -> Any:
                return type(batch)(*(each[index] for each in batch))

        step = TrainingStep(examples=Fixed(), loss=lambda batch, step: (torch.zeros(()), {}))
        check_not_held_out(TrainsOn(), step, context, lambda: held_out)

    def rows(user: list[int], target: list[int]) -> SequenceBatch:
        return SequenceBatch(torch.tensor(user), torch.ones(len(user), 1, dtype=torch.int64), torch.tensor(target))

    check(rows([1, 1, 2, 0], [1, 2, 3, 6]))
    with pytest.raises(InputError, match=r"1 of 2 targets .*, such as user 1, 3;"):
        check(rows([1, 2], [3, 3]))
    window = WindowBatch(torch.tensor([1, 2]), torch.ones(2, 2, dtype=torch.int64), torch.tensor([[0, 2], [5, 6]]))
    with pytest.raises(InputError, match=r"1 of 3 targets .*, such as user 2, 6;"):
        check(window)
