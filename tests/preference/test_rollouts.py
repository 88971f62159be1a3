"""Groups of candidates by the policy: beams, exact lists, samples; behavior log-probabilities; refusals by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from policies import POLICIES, TIGER, build, catalog, histories
from proposals import TablePolicy, context_of, copies_of, data_of, one_level, random_windows, rows_of, rows_of_windows, sasrec
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.candidates import Rollouts
from genrec.preference.candidates.policy_scores import Normalize
from genrec.preference.candidates.row_scores import scores_of
from genrec.semantic_ids import SemanticIds
from genrec.types import Candidates, Proposer, SequenceBatch

S = torch.tensor([[1.2, 0.3, -0.4, 0.9, -1.0, 0.1], [0.2, 1.5, 0.7, -0.3, 0.4, -2.0]])
ROWS = rows_of([[1], [2]], [4, 6])


def propose(
    rollouts: Rollouts, policy: Any, rows: SequenceBatch, ids: SemanticIds, reference: Any = None, step: int = 0
) -> Candidates:
    proposals = rollouts.build_proposals(context_of(policy, data_of(ids), reference))
    assert proposals.in_step is not None
    return proposals.in_step(rows, rows, step, scores_of(policy, rows, None, rows, "codes"))


def test_beams_are_the_policys_list() -> None:
    policy, history = build(TIGER, catalog(30)), histories(4, 5, 30)
    rows = SequenceBatch(torch.ones(4, dtype=torch.int64), history, torch.arange(1, 5))
    candidates = propose(Rollouts(size=6), policy, rows, catalog(30))
    assert torch.equal(candidates.items, policy.recommend(history, 6).items)
    assert candidates.mask.all()
    assert candidates.rows is None
    assert candidates.behavior is None
    without = propose(Rollouts(size=6, seen=False), policy, rows, catalog(30))
    assert torch.equal(without.items, policy.recommend(history, 6, history.masked_fill(history == rows.target[:, None], 0)).items)


@pytest.mark.parametrize("by", ["beams", "top"])
def test_an_exact_policy_lists_the_best_items(by: Any) -> None:
    candidates = propose(Rollouts(size=3, by=by), TablePolicy(S), ROWS, one_level(6))
    assert candidates.items.tolist() == [[1, 4, 2], [2, 3, 5]]


def test_a_missing_target_takes_the_last_place() -> None:
    """Row 1 lists its target 4; row 2 misses 6, which replaces item 5."""
    candidates = propose(Rollouts(size=3, include_target=True), TablePolicy(S), ROWS, one_level(6))
    assert candidates.items.tolist() == [[1, 4, 2], [2, 3, 6]]
    assert candidates.mask.all()


def test_a_candidate_with_the_targets_semantic_id_is_the_target() -> None:
    shared = SemanticIds(torch.tensor([[0], [1], [2], [3], [4], [0]]), (5,))
    candidates = propose(Rollouts(size=3, include_target=True), TablePolicy(S), rows_of([[1]], [6]), shared)
    assert candidates.items.tolist() == [[1, 4, 2]]  # item 1 has the Semantic ID of item 6


def test_samples_are_distinct_with_their_log_probabilities_as_the_behaviors() -> None:
    policy = TablePolicy(S)
    rows = rows_of([[1]] * 3000, [4] * 3000)
    candidates = propose(Rollouts(size=2, by="samples"), policy, rows, one_level(6))
    assert candidates.behavior is not None
    assert not candidates.behavior.requires_grad
    assert (candidates.items[:, 0] != candidates.items[:, 1]).all()
    torch.testing.assert_close(candidates.behavior, policy.log_prob(rows.history, candidates.items).detach())
    probabilities = S[0].softmax(0)
    share = torch.bincount(candidates.items[:, 0] - 1, minlength=6) / 3000
    torch.testing.assert_close(share, probabilities, atol=0.04, rtol=0)  # four standard errors


def test_samples_depend_on_the_step_and_the_seed_alone() -> None:
    policy, rows = TablePolicy(S), rows_of([[1]] * 20, [4] * 20)
    first, again, other = (propose(Rollouts(size=3, by="samples"), policy, rows, one_level(6), step=step).items for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_samples_leave_out_the_history_and_short_rows_are_masked() -> None:
    """Six items, of which the history holds 1, 2, 3: three are left for four places."""
    rows = rows_of([[1, 2, 3]] * 10, [4] * 10)
    candidates = propose(Rollouts(size=4, by="samples", seen=False), TablePolicy(S.repeat(2, 1)), rows, one_level(6))
    assert candidates.mask.sum(1).tolist() == [3] * 10
    assert candidates.items.sort(1).values.tolist() == [[0, 4, 5, 6]] * 10
    assert candidates.behavior is not None
    assert (candidates.behavior[~candidates.mask] == 0).all()


def test_samples_of_a_window_are_one_forward_pass_with_the_scores() -> None:
    policy, batch = sasrec(30, dropout=0.5).train(), random_windows(30, 2)
    places, rows = rows_of_windows(batch)
    proposals = Rollouts(size=5, by="samples", include_target=True).build_proposals(context_of(policy, data_of(one_level(30))))
    assert proposals.in_step is not None
    scores = scores_of(policy, batch, places, rows, "codes")
    candidates = proposals.in_step(rows, rows, 0, scores)
    assert candidates.behavior is not None
    levels = scores.level_log_prob(candidates.items)
    assert levels.requires_grad
    assert torch.equal(levels.detach().sum(-1), candidates.behavior)  # the ratio on policy is exactly 1
    assert (candidates.items == rows.target[:, None]).any(1).all()


def test_a_frozen_copy_proposes_with_its_own_log_probabilities() -> None:
    policy, reference = TablePolicy(S), TablePolicy(-S)
    candidates = propose(Rollouts(size=2, refresh=0), policy, ROWS, one_level(6), reference)
    assert candidates.items.tolist() == [[5, 3], [6, 4]]
    torch.testing.assert_close(candidates.behavior, reference.log_prob(ROWS.history, candidates.items).detach())
    context = context_of(policy, data_of(one_level(6)))
    proposals = Rollouts(size=2, refresh=3).build_proposals(context)
    assert proposals.begin is not None
    for step in range(7):
        proposals.begin(step)
    assert copies_of(context)["rollouts"].refreshed == 3


def test_samples_of_beams_leave_out_items_and_have_the_behavior_of_the_normalization() -> None:
    """With dropout the samples, and their log-probabilities, are those of the evaluation mode; a missing target is added."""
    policy, history = build(TIGER, catalog(30)).train(), histories(40, 5, 30)
    rows = SequenceBatch(torch.ones(40, dtype=torch.int64), history, torch.arange(40) % 30 + 1)
    for normalize, include_target in (("codes", False), ("children", True)):
        rollouts = Rollouts(size=6, by="samples", seen=False, include_target=include_target)
        proposals = rollouts.build_proposals(context_of(policy, data_of(catalog(30)), normalize=normalize))
        assert proposals.in_step is not None
        found, again, other = (
            proposals.in_step(rows, rows, step, scores_of(policy, rows, None, rows, cast(Normalize, normalize))) for step in (3, 3, 4)
        )
        assert policy.training
        assert found.mask.all()
        assert torch.equal(found.items, again.items)
        assert not torch.equal(found.items, other.items)
        seen = (found.items[:, :, None] == history[:, None, :]).any(2)
        assert not (seen & (found.items != rows.target[:, None])).any()
        assert (found.items == rows.target[:, None]).any(1).all() == include_target
        score = policy.eval().log_prob if normalize == "codes" else policy.eval().constrained_level_log_prob
        expected = score(history, found.items).detach()
        policy.train()
        assert found.behavior is not None
        torch.testing.assert_close(found.behavior, expected if normalize == "codes" else expected.sum(-1), atol=1e-5, rtol=1e-5)


def test_samples_of_beams_on_windows_are_those_of_the_prefixes() -> None:
    policy, batch = build(POLICIES["tiger-causal"], catalog(30)), random_windows(30, 2)
    places, rows = rows_of_windows(batch)
    proposals = Rollouts(size=5, by="samples").build_proposals(context_of(policy, data_of(catalog(30))))
    assert proposals.in_step is not None
    scores = scores_of(policy, batch, places, rows, "codes")
    candidates, of_rows = (proposals.in_step(rows, rows, 7, each) for each in (scores, scores_of(policy, rows, None, rows, "codes")))
    assert torch.equal(candidates.items, of_rows.items)
    assert candidates.behavior is not None
    levels = scores.level_log_prob(candidates.items)
    assert levels.requires_grad
    torch.testing.assert_close(levels.detach().sum(-1), candidates.behavior, atol=1e-5, rtol=1e-5)  # the ratio on policy is 1


def test_a_frozen_copy_draws_the_samples() -> None:
    policy, reference = build(TIGER, catalog(30)), build(TIGER, catalog(30), seed=1)
    rows = SequenceBatch(torch.ones(4, dtype=torch.int64), histories(4, 5, 30), torch.arange(1, 5))
    candidates = propose(Rollouts(size=6, by="samples", refresh=0), policy, rows, catalog(30), reference)
    torch.testing.assert_close(candidates.behavior, reference.log_prob(rows.history, candidates.items).detach(), atol=1e-5, rtol=1e-5)


def test_policies_without_exact_scores_or_samples_are_refused_by_name() -> None:
    policy, data = build(TIGER, catalog(30)), data_of(catalog(30))
    with pytest.raises(UsageError, match=r'Rollouts\(by="top"\) needs a policy that scores the whole catalog exactly.*TigerPolicy'):
        Rollouts(by="top").build_proposals(context_of(policy, data))
    with pytest.raises(UsageError, match="which searches with beams"):
        Rollouts(by="top").check_context(data._replace(policy=policy))
    listing: Any = OnlyLists()
    with pytest.raises(UsageError, match=r'Rollouts\(by="samples"\) needs a policy that draws items.*OnlyLists.*no\s+sample_items'):
        Rollouts(by="samples").build_proposals(context_of(listing, data))
    Rollouts().check_context(data._replace(policy=listing))
    Rollouts(by="samples").check_context(data._replace(policy=policy))
    for by in ("top", "samples"):
        Rollouts(by=by).check_context(data._replace(policy=TablePolicy(S)))


class OnlyLists(torch.nn.Module):
    """A `genrec.types.Policy` without a capability."""

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        raise NotImplementedError

    log_prob = recommend = level_log_prob


def test_it_is_a_proposer_that_checks_its_fields_and_its_experiment() -> None:
    assert isinstance(Rollouts(), Proposer)
    assert Rollouts(size=8).most_candidates() == 8
    with pytest.raises(UsageError, match=r"Rollouts\.size must be at least 2, got 1"):
        Rollouts(size=1)
    with pytest.raises(UsageError, match=r"Rollouts\.by must be one of 'beams', 'top', 'samples', got 'beam'"):
        Rollouts(by="beam")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"row: Rollouts\.size must be at most policy\.num_beams = 10, got 16"):
        Rollouts().check(SimpleNamespace(name="row", policy=SimpleNamespace(num_beams=10)))
    Rollouts(by="samples").check(SimpleNamespace(name="row", policy=SimpleNamespace(num_beams=10)))
    with pytest.raises(UsageError, match=r"Rollouts\.refresh = 0 reads the reference"):
        Rollouts(refresh=0).build_proposals(context_of(TablePolicy(S), data_of(one_level(6))))
