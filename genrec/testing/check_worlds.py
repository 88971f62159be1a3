"""A small synthetic training set for the checks of samplers, filters and rewards, with its batches and an untrained policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pandas import DataFrame
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot

from genrec.data.examples import Examples, Windows, num_windows, select_examples, with_targets
from genrec.data.feedback import labels_of
from genrec.data.feedback_targets import allowed_by_label
from genrec.errors import UsageError
from genrec.item_rows import contains, keys, prefixes, ranking
from genrec.own_ids import OwnIds
from genrec.semantic_ids import SemanticIds
from genrec.smoothed_log_probs import gather_smoothed
from genrec.testing.specification_checks import ContractError
from genrec.types import Feedback, FeedbackBounds, Padding, Ranking, SamplerContext, SequenceBatch


def sampler_context(seed: int = 0, items: int = 60, users: int = 40) -> SamplerContext:
    """Return a small synthetic training set with skewed popularity, vectors that follow the codes, and shared Semantic IDs.

    `items` is at least 20. Each user takes 3 to 12 distinct items and rates them 1 to 5: 4 and 5 are liked, 1 and 2
    disliked. The policy is a `WorldPolicy`.
    """
    if items < 20:
        raise UsageError(f"sampler_context needs at least 20 items, got {items}")
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (items, 3))
    codes[items - items // 5 :] = codes[: items // 5]  # the last fifth shares its Semantic IDs with the first fifth
    vectors = sum(rng.normal(size=(4, 16))[codes[:, level]] / 2**level for level in range(3))
    vectors = np.concatenate([np.zeros((1, 16)), vectors + 0.05 * rng.normal(size=(items, 16))])
    weights = 1 / (rng.permutation(items) + 1.0)
    taken = [rng.choice(items, rng.integers(3, 13), replace=False, p=weights / weights.sum()) + 1 for _ in range(users)]
    interactions = DataFrame(
        {
            "user": np.repeat(np.arange(users), [len(row) for row in taken]),
            "item": np.concatenate(taken),
            "time": np.concatenate([np.arange(len(row)) for row in taken]),
        }
    )
    interactions["rating"] = rng.integers(1, 6, len(interactions)).astype(float)
    interactions["label"] = labels_of(interactions["rating"].to_numpy(), FeedbackBounds(4.0, 2.0))
    popularity = torch.bincount(torch.from_numpy(interactions["item"].to_numpy(copy=True)), minlength=items + 1)
    vectors_ = torch.from_numpy(vectors).float()
    semantic_ids = SemanticIds(torch.from_numpy(codes), (4, 4, 4))
    catalog = DataFrame({"item_id": [f"item-{item}" for item in range(1, items + 1)], "text": [f"thing {row}" for row in codes]})
    policy = WorldPolicy(semantic_ids, vectors_).eval().requires_grad_(False)
    own_ids = OwnIds(lambda user: f"user-{user}", lambda item: f"item-{item}")
    return SamplerContext(items, interactions, popularity, vectors_, semantic_ids, policy, catalog, own_ids=own_ids)


@contextmanager
def context_or_small(context: SamplerContext | None, check: str) -> Iterator[SamplerContext]:
    """Yield `context`, or the small synthetic one for None.

    Raise the ContractError of a plug-in that looks up a name with the columns that the synthetic one has, and with the call of `check`
    that reads the user's own data.
    """
    found = context if context is not None else sampler_context()
    try:
        yield found
    except ContractError as error:
        if context is not None or not isinstance(error.__cause__, KeyError | AttributeError) or found.items is None:
            raise
        raise ContractError(
            f"{error}; the check runs on a small data set of its own: context.items has the columns {', '.join(found.items.columns)}, "
            f"and context.interactions {', '.join(found.interactions.columns)}; to check on your own data, write "
            f"{check}(..., experiment_context(EXPERIMENT)) in Python: see docs/plugins.md in the repository of genrec"
        ) from error.__cause__


class WorldPolicy(nn.Module):
    """An untrained policy. A code is more likely the nearer its items are to the history's items; earlier codes have no influence."""

    def __init__(self, semantic_ids: SemanticIds, vectors: Tensor) -> None:
        super().__init__()
        self.semantic_ids = semantic_ids
        self.vectors = nn.Parameter(vectors.clone())  # float32 [N + 1, D]
        tables = []
        for level, size in enumerate(semantic_ids.level_sizes):
            member = one_hot(semantic_ids.codes[:, level], size).float()
            tables.append(nn.Parameter(member.T @ vectors[1:] / member.sum(0).clamp(min=1).unsqueeze(1)))
        self.codes = nn.ParameterList(tables)  # float32 [size, D] each  mean vector of a code's items

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return the log-probability of each code of candidates int64 [B, M], float32 [B, M, L]; -inf for candidate 0."""
        return self.smoothed_level_log_prob(history, items, 0.0)

    def smoothed_level_log_prob(self, history: Tensor, items: Tensor, label_smoothing: float) -> Tensor:
        """Return `level_log_prob` with label smoothing, float32 [B, M, L]; see `genrec.types.LabelSmoothing`."""
        codes = self.semantic_ids.codes.to(items.device)[(items - 1).clamp(min=0)]
        levels = [gather_smoothed(table, codes[..., i], label_smoothing) for i, table in enumerate(self._tables(history))]
        return torch.stack(levels, -1).masked_fill((items == 0).unsqueeze(-1), -torch.inf)

    def _tables(self, history: Tensor) -> list[Tensor]:
        """Return the log-probabilities of each level's codes, float32 [B, size] each."""
        return [log_softmax((self.history_states(history).unsqueeze(1) * table).sum(-1), 1) for table in self.codes]

    def history_states(self, history: Tensor) -> Tensor:
        """Return the mean vector of the items of histories int64 [B, T], float32 [B, D]."""
        read = (history > 0).unsqueeze(-1)
        return (self.vectors[history] * read).sum(1) / read.sum(1).clamp(min=1)

    def code_level_log_prob(self, history: Tensor, places: Tensor, codes: Tensor) -> Tensor:
        """Return the log-probability of each code of sequences int64 [X, M, L], -1 for none, after places: float32 [X, M, L]."""
        levels = [table.gather(1, codes[..., i].clamp(min=0)) for i, table in enumerate(self._tables(prefixes(history, places)))]
        return torch.stack(levels, -1).masked_fill(codes < 0, -torch.inf)

    def decoding(self, history: Tensor) -> WorldDecoding:
        """Return a decoding of histories int64 [B, T]."""
        return WorldDecoding(self._tables(history))

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """Return the log-probability of a target after every place, float32 [B, T, L]; targets int64 [B, T], 0 for none."""
        return self.smoothed_sequence_log_prob(history, targets, 0.0)

    def smoothed_sequence_log_prob(self, history: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Return `sequence_log_prob` with label smoothing, float32 [B, T, L]; see `genrec.types.SequenceLabelSmoothing`."""
        ends = range(1, history.shape[1] + 1)
        places = [self.smoothed_level_log_prob(history[:, :end], targets[:, end - 1 : end], label_smoothing) for end in ends]
        return torch.cat(places, 1)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return the log-probability of candidates int64 [B, M], the sum over levels: float32 [B, M]."""
        return self.level_log_prob(history, items).sum(-1)

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items that are not in `exclude`, int64 [B, E]."""
        everything = torch.arange(1, self.semantic_ids.items + 1, device=history.device).expand(len(history), -1)
        none = torch.zeros_like(everything, dtype=torch.bool)
        return self._best(history, everything, none if exclude is None else contains(exclude, everything), n)

    def recommend_below(self, history: Tensor, items: Tensor, depth: int, n: int) -> Ranking:
        """Return the `n` best items that share the first `depth` codes with `items`, int64 [B]."""
        everything = torch.arange(1, self.semantic_ids.items + 1, device=history.device).expand(len(history), -1)
        return self._best(history, everything, self.semantic_ids.prefix_depth(everything, items.unsqueeze(1)) < depth, n)

    def item_vectors(self) -> Tensor:
        """Return item vectors, float32 [N + 1, D]; row 0 is zeros."""
        return self.vectors.detach()

    def _best(self, history: Tensor, items: Tensor, excluded: Tensor, n: int) -> Ranking:
        score = self.log_prob(history, items).masked_fill(excluded, -torch.inf)
        return ranking(keys(score, items), n, torch.zeros(len(history), dtype=torch.bool, device=history.device))


class WorldDecoding:
    """A `genrec.types.Decoding` of a policy in which earlier codes have no influence. It has no state."""

    def __init__(self, tables: list[Tensor]) -> None:
        self.tables = tables  # float32 [B, size] each

    def start(self) -> tuple[Tensor, None]:
        """Return the log-probabilities of the first level."""
        return self.tables[0], None

    def advance(self, level: int, state: None, beam: Tensor, code: Tensor) -> tuple[Tensor, None]:
        """Return the log-probabilities of the next level, the same for all beams."""
        return self.tables[level + 1].unsqueeze(1).expand(-1, beam.shape[1], -1), None


def batches_of(context: SamplerContext, size: int = 32, length: int = 20) -> Iterator[SequenceBatch]:
    """Yield all training examples of a context, one per non-empty prefix of a user's items, in a fixed random order, `size` per batch.

    `length` is the largest history length.
    """
    examples = context_examples(context, length)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
    for begin in range(0, len(order), size):
        yield examples.batch(order[begin : begin + size])


def context_examples(context: SamplerContext, length: int, feedback: Feedback = "all") -> Examples:
    """Return one example for each interaction of a context but a user's first, with histories of at most `length` items."""
    item, users, begin, count = _sequences(context)
    examples = Examples(item, users, begin, begin + 1, count.cumsum(0), length)
    allowed = allowed_by_label(_labels(context), feedback)
    return select_examples(examples, allowed)


def context_windows(context: SamplerContext, length: int, padding: Padding = "zero", feedback: Feedback = "all") -> Windows:
    """Return the windows of a context's users, of at most `length` items."""
    item, users, begin, count = _sequences(context)
    allowed = allowed_by_label(_labels(context), feedback)
    return with_targets(Windows(item, users, begin, count, num_windows(count, length).cumsum(0), length, padding, allowed))


def _labels(context: SamplerContext) -> Tensor | None:
    """Return the label of each interaction by user and time, int8 [E]; None without labels."""
    table = context.interactions
    if "label" not in table:
        return None
    return torch.from_numpy(table.sort_values(["user", "time"], kind="stable")["label"].to_numpy("int8", copy=True))


def _sequences(context: SamplerContext) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all items by user and time, the users with two or more, their first positions and their numbers of targets."""
    table = context.interactions.sort_values(["user", "time"], kind="stable")
    user, item = (torch.from_numpy(table[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
    users, counts = torch.unique_consecutive(user, return_counts=True)
    begin, kept = counts.cumsum(0) - counts, counts > 1
    return item, users[kept], begin[kept], counts[kept] - 1
