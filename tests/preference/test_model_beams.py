"""ModelBeams: its list by brute force, exclusions, locked prefixes and refreshed policies."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import TIGER, build
from scipy.stats import chisquare
from torch import Tensor, nn

from genrec.errors import UsageError
from genrec.preference.draw_contract import check_draw
from genrec.preference.exclusions import Exclusions
from genrec.preference.negatives import ModelBeams, model_beams
from genrec.semantic_ids import SemanticIds
from genrec.testing import batches_of, check_sampler, sampler_context
from genrec.types import Ranking, Refresh, SamplerContext, SequenceBatch


class Table(nn.Module):
    """A policy with a table of scores for (last item of the history, item)."""

    def __init__(self, score: Tensor, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.score, self.semantic_ids = nn.Parameter(score), semantic_ids  # float32 [N + 1, N + 1]

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.score[history[:, -1:], items].unsqueeze(-1)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.level_log_prob(history, items).sum(-1)

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        score = self.score[history[:, -1]].clone()
        score[:, 0] = -torch.inf
        return _best(score if exclude is None else score.scatter(1, exclude, -torch.inf), n)

    def recommend_below(self, history: Tensor, items: Tensor, depth: int, n: int) -> Ranking:
        everything = torch.arange(self.score.shape[1]).expand(len(items), -1)
        below = self.semantic_ids.prefix_depth(everything, items.unsqueeze(1)) >= depth
        return _best(self.score[history[:, -1]].masked_fill(~below | (everything == 0), -torch.inf), n)


def _best(score: Tensor, n: int) -> Ranking:
    kept = score.sort(dim=1, descending=True, stable=True)
    pad = nn.functional.pad(kept.indices[:, :n], (0, max(0, n - score.shape[1])))
    value = nn.functional.pad(kept.values[:, :n], (0, max(0, n - score.shape[1])), value=-torch.inf)
    return Ranking(pad.masked_fill(value == -torch.inf, 0), value)


def world(taken: tuple[tuple[int, int], ...] = ()) -> SamplerContext:
    """Items 1..8 with codes (0, 0), (0, 1), ..., (1, 3). For every history, item 8 is the best and item 1 the worst."""
    ids = SemanticIds(torch.stack(torch.unravel_index(torch.arange(8), (2, 4)), 1), (2, 4))
    return SamplerContext(
        item_count=8,
        interactions=pd.DataFrame({"user": [u for u, _ in taken], "item": [i for _, i in taken], "time": 0}, dtype="int64"),
        popularity=torch.ones(9, dtype=torch.int64),
        vectors=torch.eye(9),
        semantic_ids=ids,
        policy=Table(torch.arange(9.0).expand(9, -1).clone(), ids).eval(),
    )


def rows(count: int, history: list[int], target: int) -> SequenceBatch:
    """One history and target for `count` users, so that each row has its own random numbers."""
    return SequenceBatch(torch.arange(count), torch.tensor([history]).repeat(count, 1), torch.full((count,), target))


def draw(sampler: ModelBeams, context: SamplerContext, batch: SequenceBatch, count: int, seed: int = 0) -> Tensor:
    return sampler.build(context).draw(batch, count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (ModelBeams(num_beams=1), set()),  # 6
        (ModelBeams(num_beams=2), {5}),  # 6, 5
        (ModelBeams(num_beams=3), {5, 4}),  # 6, 5, 4
        (ModelBeams(num_beams=3, seen=True), {8, 5}),  # 8, 6, 5
        (ModelBeams(num_beams=3, locked_levels=1), set()),  # 8, 7, 6, which begin with code 1 like item 7
        (ModelBeams(num_beams=4, locked_levels=1), {5}),  # 8, 7, 6, 5
        (ModelBeams(num_beams=4, locked_levels=1, seen=True), {8, 5}),
        (ModelBeams(num_beams=20), {5, 4, 3, 2, 1}),
        (ModelBeams(num_beams=20, locked_levels=1), {5}),  # the prefix has only 8, 7, 6, 5
    ],
)
def test_the_items_of_the_list(sampler: ModelBeams, expected: set[int]) -> None:
    """History 8, target 7; the user takes 6 later, so it uses up a place of the list but is not drawn."""
    drawn = draw(sampler, world(tuple((user, 6) for user in range(60))), rows(60, [0, 8], 7), 6)
    assert set(drawn.flatten().tolist()) - {0} == expected
    assert (drawn[:, : len(expected)] > 0).all()
    assert not drawn[:, len(expected) :].any()


def test_draws_are_uniform_without_replacement() -> None:
    drawn = draw(ModelBeams(num_beams=3), world(), rows(6_000, [0, 1], 8), 2)
    counts = [int((drawn == torch.tensor(order)).all(1).sum()) for order in permutations((5, 6, 7), 2)]
    assert sum(counts) == len(drawn)
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("locked", [0, 1, 2])
@pytest.mark.parametrize("seen", [False, True])
@given(st.integers(0, 2**16), st.integers(1, 30), st.integers(1, 8))
@settings(max_examples=15, deadline=None)
def test_equal_to_brute_force(locked: int, seen: bool, seed: int, width: int, num_negatives: int) -> None:
    """A large draw returns all allowed items of the list; a smaller draw is a subset."""
    context = sampler_context(seed)
    source = torch.Generator().manual_seed(seed)
    policy = Table(torch.randn(context.item_count + 1, context.item_count + 1, generator=source), context.semantic_ids)
    context = context._replace(policy=policy)
    batch = next(batches_of(context, 32))
    sampler = ModelBeams(num_beams=width, locked_levels=locked, seen=seen)
    large, small = draw(sampler, context, batch, width, seed), draw(sampler, context, batch, num_negatives, seed)
    if not seen:
        check_draw(batch, large, width, context)
    codes = [(-1,), *map(tuple, context.semantic_ids.codes.tolist())]
    taken = Counter((user, codes[item]) for user, item in context.interactions[["user", "item"]].itertuples(index=False))
    for user, history, target, all_drawn, few_drawn in zip(*(t.tolist() for t in (*batch, large, small)), strict=True):
        order = sorted(range(1, context.item_count + 1), key=lambda item: -float(policy.score.data[history[-1], item]))
        excluded = set() if locked else {target, *(() if seen else history)}
        listed = [item for item in order if item not in excluded and codes[item][:locked] == codes[target][:locked]][:width]
        past = Counter(codes[item] for item in history if item) if seen else Counter()
        hidden = set() if seen else {codes[item] for item in history if item}
        expected = {  # one item per Semantic ID is drawn
            code for code in map(codes.__getitem__, listed) if code != codes[target] and taken[user, code] <= past[code]
        } - hidden
        found = [codes[item] for item in all_drawn if item]
        assert sorted(found) == sorted(expected)
        assert {codes[item] for item in few_drawn if item} <= expected
        assert sum(item > 0 for item in few_drawn) == min(num_negatives, len(expected))


def test_fields_of_the_draw() -> None:
    plain, other = (
        sampler.build(world()) for sampler in (ModelBeams(), ModelBeams(seen=True, refresh_every=3, refresh_unit="epochs"))
    )
    assert (plain.by_example, plain.offers_history, plain.refresh, plain.at) == (True, False, Refresh(0), None)
    assert (other.by_example, other.offers_history, other.refresh) == (True, True, Refresh(3, "epochs"))


def test_a_draw_uses_the_current_weights() -> None:
    """The weights change in place, as in a refresh: the worst items become the best."""
    context = world()
    sampler, batch = ModelBeams(num_beams=2).build(context).draw, rows(9, [0, 4], 5)
    before = sampler(batch, 2, torch.Generator().manual_seed(0))
    context.policy.score.data.neg_()
    after = sampler(batch, 2, torch.Generator().manual_seed(0))
    assert before.sort(1).values.tolist() == [[7, 8]] * 9
    assert after.sort(1).values.tolist() == [[1, 2]] * 9


def test_filters_apply_to_items_of_the_history() -> None:
    even = lambda batch, candidates: candidates % 2 == 0  # noqa: E731
    context = world()._replace(filters=(even,))
    drawn = draw(ModelBeams(num_beams=6, seen=True), context, rows(9, [0, 3], 1), 6)
    assert drawn.sort(1).values.tolist() == [[0, 0, 0, 3, 5, 7]] * 9


@pytest.mark.parametrize("locked", [0, 1])
def test_a_row_does_not_depend_on_the_batch(locked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row alone, in chunks of two, and without padding. Without locked levels the policy is a real one."""
    context = sampler_context()
    policy = Table(torch.randn(61, 61, generator=torch.Generator().manual_seed(0)), context.semantic_ids)
    distinct = SemanticIds(torch.stack(torch.unravel_index(torch.randperm(64)[:60], (4, 4, 4)), 1), (4, 4, 4))
    context = context._replace(policy=policy if locked else build(TIGER, distinct), semantic_ids=distinct)
    policy.semantic_ids = distinct
    sampler, batch = ModelBeams(num_beams=10, locked_levels=locked).build(context).draw, next(batches_of(context, 7))
    together = sampler(batch, 3, torch.Generator().manual_seed(5))
    monkeypatch.setattr(model_beams, "SEARCH_CHUNK", 2)
    assert torch.equal(sampler(batch, 3, torch.Generator().manual_seed(5)), together)
    for row in range(7):
        length = int((batch.history[row] > 0).sum())
        alone = SequenceBatch(batch.user[row : row + 1], batch.history[row : row + 1, -length:], batch.target[row : row + 1])
        assert torch.equal(sampler(alone, 3, torch.Generator().manual_seed(5)), together[row : row + 1])
    assert not torch.equal(sampler(batch, 3, torch.Generator().manual_seed(6)), together)


