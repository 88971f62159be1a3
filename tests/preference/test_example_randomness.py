"""Random numbers of examples: uniform, independent, and a function of the example alone."""

from __future__ import annotations

import torch
from scipy.stats import kstest
from torch import Tensor

from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import rows_of
from genrec.testing import batches_of, sampler_context
from genrec.types import SequenceBatch

BATCH = next(batches_of(sampler_context(users=200), 512))


def streams(batch: SequenceBatch, seed: int = 0) -> ExampleRandomness:
    return ExampleRandomness(batch, torch.Generator().manual_seed(seed))


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def test_numbers_are_uniform() -> None:
    """All 512 x 40 together, and the first of each example; the correlation of 20,000 independent pairs is below 5 / sqrt(20,000)."""
    numbers = streams(BATCH).uniform(40)
    assert numbers.dtype == torch.float64
    assert numbers.shape == (512, 40)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-3
    assert kstest(numbers[:, 0].numpy(), "uniform").pvalue > 1e-3
    assert abs(correlation(numbers[:, 1:], numbers[:, :-1])) < 5 / 20_000**0.5
    assert abs(correlation(numbers[1:], numbers[:-1])) < 5 / 20_000**0.5


def test_counters_side_by_side_are_uniform() -> None:
    """Users 0, 1, 2, ... who differ in nothing else: their numbers are as far apart as any."""
    count = 4000
    batch = SequenceBatch(torch.arange(count), torch.full((count, 2), 3), torch.full((count,), 5))
    numbers = streams(batch).uniform(3)
    for place in range(3):
        assert kstest(numbers[:, place].numpy(), "uniform").pvalue > 1e-3
    assert abs(correlation(numbers[1:], numbers[:-1])) < 5 / 12_000**0.5


def test_labels_are_streams_of_their_own() -> None:
    drawn = streams(BATCH)
    assert torch.equal(drawn.uniform(40, 1), drawn.uniform(40, 1))
    assert abs(correlation(drawn.uniform(40, 0), drawn.uniform(40, 1))) < 5 / 20_000**0.5
    assert abs(correlation(drawn.uniform(40, 1)[:, :-1], drawn.uniform(40, 0)[:, 1:])) < 5 / 20_000**0.5


def test_a_number_depends_on_neither_the_batch_nor_the_padding_nor_how_many_are_asked_for() -> None:
    numbers = streams(BATCH).uniform(8)
    some = torch.tensor([400, 3, 3, 17])
    assert torch.equal(streams(rows_of(BATCH, some)).uniform(8), numbers[some])
    assert torch.equal(streams(BATCH).uniform(8, rows=some), numbers[some])
    padded = BATCH._replace(history=torch.cat([torch.zeros(512, 5, dtype=torch.int64), BATCH.history], 1))
    assert torch.equal(streams(padded).uniform(8), numbers)
    assert torch.equal(streams(BATCH).uniform(3), numbers[:, :3])


def test_another_example_another_number() -> None:
    """Another user, target, last item, order of the history, or seed; and the next number of the same generator."""
    one = SequenceBatch(torch.tensor([1]), torch.tensor([[0, 4, 7]]), torch.tensor([9]))
    others = [
        one._replace(user=torch.tensor([9]), target=torch.tensor([1])),
        one._replace(target=torch.tensor([8])),
        one._replace(history=torch.tensor([[0, 4, 8]])),
        one._replace(history=torch.tensor([[0, 7, 4]])),
        one._replace(history=torch.tensor([[4, 4, 7]])),
    ]
    source = torch.Generator().manual_seed(0)
    found = (
        [streams(batch) for batch in (one, *others)]
        + [streams(one, 1)]
        + [ExampleRandomness(one, source), ExampleRandomness(one, source)][1:]
    )
    assert len({float(each.uniform(1)) for each in found}) == 8


def test_no_examples() -> None:
    empty = SequenceBatch(*(tensor[:0] for tensor in BATCH))
    assert streams(empty).uniform(3).shape == (0, 3)
    no_history = BATCH._replace(history=torch.zeros(512, 0, dtype=torch.int64))
    assert streams(no_history).uniform(1).shape == (512, 1)
