"""Proposers that break their contract: training and check_proposer refuse them with the same words. Also losses of own objectives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from alignments import align, built_step, constant, parts, recipe, take
from torch import Tensor

from genrec.errors import InputError, NumericsError
from genrec.objectives import PolicyGradient, Preference
from genrec.own_ids import OwnIds
from genrec.preference.candidate_contract import CandidateCheck, without_target_first
from genrec.preference.candidates import Sampled
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.preference.rewards import Popular
from genrec.testing import ContractError, check_objective, check_proposer, objective_world
from genrec.testing.component_checks import check_component
from genrec.types import Candidates, ObjectiveContext, Policy, Proposals, Proposer, SequenceBatch, TrainingStep, WindowBatch

Change = Callable[[Candidates], object]


@dataclass(frozen=True)
class Next:
    """A proposer of the target and the three items that follow it by number, changed by `change`."""

    change: Change
    on_host: bool = False

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        num_items = context.data().item_count

        def propose(rows: SequenceBatch) -> Any:
            items = (rows.target.unsqueeze(1) + torch.arange(4) - 1) % num_items + 1
            return self.change(Candidates(items, items > 0))

        if self.on_host:
            return Proposals(on_host=lambda rows, step: propose(rows))
        return Proposals(in_step=lambda rows, host, step, scores: propose(rows))


@dataclass(frozen=True)
class Builds:
    """A proposer that builds something else."""

    found: Any

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        return self.found  # type: ignore[no-any-return]


def put(value: int) -> Change:
    """Return the change that puts an item at the second place of the first row."""

    def change(found: Candidates) -> Candidates:
        items = found.items.clone()
        items[0, 1] = value if value else items[0, 0]
        return found._replace(items=items)

    return change


WRONG: list[tuple[Change, str]] = [
    (
        lambda found: found._replace(items=found.items[:-1], mask=found.mask[:-1]),
        r"items.* must be int64 \[\d+, 4\], got int64 \[\d+, 4\]",
    ),
    (lambda found: found._replace(items=found.items[:, 0]), r"items.* must be int64 \[\d+, M\], got int64 \[\d+\]"),
    (lambda found: found._replace(mask=found.mask[:, 1:]), r"mask must be bool \[\d+, 4\], got bool \[\d+, 3\]"),
    (lambda found: found._replace(mask=found.mask.float()), r"mask must be bool \[\d+, 4\], got float32"),
    (lambda found: found._replace(items=found.items.float()), r"items.* must be int64 .* got float32"),
    (lambda found: found._replace(items=found.items.int()), r"items.* must be int64 .* got int32"),
    (put(10_000), r"items must lie in 1\.\.\d+, or be 0 where the mask is false"),
    (put(-3), r"items must lie in 1\.\.\d+, or be 0 where the mask is false"),
    (lambda found: found._replace(items=found.items[:, :0], mask=found.mask[:, :0]), r"a row must have at least one candidate"),
    (lambda found: found._replace(rows=torch.ones(3, dtype=torch.bool)), r"rows must be bool \[\d+\], got bool \[3\]"),
    (lambda found: found._replace(rows=torch.ones(len(found.items))), r"rows must be bool \[\d+\], got float32"),
    (lambda found: found._replace(behavior=torch.zeros(2)), r"behavior must be float32 \[\d+, 4\], got float32 \[2\]"),
    (lambda found: found._replace(behavior=torch.full((len(found.items), 4), -math.inf)), r"behavior must hold finite log-prob"),
    (lambda found: found._replace(weight=torch.ones(len(found.items), 1)), r"weight must be float32 \[\d+\], got float32 \[\d+, 1\]"),
    (lambda found: found._replace(weight=torch.full((len(found.items),), -1.0)), r"weight must hold finite numbers above 0"),
    (lambda found: found._replace(weight=torch.zeros(len(found.items))), r"weight must hold finite numbers above 0"),
    (lambda found: found._replace(weight=torch.full((len(found.items),), math.nan)), r"weight must hold finite numbers above 0"),
    (lambda found: tuple(found), r"must return genrec\.types\.Candidates, got tuple"),
    (lambda found: None, r"must return genrec\.types\.Candidates, got NoneType"),
]
MASKED = [  # a policy gradient masks these itself
    (put(0), "a row has the same item twice"),
    (
        lambda found: found._replace(items=found.items * (torch.arange(4) != 1)),
        r"items must lie in 1\.\.\d+, or be 0 where the mask is",
    ),
]


def training(proposer: Proposer, kind: str, folder: Any) -> None:
    objective = PolicyGradient(candidates=proposer) if kind == "group" else Preference(loss=SoftmaxDPO(), candidates=proposer)
    align(*parts(), recipe(objective=objective, max_steps=2, every=2), 0, folder / "a", constant)


@pytest.mark.parametrize(("change", "message"), [*WRONG, *MASKED])
@pytest.mark.parametrize("on_host", [False, True])
def test_a_preference_refuses_wrong_candidates(change: Change, message: str, on_host: bool, tmp_path: Any) -> None:
    with pytest.raises(InputError, match=rf"^Next \(.*test_candidate_contract\.py:\d+\): {message}"):
        training(Next(change, on_host), "pairs", tmp_path)
    with pytest.raises(ContractError, match=message):
        check_proposer(Next(change, on_host))


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_policy_gradient_refuses_wrong_candidates(change: Change, message: str, tmp_path: Any) -> None:
    with pytest.raises(InputError, match=rf"^Next \(.*test_candidate_contract\.py:\d+\): {message}"):
        training(Next(change), "group", tmp_path)


def test_a_policy_gradient_masks_items_that_repeat(tmp_path: Any) -> None:
    for number, (change, _) in enumerate(MASKED):
        training(Next(change), "group", tmp_path / str(number))


@pytest.mark.parametrize("kind", ["pairs", "group"])
@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Proposals(), r"give exactly one of Proposals\.on_host, Proposals\.in_step and Proposals\.listed"),
        (lambda rows, step: None, r"build_proposals\(context\) must return genrec\.types\.Proposals, got function"),
    ],
)
def test_wrong_proposals_are_refused(kind: str, found: Any, message: str, tmp_path: Any) -> None:
    with pytest.raises(InputError, match=rf"^Builds \(.*\): {message}"):
        training(Builds(found), kind, tmp_path)


@pytest.mark.parametrize("kind", ["pairs", "group"])
@pytest.mark.parametrize("on_host", [False, True])
def test_an_exception_of_a_proposer_names_it_and_the_step(kind: str, on_host: bool, tmp_path: Any) -> None:
    def fail(found: Candidates) -> Candidates:
        raise KeyError("boom")

    with pytest.raises(InputError, match=r"Next \(.*\) raised KeyError\('boom'\) at .* while it proposed candidates (in|for) step 0"):
        training(Next(fail, on_host), kind, tmp_path)


def test_values_of_a_gpu_are_checked_in_the_first_step_alone() -> None:
    """The meta device has no values, so reading one raises an error there, and types and shapes are checked all the same."""
    rows = SequenceBatch(*(torch.ones(2, dtype=torch.int64, device="meta"),) * 3)
    items = torch.ones(2, 3, dtype=torch.int64, device="meta")
    check = CandidateCheck(Next(lambda found: found), 5, None)
    with pytest.raises(RuntimeError, match="meta"):
        check(Candidates(items, items > 0), rows)
    check.checked = True
    check(Candidates(items, items > 0), rows)
    with pytest.raises(InputError, match=r"mask must be bool \[2, 3\], got bool \[2, 2\]"):
        check(Candidates(items, items[:, 1:] > 0), rows)


def test_a_violation_names_the_user_and_the_item_in_their_own_ids(tmp_path: Any) -> None:
    """Row 0 of the check's first batch is user-0 with the target item-1: the items are 1, 2, 3 and 4."""
    named = r"; the first such candidate is 'item-1' \(number 1\) \(place 2 of 4\) of user 'user-0' \(number 0\), target 'item-1' \(n"
    with pytest.raises(ContractError, match=f"a row has the same item twice{named}"):
        check_proposer(Next(put(0)))
    with pytest.raises(ContractError, match=r"in 1\.\.60, .*; the first such candidate is 10000 \(place 2 of 4\) of user 'user-0'"):
        check_proposer(Next(put(10_000)))
    with pytest.raises(ContractError, match=r"\(these users and items are of the check's synthetic data, .* not of yours\)$"):
        check_component(Next(put(0)), tmp_path)
    without = Next(lambda found: found._replace(mask=found.mask & (torch.arange(len(found.mask)) != 1).unsqueeze(1)))
    with pytest.raises(ContractError, match=r"a row that takes part has no candidate; .*; the first such row is of user 'user-\d+'"):
        check_proposer(without)


