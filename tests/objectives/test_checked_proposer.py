"""One class calls the proposers of all objectives: on the host, within a step, with the proposer's own parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from alignments import built_step, recipe, take
from torch import Tensor

from genrec.errors import InputError, UsageError
from genrec.objective_state import FixedTensors
from genrec.objectives import ListPolicyGradient, PolicyGradient, Preference, PrefixContrast
from genrec.preference.losses import SoftmaxDPO
from genrec.types import Advantages, CandidateGroups, Candidates, ObjectiveContext, Proposals, TrainingExamples

OBJECTIVES = Path(__file__).parents[2] / "genrec" / "objectives"
KINDS: dict[str, Any] = {
    "Preference": lambda proposer: Preference(SoftmaxDPO(), proposer),
    "PolicyGradient": lambda proposer: PolicyGradient(candidates=proposer, gate=False),
    "PrefixContrast": lambda proposer: PrefixContrast(candidates=proposer),
}


@dataclass(frozen=True, eq=False)
class Examples:
    """The first examples of an objective, as examples of a proposer's own."""

    entries: TrainingExamples
    number: int

    def __len__(self) -> int:
        return self.number

    def batch(self, index: Tensor) -> Any:
        return self.entries.batch(index)


@dataclass(frozen=True)
class Following:
    """The target and the items with the next numbers, with everything that a proposer may add."""

    how: str = "on_host"
    num_own: int = 0  # examples of its own; 0: those of the objective

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        num_items, counter = context.data().item_count, FixedTensors({"steps": torch.zeros((), dtype=torch.int64)})

        def propose(target: Tensor) -> Candidates:
            items = (target.unsqueeze(1) + torch.arange(3) - 1) % num_items + 1
            return Candidates(items, items > 0)

        def begin(step: int) -> None:
            counter.held["steps"] += 1

        def save(folder: Path) -> None:
            (folder / "followed.txt").write_text(str(int(counter.held["steps"])))

        entries = context.source.prefixes()
        how: Any = {
            "on_host": lambda rows, step: propose(rows.target),
            "in_step": lambda rows, host, step, scores: propose(rows.target),
            "listed": lambda number: propose(entries.batch(number).target),
        }[self.how]
        own = Examples(entries, self.num_own) if self.num_own else None
        return Proposals(**{self.how: how}, begin=begin, state=counter, save=save, examples=own)


def test_only_one_module_of_the_objectives_calls_proposers() -> None:
    """A second place would check candidates in other words, or not at all."""
    for text in (".build_proposals(", "CandidateCheck(", "checked_proposals(", "while it proposed candidates"):
        holding = [path.name for path in OBJECTIVES.glob("*.py") if text in path.read_text(encoding="utf-8")]
        assert holding == ["checked_proposer.py"], text


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_of_the_host_and_of_the_step_train_alike(kind: str) -> None:
    found = []
    for how in ("on_host", "in_step"):
        step, _, frozen, batch = built_step(recipe(objective=KINDS[kind](Following(how))))
        found.append(take(step, frozen, batch, 0)[0].item())
        assert step.prepare is not None
        assert (step.prepare(batch, 0).candidates is None) == (how == "in_step")
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_has_the_parts_of_its_proposer(kind: str, tmp_path: Path) -> None:
    step, _, frozen, batch = built_step(recipe(objective=KINDS[kind](Following(num_own=20))))
    assert len(step.examples) == 20
    for number in range(2):
        take(step, frozen, batch, number)
    assert step.state is not None
    (name,) = (name for name in step.state.tensors() if name.endswith("steps"))
    assert int(step.state.tensors()[name]) == 2
    assert step.save is not None
    step.save(tmp_path)
    assert (tmp_path / "followed.txt").read_text() == "2"


@pytest.mark.parametrize("kind", ["PolicyGradient", "PrefixContrast"])
def test_candidates_by_number_are_refused_where_no_example_has_a_number(kind: str) -> None:
    message = rf"{kind}\.candidates Following\(how='listed'.* lists candidates in their order; use Preference\(candidates"
    with pytest.raises(UsageError, match=message):
        built_step(recipe(objective=KINDS[kind](Following("listed"))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["on_host", "in_step"])
def test_wrong_candidates_and_errors_name_the_proposer(kind: str, how: str) -> None:
    step, _, frozen, batch = built_step(recipe(objective=KINDS[kind](Broken(how, 0))))
    with pytest.raises(InputError, match=r"^Broken \(.*test_checked_proposer\.py:\d+\): items must lie in 1\.\.40"):
        take(step, frozen, batch, 0)
    step, _, frozen, batch = built_step(recipe(objective=KINDS[kind](Broken(how, 7))))
    with pytest.raises(InputError, match=r"^Broken \(.*\) raised KeyError\(7\) at .* while it proposed candidates (for|in) step 3"):
        take(step, frozen, batch, 3)


@dataclass(frozen=True)
class Broken:
    """A proposer of items outside the catalog, or that fails with `error`."""

    how: str
    error: int

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        inner = Following(self.how).build_proposals(context)

        def change(found: Candidates) -> Candidates:
            if self.error:
                raise KeyError(self.error)
            return found._replace(items=found.items + 1_000)

        if inner.on_host is not None:
            on_host = inner.on_host
            return replace(inner, on_host=lambda rows, step: change(on_host(rows, step)))
        in_step = inner.in_step
        assert in_step is not None
        return replace(inner, in_step=lambda rows, host, step, scores: change(in_step(rows, host, step, scores)))


@dataclass(frozen=True)
class Wrong:
    """An advantage that returns what the test gives it."""

    part: str

    def estimate(self, groups: CandidateGroups) -> Any:
        spread = torch.ones(len(groups.rewards), dtype=torch.bool)
        if self.part == "type":
            return groups.rewards
        values = groups.rewards.unsqueeze(2) if self.part == "levels" else groups.rewards
        return Advantages(values, spread.float() if self.part == "spread" else spread)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("type", r"estimate\(groups\) must return genrec\.types\.Advantages, got Tensor$"),
        ("levels", r"values must be float \[16, 3\], got float32 \[16, 3, 1\]; advantages by code do not fit lists, use Group"),
        ("spread", r"spread must be bool \[16\], one value for each group, got float32 \[16\]"),
    ],
)
def test_lists_and_candidates_refuse_wrong_advantages_in_the_same_words(part: str, message: str) -> None:
    """A list has no codes, so it may have one advantage alone."""
    settings = recipe(objective=ListPolicyGradient(lists=3, length=2, advantage=Wrong(part)), normalize="children")
    step, _, frozen, batch = built_step(settings)
    with pytest.raises(InputError, match=rf"^Wrong \(.*test_checked_proposer\.py:\d+\): {message}"):
        take(step, frozen, batch, 0)
    if part == "levels":
        return
    step, _, frozen, batch = built_step(recipe(objective=PolicyGradient(candidates=Following(), advantage=Wrong(part), gate=False)))
    with pytest.raises(InputError, match=rf"^Wrong \(.*\): {message}"):
        take(step, frozen, batch, 0)
