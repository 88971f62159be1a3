"""Statistics of a batch that several processes share: each computes a part of it, and the values of a loss count the rows of all.

With one process, and outside of a training step, every function returns its arguments and sends nothing. The parts that a process
computes one after the other (`Optimization.accumulate`) are batches of their own here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec import process_group
from genrec.types import LogProbs, PreferenceTerms


class RowMean(NamedTuple):
    """A weighted mean over rows of a part."""

    value: Tensor  # []
    counted: Tensor | None = None  # bool [X]  rows in the mean; None: all
    weight: Tensor | None = None  # float32 [X]  their weights; None: all 1

    def total(self, num_rows: int) -> Tensor:
        """Return the sum of the weights, float64 []."""
        if self.weight is not None:
            return (self.weight if self.counted is None else torch.where(self.counted, self.weight, 0.0)).double().sum()
        if self.counted is not None:
            return self.counted.double().sum()
        return torch.full((), num_rows, dtype=torch.float64, device=self.value.device)


def means_of_batch(num_rows: int, *means: RowMean) -> list[Tensor]:
    """Return what each mean over a part of X rows adds to the mean over the batch, divided by the part's share of the batch's rows.

    A training step adds up the losses of the parts, each times its share of the rows. That gives the mean over the batch if each row
    counts. A mean over rows with the total weight w of this part and W of the batch counts by w / W instead, so it is multiplied by
    (w / W) / (X / rows of the batch). Where W is 0 it is 0.
    """
    if len(process_group.partners()) == 1:
        return [each.value for each in means]
    own = torch.stack([each.total(num_rows) for each in (RowMean(means[0].value), *means)])
    shares = own / process_group.sum_of_partners(own).clamp(min=torch.finfo(own.dtype).tiny)
    return [each.value * factor.to(each.value.dtype) for each, factor in zip(means, shares[1:] / shares[0], strict=True)]


class BatchLogProbs(NamedTuple):
    """The log-probabilities of a batch. Those of other processes have no gradient."""

    policy: LogProbs
    reference: LogProbs
    rows: slice = slice(None)  # of this process

    def own(self, terms: PreferenceTerms, num_rejected: int) -> PreferenceTerms:
        """Return the terms of the rows of this process, which have so many negatives, from those of the batch."""
        loss, chosen, rejected = (each[self.rows] for each in terms)
        return PreferenceTerms(loss, chosen, rejected[:, :num_rejected])


def log_probs_of_batch(policy: LogProbs, reference: LogProbs) -> BatchLogProbs:
    """Return the log-probabilities of the batch from those of this part, whose rows keep their gradient.

    Parts with fewer negatives than others get masked ones.
    """
    if len(process_group.partners()) == 1:
        return BatchLogProbs(policy, reference)
    parts = process_group.of_partners((_on_host(policy), _on_host(reference)))
    rows = _own_rows([len(ours.chosen) for ours, _ in parts])
    parts[_place()] = (policy, reference)
    ours, theirs = (_joined(each, policy.chosen.device) for each in zip(*parts, strict=True))
    return BatchLogProbs(ours, theirs, rows)


def neighbors_of_batch(values: Tensor, halves: bool) -> Tensor:
    """Return for each row of a part, values int64 [X] on the CPU, the value of the row before it in the batch, in a cycle: int64 [X].

    With `halves` it is the row that is half a batch before.
    """
    parts = process_group.of_partners(values)
    batch = torch.cat(parts)
    return batch.roll(len(batch) // 2 if halves else 1)[_own_rows([len(each) for each in parts])]


def _place() -> int:
    """Return the place of this process among its partners."""
    return process_group.partners().index(process_group.rank())


def _own_rows(lengths: Sequence[int]) -> slice:
    """Return the rows of this process in the batch, of the number of rows of each partner."""
    first = sum(lengths[: _place()])
    return slice(first, first + lengths[_place()])


def _on_host(log_probs: LogProbs) -> LogProbs:
    optional = (log_probs.mismatched, log_probs.rewards, log_probs.levels)
    mismatched, rewards, levels = (None if each is None else each.detach().cpu() for each in optional)
    return LogProbs(log_probs.chosen.detach().cpu(), log_probs.rejected.detach().cpu(), log_probs.length, mismatched, rewards, levels)


def _joined(parts: Sequence[LogProbs], device: torch.device) -> LogProbs:
    """Return the rows of all parts, each with as many negatives as the widest part has."""
    width = max(each.rejected.shape[1] for each in parts)
    return LogProbs(
        torch.cat([each.chosen.to(device) for each in parts]),
        torch.cat([_widened(each.rejected.to(device), width) for each in parts]),
        parts[0].length,
        _joined_optional([each.mismatched for each in parts], None, device),
        _joined_optional([each.rewards for each in parts], 1 + width, device),
        _joined_optional([each.levels for each in parts], 1 + width, device),
    )


def _joined_optional(parts: Sequence[Tensor | None], width: int | None, device: torch.device) -> Tensor | None:
    given = [each.to(device) for each in parts if each is not None]
    return torch.cat(given if width is None else [_widened(each, width) for each in given]) if given else None


def _widened(values: Tensor, width: int) -> Tensor:
    """Return values [X, M] or [X, M, L] with M = `width`, -inf in the new places."""
    after = width - values.shape[1]
    return pad(values, (0, after) if values.ndim == 2 else (0, 0, 0, after), value=-torch.inf)
