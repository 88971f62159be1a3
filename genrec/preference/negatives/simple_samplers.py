"""Samplers that need no search: targets of the batch, items that share a prefix with the positive, and items of the history."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pandas import DataFrame
from torch import Generator, Tensor

from genrec.errors import InputError, UsageError
from genrec.item_rows import repeated
from genrec.plugin_source import components
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, UserItemPairs, on_cpu, take_first
from genrec.preference.negatives.without_replacement import Candidates, draw_without_replacement
from genrec.preference.prefix_groups import check_depth, first_leaves
from genrec.preference.range_checks import check_range
from genrec.preference.rating_requirements import check_below_liked, check_has_ratings, check_keeps_ratings
from genrec.types import Draw, SamplerContext, SequenceBatch
from genrec.types.specification import check_types


@dataclass(frozen=True)
class InBatch:
    """In-batch negatives: a uniform draw without replacement among the distinct targets of the batch.

    An item is in the batch with a probability that grows with its popularity. A batch with few distinct targets gives a shortfall.
    """

    def most_negatives(self, experiment: Any) -> float:
        """Return the number of targets in the rest of a batch, or of its part with `Optimization.accumulate`."""
        return float(min(each.optimization.part_size for each in experiment.alignments if self in components(each)) - 1)

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw."""
        return Draw(draw=_InBatch(Exclusions(context)))


class _InBatch:
    def __init__(self, exclusions: Exclusions) -> None:
        self.exclusions = exclusions

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        cpu_batch = on_cpu(batch)
        randomness = ExampleRandomness(cpu_batch, generator)
        targets = torch.unique(cpu_batch.target)
        candidates = Candidates(torch.full_like(cpu_batch.target, len(targets)), lambda _, places: targets[places])
        negatives = draw_without_replacement(cpu_batch, num_negatives, candidates, self.exclusions, randomness)
        return negatives.to(batch.target.device)


@dataclass(frozen=True)
class PrefixNeighbors:
    """Prefix negatives: a uniform draw without replacement among the items that share the positive's first `depth` codes.

    A deeper prefix gives harder negatives: the policy can only learn from the codes after it. A row whose positive has few such
    items has a shortfall.
    """

    depth: int = 1  # codes shared at least, 1 to L - 1

    def __post_init__(self) -> None:
        check_types(self, "PrefixNeighbors")
        if self.depth < 1:
            raise UsageError(f"PrefixNeighbors.depth must be at least 1, got {self.depth}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `depth` is not below the levels of a Semantic ID."""
        check_depth(self, self.depth, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError if `depth` is not below the levels of a Semantic ID."""
        if self.depth >= context.semantic_ids.levels:
            raise UsageError(
                f"PrefixNeighbors.depth must be below {context.semantic_ids.levels}, the levels of a Semantic ID, got {self.depth}: "
                "the policy cannot tell apart items that share all codes"
            )

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw."""
        self.check_context(context)
        return Draw(draw=_InPrefix(Exclusions(context), context, self.depth), by_example=True)


class _InPrefix:
    """Draws among the items below the positive's node. In the order of Semantic IDs they are a contiguous range."""

    def __init__(self, exclusions: Exclusions, context: SamplerContext, depth: int) -> None:
        self.exclusions = exclusions
        self.semantic_ids = context.semantic_ids
        first_of_leaf, self.items = self.semantic_ids.items_by_leaf()
        self.leaves = first_leaves(self.semantic_ids, depth)
        self.begin = first_of_leaf[self.leaves].long()  # int64 [nodes + 1]  start of each node's items

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        cpu_batch = on_cpu(batch)
        randomness = ExampleRandomness(cpu_batch, generator)
        node = torch.searchsorted(self.leaves, self.semantic_ids.leaf(cpu_batch.target), right=True) - 1
        begin, end = self.begin[node], self.begin[node + 1]

        def item(rows: Tensor, places: Tensor) -> Tensor:
            return self.items[begin[rows].unsqueeze(1) + places].long()

        candidates = Candidates(end - begin, item)
        negatives = draw_without_replacement(cpu_batch, num_negatives, candidates, self.exclusions, randomness)
        return negatives.to(batch.target.device)


@dataclass(frozen=True)
class AlreadySeen:
    """Seen negatives: a uniform draw without replacement among the items of the history, so the policy stops repeating them."""

    recent: int = 0  # newest items of the history to draw from; 0: all

    def __post_init__(self) -> None:
        check_types(self, "AlreadySeen")
        if self.recent < 0:
            raise UsageError(f"AlreadySeen.recent must be 0 (all of the history) or more, got {self.recent}")

    def most_negatives(self, experiment: Any) -> float:
        """Return `recent`. The length of a history is no limit, because a user without enough items is no error of the settings."""
        return float(self.recent or math.inf)

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw."""
        draw = _FromHistory(Exclusions(context), recent=self.recent or None)
        return Draw(draw=draw, by_example=True, offers_history=True)


@dataclass(frozen=True)
class Disliked:
    """Disliked negatives: a uniform draw without replacement among items of the history rated at most `max_rating` in training.

    If a user rated an item more than once, the last rating counts.
    """

    max_rating: float = 2.0  # highest rating that counts as a dislike, on the data set's scale

    def __post_init__(self) -> None:
        check_range(self, "max_rating")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the source has no ratings, or the split drops those or labels them liked."""
        check_has_ratings(self, experiment)
        check_keeps_ratings(self, "max_rating", experiment)
        check_below_liked(self, "max_rating", experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise InputError if no last rating of an item by a user is low enough."""
        self._disliked(context)

    def _disliked(self, context: SamplerContext) -> DataFrame:
        """Return each user's last event of an item, where its rating is at most `max_rating`."""
        table = context.interactions
        if "rating" not in table:
            columns = ", ".join(map(str, table))
            raise InputError(f"Disliked needs interactions with a rating, got the columns {columns}; use AlreadySeen()")
        last = table.sort_values("time", kind="stable").drop_duplicates(["user", "item"], keep="last")
        last = last[last["rating"] <= self.max_rating]
        if last.empty:
            lowest = table["rating"].min()
            raise InputError(
                f"Disliked.max_rating = {self.max_rating} matches no rating, the lowest is {lowest}: raise it, or use AlreadySeen()"
            )
        return last

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw."""
        last = self._disliked(context)
        users, items = (torch.from_numpy(last[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
        draw = _FromHistory(Exclusions(context), among=UserItemPairs(users, items, context.item_count))
        return Draw(draw=draw, by_example=True, offers_history=True)


class _FromHistory:
    """Draws items of the history that the user does not take again.

    `recent` restricts them to the newest items, `among` to (user, item) pairs.
    """

    def __init__(self, exclusions: Exclusions, recent: int | None = None, among: UserItemPairs | None = None) -> None:
        self.exclusions, self.recent, self.among = exclusions, recent, among

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        cpu_batch = on_cpu(batch)
        randomness = ExampleRandomness(cpu_batch, generator)
        past = cpu_batch.items.flip(1)[:, : self.recent]  # newest first, so that padding does not shift the random numbers
        past = past.masked_fill(repeated(past), 0)  # an item taken twice is not more likely
        past = past.gather(1, randomness.uniform(past.shape[1]).argsort(1))
        allowed = ~self.exclusions.allowing_history(cpu_batch, past)
        if self.among is not None:
            allowed &= self.among.contains(cpu_batch.user.unsqueeze(1), past)
        return take_first(past, allowed, num_negatives, self.exclusions.representative).to(batch.target.device)
