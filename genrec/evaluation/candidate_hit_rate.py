"""The hit rate among a few drawn candidates: the protocol of papers on language models for recommendation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from genrec.errors import NumericsError, UsageError
from genrec.evaluation.scored_lists import recommend_batch
from genrec.item_rows import contains, repeated
from genrec.plugin_source import name_with_place
from genrec.randomness import seed_of, splitmix64
from genrec.types import Evaluated, Policy, SequenceBatch, UserRecommender
from genrec.types.specification import check_types

EXCLUDE_BYTES = 200 * 2**20  # memory for the excluded items of one batch of users
MAX_DRAWS = 2**26  # draws for the users of one batch that are held at once: 512 MB


@dataclass(frozen=True)
class CandidateHitRate:
    """hit_rate@1[20 candidates]: whether the target is the best of 20 candidates; the mean is HitRate@1 of the LLM papers.

    The candidates are the target and `num_candidates` - 1 items, drawn uniformly without replacement from the items that the user has
    not taken before the target. They come from a random order of the catalog that depends on `seed` and the user alone, from which the
    target is left out: the same for all rows, seeds of the training, and batches, and no other user's target changes them. NaN for a
    user for whom the catalog has too few such items.

    A policy scores the candidates exactly (`log_prob`, no beam search). The value is 1 divided by the number of candidates with the
    target's score if no candidate has a higher one, else 0; candidates that share the target's Semantic ID have its score. Any other
    recommender ranks the candidates with all other items excluded, so that its own order decides between equal scores.

    It is not comparable with a rank in the full catalog. Source: Liao et al. 2024 (LLaRA, arXiv 2312.02445) and Chen et al. 2024
    (S-DPO, arXiv 2406.09215): 20 candidates that the user has not interacted with, the target among them.
    """

    num_candidates: int = 20  # with the target, at least 2
    seed: int = 0  # of the draw; the rows of a table must share it

    def __post_init__(self) -> None:
        check_types(self, "CandidateHitRate")
        if self.num_candidates < 2:
            raise UsageError(f"CandidateHitRate.num_candidates must be at least 2, the target and an item, got {self.num_candidates}")
        if self.seed < 0:
            raise UsageError(f"CandidateHitRate.seed must be 0 or more, got {self.seed}")

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        """Return the hit of each user."""
        return {f"hit_rate@1[{self.num_candidates} candidates]": evaluated.by_user(partial(self._hits, evaluated))}

    def _hits(self, evaluated: Evaluated, batch: SequenceBatch) -> Tensor:
        """Return the hits of a batch, float64 [B]."""
        user, target, items = batch.user.cpu(), batch.target.cpu(), len(evaluated.popularity) - 1
        others = draw_candidates(user, target, evaluated.seen(user), items, self.num_candidates - 1, self.seed)
        candidates = torch.cat([target.unsqueeze(1), others], 1)
        is_scored = isinstance(evaluated.recommender, Policy) and not isinstance(evaluated.recommender, UserRecommender)
        score = _policy_hits if is_scored else _recommender_hits
        return score(evaluated, batch, candidates).masked_fill((candidates == 0).any(1), torch.nan)


def draw_candidates(user: Tensor, target: Tensor, taken: Tensor, items: int, count: int, seed: int) -> Tensor:
    """Return `count` items of 1..items for each user, int64 [B, count], neither the target nor in `taken`; rows of 0 if too few exist.

    `user` and `target` are int64 [B], `taken` int64 [B, E] with 0 for none. A user's items are the first allowed ones, without
    repetitions, of an endless sequence of uniform draws that is a function of seed and user.
    """
    excluded = torch.cat([taken.cpu(), target.unsqueeze(1)], 1)
    allowed = items - (~repeated(excluded) & (excluded > 0)).sum(1)
    found = torch.zeros(len(user), count, dtype=torch.int64)
    waiting = (allowed >= count).nonzero().squeeze(1)
    length = 2 * count + 16
    while len(waiting):
        finished = []
        for rows in torch.split(waiting, max(1, MAX_DRAWS // length)):
            draws = _draws(user[rows], items, length, seed)
            kept = ~repeated(draws) & ~contains(excluded[rows], draws)
            place = kept.cumsum(1)
            done = place[:, -1] >= count
            row, column = (kept & (place <= count) & done.unsqueeze(1)).nonzero(as_tuple=True)
            found[rows[done]] = draws[row, column].view(-1, count)
            finished.append(done)
        waiting, length = waiting[~torch.cat(finished)], 2 * length
    return found


def _draws(user: Tensor, items: int, length: int, seed: int) -> Tensor:
    """Return the first `length` draws of each user from 1..items, int64 [B, length]."""
    start = splitmix64(user.numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed_of(seed, "candidates")))
    steps = np.arange(1, length + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = splitmix64(start[:, None] + steps[None, :])
    return torch.from_numpy((bits % np.uint64(items)).astype(np.int64)) + 1


def _policy_hits(evaluated: Evaluated, batch: SequenceBatch, candidates: Tensor) -> Tensor:
    """Return the hits by the log-probabilities of the candidates, float64 [B]; the target is the first candidate."""
    policy = evaluated.recommender
    assert isinstance(policy, Policy)
    scores = policy.log_prob(batch.history, candidates.to(batch.history.device)).cpu()
    if bool((scores.isnan() & (candidates > 0)).any()):
        raise NumericsError(f"{name_with_place(type(policy))}: log_prob returned NaN for a candidate of CandidateHitRate")
    numbers = candidates if evaluated.shared is None else evaluated.shared[candidates]
    equal = (numbers == numbers[:, :1]) | (scores == scores[:, :1])  # one Semantic ID is one score, whatever the rounding
    return (~((scores > scores[:, :1]) & ~equal).any(1)).double() / equal.sum(1)


def _recommender_hits(evaluated: Evaluated, batch: SequenceBatch, candidates: Tensor) -> Tensor:
    """Return the hits of the best candidate, float64 [B], with all other items excluded; the target is the first candidate."""
    items = len(evaluated.popularity) - 1
    size, best = max(1, EXCLUDE_BYTES // (8 * items)), []
    for begin in range(0, len(candidates), size):
        part, kept = SequenceBatch(*(column[begin : begin + size] for column in batch)), candidates[begin : begin + size]
        exclude = torch.arange(items + 1).repeat(len(kept), 1).scatter_(1, kept, 0).to(part.history.device)
        best.append(recommend_batch(evaluated.recommender, part, 1, exclude).items[:, 0].cpu())
    return (torch.cat(best) == candidates[:, 0]).double()
