"""Gated on-policy S-DPO as an objective: the published vectors through a whole step, with the reference and the likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from proposals import TablePolicy, context_of, data_of, one_level, rows_of, sasrec
from torch import Tensor

from genrec.objectives import Preference
from genrec.preference.candidates import History, Together, TopItems
from genrec.preference.losses import SoftmaxDPO
from genrec.types import ObjectiveContext, WindowBatch

S = torch.tensor([[1.2, 0.3, -0.4, 0.9, -1.0, 0.1], [0.2, 1.5, 0.7, -0.3, 0.4, -2.0]])
R = torch.tensor([[1.0, 0.4, -0.2, 0.5, -0.8, 0.2], [0.1, 1.2, 0.9, -0.1, 0.3, -1.5]])
ROWS = rows_of([[1], [2]], [4, 6])
NLL = (1.327101479 + 4.311031594) / 2


@dataclass
class OneBatch:
    """Examples with one batch, also as their source."""

    only: Any

    def __len__(self) -> int:
        return 2

    def batch(self, index: Tensor) -> Any:
        return self.only

    def prefixes(self) -> OneBatch:
        return self

    def windows(self, padding: str = "zero") -> OneBatch:
        return self


def step_of(objective: Preference, context: ObjectiveContext, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the logs of one step."""
    built = objective.build_step(context._replace(source=OneBatch(batch)))  # type: ignore[arg-type]
    assert built.prepare is not None
    return built.loss(built.prepare(batch, 0), 0)


@pytest.mark.parametrize(
    ("size", "gate", "beta", "weight", "expected"),
    [
        (3, True, 1.0, 1.0, 0.885939318),
        (3, True, 1.0, 3.0, 3 * 0.885939318),
        (3, False, 1.0, 1.0, (0.885939318 + 1.520694069) / 2),
        (6, True, 1.0, 1.0, 1.838358194),
        (3, True, 0.3, 1.0, 1.030502067),
        (1, True, 1.0, 1.0, 0.0),
    ],
)
def test_a_step_by_the_published_vectors(size: int, gate: bool, beta: float, weight: float, expected: float) -> None:
    context = context_of(TablePolicy(S), data_of(one_level(6)), TablePolicy(R))
    objective = Preference(loss=SoftmaxDPO(beta=beta), candidates=TopItems(size=size, gate=gate), weight=weight, likelihood=1.0)
    loss, _ = step_of(objective, context, ROWS)
    assert float(loss.detach()) == pytest.approx(NLL + expected, abs=1e-6)


def test_a_step_reaches_only_the_rows_past_the_gate() -> None:
    """Row 2 is rejected: without the likelihood its scores get no gradient."""
    policy = TablePolicy(S)
    context = context_of(policy, data_of(one_level(6)), TablePolicy(R))
    step_of(Preference(loss=SoftmaxDPO(), candidates=TopItems(size=3)), context, ROWS)[0].backward()
    assert policy.table.grad is not None
    assert bool(policy.table.grad[0].any())
    assert not bool(policy.table.grad[1].any())


def test_a_window_is_the_mean_over_its_rows() -> None:
    """A window of three items with targets after all of them equals the three prefixes, in loss and gradient."""
    history, target = torch.tensor([[3, 7, 9]]), torch.tensor([[7, 9, 4]])
    window = WindowBatch(torch.tensor([1]), history, target)
    prefixes = rows_of([[3], [3, 7], [3, 7, 9]], [7, 9, 4])
    candidates = Together((TopItems(size=6, gate=False), History(size=3)))
    gradients, losses = [], []
    for targets, batch in (("all", window), ("one", prefixes)):
        policy = sasrec(12)
        context = context_of(policy, data_of(one_level(12)), sasrec(12, seed=1))
        objective = Preference(loss=SoftmaxDPO(), candidates=candidates, likelihood=1.0, targets=targets)  # type: ignore[arg-type]
        loss, _ = step_of(objective, context, batch)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(losses[0], losses[1])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)
