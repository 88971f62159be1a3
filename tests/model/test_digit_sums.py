"""Sums of digit scores over the items of a catalog, against loops over items, and their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.model import digit_sums
from genrec.model.digit_sums import Catalog, DigitTable, item_sums, log_sum_exp
from genrec.semantic_ids import SemanticIds


def table_of(items: int, sizes: tuple[int, ...], seed: int, monkeypatch: pytest.MonkeyPatch, block: int = 5) -> DigitTable:
    """Return the digits of random items, which may share them, in blocks of `block` items, with two places summed at once."""
    monkeypatch.setattr(digit_sums, "ITEMS_OF_BLOCK", block)
    monkeypatch.setattr(digit_sums, "PLACES_AT_ONCE", 2)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, size, (items,), generator=generator) for size in sizes], 1)
    return DigitTable(SemanticIds(codes, sizes))


def all_sums(scores: Tensor, table: DigitTable) -> Tensor:
    return torch.cat([item_sums(scores, block) for block in table.blocks], 1)


def by_loops(scores: Tensor, table: DigitTable) -> Tensor:
    """Return the score of every item by its definition, item by item and digit by digit."""
    rows = [[sum(float(row[digit]) for digit in digits) for digits in table.digits.tolist()] for row in scores]
    return torch.tensor(rows, dtype=scores.dtype)


def test_the_vector_of_a_catalog() -> None:
    """Digits (.2, .9, -.5) and (.4, -.1, .3), items 00 12 21 10, temperature .5: the sums are .6, 1.2, -.6 and 1.3 over .5."""
    table = DigitTable(SemanticIds(torch.tensor([[0, 0], [1, 2], [2, 1], [1, 0]]), (3, 3)))
    scores = torch.tensor([[0.2, 0.9, -0.5, 0.4, -0.1, 0.3]]) / 0.5
    sums = all_sums(scores, table)
    torch.testing.assert_close(sums, torch.tensor([[0.6, 1.2, -0.6, 1.3]]) / 0.5)
    found = sums - log_sum_exp(scores, None, Catalog(table.blocks)).unsqueeze(1)
    torch.testing.assert_close(found, torch.tensor([[-2.136062258, -0.936062258, -4.536062258, -0.736062258]]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(0, 5), st.sampled_from([(4,), (3, 5), (2, 1, 6)]))
def test_sums_are_those_of_a_loop(seed: int, items: int, places: int, sizes: tuple[int, ...]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        table = table_of(items, sizes, seed, monkeypatch)
        scores = torch.randn(places, sum(sizes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found, total = all_sums(scores, table), log_sum_exp(scores, None, Catalog(table.blocks))
    expected = by_loops(scores, table).view(places, items)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(total, expected.logsumexp(1))


def inputs(places: int, values: int, items: int, width: int = 4) -> list[Tensor]:
    """Return scores, states and weights in float64, with gradients."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(places, values), (places, width), (items, width)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks of 13 items or one, places in pairs and one alone, and values that no item of a block has."""
    single = table_of(13, (4, 5, 4), 0, monkeypatch, block=13)
    table = table_of(13, (4, 5, 4), 0, monkeypatch)
    scores, states, weights = inputs(5, 13, 13)
    assert torch.autograd.gradcheck(lambda each: log_sum_exp(each, None, Catalog(single.blocks)), (scores,))
    assert [len(block.digits) for block in table.blocks] == [5, 5, 3]
    assert torch.autograd.gradcheck(lambda each: item_sums(each, table.blocks[2]), (scores,))
    assert torch.autograd.gradcheck(lambda each: log_sum_exp(each, None, Catalog(table.blocks)), (scores,))
    assert torch.autograd.gradcheck(lambda q, h, w: log_sum_exp(q, h, Catalog(table.blocks, w)), (scores, states, weights))


@pytest.mark.parametrize("block", [5, 13])
def test_large_scores_neither_overflow_nor_vanish(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block has an item whose score is 1,000 above all others: its digits get the whole gradient."""
    table = table_of(13, (4, 5, 4), 0, monkeypatch, block=block)
    scores = torch.full((3, 13), -400.0)
    scores[:, table.digits[-1].long()] = 600.0
    scores.requires_grad_()
    total = log_sum_exp(scores, None, Catalog(table.blocks))
    total.sum().backward()
    torch.testing.assert_close(total, torch.full((3,), 1800.0))
    expected = torch.zeros(3, 13)
    expected[:, table.digits[-1].long()] = 1.0
    torch.testing.assert_close(scores.grad, expected)


def test_a_gradient_may_be_computed_twice() -> None:
    table = DigitTable(SemanticIds(torch.tensor([[0, 0], [1, 2], [2, 1], [1, 0]]), (3, 3)))
    scores = torch.randn(2, 6, requires_grad=True)
    total = log_sum_exp(scores, None, Catalog(table.blocks))
    weight = torch.tensor([1.0, 3.0])
    first, second = (torch.autograd.grad((weight * total).sum(), scores, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first.sum(1), torch.tensor([2.0, 6.0]))


def test_the_dense_part_is_a_product_of_states_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(13, (4, 5, 4), 0, monkeypatch)
    scores, states, weights = (each.detach() for each in inputs(5, 13, 13))
    catalog = Catalog(table.blocks, weights)
    expected = by_loops(scores, table) + states @ weights.T
    torch.testing.assert_close(log_sum_exp(scores, states, catalog), expected.logsumexp(1))
    parts = [digit_sums.block_scores(scores, states, catalog.weights_of(block), block) for block in table.blocks]
    torch.testing.assert_close(torch.cat(parts, 1), expected)


def test_no_block_holds_every_item_of_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor of the log-sum-exp has items of a block x places at once, in both passes."""
    table = table_of(103, (7, 9), 1, monkeypatch, block=10)
    scores = torch.randn(9, 16, requires_grad=True)
    sizes: list[int] = []
    original = digit_sums._sums
    monkeypatch.setattr(digit_sums, "_sums", lambda *a: (sizes.append(original(*a).numel()), original(*a))[1])
    log_sum_exp(scores, None, Catalog(table.blocks)).sum().backward()
    assert len(sizes) == 5 * 11  # groups of places x blocks; the forward pass computes the gradient too
    assert max(sizes) == 20
    torch.testing.assert_close(scores.grad.sum(1), torch.full((9,), 2.0))  # every place gives its probabilities to two digits


def test_the_values_of_later_digits_follow_those_of_earlier_ones() -> None:
    """Digit 1 has the values 0 and 1, digit 2 the values 2 to 4; item 0, which callers mask, gets the digits of item 1."""
    table = DigitTable(SemanticIds(torch.tensor([[1, 0], [0, 2]]), (2, 3)))
    assert table.of(torch.tensor([[0, 1, 2]])).tolist() == [[[1, 2], [1, 2], [0, 4]]]
