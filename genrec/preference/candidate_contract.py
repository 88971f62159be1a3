"""The contract of a proposer: what `Proposals` and `Candidates` must hold. Training and `check_proposer` check the same."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.item_rows import repeated
from genrec.own_ids import OwnIds, name_item, name_row
from genrec.plugin_source import name_with_place
from genrec.types import Candidates, Proposals, SequenceBatch
from genrec.value_forms import form_of

MAX_BEHAVIOR = 1e-4  # a log-probability is at most 0, but for rounding


def checked_proposals(proposer: object, found: object) -> Proposals:
    """Return what a proposer built. Raise InputError if it is not `Proposals` with one way to propose."""
    fault = proposals_fault(found)
    if fault is not None:
        raise InputError(f"{name_with_place(type(proposer))}: {fault}")
    assert isinstance(found, Proposals)
    return found


class CandidateCheck:
    """The check of the candidates of a training with a catalog of `num_items`.

    `own_ids` name users and items in messages. `masks`: the objective masks items 0 and items that a row has twice itself, so these
    are allowed.

    Types and shapes are checked in every step. On a GPU, where reading a value would make the CPU wait, values are checked only in the
    first step.
    """

    def __init__(self, proposer: object, num_items: int, own_ids: OwnIds | None, masks: bool = False) -> None:
        self.proposer, self.num_items, self.own_ids, self.masks, self.checked = proposer, num_items, own_ids, masks, False

    def __call__(self, found: object, rows: SequenceBatch) -> Candidates:
        """Return the candidates of rows. Raise InputError if they break the contract."""
        fault = candidates_fault(found, len(rows.target))
        if fault is None:
            assert isinstance(found, Candidates)
            if not self.checked or found.items.device.type == "cpu":
                fault = values_fault(found, rows, self.num_items, self.own_ids, self.masks)
        if fault is not None:
            raise InputError(f"{name_with_place(type(self.proposer))}: {fault}")
        assert isinstance(found, Candidates)
        self.checked = True
        return found


def without_target_first(candidates: Candidates, rows: SequenceBatch, representative: Tensor) -> str | None:
    """Return in words in how many rows the first candidate is not the target, None if in none. Waits for the device.

    Rows that take part and have a first candidate count. An item with the target's Semantic ID is the target. `representative` int64
    [N + 1] is the lowest item with the same Semantic ID.
    """
    counted = candidates.mask[:, 0] if candidates.rows is None else candidates.mask[:, 0] & candidates.rows
    first, target = (representative[each.cpu()] for each in (candidates.items[:, 0], rows.target))
    counted = counted.cpu()
    others, total = int((counted & (first != target)).sum()), int(counted.sum())
    return f"in {others / total:.1%} of the rows ({others} of {total}) the first candidate is not the target" if others else None


def proposals_fault(found: object) -> str | None:
    """Return what is wrong with the result of `build_proposals(context)`, or None."""
    if not isinstance(found, Proposals):
        return f"build_proposals(context) must return genrec.types.Proposals, got {type(found).__name__}"
    if [found.on_host, found.in_step, found.listed].count(None) != 2:
        return "give exactly one of Proposals.on_host, Proposals.in_step and Proposals.listed"
    return None


def candidates_fault(found: object, rows: int, items: str = "items") -> str | None:
    """Return what is wrong with the types and shapes of the candidates of `rows` rows, or None. `items` names the items."""
    if not isinstance(found, Candidates):
        return f"must return genrec.types.Candidates, got {type(found).__name__}"
    width = found.items.shape[1] if isinstance(found.items, Tensor) and found.items.ndim == 2 else "M"
    expected = (
        (items, found.items, torch.int64, (rows, width)),
        ("mask", found.mask, torch.bool, (rows, width)),
        ("rows", found.rows, torch.bool, (rows,)),
        ("behavior", found.behavior, torch.float32, (rows, width)),
        ("weight", found.weight, torch.float32, (rows,)),
    )
    for name, value, dtype, shape in expected:
        optional = name in ("rows", "behavior", "weight")
        fault = None if optional and value is None else tensor_fault(name, value, dtype, shape)
        if fault is not None:
            return fault
    if width == 0:
        return "a row must have at least one candidate, got none; mask the candidates of a row that has none"
    return None


def values_fault(
    found: Candidates, rows: SequenceBatch, num_items: int, own_ids: OwnIds | None, masks: bool = False
) -> str | None:  # fmt: skip
    """Return what is wrong with the values of candidates with the right shapes, or None. Waits for the device.

    The fault names the first row and candidate. `masks`: items 0 and items that a row has twice are allowed.
    """
    items, mask = found.items, found.mask
    outside = (items < 0) | (items > num_items)
    if not masks and found.codes is None:
        outside |= mask & (items == 0)
    twice = mask & (items > 0) & repeated(items.masked_fill(~mask, 0))
    behavior = found.behavior
    wrong_behavior = None if behavior is None else mask & ~(behavior.isfinite() & (behavior <= MAX_BEHAVIOR))
    weight = None if found.weight is None else ~(found.weight.isfinite() & (found.weight > 0))
    for fault, broken in (
        (f"items must lie in 1..{num_items}, or be 0 where the mask is false", outside),
        ("a row has the same item twice", None if masks else twice),
        ("behavior must hold finite log-probabilities of at most 0 where the mask is true", wrong_behavior),
        ("weight must hold finite numbers above 0; leave rows out by Candidates.rows", weight),
    ):
        if broken is not None and bool(broken.any()):
            return f"{fault}; {name_candidate(found, rows, num_items, own_ids, broken)}"
    return None


def name_candidate(
    found: Candidates, rows: SequenceBatch, num_items: int, own_ids: OwnIds | None, broken: Tensor
) -> str:  # fmt: skip
    """Return the row of the first true place of `broken`, bool [X] or [X, M], and the candidate there, in the ids of the data."""
    row, *place = broken.nonzero()[0].tolist()
    named = name_row(own_ids, int(rows.user[row]), int(rows.target[row]))
    if not place:
        return f"the first such row is of {named}"
    item = int(found.items[row, place[0]])
    shown = name_item(own_ids if 1 <= item <= num_items else None, item)
    return f"the first such candidate is {shown} (place {place[0] + 1} of {broken.shape[1]}) of {named}"


def tensor_fault(name: str, value: object, dtype: torch.dtype, shape: tuple[int | str, ...]) -> str | None:
    """Return what is wrong with a tensor that must have this type and shape, or None. No tensor has a letter in its shape."""
    if isinstance(value, Tensor) and value.dtype == dtype and tuple(value.shape) == shape:
        return None
    return f"{name} must be {str(dtype).removeprefix('torch.')} [{', '.join(map(str, shape))}], got {form_of(value)}"
