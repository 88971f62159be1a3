"""Own proposers and samplers are tried on a few examples before a training: errors are found before SFT, and before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from alignments import align, built_step, constant, parts, recipe
from test_early_refusals import ONE_STEP
from worlds import cyclic

from genrec import pipeline
from genrec.errors import InputError, UsageError
from genrec.experiment import SFT, Align
from genrec.objectives import PolicyGradient, Preference, Rounds, Supervised
from genrec.objectives.candidate_trial import try_candidates
from genrec.preference.candidates import Sampled, Together, TopItems
from genrec.preference.exclusions import Exclusions
from genrec.preference.filters import NearDuplicates
from genrec.preference.losses import DPO, Anchored, SoftmaxDPO
from genrec.preference.negatives import Filtered, Uniform
from genrec.testing import check_objective
from genrec.training import align as training
from genrec.types import (
    Candidates,
    Draw,
    Objective,
    ObjectiveContext,
    Proposals,
    RowScores,
    SamplerContext,
    SequenceBatch,
    WindowBatch,
)


@dataclass(frozen=True)
class Three:
    """The target and three other items, always."""

    on_host: bool = True
    shift: int = 0  # added to every item: a large one leaves the catalog
    calls: list[int] = field(default_factory=list)

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        num_items = context.data().item_count

        def propose(rows: SequenceBatch) -> Candidates:
            self.calls.append(len(rows.target))
            items = (rows.target.unsqueeze(1) + torch.arange(4) - 1) % num_items + 1 + self.shift
            return Candidates(items, items > 0)

        def in_step(rows: SequenceBatch, host: SequenceBatch, step: int, scores: RowScores) -> Candidates:
            assert scores.top(2).items.shape == (len(rows.target), 2)
            return propose(rows)

        return Proposals(on_host=lambda rows, step: propose(rows)) if self.on_host else Proposals(in_step=in_step)


@dataclass(frozen=True)
class Sized(Three):
    """The same, and it says how many candidates a row has."""

    def most_candidates(self) -> int:
        return 4


MESSAGE = (
    r"DPO takes one negative, got 3 from {0}\(.*\), a {0} \(.*test_candidate_trial\.py:\d+\); let it give one: items and mask of two "
    r"columns, the preferred item and one other, or use SoftmaxDPO \(S-DPO\)"
)


def built_before(objective: Objective, error: type[Exception], message: str) -> list[str]:
    """Return the stages that were built before an experiment was refused."""
    built: list[str] = []
    experiment = replace(cyclic(), sft=SFT(**ONE_STEP), align=Align(objective, **ONE_STEP))  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        pipeline.run(experiment, on_artifact=lambda artifact: built.append(artifact.stage))
    return built


@pytest.mark.parametrize("loss", [DPO(), Anchored(DPO())])
def test_three_negatives_for_dpo_are_refused_when_it_is_made_if_the_proposer_tells(loss: Any) -> None:
    with pytest.raises(UsageError, match=MESSAGE.format("Sized")):
        Preference(loss, Sized())
    with pytest.raises(UsageError, match=r"DPO takes one negative, got 4 from Together\("):
        Preference(loss, Together((Sized(), TopItems(size=2))))
    Preference(SoftmaxDPO(), Sized())


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in rounds"])
def test_three_negatives_for_dpo_are_refused_before_sft(
    on_host: bool, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    objective: Objective = Preference(DPO(), Three(on_host))
    objective = Rounds(objectives=(objective,), steps=(1,)) if inside else objective
    assert built_before(objective, UsageError, MESSAGE.format("Three")) == ["data", "embed", "tokenize"]


@pytest.mark.parametrize("kind", [lambda each: Preference(SoftmaxDPO(), each), lambda each: PolicyGradient(candidates=each)])
def test_wrong_candidates_are_refused_before_sft(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    message = r"^Three \(.*test_candidate_trial\.py:\d+\): items must lie in 1\.\.40"
    assert built_before(kind(Three(shift=1_000)), InputError, message) == ["data", "embed", "tokenize"]


def test_an_alignment_that_begins_from_a_finished_sft_tries_its_proposer_before_it_validates(tmp_path: Path) -> None:
    def validate() -> dict[str, float]:
        raise AssertionError("the training has begun")

    with pytest.raises(UsageError, match=MESSAGE.format("Three")):
        align(*parts(), recipe(objective=Preference(DPO(), Three())), 0, tmp_path / "a", validate)


@dataclass(frozen=True)
class DrawsFor:
    """One negative, an allowed item, for users from `first` on, and none for the others."""

    first: int

    def build(self, context: SamplerContext) -> Draw:
        def draw(batch: SequenceBatch, num_negatives: int, generator: torch.Generator) -> torch.Tensor:
            every = torch.arange(1, context.item_count + 1).expand(len(batch.target), -1)
            negatives = Exclusions(context).take_allowed(batch, every, num_negatives)
            return negatives.masked_fill((batch.user < self.first).unsqueeze(1), 0)

        return Draw(draw=draw)


NO_NEGATIVES = (
    r"^DrawsFor \(.*test_candidate_trial\.py:\d+\) gave no negative to any of 256 training examples, so the preference loss would be 0"
    r".* and test it with 'genrec check .*test_candidate_trial\.py:DrawsFor'$"
)


@pytest.mark.parametrize("loss", [SoftmaxDPO(), Anchored(DPO())])
def test_a_sampler_that_draws_nothing_is_refused_before_sft(
    loss: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    objective = Preference(loss, Sampled(Filtered(DrawsFor(1_000), (NearDuplicates(),)), 1))
    assert built_before(objective, InputError, NO_NEGATIVES) == ["data", "embed", "tokenize"]


def test_a_sampler_that_draws_for_the_last_user_alone_is_accepted() -> None:
    """The first 16 examples are of other users, those of the whole training set are not."""
    _, entries, _ = parts()
    users = entries.batch(torch.arange(len(entries))).user
    last = int(users.max())
    assert last not in users[:16]
    context = built_step(recipe(num_negatives=1))[1]
    try_candidates(Preference(SoftmaxDPO(), Sampled(DrawsFor(last), 1)), context)
    with pytest.raises(InputError, match=NO_NEGATIVES):
        try_candidates(Preference(SoftmaxDPO(), Sampled(DrawsFor(last + 1), 1)), context)


@pytest.mark.parametrize("on_host", [True, False])
def test_a_trial_has_few_examples_and_changes_nothing(on_host: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 rows, then the batches of the training; its weights, with dropout, are those without a trial."""
    found = []
    for tried in (True, False):
        (built, entries, context), proposer = parts(), Three(on_host)
        settings = recipe(objective=Preference(SoftmaxDPO(), proposer), max_steps=3, dropout=True, keep="last")
        if not tried:
            monkeypatch.setattr(training, "_try_proposers", lambda *_: None)
        align(built, entries, context, settings, 0, tmp_path / str(tried), constant)
        assert proposer.calls[:2] == ([16, 32] if tried else [32, 32])
        found.append(built.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_windows_are_tried_too() -> None:
    """A policy gradient on windows, with rows for each place of the first windows."""
    from genrec.objectives.candidate_trial import try_candidates
    from genrec.testing import objective_world

    context, proposer = objective_world(), Three(on_host=False)
    try_candidates(PolicyGradient(candidates=proposer, targets="all"), context)
    window = context.source.windows().batch(torch.arange(16))
    assert isinstance(window, WindowBatch)
    assert proposer.calls == [int((window.target > 0).sum())]
    calls = len(proposer.calls)
    try_candidates(Rounds(objectives=(Supervised(), Preference(SoftmaxDPO(), Sampled(Uniform(), 3))), steps=(1, 1)), context)
    assert len(proposer.calls) == calls


@dataclass(frozen=True)
class ByNumber:
    """Candidates of numbered examples."""

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        entries = context.source.prefixes()
        return Proposals(listed=lambda number: Candidates(entries.batch(number).target.unsqueeze(1), torch.ones(len(number), 1) > 0))


def test_candidates_by_number_are_refused_before_sft_where_no_example_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    message = r"PolicyGradient\.candidates ByNumber\(\) lists candidates in their order"
    assert built_before(PolicyGradient(candidates=ByNumber()), UsageError, message) == ["data", "embed", "tokenize"]


def test_the_check_of_an_objective_names_the_proposer() -> None:
    with pytest.raises(UsageError, match=MESSAGE.format("Three")):
        check_objective(Preference(DPO(), Three()))


def test_the_first_step_names_the_proposer() -> None:
    step, _, _, batch = built_step(recipe(objective=Preference(DPO(), Three())))
    assert step.prepare is not None
    with pytest.raises(UsageError, match=MESSAGE.format("Three")):
        step.loss(step.prepare(batch, 0), 0)
