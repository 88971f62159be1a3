"""Statistics of a batch that two processes share, by hand: the other process is replaced by its values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genrec import process_group
from genrec.objectives.batch_statistics import RowMean, log_probs_of_batch, means_of_batch, neighbors_of_batch
from genrec.preference.losses import KTO
from genrec.types import LogProbs

NONE = -torch.inf


def of_two(monkeypatch: pytest.MonkeyPatch, rank: int, other: Any) -> None:
    """Let this process be one of two; `other` is what the other one sends, or adds."""
    monkeypatch.setattr(process_group, "rank", lambda: rank)
    monkeypatch.setattr(process_group, "partners", lambda: (0, 1))
    monkeypatch.setattr(process_group, "of_partners", lambda value: [value, other] if rank == 0 else [other, value])
    monkeypatch.setattr(process_group, "sum_of_partners", lambda value: value + other)


def test_one_process_sends_nothing_and_keeps_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*values: object, **options: object) -> None:
        raise AssertionError("one process has nothing to send")

    for name in ("all_reduce", "all_gather_object", "new_group"):
        monkeypatch.setattr(torch.distributed, name, fail)
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    assert process_group.sum_of_partners(values) is values
    assert process_group.of_partners(values) == [values]
    with process_group.beside([0]):
        assert process_group.partners() == (0,)
        assert process_group.sum_of_partners(values) is values
    assert means_of_batch(2, RowMean(values[0], torch.tensor([True, False]))) == [values[0]]
    ours = LogProbs(values, values.unsqueeze(1))
    assert log_probs_of_batch(ours, ours)[:2] == (ours, ours)


@pytest.mark.parametrize(("rank", "added"), [(0, 3.0), (1, 6.0)])
def test_a_mean_counts_by_its_rows_in_the_batch(monkeypatch: pytest.MonkeyPatch, rank: int, added: float) -> None:
    """Parts of 2 and 4 rows with 1 and 2 counted ones: the losses 9; 3 and 15. The mean over the batch is 27 / 3 = 9.

    The training adds up 2/6 and 4/6 of what the parts give, so they give (9 / 3) / (2 / 6) = 9 and (18 / 3) / (4 / 6) = 9.
    """
    values, counted = ([9.0, 5.0], [True, False]) if rank == 0 else ([3.0, 7.0, 15.0, 7.0], [True, False, True, False])
    rows, mask = torch.tensor(values, requires_grad=True), torch.tensor(counted)
    of_two(monkeypatch, rank, torch.tensor([4.0, 2.0] if rank == 0 else [2.0, 1.0], dtype=torch.float64))
    (mean,) = means_of_batch(len(values), RowMean(rows[mask].mean(), mask))
    assert float(mean.detach()) == pytest.approx(9.0)
    assert float(mean.detach()) * len(values) / 6 == pytest.approx(added)
    mean.backward()
    assert rows.grad is not None
    assert (rows.grad * len(values) / 6).tolist() == pytest.approx([each / 3 for each in counted])


@pytest.mark.parametrize(("others", "expected"), [(0.0, 0.0), (5.0, 0.0)])
def test_a_mean_over_no_rows_is_0(monkeypatch: pytest.MonkeyPatch, others: float, expected: float) -> None:
    """Here none of 2 rows is counted, and in the other part none or 5 of 5."""
    of_two(monkeypatch, 0, torch.tensor([5.0, others], dtype=torch.float64))
    mean = means_of_batch(2, RowMean(torch.zeros(()), torch.tensor([False, False])))[0]
    assert float(mean) == expected


def test_weights_count_in_place_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 1 and 3 here and 12 in the other part, each of 2 rows: (4 / 16) / (2 / 4) = 1/2, and 1 where all rows count."""
    of_two(monkeypatch, 0, torch.tensor([2.0, 12.0, 2.0], dtype=torch.float64))
    weighted, plain = means_of_batch(2, RowMean(torch.tensor(6.0), None, torch.tensor([1.0, 3.0])), RowMean(torch.tensor(6.0)))
    assert (float(weighted), float(plain)) == (3.0, 6.0)


def part(chosen: list[float], rejected: list[list[float]], mismatched: list[float]) -> LogProbs:
    levels = torch.cat([torch.tensor(chosen).unsqueeze(1), torch.tensor(rejected)], 1).unsqueeze(2)
    return LogProbs(levels[:, 0, 0], levels[:, 1:, 0], 1, torch.tensor(mismatched), None, levels)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("rank", [0, 1])
def test_kto_sees_the_rows_of_both_parts(monkeypatch: pytest.MonkeyPatch, rank: int, paired: bool) -> None:
    """The second part has no mismatched pair and one negative fewer. Its rows have the loss that they have in the whole batch."""
    theirs = [part([-1.0, -2.0], [[-3.0, -1.0], [-2.0, NONE]], [-4.0, -1.0]), part([-2.0], [[-1.0]], [NONE])]
    whole = part([-1.0, -2.0, -2.0], [[-3.0, -1.0], [-2.0, NONE], [-1.0, NONE]], [-4.0, -1.0, NONE])

    def ours(theirs: LogProbs) -> LogProbs:
        half = torch.tensor(0.5, requires_grad=True)
        assert theirs.mismatched is not None
        return theirs._replace(chosen=half * theirs.chosen, rejected=half * theirs.rejected, mismatched=half * theirs.mismatched)

    loss = KTO(beta=1.0, paired=paired)
    other = theirs[1 - rank]
    of_two(monkeypatch, rank, (ours(other), other))
    own = theirs[rank]
    batch = log_probs_of_batch(ours(own), own)
    terms = batch.own(loss(batch.policy, batch.reference), own.rejected.shape[1])
    expected = loss(ours(whole), whole)
    rows, width = slice(0, 2) if rank == 0 else slice(2, 3), own.rejected.shape[1]
    torch.testing.assert_close(terms.loss, expected.loss[rows])
    torch.testing.assert_close(terms.rejected_reward, expected.rejected_reward[rows, :width])
    assert terms.loss.grad_fn is not None
    if rank == 1:
        assert not torch.allclose(terms.loss, loss(ours(own), own).loss)  # alone this part has z0 = 0


@pytest.mark.parametrize(
    ("rank", "halves", "expected"), [(0, False, [5, 1]), (1, False, [2, 3, 4]), (0, True, [4, 5]), (1, True, [1, 2, 3])]
)
def test_neighbors_are_those_of_the_batch(monkeypatch: pytest.MonkeyPatch, rank: int, halves: bool, expected: list[int]) -> None:
    """Rows 1, 2 and 3, 4, 5: the row before in a cycle, or two rows before, which is half of 5 rounded down."""
    parts: list[Tensor] = [torch.tensor([1, 2]), torch.tensor([3, 4, 5])]
    of_two(monkeypatch, rank, parts[1 - rank])
    assert neighbors_of_batch(parts[rank], halves).tolist() == expected
