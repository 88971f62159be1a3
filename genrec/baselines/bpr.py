"""BPR: matrix factorization, trained so that a user's items score higher than items that the user has not taken.

    score_ui  = <p_u, q_i> + b_i
    objective = sum over triples (u, i, j) of ln sigmoid(score_ui - score_uj) - lambda ||Theta||^2 / 2     (BPR-Opt, section 4.1)
    step      = Theta + alpha (sigmoid(score_uj - score_ui) d(score_ui - score_uj)/dTheta - lambda Theta)  (LearnBPR, section 4.2)

i is a training item of user u, j an item that is not; (u, i) is drawn uniformly with replacement, j uniformly. lambda = `l2`, alpha =
`learning_rate`. The history of a test user is not read: the vector p_u is what training made of the user's training items. A user
without training interactions has no vector and gets the items by b_i, the same list for all such users.

Source: S. Rendle, C. Freudenthaler, Z. Gantner and L. Schmidt-Thieme, "BPR: Bayesian Personalized Ranking from Implicit Feedback"
(UAI 2009), arXiv 1205.2618. Deviations from the paper:

- A step adds up the updates of `batch_size` triples that are computed from the same parameters (paper: of one triple).
- Items have a bias b_i, as in the authors' MyMediaLite.
- The penalty has the sign of the objective; the paper's figure 4 prints "+ lambda Theta".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from pandas import DataFrame
from scipy import sparse
from torch import Tensor

from genrec.baselines.dense_ranking import best, check_items, given_scores, item_counts, precedence
from genrec.baselines.user_items import user_item_matrix
from genrec.errors import NumericsError, UsageError
from genrec.progress import track
from genrec.randomness import generator
from genrec.types import Ranking
from genrec.types.specification import check_at_least, check_types

INITIAL_DEVIATION = 0.1  # of the entries of the vectors before training


@dataclass(frozen=True)
class BPR:
    """A `genrec.types.Baseline`, trained when it is fitted; its recommender is a `genrec.types.UserRecommender`.

    The seed of an experiment does not reach a baseline: give repetitions other values of `seed` and other names. Equal scores are
    ordered by training interactions, then by the lower item id.
    """

    dim: int = 64  # length of the vectors of users and items, at least 1
    epochs: int = 100  # an epoch draws as many triples as there are pairs of a user and a training item
    learning_rate: float = 0.05  # step size, above 0
    l2: float = 0.01  # the paper's lambda, weight of the squared parameters of each triple, 0 or more
    batch_size: int = 256  # triples of a step; 1 is the paper's algorithm
    seed: int = 0  # seed of initial vectors and triples

    def __post_init__(self) -> None:
        check_types(self, "policy")
        check_at_least(self, "policy", 1, "dim", "epochs", "batch_size")
        check_at_least(self, "policy", 0, "l2", "seed")
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"policy.learning_rate must be above 0 and finite, got {self.learning_rate}")

    def fit(self, interactions: DataFrame, item_count: int) -> FittedBPR:
        """Return a recommender of items 1..item_count, trained on training interactions (user, item), on the CPU."""
        counts, matrix = item_counts(interactions, item_count), user_item_matrix(interactions, item_count)
        return FittedBPR(_train(self, matrix), matrix.sum(axis=1) > 0, precedence(counts))


class Factors(NamedTuple):
    """The parameters of the model; row u belongs to user number u, row i to item i + 1."""

    users: Tensor  # float32 [users, dim]  p
    items: Tensor  # float32 [N, dim]  q
    bias: Tensor  # float32 [N]  b


class FittedBPR:
    """A `genrec.types.UserRecommender` built from `Factors`; `trained` bool [users] says which users have training interactions."""

    def __init__(self, factors: Factors, trained: ndarray, precedence: ndarray) -> None:
        self.users = np.where(trained[:, None], factors.users.double().numpy(), 0.0)  # float64 [users, dim]
        self.items, self.bias, self.precedence = factors.items.double().numpy(), factors.bias.double().numpy(), precedence

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` items of the highest bias for each history int64 [B, T], without the items of `exclude` int64 [B, E]."""
        return self.recommend_to(torch.full((len(history),), -1), history, n, exclude)

    def recommend_to(self, user: Tensor, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items by the vectors of users int64 [B]; the histories int64 [B, T] are not read."""
        ranking = best(self._scores(user, history), self.precedence, n, exclude)
        return Ranking(ranking.items.to(history.device), ranking.scores.to(history.device))

    def score_items(self, user: Tensor, history: Tensor, items: Tensor) -> Tensor:
        """Return the scores of items int64 [B, M] by the vectors of users int64 [B]: float32 [B, M]; the histories are not read."""
        return given_scores(self._scores(user, history), items)

    def _scores(self, user: Tensor, history: Tensor) -> ndarray:
        """Return the scores of all items, float32 [B, N]."""
        check_items(history.cpu().numpy(), len(self.items), "history")
        number = user.cpu().numpy()
        inside = (number >= 0) & (number < len(self.users))
        vectors = np.where(inside[:, None], self.users[np.where(inside, number, 0)], 0.0)
        # From float64: a user alone gets the scores of a batch.
        scores: ndarray = (vectors @ self.items.T + self.bias).astype(np.float32)
        return scores


def _train(specification: BPR, matrix: sparse.csr_array) -> Factors:
    """Return the trained parameters for a binary matrix of users and items; raise NumericsError if they become non-finite."""
    factors, triples = _initial(specification, matrix.shape), _Triples(matrix)
    for epoch in track(range(specification.epochs), "fit BPR"):
        for user, positive, negative in triples.batches(specification, epoch):
            update(factors, user, positive, negative, specification.learning_rate, specification.l2)
        if not all(bool(part.isfinite().all()) for part in factors):
            raise NumericsError(
                f"BPR: non-finite parameters in epoch {epoch + 1} with policy.learning_rate = {specification.learning_rate:g} and "
                f"policy.batch_size = {specification.batch_size}; lower one of them"
            )
    return factors


def _initial(specification: BPR, shape: tuple[int, int]) -> Factors:
    draws, (users, items) = generator(specification.seed, "bpr vectors"), shape
    vectors = torch.randn(users + items, specification.dim, generator=draws) * INITIAL_DEVIATION
    return Factors(vectors[:users].clone(), vectors[users:].clone(), torch.zeros(items))


def update(factors: Factors, user: Tensor, positive: Tensor, negative: Tensor, learning_rate: float, l2: float) -> None:
    """Add the step of a batch of triples to the parameters, in place (LearnBPR); the three tensors are row numbers int64 [B]."""
    p, q_i, q_j = factors.users[user], factors.items[positive], factors.items[negative]  # float32 [B, dim]
    b_i, b_j = factors.bias[positive], factors.bias[negative]  # float32 [B]
    weight = torch.sigmoid((p * (q_j - q_i)).sum(1) + b_j - b_i)
    scaled = weight.unsqueeze(1) * p
    factors.users.index_add_(0, user, weight.unsqueeze(1) * (q_i - q_j) - l2 * p, alpha=learning_rate)
    factors.items.index_add_(0, positive, scaled - l2 * q_i, alpha=learning_rate)
    factors.items.index_add_(0, negative, -scaled - l2 * q_j, alpha=learning_rate)
    factors.bias.index_add_(0, positive, weight - l2 * b_i, alpha=learning_rate)
    factors.bias.index_add_(0, negative, -weight - l2 * b_j, alpha=learning_rate)


class _Triples:
    """Draws (user, item of the user, other item) from a binary matrix of users and items with ascending columns in each row."""

    def __init__(self, matrix: sparse.csr_array) -> None:
        self.items, begin = matrix.shape[1], torch.from_numpy(matrix.indptr.astype(np.int64))
        count = begin.diff()
        self.user = torch.repeat_interleave(count)  # int64 [pairs]
        self.item = torch.from_numpy(matrix.indices.astype(np.int64))  # int64 [pairs]
        self.begin, self.free = begin[:-1], self.items - count  # int64 [users]  first pair; items that the user has not taken
        place = torch.arange(len(self.user)) - self.begin[self.user]
        self.key = self._key(self.user, self.item - place)  # ascending; for each pair the number of free items before its item
        self.usable = (self.free[self.user] > 0).nonzero().squeeze(1)  # pairs of users who have not taken all items

    def batches(self, specification: BPR, epoch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the triples of an epoch as batches of row numbers int64 [B]; they depend on the seed and the epoch only."""
        if not len(self.usable):
            return []
        draws = generator(specification.seed, "bpr triples", epoch)
        pair = self.usable[torch.randint(len(self.usable), (len(self.user),), generator=draws)]
        user = self.user[pair]
        negative = self.free_item(user, (torch.rand(len(user), generator=draws, dtype=torch.float64) * self.free[user]).long())
        size = specification.batch_size
        return list(zip(*(torch.split(part, size) for part in (user, self.item[pair], negative)), strict=True))

    def free_item(self, user: Tensor, number: Tensor) -> Tensor:
        """Return for each user the item int64 [B] with this number, from 0, among the items that the user has not taken."""
        taken_before = torch.searchsorted(self.key, self._key(user, number), right=True) - self.begin[user]
        return number + taken_before

    def _key(self, user: Tensor, number: Tensor) -> Tensor:
        key: Tensor = user * (self.items + 1) + number
        return key
