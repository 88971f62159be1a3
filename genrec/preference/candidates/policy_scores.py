"""Scores of a policy on rows: the whole catalog where the policy scores it exactly, else its beams and samples."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from genrec.item_rows import best_items
from genrec.policy_modules import evaluation_mode
from genrec.preference.candidates.gumbel_top_k import gumbel_top_k
from genrec.types import ConstrainedPolicy, ItemSample, PlaceSearchPolicy, Policy, Ranking, SamplingPolicy

MAX_CELLS = 2**22  # scores of the catalog that are compared with an item's at once on a CPU, 16 MB

Normalize = Literal["codes", "children"]


class CatalogScores:
    """The log-probabilities of all items of each row."""

    def __init__(self, log_prob: Tensor) -> None:
        self.log_prob = log_prob  # float32 [X, N], column i is item i + 1

    def level_log_prob(self, items: Tensor) -> Tensor:
        """Return the log-probabilities of items int64 [X, M] as one level, float32 [X, M, 1], -inf where an item is 0."""
        gathered = self.log_prob.gather(1, (items - 1).clamp(min=0))
        return gathered.masked_fill(items == 0, -torch.inf).unsqueeze(-1)

    @torch.no_grad()
    def top(self, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items of each row; equal scores are ordered by item id. `exclude` is as in `Recommender.recommend`."""
        return best_items(self.log_prob.detach(), n, exclude)

    @torch.no_grad()
    def sample(self, n: int, exclude: Tensor | None, generator: Generator) -> ItemSample:
        """Draw `n` distinct items of each row by Gumbel top-k; `exclude` is as in `top`, `generator` on the device of the rows."""
        log_prob = self.log_prob.detach()
        if exclude is not None:
            log_prob = pad(log_prob, (1, 0)).scatter(1, exclude, -torch.inf)[:, 1:]
        drawn = gumbel_top_k(log_prob, n, generator)
        items = (drawn.columns + 1).masked_fill(~drawn.drawn, 0)
        of_items = self.level_log_prob(items).detach().squeeze(-1)
        return ItemSample(items, of_items, of_items, drawn.threshold)

    @torch.no_grad()
    def rank(self, items: Tensor) -> Tensor:
        """Return the place (0 is the best) of items int64 [X, M] in the catalog, in the order of `top`: int64 [X, M]; N for item 0."""
        scores, count = self.log_prob.detach(), self.log_prob.shape[1]
        ids = torch.arange(1, count + 1, device=items.device)
        rows = max(1, MAX_CELLS // count) if items.device.type == "cpu" else max(1, len(items))
        parts = [torch.zeros_like(items[:0])]
        for part, wanted in zip(torch.split(scores, rows), torch.split(items, rows), strict=True):
            columns = []
            for item in wanted.unbind(1):
                score = part.gather(1, (item - 1).clamp(min=0).unsqueeze(1))
                before = (part > score).sum(1) + ((part == score) & (ids < item.unsqueeze(1))).sum(1)
                columns.append(before.masked_fill(item == 0, count))
            parts.append(torch.stack(columns, 1))
        return torch.cat(parts)


def prefix_level_log_prob(policy: Policy, history: Tensor, items: Tensor, normalize: Normalize) -> Tensor:
    """Return level log-probabilities float32 [X, M, L] of items int64 [X, M] after whole histories int64 [X, T]."""
    if normalize == "codes":
        return policy.level_log_prob(history, items)
    return cast(ConstrainedPolicy, policy).constrained_level_log_prob(history, items)


@torch.no_grad()
def beams(policy: Policy, history: Tensor, n: int, exclude: Tensor | None, places: Tensor | None = None) -> Ranking:
    """Return the `n` best items in evaluation mode; the modes of all modules are restored.

    They follow histories int64 [B, T], or the places int64 [X, 2] of a `PlaceSearchPolicy`.
    """
    with evaluation_mode(policy):
        if places is None:
            return policy.recommend(history, n, exclude)
        return cast(PlaceSearchPolicy, policy).recommend_after(history, places, n, exclude)


@torch.no_grad()
def samples(
    policy: SamplingPolicy, history: Tensor, n: int, exclude: Tensor | None, generator: Generator, places: Tensor | None = None
) -> ItemSample:
    """Draw `n` distinct items in evaluation mode; arguments as in `beams`, `generator` on their device."""
    with evaluation_mode(policy):
        if places is None:
            return policy.sample_items(history, n, exclude, generator)
        return cast(PlaceSearchPolicy, policy).sample_items_after(history, places, n, exclude, generator)
