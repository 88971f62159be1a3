"""Invalid Semantic IDs as negatives: never those of an item, the most probable ones, deterministic, and scored without the trie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import alignments
import pytest
import torch
from alignments import built_step, recipe, take
from hypothesis import given
from hypothesis import strategies as st
from preference_stages import stage
from proposals import context_of, data_of, sasrec
from worlds import cyclic

from genrec.baselines import GRU4Rec, SASRec
from genrec.errors import UsageError
from genrec.item_rows import last_places
from genrec.model import Gpt
from genrec.objectives import PolicyGradient, Preference
from genrec.preference.candidates import History, InvalidIds, Together
from genrec.preference.candidates.invalid_codes import (
    RealCodes,
    corrupted,
    has_invalid_codes,
    most_probable,
    repeated_codes,
    sampled,
    take_first_codes,
)
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.rewards import Popular
from genrec.semantic_ids import SemanticIds
from genrec.testing import ContractError, check_proposer
from genrec.testing.check_worlds import WorldPolicy
from genrec.types import Candidates, ObjectiveContext, Proposals, SequenceBatch

SIZES = (4, 3, 5)
GPT = Gpt(d_model=16, d_ff=16, num_heads=2, d_kv=8, num_layers=1, dropout=0.0)
HOW: list[Any] = ["beams", "samples", "corruptions"]


def some_ids(seed: int, items: int = 30) -> SemanticIds:
    """Return random Semantic IDs, some of them shared, of 60 possible ones."""
    generator = torch.Generator().manual_seed(seed)
    return SemanticIds(torch.stack([torch.randint(size, (items,), generator=generator) for size in SIZES], 1), SIZES)


def world(ids: SemanticIds, seed: int = 0) -> ObjectiveContext:
    """Return a context whose policy is a `WorldPolicy` with random vectors."""
    vectors = torch.randn(ids.items + 1, 6, generator=torch.Generator().manual_seed(seed))
    policy = WorldPolicy(ids, vectors)
    return context_of(policy, data_of(ids), policy)


def gpt(ids: SemanticIds) -> Any:
    torch.manual_seed(0)
    policy = GPT.build(ids).eval()
    with torch.no_grad():
        for head in policy.heads:
            head.weight.mul_(8)
    return policy


def some_rows(ids: SemanticIds, seed: int, rows: int = 5) -> SequenceBatch:
    generator = torch.Generator().manual_seed(seed)
    history, target = (torch.randint(1, ids.items + 1, size, generator=generator) for size in ((rows, 4), (rows,)))
    return SequenceBatch(torch.arange(1, rows + 1), history, target)


def proposed(proposer: InvalidIds | Together, context: ObjectiveContext, rows: SequenceBatch, step: int = 0) -> Candidates:
    proposals = proposer.build_proposals(context)
    if proposals.on_host is not None:
        return proposals.on_host(rows, step)
    assert proposals.in_step is not None
    return proposals.in_step(rows, rows, step, scores_of(context.policy, rows, None, rows, "codes"))


@given(st.integers(0, 10_000), st.sampled_from(HOW), st.integers(1, 6), st.integers(1, 3))
def test_no_candidate_has_the_codes_of_an_item(seed: int, by: Any, count: int, replaced: int) -> None:
    ids = some_ids(seed)
    rows = some_rows(ids, seed)
    found = proposed(InvalidIds(by=by, num_negatives=count, pool_size=12, num_replaced=replaced), world(ids, seed), rows, seed)
    assert found.codes is not None
    assert found.items.tolist() == [[target] + [0] * count for target in rows.target.tolist()]
    given_ = (found.codes >= 0).all(2)
    assert torch.equal((found.codes >= 0).any(2), given_)
    assert torch.equal(found.mask[:, 1:], given_[:, 1:])
    assert not given_[:, 0].any()
    assert bool((ids.lookup(found.codes[given_]) == 0).all())
    assert not repeated_codes(found.codes, given_).any()
    assert torch.equal(found.rows, found.mask[:, 1:].any(1))


@given(st.integers(0, 1000))
def test_codes_are_real_where_an_item_has_them(seed: int) -> None:
    ids = some_ids(seed)
    every = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    assert torch.equal(RealCodes(ids)(every), ids.lookup(every) > 0)


def test_the_search_finds_the_most_probable_of_all_invalid_sequences() -> None:
    """With as many beams as prefixes the search is exact: all 60 sequences, scored and sorted, without those of items."""
    ids = some_ids(3)
    policy, rows = gpt(ids), some_rows(ids, 1)
    every = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    with torch.no_grad():
        score = policy.code_level_log_prob(rows.history, last_places(rows.history), every.expand(5, -1, -1)).sum(2)
    assert torch.allclose(score.exp().sum(1), torch.ones(5))
    expected = every[score.masked_fill(ids.lookup(every) > 0, -torch.inf).topk(7).indices]
    assert torch.equal(most_probable(policy, rows.history, RealCodes(ids), 7, 12), expected)


def test_a_search_with_fewer_invalid_sequences_ends_in_none() -> None:
    """Of 2 x 2 sequences (0, 0), (0, 1) and (1, 0) are items, so (1, 1) alone is invalid."""
    ids = SemanticIds(torch.tensor([[0, 0], [0, 1], [1, 0]]), (2, 2))
    found = most_probable(gpt(ids), torch.tensor([[1, 2]]), RealCodes(ids), 3, 2)
    assert found.tolist() == [[[1, 1], [-1, -1], [-1, -1]]]


def test_samples_follow_the_policy() -> None:
    """Frequencies of 20,000 samples are within 5 standard deviations of the probabilities of all sequences."""
    ids = some_ids(0)
    policy, history = gpt(ids), torch.tensor([[3, 5]])
    every = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    count = 20_000
    uniform = torch.rand(1, count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        p = policy.code_level_log_prob(history, last_places(history), every.unsqueeze(0)).sum(2).exp().squeeze(0).double()
        drawn = sampled(policy, history, SIZES, uniform).squeeze(0)
    number = (drawn * torch.tensor([15, 5, 1])).sum(1)
    share = torch.bincount(number, minlength=60).double() / count
    assert bool(((share - p).abs() <= 5 * (p * (1 - p) / count).sqrt() + 1e-9).all())


@given(st.integers(0, 1000), st.integers(1, 2))
def test_a_corruption_replaces_that_many_codes_by_others(seed: int, replaced: int) -> None:
    """A level with one code is never replaced."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (4, 1, 5)
    codes = torch.stack([torch.randint(size, (6,), generator=generator) for size in sizes], 1)
    found = corrupted(codes, sizes, replaced, torch.rand(6, 20, 6, generator=generator, dtype=torch.float64))
    changed = found != codes.unsqueeze(1)
    assert bool((changed.sum(2) == replaced).all())
    assert not changed[..., 1].any()
    assert bool(((found >= 0) & (found < torch.tensor(sizes))).all())


