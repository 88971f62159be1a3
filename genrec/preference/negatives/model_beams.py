"""Negatives from the policy's own beams: its best wrong items, under the reference or under a refreshed copy of the policy.

Self-play with the model's own outputs follows SPRec (Gao et al. 2024, arXiv 2412.09243). With a locked prefix, the wrong items
differ from the positive only in its later codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Generator, Tensor

from genrec.errors import UsageError
from genrec.policy_modules import device_of
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, on_cpu, take_first
from genrec.preference.level_checks import check_has_levels
from genrec.preference.prefix_groups import check_depth
from genrec.types import Draw, Policy, PrefixPolicy, Refresh, SamplerContext, SequenceBatch
from genrec.types.event_history import items_of
from genrec.types.specification import check_types

SEARCH_CHUNK = 256  # histories searched at a time


@dataclass(frozen=True)
class ModelBeams:
    """The policy's best items: a uniform draw without replacement among the `num_beams` best items of `context.policy`.

    The list leaves out the target and, unless `seen` is true, the history. With `locked_levels` the search stays below the target's
    first codes; the target and the history then use up places of the list and are removed afterwards. A row with fewer than
    `num_negatives` allowed items in its list has a shortfall.
    """

    num_beams: int = 20  # length of the list, at least 1, at most the policy's own num_beams
    locked_levels: int = 0  # first codes that a negative shares with the target, 0 to L - 1; above 0 needs a `PrefixPolicy`
    seen: bool = False  # whether items of the history may be drawn; they are common errors where lists keep seen items
    refresh_every: int = 0  # `refresh_unit`s between copies of the policy in training to the searched policy; 0: the reference
    refresh_unit: Literal["steps", "epochs"] = "steps"

    def __post_init__(self) -> None:
        check_types(self, "ModelBeams")
        for name, smallest in (("num_beams", 1), ("locked_levels", 0), ("refresh_every", 0)):
            if getattr(self, name) < smallest:
                raise UsageError(f"ModelBeams.{name} must be at least {smallest}, got {getattr(self, name)}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `num_beams` exceeds the policy's, or `locked_levels` the levels of a Semantic ID."""
        policy_beams = getattr(experiment.policy, "num_beams", None)
        if policy_beams is not None and self.num_beams > policy_beams:
            raise UsageError(
                f"align.negatives: ModelBeams.num_beams must be at most policy.num_beams = {policy_beams}, got {self.num_beams}"
            )
        check_depth(self, self.locked_levels, experiment)
        if self.locked_levels:
            check_has_levels(self, f"a search below a prefix (locked_levels = {self.locked_levels})", experiment)

    def most_negatives(self, experiment: Any) -> float:
        """Return the length of the list."""
        return float(self.num_beams)

    def policy_refresh(self) -> Refresh:
        """Return the refresh of the policy that is searched."""
        return Refresh(self.refresh_every, self.refresh_unit)

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError unless the context has a policy that can make these lists."""
        policy = context.policy
        if policy is None:
            raise UsageError("ModelBeams draws from a policy's beams, got a context without a policy: pass SamplerContext.policy")
        levels = context.semantic_ids.levels
        policy_beams = getattr(getattr(policy, "specification", None), "num_beams", self.num_beams)
        if self.locked_levels >= levels:
            raise UsageError(f"ModelBeams.locked_levels must be below {levels}, the levels of a Semantic ID, got {self.locked_levels}")
        if self.locked_levels and not isinstance(policy, PrefixPolicy):
            raise UsageError(
                f"ModelBeams.locked_levels = {self.locked_levels} needs a policy that searches below a prefix "
                f"(genrec.types.PrefixPolicy), got {type(policy).__name__}, which has no recommend_below; use locked_levels = 0"
            )
        if self.num_beams > policy_beams:
            raise UsageError(
                f"ModelBeams.num_beams must be at most policy.num_beams = {policy_beams}, got {self.num_beams}: lower it, or raise "
                "policy.num_beams"
            )

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw. It searches with the weights that `context.policy` has at the time of each draw."""
        self.check_context(context)
        draw = _DrawFromBeams(self, context, cast(Policy, context.policy))
        return Draw(draw=draw, by_example=True, offers_history=self.seen, refresh=self.policy_refresh())


class _DrawFromBeams:
    """Draws uniformly among the allowed items of the policy's list.

    The negatives of an example do not depend on its batch, up to rounding: two items with nearly equal scores may swap places at the
    end of the list.
    """

    def __init__(self, specification: ModelBeams, context: SamplerContext, policy: Policy) -> None:
        self.specification, self.policy = specification, policy
        self.exclusions = Exclusions(context)

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        """Shuffle each row's list and take the first allowed items."""
        cpu_batch = on_cpu(batch)
        listed = self._search(cpu_batch)
        order = ExampleRandomness(cpu_batch, generator).uniform(listed.shape[1]).argsort(1)
        candidates = listed.gather(1, order)
        mask = self.exclusions.allowing_history if self.specification.seen else self.exclusions
        negatives = take_first(candidates, ~mask(cpu_batch, candidates), num_negatives, self.exclusions.representative)
        return negatives.to(batch.target.device)

    @torch.no_grad()
    def _search(self, batch: SequenceBatch) -> Tensor:
        """Return the list of each row, int64 [B, beams], 0 = padding.

        Items are sorted by id, so a draw does not depend on the order of near ties.
        """
        device = device_of(self.policy)
        parts = [torch.empty(0, self.specification.num_beams, dtype=torch.int64)]
        for begin in range(0, len(batch.target), SEARCH_CHUNK):
            part = slice(begin, begin + SEARCH_CHUNK)
            parts.append(self._best(batch.history[part].to(device), batch.target[part].to(device)).cpu())
        return torch.cat(parts).sort(1).values

    def _best(self, history: Tensor, target: Tensor) -> Tensor:
        """Return the best items, int64 [R, beams], for histories int64 [R, T] and targets int64 [R]."""
        beams, locked = self.specification.num_beams, self.specification.locked_levels
        if locked:
            return cast(PrefixPolicy, self.policy).recommend_below(history, target, locked, beams).items
        column = target.unsqueeze(1)
        excluded = column if self.specification.seen else torch.cat([items_of(history), column], 1)
        return self.policy.recommend(history, beams, excluded).items