def test_a_violation_in_training_names_the_user_and_the_item_in_their_own_ids() -> None:
    rows = SequenceBatch(torch.tensor([3, 4]), torch.zeros(2, 1, dtype=torch.int64), torch.tensor([1, 2]))
    check = CandidateCheck(Next(lambda found: found), 5, OwnIds(lambda user: f"u{user}", lambda item: f"i{item}"))
    with pytest.raises(
        InputError, match=r"twice; the first such candidate is 'i5' \(number 5\) \(place 3 of 3\) of user 'u4' \(number 4\)"
    ):
        check(Candidates(torch.tensor([[1, 2, 3], [2, 5, 5]]), torch.ones(2, 3, dtype=torch.bool)), rows)


@dataclass(frozen=True)
class Proposes:
    """A proposer of the target and the next item by number, whose `propose` gets the context, the rows and the number of calls."""

    propose: Callable[[ObjectiveContext, SequenceBatch, int], Tensor]

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        calls: list[int] = []

        def on_host(rows: SequenceBatch, step: int) -> Candidates:
            calls.append(step)
            other = self.propose(context, rows, len(calls)) % context.data().item_count + 1
            items = torch.stack([rows.target, other], 1)
            return Candidates(items, (items > 0) & (torch.tensor([True, False]) | (other != rows.target).unsqueeze(1)))

        return Proposals(on_host=on_host)


