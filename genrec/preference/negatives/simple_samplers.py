"""Stage 5, negatives from what is at hand: other targets of the batch, items that share codes with the positive, the user's past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from genrec.errors import InputError, UsageError
from genrec.item_rows import repeated
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, Pairs, on_cpu, take_first
from genrec.preference.negatives.without_replacement import Candidates, draw_successively
from genrec.preference.prefix_groups import check_depth, first_leaves
from genrec.preference.range_checks import check_range
from genrec.types import DrawNegatives, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class InBatch:
    """The targets of the batch's other rows: a uniform draw without replacement among the distinct ones that are allowed.

    An item is as likely to be there as it is popular. A batch of few users has few, and rows a shortfall.
    """

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        return _InBatch(Exclusions(context))


class _InBatch:
    def __init__(self, forbidden: Exclusions) -> None:
        self.forbidden = forbidden

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        rows = on_cpu(batch)
        streams = ExampleRandomness(rows, generator)
        targets = torch.unique(rows.target)
        candidates = Candidates(torch.full_like(rows.target, len(targets)), lambda _, places: targets[places])
        return draw_successively(rows, count, candidates, self.forbidden, streams).to(batch.target.device)


@dataclass(frozen=True)
class PrefixNeighbors:
    """Items that share at least the first `depth` codes with the positive: a uniform draw without replacement among the allowed ones.

    The deeper, the harder: all that a policy can learn from such a pair is in the codes after those shared. A row whose positive
    has few neighbors has a shortfall.
    """

    depth: int = 1  # codes shared at least, 1 to L - 1

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise UsageError(f"PrefixNeighbors.depth must be at least 1, got {self.depth}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if a Semantic ID has no more levels than the positive shares with its negatives."""
        check_depth(self, self.depth, experiment)

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        if self.depth >= context.semantic_ids.levels:
            raise UsageError(
                f"PrefixNeighbors.depth must be below {context.semantic_ids.levels}, the levels of a Semantic ID, got {self.depth}: "
                "items that share all codes are one to the policy"
            )
        return _InPrefix(Exclusions(context), context, self.depth)


class _InPrefix:
    """Draws among the items below the positive's node of one depth: a run of the items in the order of their Semantic IDs."""

    by_example = True

    def __init__(self, forbidden: Exclusions, context: SamplerContext, depth: int) -> None:
        self.forbidden = forbidden
        self.ids = context.semantic_ids
        first_of_leaf, self.items = self.ids.items_by_leaf()
        self.leaves = first_leaves(self.ids, depth)
        self.begin = first_of_leaf[self.leaves].long()  # int64 [nodes + 1]  where its items begin

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        rows = on_cpu(batch)
        streams = ExampleRandomness(rows, generator)
        node = torch.searchsorted(self.leaves, self.ids.leaf(rows.target), right=True) - 1
        begin, end = self.begin[node], self.begin[node + 1]

        def item(some: Tensor, places: Tensor) -> Tensor:
            return self.items[begin[some].unsqueeze(1) + places].long()

        return draw_successively(rows, count, Candidates(end - begin, item), self.forbidden, streams).to(batch.target.device)


@dataclass(frozen=True)
class AlreadySeen:
    """Items of the history, the target left out: a uniform draw without replacement, so that what was taken is not offered again."""

    recent: int = 0  # of the history only the last so many items; 0 = all

    def __post_init__(self) -> None:
        if self.recent < 0:
            raise UsageError(f"AlreadySeen.recent must be 0 (all of the history) or more, got {self.recent}")

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        return _OfHistory(Exclusions(context), recent=self.recent or None)


@dataclass(frozen=True)
class Disliked:
    """Items of the history that the user rated `at_most` or less in training: a uniform draw without replacement.

    A rating is taken as it stands; an item that a user rated more than once counts by the last rating.
    """

    max_rating: float = 2.0  # the highest rating that says dislike, on the data set's scale

    def __post_init__(self) -> None:
        check_range(self, "max_rating")

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        table = context.interactions
        if "rating" not in table:
            columns = ", ".join(map(str, table))
            raise InputError(f"Disliked needs interactions with a rating, got the columns {columns}; use AlreadySeen()")
        last = table.sort_values("time", kind="stable").drop_duplicates(["user", "item"], keep="last")
        last = last[last["rating"] <= self.max_rating]
        if last.empty:
            lowest = table["rating"].min()
            raise InputError(
                f"Disliked.max_rating {self.max_rating} leaves no rating: the lowest is {lowest}; raise it, or use AlreadySeen()"
            )
        users, items = (torch.from_numpy(last[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
        return _OfHistory(Exclusions(context), among=Pairs(users, items, context.item_count))


class _OfHistory:
    """Draws items of the history that the user does not take again: the last `recent`, and of those the ones `among` some pairs."""

    by_example = True
    offers_history = True

    def __init__(self, forbidden: Exclusions, recent: int | None = None, among: Pairs | None = None) -> None:
        self.forbidden, self.recent, self.among = forbidden, recent, among

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        rows = on_cpu(batch)
        streams = ExampleRandomness(rows, generator)
        past = rows.history.flip(1)[:, : self.recent]  # the newest first, so that a number belongs to an age, whatever the padding
        past = past.masked_fill(repeated(past), 0)  # an item taken twice is no likelier
        past = past.gather(1, streams.uniform(past.shape[1]).argsort(1))
        allowed = ~(self.forbidden.refused(rows, past) | self.forbidden.elsewhere(rows, past))
        if self.among is not None:
            allowed &= self.among.contain(rows.user.unsqueeze(1), past)
        return take_first(past, allowed, count, self.forbidden.one).to(batch.target.device)
