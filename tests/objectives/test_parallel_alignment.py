"""S-DPO of RPG against the whole catalog and against many sampled items, by its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from policies import build, catalog
from proposals import context_of, data_of, rows_of
from test_gated_objective import step_of
from torch import Tensor
from torch.nn.functional import softplus

from genrec.item_rows import prefixes
from genrec.model import RPG
from genrec.objectives import Preference
from genrec.preference.candidates import Sampled, TopItems
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.types import WindowBatch

ITEMS = 40
POLICIES = {
    "catalog": RPG(d_model=16, d_ff=32, temperature=0.3),
    "items": RPG(d_model=16, d_ff=32, temperature=0.3, item_embedding=True),
}
WINDOWS = WindowBatch(torch.tensor([1, 2]), torch.tensor([[0, 3, 7, 9], [5, 2, 8, 1]]), torch.tensor([[0, 7, 9, 4], [2, 8, 1, 6]]))


def policy_of(name: str, seed: int) -> Any:
    return build(POLICIES[name], catalog(ITEMS), seed)


def every_log_prob(policy: Any) -> tuple[Tensor, Tensor]:
    """Return log p of all items after each place with a target, float32 [7, N], and the targets int64 [7], prefix by prefix."""
    places = WINDOWS.target.nonzero()
    history = prefixes(WINDOWS.history, places)
    return policy.log_prob(history, torch.arange(1, ITEMS + 1).expand(len(history), -1)), WINDOWS.target[WINDOWS.target > 0]


@pytest.mark.parametrize("beta", [1.0, 0.2])
@pytest.mark.parametrize("name", POLICIES)
def test_the_whole_catalog_as_negatives(name: str, beta: float) -> None:
    """softplus(logsumexp over all other items of beta (difference of the item - difference of the target)), on every place."""
    policy, reference = policy_of(name, 0), policy_of(name, 1)
    data = data_of(policy.semantic_ids)
    objective = Preference(loss=SoftmaxDPO(beta=beta), candidates=TopItems(size=ITEMS, gate=False), targets="all")
    loss, _ = step_of(objective, context_of(policy, data, reference), WINDOWS)
    (ours, target), (theirs, _) = every_log_prob(policy), every_log_prob(reference)
    drift = beta * (ours - theirs.detach())
    chosen = drift.gather(1, target.unsqueeze(1) - 1)
    others = (drift - chosen).scatter(1, target.unsqueeze(1) - 1, -torch.inf)
    expected = softplus(others.logsumexp(1)).mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    parameters = list(policy.parameters())
    for mine, definition in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, definition, atol=1e-5, rtol=1e-3)


def test_the_policy_itself_as_reference_gives_the_logarithm_of_the_number_of_candidates() -> None:
    policy = policy_of("catalog", 0)
    for objective, count in (
        (Preference(loss=SoftmaxDPO(), candidates=TopItems(size=ITEMS, gate=False), targets="all"), ITEMS),
        (Preference(loss=SoftmaxDPO(), candidates=Sampled(Uniform(), 20), targets="all"), 21),
    ):
        loss, _ = step_of(objective, context_of(policy, data_of(policy.semantic_ids), policy), WINDOWS)
        assert float(loss.detach()) == pytest.approx(torch.tensor(float(count)).log().item(), abs=1e-5)


def test_prefixes_are_scored_like_windows() -> None:
    policy, reference = policy_of("catalog", 0), policy_of("catalog", 1)
    data = data_of(policy.semantic_ids)
    rows = rows_of([[3], [3, 7], [3, 7, 9], [5], [5, 2], [5, 2, 8], [5, 2, 8, 1]], [7, 9, 4, 2, 8, 1, 6], [1, 1, 1, 2, 2, 2, 2])
    losses = []
    for targets, batch in (("all", WINDOWS), ("one", rows)):
        objective = Preference(loss=SoftmaxDPO(), candidates=TopItems(size=5), targets=targets)  # type: ignore[arg-type]
        losses.append(step_of(objective, context_of(policy, data, reference), batch)[0])
    torch.testing.assert_close(losses[0], losses[1])
