"""A parallel policy with the likelihood of its paper: the digits of an item are independent, each with a softmax over its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from genrec.model.catalog_extension import extend_policy
from genrec.model.catalog_ranking import best_of_blocks
from genrec.model.digit_sums import item_sums
from genrec.model.parallel_network import MAX_SCORES, TABLES, ParallelNetwork
from genrec.row_chunks import in_chunks
from genrec.semantic_ids import SemanticIds
from genrec.smoothed_log_probs import mixed
from genrec.types import Ranking

if TYPE_CHECKING:
    from genrec.model.parallel import RPG


class DigitPolicy(nn.Module):
    """A `genrec.types.SequencePolicy` with one level for each digit: log p(item) is the sum over digits of log p(digit).

    Over all tuples of digits, real items or not, the probabilities add up to 1.
    """

    def __init__(self, specification: RPG, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.specification, self.semantic_ids = specification, semantic_ids
        self.network = ParallelNetwork(specification, semantic_ids)

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p of each digit, int64 [B, T] and candidates int64 [B, M] -> float32 [B, M, m]; the candidate 0 gets -inf."""
        return self.smoothed_level_log_prob(history, items, 0.0)

    def smoothed_level_log_prob(self, history: Tensor, items: Tensor, label_smoothing: float) -> Tensor:
        """Return `level_log_prob` with label smoothing, float32 [B, M, m]; see `genrec.types.LabelSmoothing`."""
        return self._level_log_prob(self.network.encode(history, 1)[:, -1], items, label_smoothing)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p(item | history), int64 [B, T] and candidates int64 [B, M] -> float32 [B, M]; -inf where the candidate is 0."""
        return self.level_log_prob(history, items).sum(-1)

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """Score the target after every place: int64 [B, T] both (0 = none) -> float32 [B, T, m]; see `SequencePolicy`."""
        return self.smoothed_sequence_log_prob(history, targets, 0.0)

    def smoothed_sequence_log_prob(self, history: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Return `sequence_log_prob` with label smoothing, float32 [B, T, m]; see `genrec.types.SequenceLabelSmoothing`."""
        has_target = targets > 0
        levels = self._level_log_prob(self.network.encode(history)[has_target], targets[has_target].unsqueeze(1), label_smoothing)
        empty = levels.new_full((*targets.shape, self.semantic_ids.levels), -torch.inf)
        return empty.masked_scatter(has_target.unsqueeze(-1), levels)

    def place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Score candidates int64 [X, M] after places int64 [X, 2] of histories: float32 [X, M, m]; see `WindowPolicy`."""
        return self._level_log_prob(self.network.states_after(history, places), items)

    def history_states(self, history: Tensor) -> Tensor:
        """Return the state that scores the next item, float32 [B, D], of histories int64 [B, T]; see `genrec.types.HistoryStates`."""
        return self.network.encode(history, 1)[:, -1]

    def item_vectors(self) -> Tensor:
        """Return the input vector of every item, float32 [N + 1, D], detached; row 0 is zero."""
        return self.network.item_vectors()

    @torch.no_grad()
    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best of all items; see `genrec.types.Recommender`. Memory holds the scores of one block of items."""
        digits = self._digit_log_prob(self.network.encode(history, 1)[:, -1])
        blocks = ((block.first, item_sums(digits, block)) for block in self.network.digits.blocks)
        return best_of_blocks(blocks, n, exclude)

    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return `recommend`, which does not prune."""
        return self.recommend(history, n, exclude)

    def extended(self, semantic_ids: SemanticIds) -> DigitPolicy:
        """Return a policy with the same weights over a larger catalog; see `genrec.model.catalog_extension`."""
        return extend_policy(self, self.semantic_ids, semantic_ids, lambda ids: DigitPolicy(self.specification, ids), TABLES)

    def _digit_log_prob(self, states: Tensor) -> Tensor:
        """Return the log-probabilities of all digit values after states [X, D], float32 [X, S]: a softmax over each digit's values."""
        scores, _ = self.network.scores(states)
        return torch.cat([part.log_softmax(1) for part in torch.split(scores, self.network.digits.level_sizes, 1)], 1)

    def _level_log_prob(self, states: Tensor, items: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the smoothed log-probabilities of the digits of items int64 [X, M] after states [X, D]: [X, M, m], -inf for 0."""

        def level_log_prob(states: Tensor, items: Tensor) -> Tensor:
            digits = self.network.digits.of(items)
            log_probs = self._digit_log_prob(states)
            found = log_probs.gather(1, digits.flatten(1)).view(digits.shape)
            if label_smoothing > 0:
                means = [part.mean(1) for part in torch.split(log_probs, self.network.digits.level_sizes, 1)]
                found = mixed(found, torch.stack(means, 1).unsqueeze(1), label_smoothing)
            return found.masked_fill((items == 0).unsqueeze(-1), -torch.inf)

        return in_chunks(level_log_prob, MAX_SCORES // self.network.row_size(items.shape[1]), states, items)
