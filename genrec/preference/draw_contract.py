"""Stage 5, the contract of a draw: cheap enough for every training step, so that a plug-in's mistake stops the run (FAULTS C3).

In: a batch and the negatives drawn for it, int64 [B, count]. Out: nothing, or an `InputError` that names the user, the rule and what
to do.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.item_rows import repeated
from genrec.preference.exclusions import Exclusions, on_cpu
from genrec.types import SamplerContext, SequenceBatch


class DrawContract:
    """The rules of `genrec.types.DrawNegatives` for one training set, whose items are sorted once, here.

    Items are compared by their ids, and with the target by Semantic ID; `Exclusions`, which finds what may be drawn, is stricter where
    items share Semantic IDs. `offers_history`: items of the row's history are allowed, as from a draw that says so, unless the user
    takes them oftener than it shows.
    """

    def __init__(self, context: SamplerContext, offers_history: bool = False) -> None:
        self.items = context.item_count
        self.offers_history = offers_history
        self.forbidden = Exclusions(context)

    def check(self, batch: SequenceBatch, negatives: Tensor, count: int) -> None:
        """Refuse negatives that break a rule; the first user and the first rule are named."""
        _check_form(batch, negatives, count)
        rows, drawn = on_cpu(batch), negatives.cpu()
        for rule, broken in self._rules(rows, drawn):
            if bool(broken.any()):
                row, place = broken.nonzero()[0].tolist()
                raise InputError(
                    f"user {int(rows.user[row])}, target {int(rows.target[row])}: negative {int(drawn[row, place])} "
                    f"(place {place + 1} of {count}) {rule}"
                )

    def _rules(self, rows: SequenceBatch, drawn: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What is wrong, and where: bool [B, count]. A rule may rely on those before it."""
        remedy = "genrec.preference.exclusions.Exclusions(context)(batch, candidates) finds all items that must not be drawn"
        yield f"is not in the catalog; draw items 1..{self.items}, and 0 where none is left", (drawn < 0) | (drawn > self.items)
        yield "stands after an empty place; zeros belong at the end of the row", (drawn > 0) & ((drawn == 0).cumsum(1) > 0)
        yield "is drawn twice; the negatives of a row are distinct, and 0 where none is left", repeated(drawn) & (drawn > 0)
        yield f"is the target itself; {remedy}", (drawn == rows.target.unsqueeze(1)) & (drawn > 0)
        yield (
            f"has the target's Semantic ID, so that the pair teaches nothing; {remedy}",
            self.forbidden.shares_semantic_id(rows, drawn),
        )
        if self.offers_history:
            remedy = "Exclusions(context).elsewhere(batch, candidates) finds what a draw that offers the history must leave out"
            taken = self.forbidden.elsewhere(rows, drawn) & (drawn > 0)
            yield (
                f"has the Semantic ID of a training item of the user that the history does not show, or not as often; {remedy}",
                taken,
            )
            return
        past = self.forbidden.in_history(rows, drawn)
        yield f"is in the history, which only a draw with offers_history = True may offer; {remedy}", past
        yield f"is a training item of the user, taken before the target or later; {remedy}", self.forbidden.in_training(rows, drawn)


def check_draw(batch: SequenceBatch, negatives: Tensor, count: int, context: SamplerContext, offers_history: bool = False) -> None:
    """Check one draw; for many draws on one training set keep a `DrawContract`, which sorts its items only once."""
    DrawContract(context, offers_history).check(batch, negatives, count)


def _check_form(batch: SequenceBatch, negatives: Tensor, count: int) -> None:
    """Refuse what is no int64 [B, count] tensor on the batch's device."""
    if not isinstance(negatives, Tensor):
        raise InputError(f"negatives must be a tensor int64 [{len(batch.target)}, {count}], got {type(negatives).__name__}")
    expected, got = (len(batch.target), count), tuple(negatives.shape)
    if got != expected:
        users = f"users {int(batch.user[0])}..{int(batch.user[-1])}" if len(batch.user) else "no users"
        raise InputError(
            f"negatives of {users} must have shape {list(expected)}, got {list(got)}: a row for each example and a place for each "
            "negative asked for, with 0 in the places that cannot be filled"
        )
    if negatives.dtype != torch.int64:
        raise InputError(f"negatives must be int64, got {negatives.dtype}: return item ids, not scores or masks")
    if negatives.device != batch.target.device:
        raise InputError(f"negatives must be on the batch's device {batch.target.device}, got {negatives.device}: use .to()")
