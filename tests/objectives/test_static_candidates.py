"""Candidates that never change: the reference scores each example once, with the results of scoring it in every step."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import alignments
import pandas as pd
import pytest
import torch
from alignments import align, built_step, corpus, parts, recipe, take
from preference_stages import stage
from torch import Tensor
from worlds import cyclic

from genrec.errors import InputError, Stopped, UsageError
from genrec.experiment import Optimization, Validation
from genrec.objectives import PolicyGradient, Preference, Rounds, Supervised
from genrec.objectives.prepared_rows import mean_likelihood, mean_loss
from genrec.objectives.reference_cache import ReferenceCache
from genrec.pipeline import run
from genrec.preference.candidates import History, InvalidIds, Pairs, Together, TopItems
from genrec.preference.candidates.pair_rows import MAX_WEIGHT, MIN_WEIGHT
from genrec.preference.losses import SoftmaxDPO
from genrec.semantic_ids import SemanticIds
from genrec.testing import ContractError, check_proposer
from genrec.types import Candidates, ObjectiveContext, Proposals, SequenceBatch, TrainingStep


def pair_file(path: Path, rows: int = 24) -> Path:
    """Write pairs of training users: the second training item is preferred to two items that follow much later."""
    events = corpus().part("train")
    lines = []
    for user, items in list(events.groupby("user")["item"])[:rows]:
        chosen = int(items.iloc[2])
        rejected = [corpus().own_ids.item((chosen + shift) % 40 + 1) for shift in (15, 20)]
        row: dict[str, Any] = {"user": corpus().own_ids.user(int(str(user))), "chosen": corpus().own_ids.item(chosen)}
        lines.append(json.dumps(row | {"rejected": rejected, "weight": 1 + len(lines) % 3}))
    path.write_text("\n".join(lines))
    return path


def lists(path: Path) -> Path:
    """Give row n of a file of pairs n % 4 further rejected items, and the last row 12."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        used = {row["chosen"], *row["rejected"]}
        others = [each for each in map(corpus().own_ids.item, range(1, 41)) if each not in used]
        row["rejected"] += others[: 12 if row is rows[-1] else number % 4]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def changed(change: dict[str, Any]) -> tuple[TrainingStep, Any, Any]:
    """Return a built alignment in which the policy is no longer the reference."""
    step, context, frozen, _ = built_step(recipe(**change))
    with torch.no_grad():
        for parameter in context.policy.parameters():  # type: ignore[attr-defined]
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return step, context, frozen


def candidates_of(name: str, folder: Path) -> Any:
    if name == "corruptions":
        return InvalidIds(by="corruptions")
    if name == "lists":
        return Pairs(lists(pair_file(folder / "pairs.jsonl")))
    return History(size=4) if name == "history" else Pairs(pair_file(folder / "pairs.jsonl"))


@pytest.mark.parametrize("name", ["history", "pairs", "lists", "corruptions"])
def test_kept_scores_give_the_losses_of_scores_in_every_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignments, "IDS", SemanticIds(alignments.IDS.codes, (8, 7)))  # codes 5 and 6 of level 2 are no item's
    change = {"candidates": candidates_of(name, tmp_path), "batch_size": 16, "max_steps": 40}
    step, _, frozen = changed(change)
    found = [take(step, frozen, step.examples.batch(torch.arange(n, n + 8)), n) for n in range(3)]
    assert step.state is not None
    assert len(step.state.tensors()["reference_first"]) == len(step.examples) + 1
    monkeypatch.setattr(ReferenceCache, "_scored", lambda *_: None)
    step, _, frozen = changed(change)
    for number, (loss, logs) in enumerate(found):
        other, other_logs = take(step, frozen, step.examples.batch(torch.arange(number, number + 8)), number)
        assert loss.item() == pytest.approx(other.item(), abs=1e-6)
        assert {key: float(value) for key, value in logs.items()} == pytest.approx(
            {key: float(value) for key, value in other_logs.items()}, abs=1e-5
        )


def test_one_long_list_does_not_widen_the_other_rows(tmp_path: Path) -> None:
    """Of 24 rows, rows 0 to 22 have 3 + n % 4 items, 102 in all, and the last one 15. Each has two levels of log-probabilities."""
    step, _, frozen = changed({"candidates": candidates_of("lists", tmp_path), "batch_size": 8})
    assert step.prepare is not None
    assert step.state is not None
    for index, width in ((range(8), 6), (range(2), 4), (range(16, 24), 15)):
        prepared = step.prepare(step.examples.batch(torch.tensor(index)), 0)
        assert prepared.candidates.items.shape == (len(index), width)
    take(step, frozen, step.examples.batch(torch.arange(8)), 0)
    saved = step.state.tensors()
    assert saved["reference_levels"].shape == (102 + 15, 2)
    assert saved["reference_first"].diff().tolist() == [3 + number % 4 for number in range(23)] + [15]
    with pytest.raises(ValueError, match="reference_levels are of 23 examples, expected 24"):
        step.state.restore(saved | {"reference_first": saved["reference_first"][:-1]})


