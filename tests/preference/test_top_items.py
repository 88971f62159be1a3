"""The logged item against the policy's best items: the published vectors, gates, identities, exclusions, refreshes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import TIGER, build, catalog, histories
from proposals import TablePolicy, context_of, copies_of, data_of, one_level, random_windows, rows_of, rows_of_windows, sasrec
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.candidates import TopItems
from genrec.preference.candidates.row_scores import scores_of
from genrec.semantic_ids import SemanticIds
from genrec.types import Candidates, Proposer, SequenceBatch

S = torch.tensor([[1.2, 0.3, -0.4, 0.9, -1.0, 0.1], [0.2, 1.5, 0.7, -0.3, 0.4, -2.0]])  # scores of two rows
R = torch.tensor([[1.0, 0.4, -0.2, 0.5, -0.8, 0.2], [0.1, 1.2, 0.9, -0.1, 0.3, -1.5]])  # of the reference
ROWS = rows_of([[1], [2]], [4, 6])  # targets 3 and 5, counting from 0


def propose(
    proposer: TopItems, policy: Any, rows: SequenceBatch, data: Any = None, reference: Any = None, step: int = 0
) -> Candidates:
    """Return the candidates of rows in a step."""
    context = context_of(policy, data or data_of(one_level(policy.table.shape[1] if hasattr(policy, "table") else 30)), reference)
    proposals = proposer.build_proposals(context)
    assert proposals.in_step is not None
    return proposals.in_step(rows, rows, step, scores_of(policy, rows, None, rows, "codes"))


def losses(candidates: Candidates, beta: float = 1.0) -> Tensor:
    """Return softplus(logsumexp over N of beta ((s_i - r_i) - (s_y - r_y))) of each row, float32 [X]."""
    margins = (S - R).gather(1, (candidates.items - 1).clamp(min=0))
    differences = beta * (margins[:, 1:] - margins[:, :1])
    return torch.nn.functional.softplus(differences.masked_fill(~candidates.mask[:, 1:], -torch.inf).logsumexp(1))


def test_a_gated_row_by_hand() -> None:
    """Row 1: the target's score .9 is the second best, so it passes K = 3. Row 2: five items are better than -2."""
    candidates = propose(TopItems(size=3), TablePolicy(S), ROWS)
    assert candidates.items.tolist() == [[4, 1, 2], [6, 2, 3]]
    assert candidates.rows is not None
    assert candidates.rows.tolist() == [True, False]
    assert candidates.mask.tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize(
    ("size", "gate", "beta", "expected"),
    [
        (3, True, 1.0, [0.885939318, None]),
        (3, False, 1.0, [0.885939318, 1.520694069]),
        (6, True, 1.0, [1.418135834, 2.258580555]),
        (6, False, 1.0, [1.418135834, 2.258580555]),
        (3, True, 0.3, [1.030502067, None]),
    ],
)
def test_the_published_vectors(size: int, gate: bool, beta: float, expected: list[float | None]) -> None:
    candidates = propose(TopItems(size=size, gate=gate), TablePolicy(S), ROWS)
    assert candidates.rows is not None
    assert candidates.rows.tolist() == [value is not None for value in expected]
    for found, value in zip(losses(candidates, beta).tolist(), expected, strict=True):
        assert value is None or found == pytest.approx(value, abs=1e-6)


