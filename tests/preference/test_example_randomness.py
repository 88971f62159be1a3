"""Per-example random numbers are uniform, independent, and a function of the example alone."""

from __future__ import annotations

import torch
from scipy.stats import kstest
from torch import Tensor

from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import rows_of
from genrec.testing import batches_of, sampler_context
from genrec.types import SequenceBatch

BATCH = next(batches_of(sampler_context(users=200), 512))


def randomness(batch: SequenceBatch, seed: int = 0) -> ExampleRandomness:
    return ExampleRandomness(batch, torch.Generator().manual_seed(seed))


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def test_numbers_are_uniform() -> None:
    """All 512 x 40 numbers, and the first of each example. The correlation of 20,000 independent pairs is below 5 / sqrt(20,000)."""
    numbers = randomness(BATCH).uniform(40)
    assert numbers.dtype == torch.float64
    assert numbers.shape == (512, 40)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-3
    assert kstest(numbers[:, 0].numpy(), "uniform").pvalue > 1e-3
    assert abs(correlation(numbers[:, 1:], numbers[:, :-1])) < 5 / 20_000**0.5
    assert abs(correlation(numbers[1:], numbers[:-1])) < 5 / 20_000**0.5


def test_examples_with_consecutive_users_are_independent() -> None:
    """Users 0, 1, 2, ... with the same history and target."""
    count = 4000
    batch = SequenceBatch(torch.arange(count), torch.full((count, 2), 3), torch.full((count,), 5))
    numbers = randomness(batch).uniform(3)
    for place in range(3):
        assert kstest(numbers[:, place].numpy(), "uniform").pvalue > 1e-3
    assert abs(correlation(numbers[1:], numbers[:-1])) < 5 / 12_000**0.5


def test_streams_are_independent() -> None:
    drawn = randomness(BATCH)
    assert torch.equal(drawn.uniform(40, 1), drawn.uniform(40, 1))
    assert abs(correlation(drawn.uniform(40, 0), drawn.uniform(40, 1))) < 5 / 20_000**0.5
    assert abs(correlation(drawn.uniform(40, 1)[:, :-1], drawn.uniform(40, 0)[:, 1:])) < 5 / 20_000**0.5


def test_numbers_do_not_depend_on_the_batch_the_padding_or_the_count() -> None:
    numbers = randomness(BATCH).uniform(8)
    rows = torch.tensor([400, 3, 3, 17])
    assert torch.equal(randomness(rows_of(BATCH, rows)).uniform(8), numbers[rows])
    assert torch.equal(randomness(BATCH).uniform(8, rows=rows), numbers[rows])
    padded = BATCH._replace(history=torch.cat([torch.zeros(512, 5, dtype=torch.int64), BATCH.history], 1))
    assert torch.equal(randomness(padded).uniform(8), numbers)
    assert torch.equal(randomness(BATCH).uniform(3), numbers[:, :3])


def test_different_examples_get_different_numbers() -> None:
    """The examples differ in user, target, last item, order of the history, or seed; one uses a later state of the generator."""
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
        [randomness(batch) for batch in (one, *others)]
        + [randomness(one, 1)]
        + [ExampleRandomness(one, source), ExampleRandomness(one, source)][1:]
    )
    assert len({float(each.uniform(1)) for each in found}) == 8


def test_no_examples() -> None:
    empty = SequenceBatch(*(tensor[:0] for tensor in BATCH))
    assert randomness(empty).uniform(3).shape == (0, 3)
    no_history = BATCH._replace(history=torch.zeros(512, 0, dtype=torch.int64))
    assert randomness(no_history).uniform(1).shape == (512, 1)