def test_the_reference_scores_each_example_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, _, frozen = changed({"candidates": candidates_of("pairs", tmp_path), "batch_size": 8})
    policy, scored = frozen.reference.policy, []
    original = policy.level_log_prob

    def counting(history: Tensor, items: Tensor) -> Tensor:
        scored.append(len(items))
        values: Tensor = original(history, items)
        return values

    monkeypatch.setattr(policy, "level_log_prob", counting)
    for number in range(5):
        take(step, frozen, step.examples.batch(torch.arange(8)), number)
    assert (len(step.examples), sum(scored)) == (24, 24)


@pytest.mark.parametrize(
    "change",
    [
        {"refresh_reference": 5},  # the reference changes
        {"max_steps": 1},  # 8 of 24 examples are used
    ],
)
def test_scores_that_change_or_do_not_pay_are_not_kept(change: dict[str, Any], tmp_path: Path) -> None:
    step, _, frozen = changed({"candidates": candidates_of("pairs", tmp_path), "batch_size": 8} | change)
    take(step, frozen, step.examples.batch(torch.arange(8)), 0)
    assert step.state is not None
    assert step.state.tensors()["reference_levels"].numel() == 0


@pytest.mark.parametrize("name", ["pairs", "lists"])
def test_a_resumed_training_does_not_score_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = recipe(candidates=candidates_of(name, tmp_path), batch_size=8)

    def trained(folder: str, stop_at: int = -1) -> dict[str, Tensor]:
        built, entries, context = parts()
        calls = iter(range(9))

        def validate() -> dict[str, float]:
            if next(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
            return {"ndcg@10": 0.1}

        align(built, entries, context, replace(settings, keep="last"), 0, tmp_path / folder / "last", validate)
        return built.state_dict()

    whole = trained("whole")
    with pytest.raises(Stopped, match="stopped at step 20"):
        trained("parts", stop_at=1)

    def refuse(*_: object) -> bool:
        raise AssertionError("scored again")

    monkeypatch.setattr(ReferenceCache, "_scored", refuse)
    again = trained("parts")
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


def test_weights_multiply_the_losses_of_rows() -> None:
    """Losses 1, 2, 4 with weights 1, 3, 5 and the last row left out: (1 + 6) / 4; the likelihood counts all rows: 27 / 9."""
    losses, weight = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 5.0])
    assert mean_loss(losses, torch.tensor([True, True, False]), weight).item() == pytest.approx(7 / 4)
    assert mean_loss(losses, None, weight).item() == pytest.approx(27 / 9)
    assert mean_loss(losses, torch.zeros(3, dtype=torch.bool), weight).item() == 0
    assert mean_likelihood(losses[:, None].expand(3, 2), True, weight).item() == pytest.approx(27 / 9)


def test_equal_weights_change_nothing(tmp_path: Path) -> None:
    """Also the smallest and the largest weight of a file."""
    path, weights = pair_file(tmp_path / "pairs.jsonl"), (1, 7, MIN_WEIGHT, MAX_WEIGHT)
    for weight in weights:
        lines = [json.dumps(json.loads(line) | {"weight": weight}) for line in path.read_text().splitlines()]
        (tmp_path / f"{weight}.jsonl").write_text("\n".join(lines))
    losses = []
    for weight in weights:
        step, _, frozen = changed({"candidates": Pairs(tmp_path / f"{weight}.jsonl"), "likelihood": 0.5})
        losses.append(take(step, frozen, step.examples.batch(torch.arange(8)), 0)[0].item())
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-6)


def test_objectives_that_cannot_use_a_file_refuse_it(tmp_path: Path) -> None:
    pairs = candidates_of("pairs", tmp_path)
    """When the objective is made, before any stage; of a proposer that is not a file it is known when the objective is built."""
    with pytest.raises(UsageError, match="which has examples of its own; use a chain of alignments"):
        Rounds(objectives=(Supervised(), Preference(candidates=pairs)), steps=(1, 1))
    with pytest.raises(UsageError, match="which has examples of its own; use it alone"):
        Together((TopItems(), pairs))
    with pytest.raises(UsageError, match="lists candidates in their order; use Preference"):
        built_step(recipe(objective=PolicyGradient(candidates=pairs)))