@pytest.mark.parametrize("sampler", [ModelBeams(num_beams=30), ModelBeams(num_beams=5)])
def test_it_keeps_the_contract(sampler: ModelBeams) -> None:
    context = sampler_context()
    source = torch.Generator().manual_seed(0)
    table = torch.randn(context.item_count + 1, context.item_count + 1, generator=source)
    check_sampler(sampler, context._replace(policy=Table(table, context.semantic_ids)))


def test_an_empty_batch() -> None:
    assert draw(ModelBeams(), world(), rows(0, [0, 1], 2), 3).shape == (0, 3)


def test_no_gradient_and_no_global_random_state() -> None:
    torch.manual_seed(1)
    first = draw(ModelBeams(num_beams=5), world(), rows(5, [0, 1], 2), 3)
    torch.manual_seed(2)
    assert torch.equal(first, draw(ModelBeams(num_beams=5), world(), rows(5, [0, 1], 2), 3))
    assert not first.requires_grad


def test_unusable_policies_raise() -> None:
    context, small = world(), build(TIGER, world().semantic_ids)
    with pytest.raises(UsageError, match=r"ModelBeams draws from a policy's beams, got a context without a policy"):
        ModelBeams().build(context._replace(policy=None))
    with pytest.raises(UsageError, match=r"ModelBeams.num_beams must be at most policy.num_beams = 50, got 51"):
        ModelBeams(num_beams=51).build(context._replace(policy=small))
    with pytest.raises(UsageError, match=r"ModelBeams.locked_levels must be below 2, the levels of a Semantic ID, got 2"):
        ModelBeams(locked_levels=2).build(context)
    flat = Table(torch.zeros(9, 9), context.semantic_ids)
    bare = type("Bare", (nn.Module,), {name: getattr(Table, name) for name in ("level_log_prob", "log_prob", "recommend")})()
    bare.score = flat.score
    with pytest.raises(
        UsageError, match=r"ModelBeams.locked_levels = 1 needs a policy that searches below a prefix.*got Bare.*use locked_levels = 0"
    ):
        ModelBeams(locked_levels=1).build(context._replace(policy=bare))


