"""RPG: a policy that scores all digits of the next item's Semantic ID at once, and so every item of the catalog exactly.

A causal transformer reads one vector per item, the mean of the embeddings of its digits. Head j gives a score to every value of digit
j (see `genrec.model.parallel_network`), and the score of an item is the sum over its digits. One pass over a window scores the items
after all of its places; candidates, exclusions and the exact ranking of the catalog are gathers from digit scores, without a beam or a
trie. Digits have no order, so product quantization (`ProductQuantizer`, 4 to 64 digits) is made for it; other Semantic IDs work too.

Two likelihoods:

- `normalization="catalog"` (`ParallelPolicy`): a softmax over all items of the summed scores, log p(item) = s(item) - log sum over
  items of exp(s). The item is one code; log-probabilities have no levels.
- `normalization="digits"` (`DigitPolicy`): the paper's. A softmax over the values of each digit, and p(item) is the product over the
  digits, which are independent given the history. The probabilities of the catalog add up to less than 1.

Items that share all of their digits share their score, and metrics treat them as ties. A level that numbers them
(`Tokenize.collisions="append"`, the default) is one more digit, which tells them apart: most items have its value 0.

Source: Y. Hou et al., "Generating Long Semantic IDs in Parallel for Recommendation" (2025), arXiv 2506.05781. Deviations:

- The paper's likelihood is "digits"; the default is "catalog", whose probabilities add up to 1 over the items.
- The heads have no bias.
- The layers are those of `Gpt` (T5's, with relative positions) instead of GPT-2's, so that scores depend on no padding and a history
  may have any length. Item vectors are scaled by the square root of the width.
- With `repeat_score` the items of the history get a learned score more (see `genrec.repeat_score`).
- Ranking is exact, in blocks of items (paper: a search on a graph of items, for very large catalogs).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from genrec.errors import UsageError, given
from genrec.model.catalog_extension import extend_policy
from genrec.model.catalog_ranking import best_of_blocks
from genrec.model.digit_policy import DigitPolicy
from genrec.model.digit_sums import block_scores, log_sum_exp
from genrec.model.parallel_network import MAX_SCORES, TABLES, ParallelNetwork
from genrec.repeat_score import RepeatScore, seen_items
from genrec.row_chunks import in_chunks
from genrec.sampled_item_loss import mean_item_loss
from genrec.semantic_ids import SemanticIds
from genrec.smoothed_log_probs import mixed
from genrec.store import NEW_IN_KEY
from genrec.types import ItemLoss, Ranking
from genrec.types.specification import check_at_least, check_dropout, check_types


@dataclass(frozen=True)
class RPG:
    """The architecture of a parallel policy; it needs an experiment with a tokenizer."""

    causal: ClassVar[bool] = True  # the policy is a `genrec.types.SequencePolicy`

    d_model: int = 128  # width of the residual stream and of the embeddings
    d_ff: int = 512  # width of the feed-forward layers
    num_layers: int = 2  # blocks of attention and feed-forward
    num_heads: int = 4  # attention heads, a divisor of d_model
    dropout: float = 0.1  # rate, in [0, 1)
    temperature: float | None = None  # divides the cosines of heads and embeddings, above 0; None: see `temperature_of`
    normalization: Literal["catalog", "digits"] = "catalog"  # one softmax over all items, or one over the values of each digit
    item_embedding: bool = False  # an embedding per item beside those of its digits, in input and output; needs "catalog"
    recency_positions: int = 50  # distances in items with an attention bias each, larger ones share the last
    loss: ItemLoss | None = None  # of SFT, with sampled negatives, such as SampledSoftmax(); needs "catalog"; None: the likelihood
    repeat_score: bool = field(default=False, metadata=NEW_IN_KEY)  # a learned score for items of the history; needs "catalog"

    def __post_init__(self) -> None:
        check_types(self, "policy")
        check_at_least(self, "policy", 1, "d_model", "d_ff", "num_layers", "num_heads", "recency_positions")
        if self.d_model % self.num_heads:
            raise UsageError(f"policy.num_heads must divide policy.d_model, got {self.num_heads} and {self.d_model}")
        check_dropout(self.dropout, "policy")
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise UsageError(f"policy.temperature must be above 0 and finite, got {self.temperature}")
        if self.loss is not None and (isinstance(self.loss, type) or not isinstance(self.loss, ItemLoss)):
            raise UsageError(f"policy.loss must be None (the likelihood), GBCE(...) or SampledSoftmax(...), got {given(self.loss)}")
        for name in ("item_embedding", "loss", "repeat_score"):
            if self.normalization == "digits" and getattr(self, name):
                raise UsageError(
                    f"policy.{name} scores whole items, but policy.normalization 'digits' is a likelihood of digits; set "
                    "normalization catalog"
                )
        if self.repeat_score and self.loss is not None:
            raise UsageError("policy.repeat_score is learned by the softmax over the catalog; set policy.loss None")

    def temperature_of(self, digits: int) -> float:
        """Return the temperature for Semantic IDs of this number of digits.

        The softmax over the catalog sums the cosines of all codes, so its temperature grows with their number: None is 0.02 for each,
        near the best of four for 32 digits on Beauty's validation users. With the digits' own softmax None is 0.03, the paper's.
        """
        if self.temperature is not None:
            return self.temperature
        return 0.02 * digits if self.normalization == "catalog" else 0.03

    def scores_whole_items(self) -> bool:
        """Return whether the policy scores an item as one code; see `genrec.types.WholeItemSpecification`."""
        return self.normalization == "catalog"

    def check(self, experiment: Any) -> None:
        """Raise UsageError unless the experiment has a tokenizer and, with item embeddings, resolves collisions."""
        if experiment.tokenize is None:
            raise UsageError(
                f"{experiment.name}: RPG scores the digits of Semantic IDs, and tokenize=None gives every item one digit; set "
                "tokenize, such as Tokenize(ProductQuantizer(num_levels=16)), or choose SASRec"
            )
        if self.item_embedding and experiment.tokenize.collisions == "keep":
            raise UsageError(
                f"{experiment.name}: policy.item_embedding tells items apart that share a Semantic ID, but they count as ties; set "
                "tokenize.collisions append"
            )

    def has_history_states(self) -> bool:
        """Return that the policy gives states of histories; see `genrec.types.HistoryStates`."""
        return True

    def has_label_smoothing(self) -> bool:
        """Return whether SFT maximizes the likelihood, which it may smooth; see `genrec.types.LabelSmoothing`."""
        return self.loss is None

    def build(self, semantic_ids: SemanticIds) -> ParallelPolicy | DigitPolicy:
        """Return an untrained policy for these Semantic IDs."""
        if self.item_embedding and semantic_ids.collided:
            raise UsageError(
                f"policy.item_embedding needs distinct Semantic IDs, but {semantic_ids.collided} of {semantic_ids.items} items share "
                "theirs, and count as ties; set tokenize.collisions append"
            )
        return (DigitPolicy if self.normalization == "digits" else ParallelPolicy)(self, semantic_ids)


class ParallelPolicy(nn.Module):
    """A `genrec.types.CatalogPolicy`: a softmax over all items of the sums of their digits' scores."""

    def __init__(self, specification: RPG, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.specification, self.semantic_ids = specification, semantic_ids
        self.network = ParallelNetwork(specification, semantic_ids)
        self.repeat_score = RepeatScore() if specification.repeat_score else None

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p(item | history), int64 [B, T] and candidates int64 [B, M] -> float32 [B, M, 1]; -inf for candidate 0."""
        return self.smoothed_level_log_prob(history, items, 0.0)

    def smoothed_level_log_prob(self, history: Tensor, items: Tensor, label_smoothing: float) -> Tensor:
        """Return `level_log_prob` with label smoothing over all items, float32 [B, M, 1]; see `genrec.types.LabelSmoothing`."""
        seen = seen_items(self.repeat_score, history)
        return self._log_prob(self.network.encode(history, 1)[:, -1], items, *seen, label_smoothing=label_smoothing).unsqueeze(-1)

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return `level_log_prob`, since its softmax is over real items."""
        return self.level_log_prob(history, items)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p(item | history), int64 [B, T] and candidates int64 [B, M] -> float32 [B, M]; -inf where the candidate is 0."""
        return self.level_log_prob(history, items).squeeze(-1)

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """Score the target after every place: int64 [B, T] both (0 = none) -> float32 [B, T, 1]; see `SequencePolicy`."""
        return self.smoothed_sequence_log_prob(history, targets, 0.0)

    def smoothed_sequence_log_prob(self, history: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Return `sequence_log_prob` with label smoothing, float32 [B, T, 1]; see `genrec.types.SequenceLabelSmoothing`."""
        has_target = targets > 0
        states, seen = self.network.encode(history)[has_target], seen_items(self.repeat_score, history, has_target.nonzero())
        log_probs = self._log_prob(states, targets[has_target].unsqueeze(1), *seen, label_smoothing=label_smoothing)
        empty = log_probs.new_full(targets.shape, -torch.inf)
        return empty.masked_scatter(has_target, log_probs).unsqueeze(-1)

    def place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Score candidates int64 [X, M] after places int64 [X, 2] of histories: float32 [X, M, 1]; see `WindowPolicy`."""
        seen = seen_items(self.repeat_score, history, places)
        return self._log_prob(self.network.states_after(history, places), items, *seen).unsqueeze(-1)

    def constrained_place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Return `place_level_log_prob`, since its softmax is over real items."""
        return self.place_level_log_prob(history, places, items)

    def catalog_log_prob(self, history: Tensor, places: Tensor) -> Tensor:
        """Return log p of all items after places int64 [X, 2] of histories: float32 [X, N]; see `genrec.types.CatalogPolicy`."""
        scores, states = self.network.scores(self.network.states_after(history, places))
        catalog = self.network.catalog()
        totals = torch.cat([block_scores(scores, states, catalog.weights_of(block), block) for block in catalog.blocks], 1)
        if self.repeat_score is not None:
            totals = self.repeat_score.added(totals, *seen_items(self.repeat_score, history, places))
        return totals.log_softmax(1)

    def sequence_loss(self, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return the loss of the specification, a scalar; None without one. See `genrec.types.LossPolicy`."""
        loss, num_items, catalog = self.specification.loss, self.semantic_ids.items, self.network.catalog()
        if loss is None:
            return None
        has_target = targets > 0
        states, scored = self.network.encode(history)[has_target], targets[has_target]

        def score(states: Tensor, candidates: Tensor) -> Tensor:
            return self.network.candidate_scores(*self.network.scores(states), catalog, candidates)

        def rows(num_candidates: int) -> int:
            return MAX_SCORES // self.network.row_size(num_candidates)

        return mean_item_loss(loss, score, rows, states, scored, num_items, generator)

    def history_states(self, history: Tensor) -> Tensor:
        """Return the state that scores the next item, float32 [B, D], of histories int64 [B, T]; see `genrec.types.HistoryStates`."""
        return self.network.encode(history, 1)[:, -1]

    def item_vectors(self) -> Tensor:
        """Return the input vector of every item, float32 [N + 1, D], detached; row 0 is zero."""
        return self.network.item_vectors()

    @torch.no_grad()
    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best of all items; see `genrec.types.Recommender`.

        Memory holds the scores and the normalized embeddings of one block of items.
        """
        scores, states = self.network.scores(self.network.encode(history, 1)[:, -1])
        seen = seen_items(self.repeat_score, history)
        totals = [scores.new_full((len(scores),), -torch.inf)]

        def blocks() -> Iterator[tuple[int, Tensor]]:
            for block in self.network.digits.blocks:
                sums = block_scores(scores, states, self.network.item_weights(block), block)
                if self.repeat_score is not None:
                    sums = self.repeat_score.added(sums, *seen, first=block.first)
                totals.append(torch.logaddexp(totals.pop(), sums.logsumexp(1)))
                yield block.first, sums

        ranking = best_of_blocks(blocks(), n, exclude)
        return Ranking(ranking.items, ranking.scores - totals[0].unsqueeze(1))

    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return `recommend`, which does not prune."""
        return self.recommend(history, n, exclude)

    def extended(self, semantic_ids: SemanticIds) -> ParallelPolicy:
        """Return a policy with the same weights over a larger catalog; see `genrec.model.catalog_extension`.

        The scores of all known items stay, and their probabilities lose the same share. Raises UsageError with item embeddings, which
        later items have not.
        """
        if self.specification.item_embedding:
            raise UsageError("a policy with policy.item_embedding cannot be extended: later items have no embedding; train it again")
        return extend_policy(self, self.semantic_ids, semantic_ids, lambda ids: ParallelPolicy(self.specification, ids), TABLES)

    def _log_prob(self, states: Tensor, items: Tensor, *seen: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the smoothed log-probabilities of items int64 [X, M] after states float32 [X, D]: float32 [X, M], -inf for item 0.

        `seen`, int64 [X, T], are the items of the history of each state; they are given with a repeat score.
        """
        catalog = self.network.catalog()

        def log_prob(states: Tensor, items: Tensor, *seen: Tensor) -> Tensor:
            scores, dense = self.network.scores(states)
            found = self.network.candidate_scores(scores, dense, catalog, items)
            total = log_sum_exp(scores, dense, catalog)
            if self.repeat_score is not None:
                found = found + self.repeat_score.of_candidates(items, *seen)
                total = self.repeat_score.log_normalizer(total, self.network.candidate_scores(scores, dense, catalog, *seen))
            if label_smoothing > 0:
                mean = self.network.mean_scores(scores, dense, catalog)
                if self.repeat_score is not None:
                    mean = mean + self.repeat_score.mean_added(seen[0], self.semantic_ids.items)
                found = mixed(found, mean.unsqueeze(1), label_smoothing)
            return found - total.unsqueeze(1)

        rows = MAX_SCORES // self.network.row_size(items.shape[1] + sum(each.shape[1] for each in seen))
        return in_chunks(log_prob, rows, states, items, *seen)
