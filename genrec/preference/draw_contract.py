"""Runtime check of drawn negatives against the rules of `genrec.types.Draw`.

The check is cheap enough to run in every training step, so a bug in a plug-in stops the run instead of training on wrong pairs.
`check_draw` is public: use it in tests of your own sampler.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.item_rows import repeated
from genrec.own_ids import name_item, name_row, name_user
from genrec.preference.disliked_pairs import DislikedPairs
from genrec.preference.exclusions import Exclusions, on_cpu
from genrec.types import SamplerContext, SequenceBatch


class DrawContract:
    """The rules of `genrec.types.Draw` for one training set. Its interactions are sorted once, on construction.

    Items are compared by id, and with the target by Semantic ID. `Exclusions`, which samplers use, is stricter where items share a
    Semantic ID. With `offers_history`, items of the history are allowed unless the user takes them more often than the history
    shows. With `offers_disliked`, training items that the user dislikes are allowed, wherever they stand.
    """

    def __init__(
        self, context: SamplerContext, offers_history: bool = False, sampler: str = "", offers_disliked: bool = False
    ) -> None:
        self.item_count, self.own_ids = context.item_count, context.own_ids
        self.offers_history = offers_history
        self.prefix = f"{sampler}: " if sampler else ""  # of messages
        self.exclusions = Exclusions(context)
        self.disliked = DislikedPairs(context, self.exclusions.representative) if offers_disliked else None

    def check(self, batch: SequenceBatch, negatives: Tensor, num_negatives: int) -> None:
        """Raise InputError if negatives int64 [B, num_negatives] break a rule. The error names the first user and the first rule."""
        self._check_form(batch, negatives, num_negatives)
        cpu_batch, drawn = on_cpu(batch), negatives.cpu()
        for rule, broken in self._rules(cpu_batch, drawn):
            if bool(broken.any()):
                row, place = broken.nonzero()[0].tolist()
                named = name_row(self.own_ids, int(cpu_batch.user[row]), int(cpu_batch.target[row]))
                raise InputError(
                    f"{self.prefix}{named}: negative {self._name_negative(int(drawn[row, place]))} (place {place + 1} of "
                    f"{num_negatives}) {rule}"
                )

    def _name_negative(self, item: int) -> str:
        """Return the name of a negative, which may be no item."""
        return name_item(self.own_ids if 1 <= item <= self.item_count else None, item)

    def _check_form(self, batch: SequenceBatch, negatives: Tensor, num_negatives: int) -> None:
        """Raise InputError unless `negatives` is an int64 [B, num_negatives] tensor on the batch's device."""
        prefix, expected = self.prefix, (len(batch.target), num_negatives)
        if not isinstance(negatives, Tensor):
            raise InputError(f"{prefix}negatives must be a tensor int64 {list(expected)}, got {type(negatives).__name__}")
        if tuple(negatives.shape) != expected:
            ends = (name_user(self.own_ids, int(batch.user[place])) for place in ((0, -1) if len(batch.user) else ()))
            raise InputError(
                f"{prefix}negatives of {' to '.join(ends) or 'no users'} must have shape {list(expected)}, got "
                f"{list(negatives.shape)}: return one row per example and one column per negative, with 0 where no candidate remains"
            )
        if negatives.dtype != torch.int64:
            raise InputError(f"{prefix}negatives must be int64, got {negatives.dtype}: return item ids, not scores or masks")
        if negatives.device != batch.target.device:
            raise InputError(
                f"{prefix}negatives must be on the batch's device {batch.target.device}, got {negatives.device}: use "
                ".to(batch.target.device)"
            )

    def _rules(self, batch: SequenceBatch, drawn: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield each rule with the places that break it, bool [B, num_negatives]. A rule may rely on the rules before it."""
        remedy = "to find all excluded items, call genrec.preference.exclusions.Exclusions(context)(batch, candidates)"
        yield (
            f"is not in the catalog; draw items 1..{self.item_count}, and pad a short row with 0",
            (drawn < 0) | (drawn > self.item_count),
        )
        yield "comes after a 0; put the zeros at the end of the row", (drawn > 0) & ((drawn == 0).cumsum(1) > 0)
        yield f"is the target itself; {remedy}", (drawn == batch.target.unsqueeze(1)) & (drawn > 0)
        yield "is repeated; draw distinct items, and pad a short row with 0", repeated(drawn) & (drawn > 0)
        yield (
            f"has the target's Semantic ID, so the policy cannot tell the two apart; {remedy}",
            self.exclusions.shares_semantic_id(batch, drawn),
        )
        offered = torch.zeros_like(drawn, dtype=torch.bool) if self.disliked is None else self.disliked.contains(batch.user, drawn)
        if self.offers_history:
            remedy = "to find these items, call Exclusions(context).outside_history(batch, candidates)"
            outside = self.exclusions.outside_history(batch, drawn) & (drawn > 0) & ~offered
            yield (
                f"has the Semantic ID of a training item that the user takes outside the history; {remedy}",
                outside,
            )
            return
        in_history = self.exclusions.in_history(batch, drawn) & ~offered
        yield f"is in the history, which is allowed only for a Draw(offers_history=True); {remedy}", in_history
        in_training = self.exclusions.in_training(batch, drawn) & ~offered
        if self.disliked is not None:
            yield (
                "is a training item that the user does not dislike; a Draw(offers_disliked=True) may offer dislikes only",
                in_training,
            )
            return
        yield f"is a training item of the user, before or after the target; {remedy}", in_training


def check_draw(
    batch: SequenceBatch,
    negatives: Tensor,
    num_negatives: int,
    context: SamplerContext,
    offers_history: bool = False,
    offers_disliked: bool = False,
) -> None:
    """Check a single draw, for example in a test. For many draws from one training set, reuse a `DrawContract`."""
    DrawContract(context, offers_history, offers_disliked=offers_disliked).check(batch, negatives, num_negatives)