def next_item(context: ObjectiveContext, rows: SequenceBatch, calls: int) -> Tensor:
    return rows.target


def erase_history(context: ObjectiveContext, rows: SequenceBatch, calls: int) -> Tensor:
    rows.history[:, -1] = 0
    return rows.target


def count_calls(context: ObjectiveContext, rows: SequenceBatch, calls: int) -> Tensor:
    return rows.target + calls


def held_out_item(context: ObjectiveContext, rows: SequenceBatch, calls: int) -> Tensor:
    assert context.validation is not None
    users = context.validation.batch(torch.arange(len(context.validation)))
    return users.target[torch.searchsorted(users.user, rows.user)] - 1


def best_of_the_policy(context: ObjectiveContext, rows: SequenceBatch, calls: int) -> Tensor:
    return likeliest(context.policy, context, rows)


def best_of_the_reference(context: ObjectiveContext, rows: SequenceBatch, calls: int) -> Tensor:
    assert context.reference is not None
    return likeliest(context.reference.policy, context, rows)


def likeliest(policy: Policy, context: ObjectiveContext, rows: SequenceBatch) -> Tensor:
    every = torch.arange(1, context.data().item_count + 1).expand(len(rows.target), -1)
    return policy.log_prob(rows.history, every).argmax(1)


@pytest.mark.parametrize(
    ("propose", "message"),
    [
        (
            erase_history,
            r"on_host\(rows, step\) modified rows\.history in place, .*; work on a copy, such as rows\.history\.clone\(\)",
        ),
        (count_calls, "the candidates of step 7 differ between a training from step 0 on and one that resumes at step 7"),
        (held_out_item, r"the candidates change with the held-out items of context\.validation"),
        (best_of_the_policy, r"the candidates of on_host change with the weights of the policy in training; .*give .* as in_step"),
    ],
)
def test_a_proposer_with_side_inputs_breaks_its_contract(propose: Any, message: str) -> None:
    check_proposer(Proposes(next_item))
    check_proposer(Proposes(best_of_the_reference))
    with pytest.raises(ContractError, match=message):
        check_proposer(Proposes(propose))


