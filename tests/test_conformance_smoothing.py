"""`genrec check` of smoothed log-probabilities: correct ones pass, broken ones get a message that names the rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from test_conformance_policies import LastItem, Made, MadeCausal, Sequences
from torch import Tensor

from genrec.testing import ContractError, check_policy


class Smoothed(LastItem):
    """`LastItem` as a `LabelSmoothing`."""

    def smoothed_level_log_prob(self, history: Tensor, items: Tensor, label_smoothing: float) -> Tensor:
        means = [head(self.states(history)).log_softmax(-1).mean(-1) for head in self.heads]
        uniform = torch.stack(means, -1).unsqueeze(1)
        return (1 - label_smoothing) * self.level_log_prob(history, items) + label_smoothing * uniform


class SmoothedSequences(Smoothed, Sequences):
    """The same as a `SequenceLabelSmoothing`."""

    def smoothed_sequence_log_prob(self, history: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        ends = range(1, history.shape[1] + 1)
        return torch.cat([self.smoothed_level_log_prob(history[:, :t], targets[:, t - 1 : t], label_smoothing) for t in ends], 1)


class SmoothedPrefixes(Smoothed, Sequences):
    """A causal policy that smooths one target at a time."""


class OwnLoss(Smoothed):
    """Trains with a loss of its own."""

    def sequence_loss(self, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
        return -self.level_log_prob(history, targets[:, -1:]).mean()


@dataclass(frozen=True)
class Announced(Made):
    policy_class: Any = Smoothed
    announces: bool = True

    def has_label_smoothing(self) -> bool:
        return self.announces


@dataclass(frozen=True)
class AnnouncedCausal(Announced):
    policy_class: Any = SmoothedSequences
    causal: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the description, which policies made of functions do not have."""
    monkeypatch.setattr("genrec.testing.policy_checks.describe", lambda *arguments: None)


@pytest.mark.parametrize("specification", [Announced(), AnnouncedCausal(), Announced(OwnLoss, announces=False), MadeCausal()])
def test_correct_policies_pass(specification: Any) -> None:
    check_policy(specification)


@pytest.mark.parametrize(
    ("specification", "reason", "answer"),
    [
        (Made(Smoothed), "has smoothed_level_log_prob", True),
        (Announced(announces=False), "has smoothed_level_log_prob", True),
        (Announced(LastItem), "has no smoothed_level_log_prob", False),
        (Announced(OwnLoss), "trains with a loss of its own", False),
    ],
)
def test_the_specification_announces_it(specification: Any, reason: str, answer: bool) -> None:
    with pytest.raises(ContractError, match=rf"the policy {reason}, so has_label_smoothing\(\) of its .* must return {answer}"):
        check_policy(specification)


def test_a_causal_policy_smooths_all_targets_of_windows() -> None:
    with pytest.raises(
        ContractError, match=r"is causal and has .*so it needs smoothed_sequence_log_prob\(history, targets, label_smo"
    ):
        check_policy(AnnouncedCausal(SmoothedPrefixes))


def grown(items: Tensor) -> Tensor:
    return items.add_(1).float()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda policy, smoothed, history, items, e: smoothed(history, items, e)[0], "must return a tensor float32"),
        (lambda policy, smoothed, history, items, e: smoothed(history, items, e).double(), "must return a tensor float32"),
        (lambda policy, smoothed, history, items, e: smoothed(history, items, 0.1), "smoothing of 0 is not level_log_prob"),
        (lambda policy, smoothed, history, items, e: smoothed(history, items, e).nan_to_num(neginf=-9), "of 0 is not level_log_prob"),
        (
            lambda policy, smoothed, history, items, e: smoothed(history, items, e) if e == 0 else smoothed(history, items, e) * 0 - 1,
            r"of candidate 0 \(none\) must be -inf",
        ),
        (lambda policy, smoothed, history, items, e: smoothed(history, items, e * e), "is not linear in label_smoothing"),
        (
            lambda policy, smoothed, history, items, e: smoothed(history, items, e) - e * (items == 7).float().unsqueeze(2),
            "depends on the candidate; take the mean over all codes",
        ),
        (lambda policy, smoothed, history, items, e: smoothed(history, items, e) - e, "is not the mean of log p over its codes"),
        (
            lambda policy, smoothed, history, items, e: smoothed(history, items, e) - (torch.inf if e else 0),
            "of a real item must be finite",
        ),
        (lambda policy, smoothed, history, items, e: smoothed(history, items, e).detach(), "has no gradient"),
        (
            lambda policy, smoothed, history, items, e: smoothed(history, items, e) + 0 * grown(items).unsqueeze(2),
            "modified its input in place",
        ),
        (
            lambda policy, smoothed, history, items, e: smoothed(history, items, e) + (policy.last.weight * 0).pow(2).sum().sqrt(),
            "a gradient that is not finite",
        ),
    ],
)
def test_broken_values_are_named(change: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(ContractError, match=f"smoothed_level_log_prob.*{message}"):
        check_policy(Announced(methods=(("smoothed_level_log_prob", change),)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda policy, smoothed, history, targets, e: smoothed(history, targets, e)[:, -1], "must return a tensor float32"),
        (lambda policy, smoothed, history, targets, e: policy.sequence_log_prob(history, targets), "of every prefix"),
        (lambda policy, smoothed, history, targets, e: smoothed(history, targets, e) + 0 * grown(targets).mean(), "input in place"),
    ],
)
def test_broken_windows_are_named(change: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(ContractError, match=f"smoothed_sequence_log_prob.*{message}"):
        check_policy(AnnouncedCausal(methods=(("smoothed_sequence_log_prob", change),)))
