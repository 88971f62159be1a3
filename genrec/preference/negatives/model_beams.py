"""Stage 5, negatives that the policy itself offers: its own wrong beams, as it is at the start or as it is refreshed while training.

Source: self-play with the model's own outputs, SPRec (Gao et al. 2024, arXiv 2412.09243); under a locked prefix the wrong beams differ
from the positive only in its later codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Generator, Tensor, nn

from genrec.errors import UsageError
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, on_cpu, take_first
from genrec.preference.prefix_groups import check_depth
from genrec.types import DrawNegatives, Policy, PrefixPolicy, SamplerContext, SequenceBatch

ROWS = 256  # histories that the policy searches for at once


@dataclass(frozen=True)
class ModelBeams:
    """A uniform draw without replacement among the best items of `context.policy`, the allowed ones of them.

    The list is the policy's best `beams` items but the target and, unless `seen`, the history. With `locked` the search stays below
    the target's first codes, and target and history are among the `beams` and left out of them. A row whose list holds fewer than
    `count` allowed items has a shortfall.
    """

    num_beams: int = 20  # items of the list, at least 1, at most the policy's own beams
    locked_levels: int = 0  # first codes that a negative shares with the target, 0 to levels - 1; above 0 it needs a `PrefixPolicy`
    seen: bool = False  # whether items of the history may be negatives: the commonest wrong answers where lists keep seen items
    refresh_every: int = (
        0  # `refresh_unit`s after which the policy that searches becomes the one in training; 0: it stays the reference
    )
    refresh_unit: Literal["steps", "epochs"] = "steps"

    def __post_init__(self) -> None:
        for name, least in (("num_beams", 1), ("locked_levels", 0), ("refresh_every", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"ModelBeams.{name} must be at least {least}, got {getattr(self, name)}")
        if self.refresh_unit not in ("steps", "epochs"):
            raise UsageError(f"ModelBeams.refresh_unit must be 'steps' or 'epochs', got {self.refresh_unit!r}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the policy has fewer beams, or a Semantic ID no more levels than are locked."""
        own = getattr(experiment.policy, "num_beams", None)
        if own is not None and self.num_beams > own:
            raise UsageError(f"align.negatives: ModelBeams.num_beams must be at most policy.num_beams = {own}, got {self.num_beams}")
        check_depth(self, self.locked_levels, experiment)

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws, with the policy as it is at the time of the draw."""
        policy = context.policy
        if policy is None:
            raise UsageError("ModelBeams draws from a policy's beams, got a context without a policy: pass SamplerContext.policy")
        levels, own = context.semantic_ids.levels, getattr(getattr(policy, "specification", None), "num_beams", self.num_beams)
        if self.locked_levels >= levels:
            raise UsageError(
                f"ModelBeams.locked_levels must be below {levels}, the number of codes of an item, got {self.locked_levels}"
            )
        if self.locked_levels and not isinstance(policy, PrefixPolicy):
            raise UsageError(
                f"ModelBeams.locked_levels = {self.locked_levels} needs a policy that searches below a prefix (genrec.types.PrefixPolicy), "
                f"got {type(policy).__name__}, which has no recommend_below; use locked_levels = 0"
            )
        if self.num_beams > own:
            raise UsageError(
                f"ModelBeams.num_beams must be at most policy.num_beams = {own}, got {self.num_beams}; draw from fewer, or give the policy more"
            )
        return _Searched(self, context, policy)


class _Searched:
    """Draws uniformly among the allowed items of the policy's list.

    An example's negatives do not depend on its batch but for the rounding of scores: two items that are equal to the last bits may
    change places at the end of the list.
    """

    by_example = True

    def __init__(self, specification: ModelBeams, context: SamplerContext, policy: Policy) -> None:
        self.specification, self.policy = specification, policy
        self.forbidden = Exclusions(context)
        self.refresh_every, self.refresh_unit = specification.refresh_every, specification.refresh_unit
        self.offers_history = specification.seen

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        """Shuffle each row's list and take the first `count` allowed."""
        rows = on_cpu(batch)
        listed = self._search(rows)
        order = ExampleRandomness(rows, generator).uniform(listed.shape[1]).argsort(1)
        candidates = listed.gather(1, order)
        return take_first(candidates, ~self._refused(rows, candidates), count, self.forbidden.one).to(batch.target.device)

    @torch.no_grad()
    def _search(self, rows: SequenceBatch) -> Tensor:
        """The list of each row, int64 [B, beams], by item id, so that the draw does not hang on the order of near ties; 0 = none."""
        device = _device(self.policy)
        parts = [torch.empty(0, self.specification.num_beams, dtype=torch.int64)]
        for begin in range(0, len(rows.target), ROWS):
            part = slice(begin, begin + ROWS)
            parts.append(self._best(rows.history[part].to(device), rows.target[part].to(device)).cpu())
        return torch.cat(parts).sort(1).values

    def _best(self, history: Tensor, target: Tensor) -> Tensor:
        """Histories int64 [R, T] and targets int64 [R] -> items int64 [R, beams]."""
        beams, locked = self.specification.num_beams, self.specification.locked_levels
        if locked:
            return cast(PrefixPolicy, self.policy).recommend_below(history, target, locked, beams).items
        column = target.unsqueeze(1)
        excluded = column if self.specification.seen else torch.cat([history, column], 1)
        return self.policy.recommend(history, beams, excluded).items

    def _refused(self, rows: SequenceBatch, candidates: Tensor) -> Tensor:
        """What may not be drawn, bool [B, M]: what `Exclusions` says, but for the history where it is offered."""
        forbidden = self.forbidden
        if not self.offers_history:
            return forbidden(rows, candidates)
        return forbidden.refused(rows, candidates) | forbidden.elsewhere(rows, candidates)


def _device(policy: Policy) -> torch.device:
    """Where the policy's weights are now; the training may move them after the sampler is built."""
    return next(cast(nn.Module, policy).parameters()).device