def test_the_likelihood_of_the_published_vectors() -> None:
    scores = scores_of(TablePolicy(S), ROWS, None, ROWS, "codes")
    nll = -scores.level_log_prob(ROWS.target.unsqueeze(1)).sum(-1).squeeze(1)
    torch.testing.assert_close(nll, torch.tensor([1.327101479, 4.311031594]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("gate", [True, False])
def test_one_candidate_compares_nothing(gate: bool) -> None:
    candidates = propose(TopItems(size=1, gate=gate), TablePolicy(S), ROWS)
    assert candidates.items.tolist() == [[4], [6]]
    assert candidates.rows is not None
    assert not candidates.rows.any()


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 8), st.booleans(), st.booleans())
def test_an_exact_policys_candidates_equal_brute_force(seed: int, items: int, size: int, gate: bool, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(items, items, generator=generator)
    table = table.mul(2).round() if ties else table
    target = torch.randint(1, items + 1, (5,), generator=generator)
    history = torch.randint(1, items + 1, (5, 2), generator=generator)
    policy, rows = TablePolicy(table), SequenceBatch(torch.ones(5, dtype=torch.int64), history, target)
    candidates = propose(TopItems(size=size, gate=gate), policy, rows)
    assert candidates.rows is not None
    for row in range(5):
        score = policy.log_prob(history[row : row + 1], torch.arange(1, items + 1)[None])[0].tolist()
        others = sorted((item for item in range(1, items + 1) if item != target[row]), key=lambda item: (-score[item - 1], item))
        better = sum(value > score[int(target[row]) - 1] for value in score)
        passes = better < size or not gate
        expected = [int(target[row]), *others[: size - 1]]
        assert candidates.items[row].tolist() == expected + [0] * (size - len(expected))
        assert bool(candidates.rows[row]) == passes
        assert candidates.mask[row].tolist() == [True] + [passes and item > 0 for item in candidates.items[row, 1:].tolist()]


def test_all_items_without_a_gate_are_the_whole_catalog() -> None:
    candidates = propose(TopItems(size=6, gate=False), TablePolicy(S), ROWS)
    assert candidates.items.sort(1).values.tolist() == [[1, 2, 3, 4, 5, 6]] * 2
    assert candidates.mask.all()


def test_policy_equal_to_reference_gives_log_k() -> None:
    """All margins are 0, so the loss is log(1 + (K - 1)) for any beta."""
    candidates = propose(TopItems(size=4, gate=False), TablePolicy(S), ROWS)
    zero = torch.zeros_like(candidates.items[:, 1:], dtype=torch.float32)
    loss = torch.nn.functional.softplus(zero.masked_fill(~candidates.mask[:, 1:], -torch.inf).logsumexp(1))
    torch.testing.assert_close(loss, torch.full((2,), 4.0).log())


@given(st.integers(0, 1000))
def test_permuting_the_items_permutes_the_candidates(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table, order = torch.randn(7, 7, generator=generator), torch.randperm(7, generator=generator)
    new_name = torch.empty_like(order).scatter_(0, order, torch.arange(7)) + 1  # of item i + 1
    rows = rows_of([[1], [2], [3]], [4, 5, 6])
    renamed = SequenceBatch(rows.user, new_name[rows.history - 1], new_name[rows.target - 1])
    plain = propose(TopItems(size=3), TablePolicy(table), rows)
    permuted = propose(TopItems(size=3), TablePolicy(table[order][:, order]), renamed)
    assert torch.equal(permuted.items, new_name[plain.items - 1])
    assert torch.equal(permuted.mask, plain.mask)


def test_windows_and_prefixes_have_the_same_candidates() -> None:
    policy, batch = sasrec(30), random_windows(30, 1)
    places, rows = rows_of_windows(batch)
    proposals = TopItems(size=8).build_proposals(context_of(policy, data_of(one_level(30))))
    assert proposals.in_step is not None
    windows, prefixes = (
        proposals.in_step(rows, rows, 0, scores_of(policy, *each, rows, "codes")) for each in ((batch, places), (rows, None))
    )
    assert torch.equal(windows.items, prefixes.items)
    assert torch.equal(windows.mask, prefixes.mask)
    assert windows.rows is not None
    assert bool(windows.rows.any())
    assert not bool(windows.rows.all())


def test_the_items_of_the_history_can_be_left_out_but_not_the_target() -> None:
    """Row 1 has seen items 1 and 4, of which 4 is the target: item 1 is left out, and the gate counts the allowed others."""
    rows = rows_of([[4, 1]], [4])
    candidates = propose(TopItems(size=3, seen=False), TablePolicy(S), rows)
    assert candidates.items.tolist() == [[4, 2, 6]]
    assert propose(TopItems(size=3), TablePolicy(S), rows).items.tolist() == [[4, 1, 2]]


def test_the_gate_does_not_count_items_that_are_left_out() -> None:
    """The target 2 (.3) is third behind 1 and 4: K = 2 rejects it, and passes it once item 1, of the history, is left out."""
    rows = rows_of([[1]], [2])
    for seen, passes in ((True, False), (False, True)):
        candidates = propose(TopItems(size=2, seen=seen), TablePolicy(S), rows)
        assert candidates.rows is not None
        assert bool(candidates.rows) == passes


def test_items_that_the_user_takes_later_can_be_left_out() -> None:
    """User 1 takes 1, 4, 2, 1: with the history [1], items 4 and 2 are later, and item 1 is taken once more than shown."""
    data = data_of(one_level(6), {1: [1, 4, 2, 1], 2: [5, 6]})
    rows = rows_of([[1], [1]], [4, 4], [1, 2])
    candidates = propose(TopItems(size=3, later=False, gate=False), TablePolicy(S), rows, data)
    assert candidates.items.tolist() == [[4, 6, 3], [4, 1, 2]]


def test_a_user_without_training_events_has_nothing_later() -> None:
    rows = rows_of([[1]], [4], [99])
    assert propose(TopItems(size=3, later=False), TablePolicy(S), rows).items.tolist() == [[4, 1, 2]]


SHARED = SemanticIds(torch.tensor([[0, 0], [0, 1], [0, 0], [1, 1], [1, 0], [1, 1], [0, 0], [2, 0]]), (3, 2))  # {1, 3, 7}, {4, 6}


def test_beams_leave_out_the_targets_semantic_id() -> None:
    policy = build(TIGER, SHARED)
    history, target = histories(8, 4, 8), torch.arange(1, 9)
    rows = SequenceBatch(torch.ones(8, dtype=torch.int64), history, target)
    candidates = propose(TopItems(size=4, gate=False), policy, rows, data_of(SHARED))
    groups = [{1, 3, 7}, {4, 6}]
    for row, items in enumerate(candidates.items.tolist()):
        same = next((group for group in groups if row + 1 in group), {row + 1})
        scores = policy.log_prob(history[row : row + 1], torch.arange(1, 9)[None])[0].tolist()
        others = sorted(set(range(1, 9)) - same, key=lambda item: (-round(scores[item - 1], 4), item))
        assert items == [row + 1, *others[:3]]


@pytest.mark.parametrize("semantic_ids", [SHARED, catalog(30)], ids=["shared", "distinct"])
def test_with_beams_the_gate_asks_whether_the_target_is_among_them(semantic_ids: SemanticIds) -> None:
    policy, count = build(TIGER, semantic_ids), semantic_ids.items
    history = histories(12, 4, count)
    target = torch.randint(1, count + 1, (12,), generator=torch.Generator().manual_seed(3))
    rows = SequenceBatch(torch.ones(12, dtype=torch.int64), history, target)
    candidates = propose(TopItems(size=4), policy, rows, data_of(semantic_ids))
    assert candidates.rows is not None
    for row in range(12):
        same = (semantic_ids.codes == semantic_ids.codes[target[row] - 1]).all(1).nonzero().squeeze(1) + 1
        twins = same[same != target[row]]
        listed = policy.recommend(history[row : row + 1], 4, twins[None] if len(twins) else None).items[0].tolist()
        assert bool(candidates.rows[row]) == (int(target[row]) in listed)
    assert bool(candidates.rows.any())
    assert not bool(candidates.rows.all())


def test_history_items_left_out_of_beams_do_not_hide_a_repeated_target() -> None:
    policy = build(TIGER, catalog(30))
    best = policy.recommend(torch.tensor([[3, 7]]), 3).items[0]
    rows = SequenceBatch(torch.ones(1, dtype=torch.int64), torch.tensor([[3, 7]]), best[:1])
    again = rows._replace(history=torch.tensor([[3, int(best[0])]]))
    candidates = propose(TopItems(size=30, seen=False), policy, again, data_of(catalog(30)))
    assert candidates.rows is not None
    assert bool(candidates.rows)
    assert 3 not in candidates.items[0].tolist()


def test_a_copy_is_refreshed_every_r_steps() -> None:
    policy = TablePolicy(S)
    context = context_of(policy, data_of(one_level(6)))
    proposals = TopItems(size=3, refresh=2).build_proposals(context)
    assert proposals.begin is not None
    assert proposals.in_step is not None
    copy = copies_of(context)["top items"]
    found = []
    for step in range(4):
        proposals.begin(step)
        found.append(proposals.in_step(ROWS, ROWS, step, scores_of(policy, ROWS, None, ROWS, "codes")).items[0].tolist())
        with torch.no_grad():
            policy.table.copy_(-policy.table)
    assert copy.refreshed == 2
    assert found == [[4, 1, 2]] * 4  # copies of steps 0 and 2, in which the table has its first sign
    proposals.begin(5)
    assert copy.refreshed == 2


def test_the_reference_or_the_policy_in_training_propose() -> None:
    policy, reference = TablePolicy(S), TablePolicy(-S)
    assert propose(TopItems(size=2, gate=False), policy, ROWS, reference=reference).items.tolist() == [[4, 1], [6, 2]]
    fixed = propose(TopItems(size=2, gate=False, refresh=0), policy, ROWS, reference=reference)
    assert fixed.items.tolist() == [[4, 5], [6, 4]]
    with pytest.raises(UsageError, match=r"TopItems\.refresh = 0 reads the reference, which SFT has not"):
        TopItems(refresh=0).build_proposals(context_of(policy, data_of(one_level(6))))


def test_no_refresh_needs_no_copy() -> None:
    context = context_of(TablePolicy(S), data_of(one_level(6)))
    assert TopItems().build_proposals(context).begin is None
    assert not copies_of(context)


def test_validation_pairs_are_the_references_best_items_without_the_gate() -> None:
    policy = TablePolicy(-S).train()
    proposals = TopItems(size=3).build_proposals(context_of(policy, data_of(one_level(6)), reference=TablePolicy(S)))
    assert proposals.for_validation is not None
    candidates = proposals.for_validation(ROWS)
    assert candidates.items.tolist() == [[4, 1, 2], [6, 2, 3]]
    assert candidates.mask.all()


def test_it_is_a_proposer_that_checks_its_fields_and_its_experiment() -> None:
    assert isinstance(TopItems(), Proposer)
    assert TopItems(size=7).most_candidates() == 7
    with pytest.raises(UsageError, match=r"TopItems\.size must be at least 1, got 0"):
        TopItems(size=0)
    with pytest.raises(UsageError, match=r"TopItems\.refresh must be at least 0, got -1"):
        TopItems(refresh=-1)
    with pytest.raises(UsageError, match=r"TopItems\.gate must be True or False"):
        TopItems(gate=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"row: TopItems\.size must be at most policy\.num_beams = 10, got 16"):
        TopItems().check(SimpleNamespace(name="row", policy=SimpleNamespace(num_beams=10)))
    TopItems().check(SimpleNamespace(name="row", policy=SimpleNamespace()))