def test_every_other_code_replaces_a_code_equally_often() -> None:
    """Of codes 0..3 the target has 1; 0, 2 and 3 are drawn by equal thirds of the uniform numbers."""
    uniform = torch.tensor([[[0.5, 0.0], [0.5, 0.32], [0.5, 0.34], [0.5, 0.66], [0.5, 0.67], [0.5, 0.999]]], dtype=torch.float64)
    assert corrupted(torch.tensor([[1]]), (4,), 1, uniform).squeeze(-1).tolist() == [[0, 0, 2, 2, 3, 3]]


def test_the_first_distinct_allowed_sequences_are_taken() -> None:
    codes = torch.tensor([[[0, 1], [2, 2], [0, 1], [1, 1]]])
    allowed = torch.tensor([[True, False, True, True]])
    assert take_first_codes(codes, allowed, 3).tolist() == [[[0, 1], [1, 1], [-1, -1]]]


@pytest.mark.parametrize("by", HOW)
def test_candidates_depend_on_the_example_and_not_on_its_batch(by: Any) -> None:
    ids = some_ids(1)
    rows, context, proposer = some_rows(ids, 2), world(ids), InvalidIds(by=by)
    whole, part = (proposed(proposer, context, each).codes for each in (rows, SequenceBatch(*(each[3:] for each in rows))))
    assert whole is not None
    assert torch.equal(whole[3:], part)  # type: ignore[arg-type]
    other = proposed(proposer, context._replace(seed=1), rows).codes
    later = proposed(proposer, context, rows, 1).codes
    assert torch.equal(whole, other) == (by == "beams")  # type: ignore[arg-type]
    assert torch.equal(whole, later) == (by != "samples")  # type: ignore[arg-type]


def test_the_loss_of_invalid_negatives_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """S-DPO by definition, from log-probabilities of code sequences without the trie."""
    monkeypatch.setattr(alignments, "IDS", SemanticIds(alignments.IDS.codes, (8, 7)))  # codes 5 and 6 of level 2 are no item's
    step, context, frozen, batch = built_step(recipe(loss=SoftmaxDPO(beta=0.5), candidates=InvalidIds(by="samples", num_negatives=2)))
    policy: Any = context.policy
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    loss, logs = take(step, frozen, batch, 3)
    found = proposed(InvalidIds(by="samples", num_negatives=2), context, batch, 3)
    assert found.codes is not None
    ids = context.data().semantic_ids
    codes = torch.cat([ids.codes[batch.target - 1].unsqueeze(1), found.codes[:, 1:]], 1)
    assert bool(found.mask.all())
    with torch.no_grad():
        places = last_places(batch.history)
        ours, theirs = (
            each.code_level_log_prob(batch.history, places, codes).sum(2)  # type: ignore[attr-defined]
            for each in (policy, frozen.reference.policy)
        )
    ratio = 0.5 * (ours - theirs)
    expected = (ratio.exp().sum(1).log() - ratio[:, 0]).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert float(logs["drawn_invalid"]) == 1.0
    assert float(logs["drawn_shortfall"]) == 0.0
    assert step.state is not None
    assert int(step.state.tensors()["empty_rows"]) == 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(bool(each.grad.isfinite().all()) for each in policy.parameters() if each.grad is not None)


