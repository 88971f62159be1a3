"""Samples without replacement by stochastic beam search: exact distributions, exclusions, shared Semantic IDs, numerics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policies import POLICIES, build, catalog, histories
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from genrec.model import beam_search, trie
from genrec.model.stochastic_beam_search import _conditioned
from genrec.model.trie import Trie
from genrec.preference.candidates.gumbel_top_k import gumbel_top_k, importance_weights
from genrec.semantic_ids import SemanticIds
from genrec.types import ItemSample, SamplingPolicy

SIZES = (3, 2, 3)
CODES = torch.tensor([[0, 0, 0], [0, 0, 2], [0, 1, 1], [1, 0, 0], [1, 0, 1], [2, 1, 2]])  # of items 1..6
ALPHA = 1e-4  # a right sampler fails one of these tests for one seed in ten thousand; the seeds are fixed


class Tables:
    """A `Decoding` of equal rows: the log-probabilities of each level are a table of the codes before, of random numbers."""

    def __init__(self, sizes: tuple[int, ...], rows: int, scale: float = 1.0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        shapes = [(int(torch.tensor(sizes[:level]).prod()), size) for level, size in enumerate(sizes)]
        self.tables = [(scale * torch.randn(shape, generator=generator)).log_softmax(-1) for shape in shapes]
        self.rows, self.sizes = rows, sizes

    def start(self) -> tuple[Tensor, Tensor]:
        path = torch.zeros(self.rows, 1, dtype=torch.int64)
        return self.tables[0][path[:, 0]], path

    def advance(self, level: int, state: Tensor, beam: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        path = state.gather(1, beam) * self.sizes[level] + code
        return self.tables[level + 1][path], path

    def log_prob(self, codes: Tensor) -> Tensor:
        """Return log p of Semantic IDs int64 [N, L], over all codes: float32 [N]."""
        path, total = torch.zeros(len(codes), dtype=torch.int64), torch.zeros(len(codes))
        for level, table in enumerate(self.tables):
            total = total + table[path, codes[:, level]]
            path = path * self.sizes[level] + codes[:, level]
        return total

    def constrained(self, codes: Tensor) -> Tensor:
        """Return log p of items over the codes of real items only, by brute force from the table of children: float32 [N]."""
        rows = codes.tolist()
        total = torch.zeros(len(codes))
        for number, row in enumerate(rows):
            path = 0
            for level, code in enumerate(row):
                siblings = sorted({other[level] for other in rows if other[:level] == row[:level]})
                total[number] += self.tables[level][path, siblings].log_softmax(0)[siblings.index(code)]
                path = path * self.sizes[level] + code
        return total


@pytest.fixture(params=["dense", "sparse"], scope="module", autouse=True)
def tables(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run every test with a dense table for each level, and without dense tables."""
    cells = {"dense": (2**16, 10**6), "sparse": (0, 0)}[request.param]
    with mock.patch.object(trie, "SMALL_TABLE", cells[0]), mock.patch.object(trie, "MAX_CELLS_PER_CHILD", cells[1]):
        yield


def draw(
    decoding: Any, k: int, codes: Tensor = CODES, sizes: tuple[int, ...] = SIZES, exclude: Any = None, seed: int = 0
) -> ItemSample:
    return Trie(SemanticIds(codes, sizes)).sample(decoding, k, exclude, torch.Generator().manual_seed(seed))


def pairs(items: Tensor, allowed: list[int]) -> list[int]:
    """Return how often each ordered pair of allowed items is a row of int64 [X, 2]."""
    number = items[:, 0] * 100 + items[:, 1]
    counts = [int((number == first * 100 + second).sum()) for first, second in permutations(allowed, 2)]
    assert sum(counts) == len(items)
    return counts