def test_rounds_accept_static_candidates() -> None:
    rounds = Rounds(objectives=(Supervised(), Preference(loss=SoftmaxDPO(), candidates=History(size=4))), steps=(1, 1))
    step, _, frozen, _ = built_step(recipe(objective=rounds))
    for number in range(2):
        assert take(step, frozen, step.examples.batch(torch.arange(8)), number)[0].isfinite()


def experiment(path: Path) -> Any:
    return replace(
        cyclic(steps=2),
        align=stage(
            loss=SoftmaxDPO(),
            candidates=Pairs(path),
            optimization=Optimization(max_steps=4, batch_size=8, learning_rate=1e-3),
            validation=Validation(every=2),
        ),
    )


def test_an_alignment_with_a_file_through_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus has the users of `corpus` and more. A changed file is another alignment; a held-out event stops it before SFT."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match=r"the pair file .* does not exist"):
        experiment(tmp_path / "none.jsonl")
    events = run(replace(cyclic(steps=2), align=None), last="data")["data"].folder
    table = pd.read_parquet(events / "interactions.parquet").assign(part=pd.read_parquet(events / "split.parquet")["part"])
    users = pd.read_parquet(events / "users.parquet")["user_id"]
    items = pd.read_parquet(events / "items.parquet")["item_id"]
    rows = [
        {"user": users[user - 1], "chosen": items[found.iloc[2] - 1], "rejected": items[(found.iloc[2] + 20) % 40]}
        for user, found in table[table["part"] == "train"].groupby("user")["item"]
    ]
    path = tmp_path / "pairs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    built: list[str] = []
    run(experiment(path), on_artifact=lambda artifact: built.append(artifact.key))
    pd.DataFrame(rows[1:]).to_csv(path, index=False)
    again: list[str] = []
    run(experiment(path), on_artifact=lambda artifact: again.append(artifact.key))
    assert [one == two for one, two in zip(built, again, strict=True)] == [True, True, True, True, False, False]
    test = table[table["part"] == "test"].iloc[0]
    rows.append({"user": users[test["user"] - 1], "chosen": items[test["item"] - 1], "rejected": rows[0]["rejected"]})
    pd.DataFrame(rows).to_csv(path, index=False)
    with pytest.raises(InputError, match="chosen is a held-out event of the user"):
        run(replace(experiment(path), seed=1))


@dataclass(frozen=True)
class NotStatic:
    """A proposer that is declared static, with a rejected item that depends on the step or on the rest of the batch."""

    cause: str

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        num_items = context.data().item_count

        def propose(rows: SequenceBatch, step: int) -> Candidates:
            shift = torch.full_like(rows.target, 1 + step % 5) if self.cause == "step" else 1 + torch.arange(len(rows.target)) % 5
            items = torch.stack([rows.target, (rows.target + shift - 1) % num_items + 1], 1)
            return Candidates(items, items > 0)

        return Proposals(on_host=propose, static=True)


@pytest.mark.parametrize("cause", ["step", "batch"])
def test_static_candidates_that_change_are_refused(cause: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=rf"Proposals\.static is true, but the candidates of a row changed with the {cause}"):
        check_proposer(NotStatic(cause))
    step, _, frozen = changed({"candidates": NotStatic(cause), "batch_size": 16})
    take(step, frozen, step.examples.batch(torch.arange(16)), 0)
    with pytest.raises(
        UsageError, match=r"a static proposer gave the candidates \[\d+, \d+\] for example \d+ and \[\d+, \d+\] before"
    ):
        take(step, frozen, step.examples.batch(torch.arange(3, 11)), 1)


def test_candidates_are_compared_after_a_resume_too() -> None:
    change = {"candidates": NotStatic("step"), "batch_size": 16}
    step, _, frozen = changed(change)
    take(step, frozen, step.examples.batch(torch.arange(16)), 0)
    assert step.state is not None
    saved = {name: value.clone() for name, value in step.state.tensors().items()}
    step, _, frozen = changed(change)
    assert step.state is not None
    step.state.restore(saved)
    take(step, frozen, step.examples.batch(torch.arange(16)), 5)  # as in step 0
    with pytest.raises(UsageError, match="a static proposer gave the candidates"):
        take(step, frozen, step.examples.batch(torch.arange(16)), 6)


def test_static_proposers_of_the_package_keep_the_contract() -> None:
    check_proposer(History(size=5))