@pytest.mark.parametrize(
    ("field", "wrong", "message"),
    [
        ("num_beams", 0, r"ModelBeams.num_beams must be at least 1, got 0"),
        ("locked_levels", -1, r"ModelBeams.locked_levels must be at least 0, got -1"),
        ("refresh_every", -1, r"ModelBeams.refresh_every must be at least 0, got -1"),
        ("refresh_unit", "hours", r"ModelBeams.refresh_unit must be one of 'steps', 'epochs', got 'hours'"),
    ],
)
def test_fields_are_checked(field: str, wrong: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelBeams(**{field: wrong})


def test_exclusions_hold_when_the_history_is_offered() -> None:
    """With `seen`, the Semantic ID of the target and items taken outside the history stay excluded."""
    context = sampler_context(3)
    table = torch.randn(context.item_count + 1, context.item_count + 1, generator=torch.Generator().manual_seed(0))
    context = context._replace(policy=Table(table, context.semantic_ids))
    batch, exclusions = next(batches_of(context, 64)), Exclusions(context)
    drawn = draw(ModelBeams(num_beams=60, seen=True), context, batch, 60)
    assert bool((exclusions.in_history(batch, drawn)).any())
    assert not bool(exclusions.shares_semantic_id(batch, drawn).any())
    assert not bool((exclusions.in_training(batch, drawn) & ~exclusions.in_history(batch, drawn)).any())
