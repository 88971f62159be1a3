"""Protocols and values of policy-gradient objectives: groups of candidates, their advantages, and the surrogate of the gradient.

A group is the candidates of one row. `X` is the number of rows, `M` the number of candidates of a row and `L` the number of codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


class CandidateGroups(NamedTuple):
    """The candidates of each row with their rewards."""

    rewards: Tensor  # float32 [X, M]  any value where masked
    mask: Tensor  # bool [X, M]  false: the candidate takes no part
    codes: Tensor  # int64 [X, M, L]  Semantic IDs of the candidates; any value where masked


class Advantages(NamedTuple):
    """How much better each candidate is than the others of its group, detached."""

    values: Tensor  # float32 [X, M], or [X, M, L] with one advantage for each code; 0 where masked and in groups without spread
    spread: Tensor  # bool [X]  groups with two or more different rewards; the others have no gradient and are not counted


class GroupLogProbs(NamedTuple):
    """Log-probabilities of the candidates under the policy in training, and under the policy that drew them."""

    levels: Tensor  # float32 [X, M, L]  log-probability of each code, with a gradient; 0 where masked
    behavior: Tensor  # float32 [X, M]  log-probability of the item when it was drawn, detached; 0 where masked


class SurrogateTerms(NamedTuple):
    """A surrogate loss for each candidate."""

    loss: Tensor  # float32 [X, M]  not reduced; 0 where masked
    clipped: Tensor  # bool [X, M]  candidates that have no gradient, or a smaller one, because a clip applies


@runtime_checkable
class Advantage(Protocol):
    """The specification of an advantage: a frozen dataclass; see `genrec.preference.policy_gradient`."""

    def estimate(self, groups: CandidateGroups) -> Advantages:
        """Return the advantages of the candidates. Masked candidates change no value."""
        ...


@runtime_checkable
class Surrogate(Protocol):
    """The specification of a surrogate loss, whose gradient is a policy gradient: a frozen dataclass."""

    def terms(self, log_probs: GroupLogProbs, advantages: Advantages) -> SurrogateTerms:
        """Return the loss of each candidate. A candidate with an advantage of 0 has loss 0 and no gradient."""
        ...
