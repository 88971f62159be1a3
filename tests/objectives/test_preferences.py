"""The preference objective: its loss by hand, windows against their rows, the choice of the preferred item, dropout, own modules."""

from __future__ import annotations

import os
import signal
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from alignments import align, built_step, constant, parts, recipe, take
from torch import Tensor, nn
from trainings import RECIPE, fine_tune

from genrec.errors import InputError, NumericsError, Stopped, UsageError
from genrec.experiment import SFT, Experiment
from genrec.objectives import Preference, Rounds, Supervised
from genrec.objectives.preferred_candidates import best_first
from genrec.objectives.rows import places_of, rows_of
from genrec.policy_modules import as_module
from genrec.preference.candidates import History, Rollouts, Sampled, Together, TopItems
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.losses import DPO, KTO, Anchored, RecPO, SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.preference.rewards import Popular
from genrec.testing import ContractError, Cyclic, check_objective, check_proposer, objective_world
from genrec.types import Candidates, ObjectiveContext, Proposals, SamplerContext, SequenceBatch, TrainingStep, WindowBatch


def test_rows_of_a_window_are_its_places_with_a_target() -> None:
    """A window of items 7, 8, 9 after one 0, with targets after 7 and 9: histories (7) and (7, 8, 9)."""
    batch = WindowBatch(torch.tensor([5]), torch.tensor([[0, 7, 8, 9]]), torch.tensor([[0, 8, 0, 4]]))
    assert places_of(batch).tolist() == [[0, 1], [0, 3]]
    rows = rows_of(batch)
    assert (rows.user.tolist(), rows.target.tolist()) == ([5, 5], [8, 4])
    assert rows.history.tolist() == [[0, 0, 0, 7], [0, 7, 8, 9]]


def test_rows_of_prefixes_are_the_batch() -> None:
    batch = parts()[1].batch(torch.arange(4))
    assert rows_of(batch) is batch


def test_the_loss_is_the_weighted_sum_of_preference_and_likelihood() -> None:
    """Against the losses of the two parts alone, which are recomputed from the policy's own log-probabilities."""
    change = {"loss": SoftmaxDPO(beta=0.5), "weight": 2.0, "likelihood": 0.3}
    step, context, frozen, batch = built_step(recipe(**change))
    with torch.no_grad():
        for parameter in context.policy.parameters():  # type: ignore[attr-defined]
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert step.prepare is not None
    items = step.prepare(batch, 0).candidates.items
    loss, logs = take(step, frozen, batch, 0)
    with torch.no_grad():
        ours, theirs = (each.log_prob(batch.history, items) for each in (context.policy, frozen.reference.policy))
    ratios = 0.5 * (ours - theirs)
    preference = (torch.logsumexp(ratios, 1) - ratios[:, 0]).mean()
    likelihood = -ours[:, 0].mean() / 2  # two levels
    assert loss.item() == pytest.approx((2.0 * preference + 0.3 * likelihood).item(), abs=1e-5)
    assert logs["likelihood_loss"].item() == pytest.approx(likelihood.item(), abs=1e-5)