def plackett_luce(p: Tensor, allowed: list[int]) -> Tensor:
    """Return the probability of each ordered pair of two draws without replacement: p_i p_j / (1 - p_i), normalized over `allowed`."""
    q = p.double()[torch.tensor(allowed) - 1]
    q = dict(zip(allowed, (q / q.sum()).tolist(), strict=True))
    return torch.tensor([q[i] * q[j] / (1 - q[i]) for i, j in permutations(allowed, 2)], dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiger", "tiger-causal", "gpt"])
def test_one_draw_has_the_constrained_probabilities_of_a_policy(name: str) -> None:
    ids = SemanticIds(CODES, SIZES)
    policy, history = build(POLICIES[name], ids), histories(1, 4, 6)
    assert isinstance(policy, SamplingPolicy)
    drawn = policy.sample_items(history.expand(8_000, -1), 1, None, torch.Generator().manual_seed(2))
    every = torch.arange(1, 7)[None]
    exact = policy.constrained_level_log_prob(history, every).sum(-1)[0].exp().double()
    assert float(exact.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(policy.log_prob(history, every).exp().sum()) < 0.9  # the constraint has an effect
    counts = torch.bincount(drawn.items[:, 0], minlength=7)[1:]
    assert chisquare(counts, exact / exact.sum() * 8_000).pvalue > ALPHA


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_two_draws_are_those_of_plackett_luce(scale: float) -> None:
    decoding = Tables(SIZES, 60_000, scale)
    drawn, every = draw(decoding, 2), list(range(1, 7))
    exact = plackett_luce(decoding.constrained(CODES).exp(), every)
    assert chisquare(pairs(drawn.items, every), exact * 60_000).pvalue > ALPHA
    included = torch.zeros(60_000, 7).scatter(1, drawn.items, 1.0).mean(0)[1:]
    of_pairs = torch.zeros(7, dtype=torch.float64)
    for pair, probability in zip(permutations(every, 2), exact, strict=True):
        of_pairs[list(pair)] += probability
    assert included.tolist() == pytest.approx(of_pairs[1:].tolist(), abs=0.01)  # five standard errors


def test_the_draws_are_those_of_gumbel_top_k_over_exact_scores() -> None:
    """Ordered triples, by the search and by noise for each item, and their thresholds."""
    decoding = Tables(SIZES, 60_000, 1.5, seed=4)
    drawn = draw(decoding, 3)
    exact = gumbel_top_k(decoding.constrained(CODES).expand(60_000, -1), 3, torch.Generator().manual_seed(1))
    weights = torch.tensor([100, 10, 1])
    counts = torch.stack([torch.bincount(((items * weights).sum(1)), minlength=700) for items in (drawn.items, exact.columns + 1)])
    assert chi2_contingency(counts[:, counts.sum(0) > 20]).pvalue > ALPHA
    quantiles = torch.linspace(0.01, 0.99, 9)
    found, expected = (threshold.quantile(quantiles) for threshold in (drawn.threshold, exact.threshold))
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_weighted_sums_over_a_sample_are_unbiased(k: int) -> None:
    decoding, values = Tables(SIZES, 100_000, 1.0, seed=k), torch.tensor([0.0, 1.0, -2.0, 5.0, 7.8, 3.0, -4.0])
    drawn, p = draw(decoding, k), decoding.constrained(CODES).exp()
    weights = importance_weights(drawn.constrained, drawn.threshold)
    for found, expected in (((weights * values[drawn.items]).sum(1), float((p * values[1:]).sum())), (weights.sum(1), 1.0)):
        assert float(found.mean()) == pytest.approx(expected, abs=5 * float(found.std()) / 100_000**0.5)


@pytest.mark.parametrize("out", [[2], [1, 2, 6], [4, 5, 3]])
def test_excluded_items_leave_the_ratios_of_the_others(out: list[int]) -> None:
    """Some nodes lose one of their leaves, others all of them."""
    decoding = Tables(SIZES, 40_000, 1.0, seed=9)
    drawn = draw(decoding, 2, exclude=torch.tensor([[*out, 0]]).expand(40_000, -1))
    allowed = [item for item in range(1, 7) if item not in out]
    exact = plackett_luce(decoding.constrained(CODES).exp(), allowed)
    assert chisquare(pairs(drawn.items, allowed), exact * 40_000).pvalue > ALPHA


def test_other_numbers_of_items_and_codes_change_no_probability() -> None:
    """Items in another order, and the first level's codes in another order: the sample of each Semantic ID stays."""
    decoding, order = Tables(SIZES, 40_000), torch.tensor([3, 0, 5, 1, 4, 2])
    renamed = Tables(SIZES, 40_000)
    renamed.tables = [table.unflatten(0, (3, -1))[[2, 0, 1]].flatten(0, 1) if level else table[:, [2, 0, 1]] for level, table in
                      enumerate(decoding.tables)]  # fmt: skip
    codes = CODES[order].clone()
    codes[:, 0] = (codes[:, 0] + 1) % 3  # new code c is the former code [2, 0, 1][c]
    torch.testing.assert_close(renamed.log_prob(codes), decoding.log_prob(CODES)[order])
    items = draw(renamed, 2, codes, seed=5).items
    exact = plackett_luce(decoding.constrained(CODES).exp(), list(range(1, 7)))
    assert chisquare(pairs(order[items - 1] + 1, list(range(1, 7))), exact * 40_000).pvalue > ALPHA


def test_a_semantic_id_of_several_items_is_drawn_once_by_its_own_probability() -> None:
    """Items 1, 4 and 5 share one Semantic ID, whose lowest allowed item stands for it."""
    codes = torch.tensor([[0], [1], [2], [0], [0]])
    decoding = Tables((3,), 30_000)
    every = draw(decoding, 2, codes, (3,))
    exact = plackett_luce(decoding.log_prob(codes[:3]).exp(), [1, 2, 3])
    assert chisquare(pairs(every.items, [1, 2, 3]), exact * 30_000).pvalue > ALPHA
    some = draw(decoding, 3, codes, (3,), exclude=torch.tensor([[1, 0]]).expand(30_000, -1))
    assert set(some.items.flatten().tolist()) == {2, 3, 4}
    none = draw(decoding, 3, codes, (3,), exclude=torch.tensor([[1, 5, 4, 4]]).expand(30_000, -1))
    assert set(none.items.flatten().tolist()) == {0, 2, 3}


@st.composite
def worlds(draw_value: st.DrawFn) -> tuple[Tensor, tuple[int, ...], Tensor]:
    """Draw codes [N, L] of up to 20 items, often shared; level sizes, with unused codes; and the excluded items of three rows."""
    sizes = tuple(draw_value(st.integers(1, 4)) for _ in range(draw_value(st.integers(1, 4))))
    rows = draw_value(st.lists(st.tuples(*(st.integers(0, size - 1) for size in sizes)), min_size=1, max_size=20))
    width = draw_value(st.integers(0, 12))
    lists = st.lists(st.integers(0, len(rows)), min_size=width, max_size=width)
    exclude = draw_value(st.lists(lists, min_size=3, max_size=3))
    return torch.tensor(rows), sizes, torch.tensor(exclude, dtype=torch.int64).reshape(3, width)


@given(worlds(), st.integers(1, 22), st.integers(0, 99), st.integers(1, 60))
def test_a_sample_holds_distinct_allowed_items_with_their_log_probabilities(
    world: tuple[Tensor, tuple[int, ...], Tensor], k: int, seed: int, cells: int
) -> None:
    """Also in chunks of few rows; all Semantic IDs with an allowed item are drawn if there are no more than k."""
    codes, sizes, exclude = world
    decoding = Tables(sizes, 3, seed=seed)
    with mock.patch.dict(beam_search.MAX_CELLS, cpu=cells):
        drawn, again = (draw(decoding, k, codes, sizes, exclude, seed) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(drawn, again, strict=True))
    for row in range(3):
        lowest: dict[tuple[int, ...], int] = {}
        for item in range(len(codes), 0, -1):
            if item not in exclude[row].tolist():
                lowest[tuple(codes[item - 1].tolist())] = item
        found = [item for item in drawn.items[row].tolist() if item]
        count = min(k, len(lowest))
        assert len(set(found)) == len(found) == count
        assert set(found) <= set(lowest.values())
        assert drawn.items[row, count:].tolist() == [0] * (k - count)
        assert (drawn.log_prob[row, count:] == -torch.inf).all()
        assert (drawn.constrained[row, count:] == -torch.inf).all()
        assert bool(drawn.threshold[row] == -torch.inf) == (len(lowest) <= k)
        of_found = torch.tensor(found, dtype=torch.int64) - 1
        torch.testing.assert_close(drawn.log_prob[row, :count], decoding.log_prob(codes)[of_found])
        torch.testing.assert_close(drawn.constrained[row, :count], decoding.constrained(codes)[of_found])


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policies_draw_with_their_own_log_probabilities(name: str) -> None:
    policy, history = build(POLICIES[name], catalog(30)), histories(5, 6, 30)
    drawn = policy.sample_items(history, 8, history, torch.Generator().manual_seed(0))
    assert not drawn.log_prob.requires_grad
    torch.testing.assert_close(drawn.log_prob, policy.log_prob(history, drawn.items).detach(), atol=1e-5, rtol=1e-5)
    constrained = policy.constrained_level_log_prob(history, drawn.items).sum(-1).detach()
    torch.testing.assert_close(drawn.constrained, constrained, atol=1e-5, rtol=1e-5)
    assert not (drawn.items[:, :, None] == history[:, None, :]).any()
    every = policy.sample_items(history, 64, None, torch.Generator().manual_seed(0))
    assert every.items.sort(1, descending=True).values[:, :30].tolist() == [list(range(30, 0, -1))] * 5
    assert (every.items[:, 30:] == 0).all()


def test_a_row_with_nan_has_nan() -> None:
    decoding = Tables(SIZES, 2)
    decoding.tables[1][1] = torch.nan
    drawn = draw(decoding, 6)
    assert drawn.log_prob.isnan().all()
    assert drawn.constrained.isnan().all()


values = st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=6)


@given(values, st.floats(-60, 60, width=32))
def test_conditioned_gumbel_numbers_equal_the_plain_formula_in_double_precision(numbers: list[float], target: float) -> None:
    """-log(exp(-T) - exp(-Z) + exp(-G)), whose terms are exact enough in float64 for numbers above the smallest exponent."""
    value = torch.tensor([numbers])
    highest, aim = value.max(), torch.tensor(target)
    found = _conditioned(value, highest, aim)
    assert float(found.max()) == target
    order = value[0].argsort()
    assert (found[0, order].diff() >= 0).all()
    exponents = (-aim.double()).exp() + (-value.double()).exp() * -torch.expm1((value - highest).double())
    torch.testing.assert_close(found.double(), -exponents.log(), atol=1e-4, rtol=1e-5)


def test_conditioned_numbers_far_apart_are_finite() -> None:
    """Values hundreds of nats below the maximum stay finite, and an impossible one stays impossible."""
    found = _conditioned(torch.tensor([[3.0, -500.0, 3.0 - 1e-6]]), torch.tensor(3.0), torch.tensor(-200.0))
    assert found[0, 0] == -200.0
    assert found.isfinite().all()
    assert float(found[0, 1]) == pytest.approx(-500.0)
