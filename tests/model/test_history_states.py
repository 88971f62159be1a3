"""The state of a history: what scores the next item, or the mean of the encoder's states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from policies import GPT, POLICIES, build, catalog, histories

from genrec.baselines import GRU4Rec, SASRec
from genrec.model import RPG, Liger
from genrec.semantic_ids import SemanticIds
from genrec.types import HistoryStates, HistoryStatesSpecification

ITEMS = SemanticIds(torch.arange(30)[:, None])
HISTORY = histories(7, 5, 30)


@pytest.mark.parametrize("specification", [SASRec(d_model=16), GRU4Rec(d_model=16), GRU4Rec(d_model=8, tied=False)])
def test_the_state_of_a_policy_over_items_scores_the_next_item(specification: Any) -> None:
    """log p(item) is a log-softmax over the dot products of the state and the weights of all items."""
    policy = build(specification, ITEMS)
    with torch.no_grad():
        scores = policy.history_states(HISTORY) @ policy.output_weights()[1:].T
        expected = policy.log_prob(HISTORY, torch.arange(1, 31).expand(7, -1))
    torch.testing.assert_close(scores.log_softmax(1), expected)


def test_the_state_of_a_decoder_scores_the_first_code() -> None:
    semantic_ids = catalog(30)
    policy = build(GPT, semantic_ids)
    with torch.no_grad():
        first = policy.heads[0](policy.history_states(HISTORY)).log_softmax(1)
        levels = policy.level_log_prob(HISTORY, torch.arange(1, 31).expand(7, -1))[..., 0]
    torch.testing.assert_close(first[:, semantic_ids.codes[:, 0]], levels)


@pytest.mark.parametrize("normalization", ["catalog", "digits"])
def test_the_state_of_a_parallel_policy_scores_all_digits(normalization: Any) -> None:
    semantic_ids = catalog(30)
    policy = build(RPG(d_model=16, num_layers=1, normalization=normalization), semantic_ids)
    with torch.no_grad():
        scores, _ = policy.network.scores(policy.history_states(HISTORY))
        expected = policy.network.scores(policy.network.encode(HISTORY)[:, -1])[0]
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("name", ["tiger", "tiger-items", "tiger-causal"])
def test_the_state_of_tiger_is_the_mean_over_its_tokens(name: str) -> None:
    """Each history alone has no padding, so the mean is over all of its tokens."""
    policy = build(POLICIES[name], catalog(30))
    with torch.no_grad():
        alone = [policy.encode(row[row > 0][None]).states.mean(1) for row in HISTORY]
        states = policy.history_states(HISTORY)
    torch.testing.assert_close(states, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert (policy.history_states(torch.zeros(1, 3, dtype=torch.int64)) == 0).all()


@pytest.mark.parametrize("specification", [*POLICIES.values(), RPG(), SASRec(), GRU4Rec(), Liger()])
def test_the_policies_of_genrec_give_states(specification: Any) -> None:
    assert isinstance(specification, HistoryStatesSpecification)
    assert specification.has_history_states()
    semantic_ids = ITEMS if isinstance(specification, SASRec | GRU4Rec) else catalog(30)
    assert isinstance(specification.build(semantic_ids), HistoryStates)