def test_an_anchor_is_a_likelihood_where_every_row_has_a_preference() -> None:
    losses = []
    for change in ({"loss": Anchored(SoftmaxDPO(), alpha=0.7)}, {"loss": SoftmaxDPO(), "likelihood": 0.7}):
        step, _, frozen, batch = built_step(recipe(**change))
        losses.append(take(step, frozen, batch, 0)[0].item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_windows_give_the_same_as_their_rows() -> None:
    """The loss on a batch of windows is that on the rows' prefixes."""
    context = objective_world()
    window = context.source.windows().batch(torch.arange(6))
    objective = Preference(loss=SoftmaxDPO(), candidates=TopItems(size=8, gate=False), likelihood=1.0)
    on_windows = replace(objective, targets="all").build_step(context)
    on_rows = objective.build_step(context)
    losses = []
    for step, batch in ((on_windows, window), (on_rows, rows_of(window))):
        assert step.prepare is not None
        losses.append(step.loss(step.prepare(batch, 0), 0)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_row_outside_the_gate_has_no_preference() -> None:
    """The gradient of the preference alone is 0 for a batch without a hit; the likelihood trains on all rows."""
    context = objective_world()
    batch = context.source.prefixes().batch(torch.arange(16))
    step = Preference(loss=SoftmaxDPO(), candidates=TopItems(size=3)).build_step(context)
    assert step.prepare is not None
    scores = scores_of(context.policy, batch, None, batch, "codes")
    hit = (scores.top(3).items == batch.target.unsqueeze(1)).any(1)
    _, logs = step.loss(step.prepare(batch, 0), 0)
    assert logs["preference_share"].item() == pytest.approx(hit.float().mean().item())
    missed = SequenceBatch(*(each[~hit] for each in batch))
    nothing, _ = step.loss(step.prepare(missed, 0), 0)
    assert nothing.item() == 0


def test_the_best_candidate_by_reward_is_preferred() -> None:
    """Row 1: item 8 has the highest reward, 7 is within the gap of 0.5, 9 is rejected. Row 2: equal rewards compare nothing."""
    items = torch.tensor([[7, 8, 9], [4, 5, 0]])
    candidates = Candidates(items, items > 0)
    rewards = torch.tensor([[1.6, 2.0, 0.1], [1.0, 1.0, -torch.inf]])
    found, ordered = best_first(candidates, rewards, 0.5)
    assert found.items.tolist() == [[8, 7, 9], [4, 5, 0]]
    assert found.mask.tolist() == [[True, False, True], [True, False, False]]
    assert found.rows is not None
    assert found.rows.tolist() == [True, False]
    assert ordered[0].tolist() == pytest.approx([2.0, 1.6, 0.1])


def test_a_reward_chooses_in_training() -> None:
    """With rare items as the better ones, the preferred candidate is the least popular of each row."""
    objective = Preference(loss=SoftmaxDPO(), candidates=Sampled(Uniform(), 5), reward=Popular(alpha=-1.0), chosen="best")
    check_objective(objective)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": RecPO()}, r"RecPO needs rewards; give Preference\.reward"),
        ({"chosen": "best"}, r"chosen='best' needs rewards"),
        ({"likelihood": -1.0}, r"Preference\.likelihood must be 0 or more"),
        ({"loss": DPO(), "candidates": TopItems(size=16)}, r"DPO takes one negative, got 15 from TopItems\(.*; set size to 2 \("),
        ({"loss": DPO(), "candidates": Together((TopItems(size=2), History(size=2)))}, r"DPO takes one negative, got 2 from Together"),
        ({"candidates": Rollouts()}, r"lists the policy's own best item first; use TopItems\(\.\.\.\)"),
        ({"candidates": Uniform()}, r"Preference\.candidates must be a proposer, such as Sampled\(\)"),
        ({"targets": "some"}, r"Preference\.targets must be one of 'one', 'all'"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preference(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "objective",
    [Supervised(), Supervised(targets="all"), Preference(), Preference(candidates=TopItems(size=4), likelihood=1.0, targets="all")],
    ids=["supervised", "windows", "preference", "on-policy windows"],
)
def test_built_in_objectives_keep_the_contract(objective: Supervised | Preference) -> None:
    check_objective(objective)


@pytest.mark.parametrize("proposer", [Sampled(), Sampled(Uniform(), 7), TopItems(size=5), TopItems(size=5, gate=False, refresh=0)])
def test_built_in_proposers_keep_the_contract(proposer: Sampled | TopItems) -> None:
    check_proposer(proposer)


@dataclass(frozen=True)
class OneByOne:
    """Labels of single events: the logged item in a first column, a disliked one in a second; every third row has neither."""

    empty: bool = False  # whether the rows with neither take part

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        count = context.data().item_count

        def propose(rows: SequenceBatch, step: int) -> Candidates:
            kind = torch.arange(len(rows.target)) % 3
            items = torch.stack([rows.target, rows.target % count + 1], 1)
            mask = torch.stack([kind == 0, kind == 1], 1)
            return Candidates(items, mask, None if self.empty else mask.any(1))

        return Proposals(on_host=propose)


def test_a_row_may_have_one_candidate_and_not_none() -> None:
    check_proposer(OneByOne())
    check_objective(Preference(loss=KTO(paired=False), candidates=OneByOne()))
    with pytest.raises(ContractError, match=r"a row that takes part has no candidate; set Candidates\.rows to false there"):
        check_proposer(OneByOne(empty=True))


def test_the_check_of_an_objective_converts_no_tensor_with_a_gradient() -> None:
    """PyTorch warns of that, once in a process unless told to warn always; the message named neither the plug-in nor genrec."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_objective(WithHead())
    finally:
        torch.set_warn_always(before)


def test_dropout_is_on_in_the_policy_and_off_in_the_reference(tmp_path: Path) -> None:
    """With dropout the drift of step 0 is not 0, although policy and reference hold the same weights; they are compared before."""
    built, entries, context = parts()
    for module in built.modules():
        if isinstance(getattr(module, "rate", None), float):
            module.rate = 0.3  # type: ignore[assignment]
    settings = recipe(dropout=True, learning_rate=1e-12, max_steps=20)
    outcome, *_ = align(built, entries, context, settings, 0, tmp_path / "last", constant)
    row = next(row for row in outcome.curves if "chosen_drift" in row)
    assert abs(row["chosen_drift"]) > 1e-3
    assert not built.training


@pytest.mark.parametrize("dropout", [True, False])
def test_the_warning_about_falling_positives_knows_of_dropout(dropout: bool) -> None:
    """A drift of -1.2 nats in all rows is that of dropout, if the policy is in training mode, or else a fall."""
    context = objective_world()
    as_module(context.policy).train(dropout)
    row = {"chosen_log_prob": -6.2, "rejected_log_prob": -9.0, "chosen_drift": -1.2, "rejected_drift": -1.0}
    for objective in (Preference(), Rounds()):
        watchers = objective.build_step(context).watchers
        warnings_ = [each({"step": step} | row) for step in (20, 40) for each in watchers]
        assert any(text is not None and "lowers the probability of the positives" in text for text in warnings_) is not dropout


class Head(nn.Module):
    """A scalar to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


@dataclass(frozen=True)
class WithHead:
    """A user's objective with a parameter of its own: the likelihood, and a regression of its value."""

    goal: float = 0.02

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        head = Head()

        def loss(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            likelihood = -context.policy.level_log_prob(batch.history, batch.target.unsqueeze(1)).mean()
            return likelihood + (head.value - self.goal).square(), {"head": head.value.detach().clone()}

        return TrainingStep(examples=context.source.prefixes(), loss=loss, modules=(head,))


def test_an_objectives_own_parameters_are_trained_and_resumed(tmp_path: Path) -> None:
    check_objective(WithHead())

    def run(folder: str, stop: bool) -> tuple[dict[str, Tensor], list[float]]:
        built, entries, context = parts()
        calls: list[int] = []

        def validate() -> dict[str, float]:
            calls.append(1)
            if stop and len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)  # in the validation after step 20
            return {"ndcg@10": 0.1}

        settings = recipe(objective=WithHead(), keep="last")
        outcome, *_ = align(built, entries, context, settings, 0, tmp_path / folder / "last", validate)
        return built.state_dict(), [row["head"] for row in outcome.curves if "head" in row]

    whole, values = run("whole", stop=False)
    assert values[0] < values[-1] <= 0.025
    with pytest.raises(Stopped):
        run("parts", stop=True)
    again, resumed = run("parts", stop=False)
    assert resumed == values
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


@dataclass(frozen=True)
class Detached:
    """A broken objective without a gradient."""

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        return TrainingStep(examples=context.source.prefixes(), loss=lambda batch, step: (torch.ones(()), {}))


@dataclass(frozen=True)
class Unreduced:
    """A broken objective with a loss for each example."""

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        def loss(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            return -context.policy.log_prob(batch.history, batch.target.unsqueeze(1)).squeeze(1), {}

        return TrainingStep(examples=context.source.prefixes(), loss=loss)


@dataclass(frozen=True)
class Ahead:
    """A broken objective that reads the policy in training ahead of its step."""

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        def prepare(batch: SequenceBatch, step: int) -> tuple[SequenceBatch, Tensor]:
            with torch.no_grad():
                return batch, context.policy.log_prob(batch.history, batch.target.unsqueeze(1))

        def loss(prepared: tuple[SequenceBatch, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
            batch, before = prepared
            return (before.exp() - context.policy.log_prob(batch.history, batch.target.unsqueeze(1))).mean(), {}

        return TrainingStep(examples=context.source.prefixes(), loss=loss, prepare=prepare)


def test_the_check_refuses_a_preparation_that_reads_changing_weights() -> None:
    with pytest.raises(
        ContractError, match=r"^Ahead.*: what prepare\(batch, step\) returns changes with the weights of context\.policy"
    ):
        check_objective(Ahead())


@pytest.mark.parametrize("objective", [Detached(), Unreduced()], ids=["detached", "unreduced"])
def test_a_wrong_loss_is_refused_by_the_check_and_in_training(objective: Detached | Unreduced, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a scalar tensor with a gradient"):
        check_objective(objective)
    built, entries, context = parts()
    with pytest.raises(InputError, match="the loss of an objective must be a scalar tensor with a gradient"):
        align(built, entries, context, recipe(objective=objective), 0, tmp_path / "last", constant)


def test_another_policy_than_the_reference_is_refused_before_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, entries, context = parts()
    monkeypatch.setattr(type(built), "eval", lambda self: self.train())
    with pytest.raises(NumericsError, match=r"expected ln\(1 \+ K\)"):
        align(built, entries, context, recipe(objective=Supervised()), 0, tmp_path / "last", constant)


@pytest.mark.parametrize("objective", [Preference(), Rounds()])
def test_a_preference_in_sft_is_refused_before_any_stage(objective: Preference | Rounds) -> None:
    with pytest.raises(UsageError, match=r"odd: Preference needs a reference, which SFT has not; set align=Align\(Preference"):
        Experiment(name="odd", source=Cyclic(), sft=SFT(objective=objective))


def test_an_objective_of_sft_reads_the_training_data_once(tmp_path: Path) -> None:
    built, entries, context = parts()
    reads: list[int] = []

    def data() -> SamplerContext:
        reads.append(1)
        return context

    fine_tune(built, entries, RECIPE, 0, tmp_path / "last", constant, data=data)
    assert reads == []  # the likelihood needs none
    fine_tune(built, entries, replace(RECIPE, objective=ReadsTwice()), 0, tmp_path / "other", constant, data=data)
    assert reads == [1]


@dataclass(frozen=True)
class ReadsTwice:
    """The likelihood, after two looks at the training data."""

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        assert context.data() is context.data()
        return Supervised().build_step(context)
