"""The input of a preference step, its check, the order of its candidates, and means over its rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.errors import InputError
from genrec.objectives.batch_statistics import neighbors_of_batch
from genrec.own_ids import OwnIds, name_item, name_user
from genrec.preference.exclusions import Exclusions
from genrec.types import Candidates, PreferenceLoss, SequenceBatch, WindowBatch


def items_of(candidates: Candidates) -> Tensor:
    """Return the items of candidates, int64 [X, M], 0 where masked."""
    return candidates.items.masked_fill(~candidates.mask, 0)


def identities_of(candidates: Candidates) -> Tensor:
    """Return what tells candidates apart, int64 [X, M, 1 + L]: the item, 0 for codes that no item has, and these codes plus 1.

    All are 0 where masked. Without such codes it is the item alone, [X, M, 1].
    """
    items = items_of(candidates).unsqueeze(2)
    if candidates.codes is None:
        return items
    return torch.cat([items, (candidates.codes + 1).masked_fill(~candidates.mask.unsqueeze(2), 0)], 2)


def equal_identities(first: Tensor, second: Tensor) -> Tensor:
    """Return where rows of `identities_of`, [X, M, E] each with an M and E of its own, have equal candidates, bool [X]."""
    width, entries = (max(first.shape[axis], second.shape[axis]) for axis in (1, 2))
    padded = [pad(each, (0, entries - each.shape[2], 0, width - each.shape[1])) for each in (first, second)]
    return (padded[0] == padded[1]).flatten(1).all(1)


def in_words(identities: Tensor) -> str:
    """Return the candidates of a row, int64 [M, E] of `identities_of`, as a list of items and of tuples of codes."""
    shown = (row[0] or tuple(code - 1 for code in row[1:] if code) or 0 for row in identities.tolist())
    return str(list(shown))


class HostRows:
    """The CPU tensors of a step. A plain class, so that Lightning does not move them to the GPU: reading them blocks nothing."""

    def __init__(self, rows: SequenceBatch, candidates: Candidates | None, number: Tensor | None = None) -> None:
        self.rows, self.candidates, self.number = rows, candidates, number

    def numbered(self) -> tuple[Tensor, Tensor]:
        """Return the numbers of the examples, int64 [X], and the `identities_of` their candidates, int64 [X, M, E]."""
        assert self.number is not None
        assert self.candidates is not None
        return self.number, identities_of(self.candidates)


class PreparedRows(NamedTuple):
    """The input of a preference step."""

    batch: SequenceBatch | WindowBatch
    places: Tensor | None  # int64 [X, 2]  window and place of each row; None for prefixes
    rows: SequenceBatch  # [X]
    candidates: Candidates | None  # None if they are proposed within the step
    mismatched: Tensor | None  # int64 [X]  another row's positive, if the loss needs it
    host: HostRows  # rows and candidates on the CPU
    number: Tensor | None = None  # int64 [X]  numbers of the examples, if the reference's log-probabilities are kept


def check_positives(loss: PreferenceLoss, rows: SequenceBatch, candidates: Candidates, own_ids: OwnIds | None) -> None:
    """Raise InputError if a row that takes part has negatives but no positive, for a loss that needs one. All tensors on the CPU."""
    missing = ~candidates.mask[:, 0] & candidates.mask[:, 1:].any(1)
    missing = missing if candidates.rows is None else missing & candidates.rows
    if bool(missing.any()):
        row = int(missing.nonzero()[0])
        item = int(candidates.items[row, 1:][candidates.mask[row, 1:]][0])
        raise InputError(
            f"{name_user(own_ids, int(rows.user[row]))} has a rejected item, {name_item(own_ids, item)}, and no preferred one, but "
            f"{type(loss).__name__} compares the two; use KTO(paired=False), which learns from single items, or leave such rows out "
            "(Candidates.rows)"
        )


def mean_loss(losses: Tensor, counted: Tensor | None, weight: Tensor | None) -> Tensor:
    """Return the mean of losses float32 [X] over the counted rows (None: all), weighted by `weight` float32 [X] (None: all 1)."""
    if weight is None:
        return losses.mean() if counted is None else torch.where(counted, losses, 0.0).sum() / counted.sum().clamp(min=1)
    weight = weight if counted is None else torch.where(counted, weight, 0.0)
    return torch.where(weight > 0, weight * losses, 0.0).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def mean_likelihood(chosen: Tensor, has_positives: bool, weight: Tensor | None) -> Tensor:
    """Return the mean of level log-probabilities float32 [X, L] of the first candidates, weighted by row as `mean_loss`.

    Unless `has_positives`, rows may be without a positive (-inf), and these are left out; the mean of no rows is 0.
    """
    if weight is None and has_positives:
        return chosen.mean()
    present = ~chosen.isneginf().any(1)
    rows = chosen.masked_fill(~present.unsqueeze(1), 0.0)
    if weight is None:
        return rows.sum() / (present.sum() * chosen.shape[1]).clamp(min=1)
    return mean_loss(rows.mean(1), present, weight)


def mismatched_items(rows: SequenceBatch, exclusions: Exclusions, halves: bool = False) -> Tensor:
    """Return the positive of the row before in the batch, int64 [X], 0 where both positives share a Semantic ID. Rows are on the CPU.

    KTO uses these mismatched pairs as its baseline. With `halves` it is the row that is half a batch before.
    """
    other = neighbors_of_batch(rows.target, halves)
    same = exclusions.shares_semantic_id(rows, other.unsqueeze(1)).squeeze(1)
    return other.masked_fill(same, 0)