def test_together_with_items_each_candidate_stands_once() -> None:
    ids = some_ids(4)
    context, rows = world(ids), some_rows(ids, 4)
    parts = (History(size=3), InvalidIds(by="corruptions"), InvalidIds(num_negatives=4), InvalidIds(num_negatives=2))
    joined = proposed(Together(parts), context, rows)
    alone = [proposed(each, context, rows).codes for each in parts[1:3]]
    assert joined.codes is not None
    for row in range(5):
        kept = [tuple(each) for each in joined.codes[row].tolist() if each[0] >= 0]
        wanted = {tuple(each) for codes in alone for each in codes[row].tolist() if each[0] >= 0}  # type: ignore[index]
        assert len(kept) == len(set(kept))
        assert set(kept) == wanted
    assert joined.items[:, 3:].eq(0).all()
    assert bool(joined.mask[:, 1].any())


def test_policies_that_score_items_alone_are_refused_before_any_stage() -> None:
    align = stage(candidates=InvalidIds())
    for policy, name in ((SASRec(), "SASRec"), (GRU4Rec(), "GRU4Rec")):
        with pytest.raises(UsageError, match=f"with tokenize=None every code of {name} is an item; use a policy over Semantic IDs"):
            replace(cyclic(), tokenize=None, policy=policy, align=align)
    context = data_of(some_ids(0))._replace(policy=sasrec(30))
    with pytest.raises(UsageError, match=r"InvalidIds needs a policy that scores code sequences of no item .* got SASRecPolicy"):
        InvalidIds().check_context(context)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InvalidIds(num_negatives=0), "InvalidIds.num_negatives must be at least 1, got 0"),
        (lambda: InvalidIds(num_negatives=3, pool_size=2), "InvalidIds.pool_size must be at least num_negatives = 3, got 2"),
        (lambda: InvalidIds(by="beam"), "InvalidIds.by must be one of"),  # type: ignore[arg-type]
        (lambda: replace(cyclic(), align=stage(candidates=InvalidIds(), normalize="children")), "set align.normalize codes"),
        (lambda: Preference(candidates=InvalidIds(), reward=Popular()), "Preference.reward rates items, but InvalidIds"),
        (lambda: Preference(candidates=Together((History(), InvalidIds())), reward=Popular()), "rates items, but Together"),
        (lambda: PolicyGradient(candidates=InvalidIds()), "PolicyGradient.candidates must be items"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_catalogs_without_invalid_sequences_are_refused() -> None:
    full = SemanticIds(torch.cartesian_prod(torch.arange(2), torch.arange(3)), (2, 3))
    assert not has_invalid_codes(full)
    with pytest.raises(UsageError, match="all code sequences of the levels 2, 3 are Semantic IDs of items"):
        InvalidIds().check_context(data_of(full)._replace(policy=gpt(full)))
    one = SemanticIds(torch.tensor([[0, 0], [0, 1]]), (1, 3))
    with pytest.raises(UsageError, match=r"InvalidIds\.num_replaced must be at most 1, the levels with two codes or more, got 2"):
        InvalidIds(by="corruptions", num_replaced=2).check_context(data_of(one)._replace(policy=gpt(one)))


@pytest.mark.parametrize("by", HOW)
def test_the_conformance_check_accepts_the_proposer(by: Any) -> None:
    check_proposer(InvalidIds(by=by, num_negatives=5))
    check_proposer(Together((InvalidIds(by=by), History(size=3))))


def test_the_conformance_check_refuses_real_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RealCodes, "__call__", lambda self, codes: torch.zeros(codes.shape[:-1], dtype=torch.bool))
    with pytest.raises(ContractError, match="a sequence of codes is the Semantic ID of an item"):
        check_proposer(InvalidIds(by="corruptions", num_negatives=16))


def test_corruptions_are_static_and_policies_propose_in_the_step() -> None:
    ids = some_ids(0)
    built: list[Proposals] = [InvalidIds(by=by).build_proposals(world(ids)) for by in HOW]
    assert [each.static for each in built] == [False, False, True]
    assert [each.in_step is None for each in built] == [False, False, True]
