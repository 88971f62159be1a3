"""`genrec check` of states of histories and of views: correct ones pass, broken ones get a message that names the rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from test_conformance_policies import LastItem, Made
from torch import Tensor

from genrec.__main__ import main
from genrec.objectives import Augmentations, SameTarget, ViewContrast
from genrec.testing import ContractError, check_component, check_history_views, check_objective, check_policy
from genrec.types import SequenceBatch, TwoViews


class WithStates(LastItem):
    """`LastItem` as a `HistoryStates`."""

    def history_states(self, history: Tensor) -> Tensor:
        return self.states(history)


@dataclass(frozen=True)
class Announced(Made):
    policy_class: Any = WithStates

    def has_history_states(self) -> bool:
        return True


@dataclass(frozen=True)
class Denied(Made):
    policy_class: Any = WithStates

    def has_history_states(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the description, which policies made of functions do not have."""
    monkeypatch.setattr("genrec.testing.policy_checks.describe", lambda *arguments: None)


def test_a_policy_with_states_passes() -> None:
    check_policy(Announced())


@pytest.mark.parametrize(
    ("specification", "has", "answer"),
    [(Made(WithStates), "has", True), (Denied(), "has", True), (Announced(LastItem), "has no", False)],
)
def test_the_specification_announces_the_states(specification: Made, has: str, answer: bool) -> None:
    message = rf"the policy {has} history_states, so has_history_states\(\) of its specification must return {answer}"
    with pytest.raises(ContractError, match=message):
        check_policy(specification)


def grown(history: Tensor) -> Tensor:
    return history.add_(0).mul_(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda policy, states, history: states(history)[0], r"must return float32 \[6, D\]"),
        (lambda policy, states, history: states(history).double(), r"must return float32 \[6, D\]"),
        (lambda policy, states, history: states(history) + history.shape[1], "depends on its padding or on the rest of the batch"),
        (lambda policy, states, history: states(history) - states(history).mean(0), "depends on its padding or on the rest"),
        (lambda policy, states, history: states(history) + torch.rand(8), "gives other values when it is called again"),
        (lambda policy, states, history: 0 * states(history), "is the same for different histories"),
        (lambda policy, states, history: states(history).detach(), "has no gradient"),
        (lambda policy, states, history: states(history) + grown(history).sum() * 0, "modified its input in place"),
        (
            lambda policy, states, history: states(history) / (history > 0).sum(1, keepdim=True),
            "of a history without an item must be finite",
        ),
        (
            lambda policy, states, history: (
                states(history) + (policy.last(history) * (history > 0).unsqueeze(2)).sum(1).pow(2).sum(1, keepdim=True).sqrt()
            ),
            "a gradient that is not finite",
        ),
    ],
)
def test_broken_states_are_named(change: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(ContractError, match=f"history_states.*{message}"):
        check_policy(Announced(methods=(("history_states", change),)))


def test_views_and_objectives_of_genrec_pass() -> None:
    for component in (Augmentations(), Augmentations(crop=1, mask=0, reorder=0), SameTarget()):
        check_component(component, Path())
    check_objective(ViewContrast(views=SameTarget()))


@dataclass(frozen=True)
class Own:
    """Views by a function of the rows and the generator."""

    made: Any

    def build_views(self, context: object, examples: object) -> Any:
        return self.made


def change_rows(rows: SequenceBatch, generator: object) -> TwoViews:
    rows.history[:, -1] = 1
    return TwoViews(rows.history, rows.history)


CALLS = count(1)


def counted(rows: SequenceBatch, generator: object) -> TwoViews:
    """Return another second view at each call."""
    return TwoViews(rows.history, torch.full_like(rows.history, next(CALLS) % 50 + 1))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (change_rows, "history was modified"),
        (lambda rows, generator: TwoViews(rows.history + (rows.history > 0) * 1_000, rows.history), "have item 10.. of 60 items"),
        (lambda rows, generator: TwoViews(rows.history, torch.randint(1, 9, rows.history.shape)), "global"),
        (counted, "equal generators gave different views"),
    ],
)
def test_broken_views_are_named(made: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_history_views(Own(made))


POLICY = """
from dataclasses import dataclass
import torch
from torch import nn
from genrec.item_rows import contains, keys, ranking

@dataclass(frozen=True)
class Bag:
    def build(self, semantic_ids):
        return BagPolicy(semantic_ids)

@dataclass(frozen=True)
class BagWithStates(Bag):
    def build(self, semantic_ids):
        return BagOfStates(semantic_ids)

    def has_history_states(self):
        return True

@dataclass(frozen=True)
class Misspelt(Bag):
    def has_history_state(self):
        return True

class BagPolicy(nn.Module):
    def __init__(self, semantic_ids):
        super().__init__()
        self.codes = semantic_ids.codes
        self.items = nn.Embedding(semantic_ids.items + 1, 8, padding_idx=0)
        self.heads = nn.ModuleList(nn.Linear(8, size) for size in semantic_ids.level_sizes)

    def mean(self, history):
        return self.items(history).sum(1) / (history > 0).sum(1, keepdim=True).clamp(min=1)

    def level_log_prob(self, history, items):
        codes = self.codes[(items - 1).clamp(min=0)]
        levels = [head(self.mean(history)).log_softmax(-1).gather(1, codes[..., i]) for i, head in enumerate(self.heads)]
        return torch.stack(levels, -1).masked_fill((items == 0).unsqueeze(-1), -torch.inf)

    def log_prob(self, history, items):
        return self.level_log_prob(history, items).sum(-1)

    @torch.no_grad()
    def recommend(self, history, n, exclude=None):
        catalog = torch.arange(1, len(self.codes) + 1).expand(len(history), -1)
        scores = self.log_prob(history, catalog)
        if exclude is not None:
            scores = scores.masked_fill(contains(exclude, catalog), -torch.inf)
        return ranking(keys(scores, catalog), n, scores.isnan().any(1))

class BagOfStates(BagPolicy):
    def history_states(self, history):
        return self.mean(history)
"""


def test_genrec_check_of_a_policy_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With and without the capability both pass; a misspelt announcement is named."""
    file = tmp_path / "bag_of_states.py"
    file.write_text(POLICY)
    assert main(["check", f"{file}:Bag", f"{file}:BagWithStates"]) == 0
    assert main(["check", f"{file}:Misspelt"]) == 3
    assert "did you mean 'has_history_states' of a PolicySpecification" in capsys.readouterr().err
