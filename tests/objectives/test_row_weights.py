"""Weights of rows that a proposer gives (`Candidates.weight`): a row with the weight 3 counts as three equal rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from alignments import built_step, recipe, take
from torch import Tensor, nn

from genrec.objectives import PolicyGradient, Preference, PrefixContrast
from genrec.preference.losses import SoftmaxDPO
from genrec.types import Candidates, ObjectiveContext, Proposals, SequenceBatch

COPIES = torch.tensor([3, 1, 2, 1])  # of the rows 0 to 3


@dataclass(frozen=True)
class Weighted:
    """The target and the items with the next numbers, where row i has the weight `weights[i]`; without weights all count alike."""

    weights: tuple[float, ...] = ()
    on_host: bool = True

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        num_items = context.data().item_count

        def propose(rows: SequenceBatch) -> Candidates:
            items = (rows.target.unsqueeze(1) + torch.arange(4) - 1) % num_items + 1
            return Candidates(items, items > 0, rows.target % 3 > 0, weight=torch.tensor(self.weights) if self.weights else None)

        if self.on_host:
            return Proposals(on_host=lambda rows, step: propose(rows))
        return Proposals(in_step=lambda rows, host, step, scores: propose(rows))


KINDS: dict[str, Any] = {
    "Preference": lambda proposer: Preference(SoftmaxDPO(), proposer, likelihood=0.5),
    "PolicyGradient": lambda proposer: PolicyGradient(candidates=proposer, kl=0.3, likelihood=0.5),
    "PrefixContrast": lambda proposer: PrefixContrast(candidates=proposer, eta=1.0, weight=1.0),
}


def loss_and_gradient(objective: Any, copies: Tensor | None) -> tuple[float, Tensor]:
    """Return the loss and the gradient on four rows, or on so many copies of each."""
    step, context, frozen, batch = built_step(recipe(objective=objective))
    policy: Any = context.policy
    assert isinstance(policy, nn.Module)
    with torch.no_grad():
        for number, parameter in enumerate(policy.parameters()):  # away from the reference, so that k3 and the preference differ
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    chosen = torch.tensor([0, 3, 6, 9])  # targets of which three take part
    index = chosen if copies is None else chosen.repeat_interleave(copies)
    loss, _ = take(step, frozen, SequenceBatch(*(each[index] for each in batch)), 0)
    found = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True, materialize_grads=True)
    return loss.item(), torch.cat([each.flatten() for each in found])


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_is_a_number_of_copies(kind: str, on_host: bool) -> None:
    """Weights have no scale: 30, 10, 20, 10 are the same as 3, 1, 2, 1, and equal ones change nothing."""
    copied, slope = loss_and_gradient(KINDS[kind](Weighted(on_host=on_host)), COPIES)
    plain, plain_slope = loss_and_gradient(KINDS[kind](Weighted(on_host=on_host)), None)
    assert abs(copied - plain) > 1e-3
    for scale in (1.0, 10.0):
        weights = tuple((scale * COPIES).tolist())
        loss, gradient = loss_and_gradient(KINDS[kind](Weighted(weights, on_host)), None)
        assert loss == pytest.approx(copied, rel=1e-5)
        torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6)
    loss, gradient = loss_and_gradient(KINDS[kind](Weighted((2.0,) * 4, on_host)), None)
    assert loss == pytest.approx(plain, rel=1e-5)
    torch.testing.assert_close(gradient, plain_slope, rtol=1e-4, atol=1e-6)