@dataclass(frozen=True)
class Own:
    """An objective with the likelihood loss, changed by `change`."""

    change: Callable[[Tensor], Any]

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        def loss(batch: SequenceBatch, step: int) -> Any:
            return self.change(-context.policy.level_log_prob(batch.history, batch.target.unsqueeze(1)).mean())

        return TrainingStep(examples=context.source.prefixes(), loss=loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loss: loss, r"must return a scalar tensor and a dict of tensors to log, got a tensor \[\] with a gradient in step 0"),
        (lambda loss: (loss, [loss]), r"must return a scalar tensor and a dict of tensors to log, got tuple in step 0"),
        (lambda loss: (loss.detach(), {}), r"must be a scalar tensor with a gradient, got a tensor \[\] in step 0"),
        (lambda loss: (loss, {"x": 1.0}), r"the log 'x' of an objective must be a detached scalar tensor, got float in step 0"),
        (lambda loss: (loss, {"x": loss}), r"the log 'x' .* got a tensor \[\] with a gradient in step 0; return value\.detach"),
        (lambda loss: (loss, {"loss": loss.detach()}), r"log has the name 'loss', which the training itself uses"),
    ],
)
def test_an_objective_with_a_wrong_loss_is_refused(change: Callable[[Tensor], Any], message: str, tmp_path: Any) -> None:
    with pytest.raises(InputError, match=rf"^Own \(.*test_candidate_contract\.py:\d+\): .*{message}"):
        align(*parts(), recipe(objective=Own(change)), 0, tmp_path / "a", constant)
    with pytest.raises(ContractError):
        check_objective(Own(change))


def test_the_share_of_rows_without_the_target_first_by_hand() -> None:
    """Five rows with the target 1. First candidates: 1; 2, which shares the Semantic ID of 1; 3; 3 without taking part; 4, masked."""
    items, ids = torch.tensor([[1, 5], [2, 5], [3, 1], [3, 5], [4, 5]]), torch.tensor([0, 1, 1, 3, 4, 5])
    mask = torch.ones(5, 2, dtype=torch.bool)
    mask[4, 0] = False
    rows = SequenceBatch(torch.ones(5, dtype=torch.int64), torch.ones(5, 1, dtype=torch.int64), torch.ones(5, dtype=torch.int64))
    taking_part = torch.tensor([True, True, True, False, True])
    found = without_target_first(Candidates(items, mask, taking_part), rows, ids)
    assert found == "in 33.3% of the rows (1 of 3) the first candidate is not the target"
    assert without_target_first(Candidates(items[:2], mask[:2]), SequenceBatch(*(each[:2] for each in rows)), ids) is None


def without_target(found: Candidates) -> Candidates:
    return found._replace(items=found.items[:, 1:], mask=found.mask[:, 1:])


