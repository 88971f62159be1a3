"""RPG over a larger catalog: the scores of known items stay, and later items are scored by their digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from policies import build
from torch import Tensor

from genrec.errors import ArtifactError, UsageError
from genrec.model import RPG
from genrec.semantic_ids import SemanticIds

KNOWN = SemanticIds(torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 2, 0]]), (3, 3, 2))
HISTORY = torch.tensor([[0, 3, 1], [5, 2, 4]])


def policy_of(normalization: str, **change: Any) -> Any:
    return build(RPG(d_model=8, d_ff=16, num_heads=2, temperature=0.3, normalization=normalization, **change), KNOWN)  # type: ignore[arg-type]


def log_prob(policy: Any, items: int) -> Tensor:
    found: Tensor = policy.log_prob(HISTORY, torch.arange(1, items + 1).expand(2, -1))
    return found.detach()


@pytest.mark.parametrize("normalization", ["catalog", "digits"])
def test_known_items_keep_their_order_and_distances(normalization: str) -> None:
    """Without a new code, digits keep their probabilities to the bit; the catalog's softmax takes the same share from all items."""
    policy = policy_of(normalization)
    before, after = log_prob(policy, 5), log_prob(policy.extended(KNOWN.extend(torch.tensor([[2, 1, 0], [2, 2, 1]]))), 7)
    share = after[:, :5] - before
    if normalization == "digits":
        assert not share.any()
    else:
        torch.testing.assert_close(share, share[:, :1].expand_as(share), atol=1e-5, rtol=0)
        assert (share < 0).all()
        torch.testing.assert_close(after.exp().sum(1), torch.ones(2))


@pytest.mark.parametrize("normalization", ["catalog", "digits"])
def test_a_new_code_begins_as_a_copy_of_the_last_one(normalization: str) -> None:
    """Two items below (1, 0) are known, so a third one gets the new code 2, which scores like code 1."""
    policy = policy_of(normalization).train()
    larger = policy.extended(KNOWN.extend(torch.tensor([[1, 0]])))
    assert larger.training
    assert larger.semantic_ids.level_sizes == (3, 3, 3)
    after = log_prob(larger.eval(), 6)
    torch.testing.assert_close(after[:, 5], after[:, 3])
    torch.testing.assert_close(after[:, 0] - after[:, 2], (log_prob(policy.eval(), 5)[:, 0] - log_prob(policy, 5)[:, 2]))


def test_errors() -> None:
    larger = KNOWN.extend(torch.tensor([[1, 0]]))
    with pytest.raises(UsageError, match=r"a policy with policy\.item_embedding cannot be extended: later items have no embedding"):
        policy_of("catalog", item_embedding=True).extended(larger)
    with pytest.raises(ArtifactError, match=r"do not extend those of the policy"):
        policy_of("catalog").extended(SemanticIds(torch.tensor([[0, 0, 1]]), (3, 3, 2)))