@pytest.mark.parametrize("on_host", [True, False])
def test_a_proposer_without_the_target_is_told_once(on_host: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Its first negative becomes the preferred item. With the target first nothing is told, nor where a reward chooses."""

    def told(**change: object) -> str:
        step, _, frozen, batch = built_step(recipe(objective=Preference(SoftmaxDPO(), **change)))  # type: ignore[arg-type]
        for number in range(2):
            take(step, frozen, batch, number)
        return capsys.readouterr().err

    (line,) = told(candidates=Next(without_target, on_host)).splitlines()
    assert line.startswith("alignment: in 100.0% of the rows (16 of 16) the first candidate is not the target, by Next (")
    assert told(candidates=Next(lambda found: found, on_host)) == ""
    assert told(candidates=Next(without_target, on_host), reward=Popular(), chosen="best") == ""


def test_the_check_tells_of_a_proposer_without_the_target(capsys: pytest.CaptureFixture[str]) -> None:
    check_proposer(Next(without_target))
    (line,) = capsys.readouterr().err.splitlines()
    assert "in 100.0% of the rows (" in line
    assert "Preference prefers the first candidate, whatever the user took" in line


def test_the_check_tells_of_a_proposer_of_training_items(capsys: pytest.CaptureFixture[str]) -> None:
    """The user took one of the three items after the target by number in some rows, or another item with its Semantic ID."""
    check_proposer(Next(lambda found: found))
    (line,) = capsys.readouterr().err.splitlines()
    rows, data = objective_world().source.prefixes().batch(torch.arange(16)), objective_world().data()
    ids = [tuple(codes) for codes in data.semantic_ids.codes.tolist()]  # of items 1..N
    taken = {(user, ids[item - 1]) for user, item in zip(data.interactions["user"], data.interactions["item"], strict=True)}
    number = 0
    for user, target in zip(rows.user.tolist(), rows.target.tolist(), strict=True):
        number += any((user, ids[(target - 1 + step) % data.item_count]) in taken for step in (1, 2, 3))
    assert 0 < number < 16
    assert f"({number} of 16) a candidate after the first is a training item of the user" in line
    check_proposer(Sampled(Uniform(), 3))
    assert capsys.readouterr().err == ""


@dataclass(frozen=True)
class SideInput:
    """An objective that trains on `kind`: held-out examples, held-out targets of its batches, or a parameter that it forgets."""

    kind: str

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        scale = torch.nn.Parameter(torch.tensor(0.5))

        def loss(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            target = held_out_item(context, batch, 1) + 1 if self.kind == "targets" else batch.target
            total = -context.policy.level_log_prob(batch.history, target.unsqueeze(1)).mean()
            return (total + (scale - 1).square() if self.kind == "parameter" else total), {}

        examples = context.validation if self.kind == "examples" else context.source.prefixes()
        assert examples is not None
        return TrainingStep(examples=examples, loss=loss)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("examples", r"TrainingStep\.examples is context\.validation, which holds held-out items; train on context\.source\.prefixes"),
        ("targets", r"the losses change with the held-out items of context\.validation; train on context\.source\.prefixes"),
        ("parameter", r"a gradient for a parameter \[\] that belongs neither to context\.policy nor to TrainingStep\.modules"),
    ],
)
def test_an_objective_with_side_inputs_breaks_its_contract(kind: str, message: str) -> None:
    check_objective(SideInput("nothing"))
    with pytest.raises(ContractError, match=message):
        check_objective(SideInput(kind))


@dataclass(frozen=True)
class Windows:
    """An objective on windows; `total` gets the log-probabilities float32 [B, T], which are -inf at places without a target."""

    total: Callable[[Tensor, Tensor], Tensor]

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        policy: Any = context.policy

        def loss(batch: WindowBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            return self.total(policy.sequence_log_prob(batch.history, batch.target).sum(-1), batch.target), {}

        return TrainingStep(examples=context.source.windows(), loss=loss)


def masked_mean(scores: Tensor, target: Tensor) -> Tensor:
    return -scores.masked_fill(target == 0, 0.0).sum() / (target > 0).sum()


@pytest.mark.parametrize(
    ("total", "message"),
    [
        (
            lambda scores, target: -scores.mean(),
            r"the loss of step 0 is inf; mean at .*:\d+ .* are the places where batch\.target is 0",
        ),
        (
            lambda scores, target: -(scores * (target > 0)).sum() / (target > 0).sum(),
            r"the loss of step 0 is nan; mul at .*:\d+ .* are the places where batch\.target is 0 \(none\); 0 times infinity is NaN",
        ),
        (
            lambda scores, target: masked_mean(scores, target) + (scores - scores).masked_fill(target == 0, 0.0).abs().sum().sqrt(),
            r"the gradient of the loss of step 0 is not finite; the gradient of sqrt at .*:\d+",
        ),
    ],
    ids=["no mask", "times mask", "root"],
)
def test_a_loss_that_is_not_finite_is_reported_with_its_line_and_the_masked_places(total: Any, message: str) -> None:
    check_objective(Windows(masked_mean))
    with pytest.raises(ContractError, match=message):
        check_objective(Windows(total))


def test_a_training_names_the_class_behind_a_first_step_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(
        NumericsError,
        match=r"the loss of Own \(.*test_candidate_contract\.py:\d+\) is .* in step 0 \(counted from 0\),.* log at .*:\d+ ",
    ) as error:
        align(*parts(), recipe(objective=Own(lambda loss: (loss + (loss - loss).log(), {}))), 0, tmp_path / "a", constant)
    assert "no weight has changed yet, so the learning rate is not the cause" in str(error.value)
