"""The policy in training on the rows of a batch (`genrec.types.RowScores`).

| policy | scores of candidates | `top`, `sample` and `rank` |
|---|---|---|
| `CatalogPolicy` | gathered from the scores of the whole catalog, computed once for a batch | exact, from the same scores, detached |
| `WindowPolicy`, batch of windows | `place_level_log_prob`: a window is encoded once for all of its rows | by beams; no rank |
| others, and batches of prefixes | `level_log_prob` of each row's history | by beams; no rank |

All of them give the same values. Scores are computed in the policy's current mode, so that with dropout the candidates of an exact
policy and the loss see one forward pass. Beams, and samples by them, run in evaluation mode.
On a batch of windows those of a `PlaceSearchPolicy` begin from the states of the window, which is encoded once.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Generator, Tensor

from genrec.errors import UsageError
from genrec.item_rows import last_places
from genrec.plugin_source import name_with_place
from genrec.policy_modules import evaluation_mode
from genrec.preference.candidates.policy_scores import CatalogScores, Normalize, beams, prefix_level_log_prob, samples
from genrec.types import (
    CatalogPolicy,
    CodePolicy,
    ConstrainedWindowPolicy,
    ItemSample,
    PlaceSearchPolicy,
    Policy,
    Ranking,
    SamplingPolicy,
    SequenceBatch,
    WindowBatch,
    WindowPolicy,
)


class PolicyRowScores:
    """A `genrec.types.RowScores`. Whether its values have a gradient follows from torch's mode when it is built."""

    def __init__(
        self,
        policy: Policy,
        batch: SequenceBatch | WindowBatch,
        places: Tensor | None,
        rows: SequenceBatch,
        normalize: Normalize,
    ) -> None:
        self.policy, self.rows, self.normalize = policy, rows, normalize
        self.history = batch.history
        self.places = places
        self._has_gradient = torch.is_grad_enabled()

    @cached_property
    def _catalog(self) -> CatalogScores:
        """The scores of the whole catalog, computed at the first use; only for a `CatalogPolicy`."""
        assert isinstance(self.policy, CatalogPolicy)
        places = last_places(self.history) if self.places is None else self.places
        with torch.set_grad_enabled(self._has_gradient):
            return CatalogScores(self.policy.catalog_log_prob(self.history, places))

    @property
    def _histories(self) -> tuple[Tensor, Tensor | None]:
        """The histories that a search reads, and places in them, or None for whole histories."""
        if self.places is not None and isinstance(self.policy, PlaceSearchPolicy):
            return self.history, self.places
        return self.rows.history, None

    def level_log_prob(self, items: Tensor) -> Tensor:
        """Return level log-probabilities of items int64 [X, M], float32 [X, M, L]; -inf where an item is 0.

        A `CatalogPolicy` scores an item as one code: L is 1.
        """
        if isinstance(self.policy, CatalogPolicy):
            return self._catalog.level_log_prob(items)
        with torch.set_grad_enabled(self._has_gradient and torch.is_grad_enabled()):
            return self._level_log_prob(items)

    def _level_log_prob(self, items: Tensor) -> Tensor:
        """Return `level_log_prob` for a policy that does not score the catalog."""
        policy = self.policy
        if self.places is None:
            return prefix_level_log_prob(policy, self.rows.history, items, self.normalize)
        if self.normalize == "codes" and isinstance(policy, WindowPolicy):
            return policy.place_level_log_prob(self.history, self.places, items)
        if self.normalize == "children" and isinstance(policy, ConstrainedWindowPolicy):
            return policy.constrained_place_level_log_prob(self.history, self.places, items)
        return prefix_level_log_prob(policy, self.rows.history, items, self.normalize)

    def code_level_log_prob(self, codes: Tensor) -> Tensor:
        """Return level log-probabilities of code sequences int64 [X, M, L], float32 [X, M, L]; -inf where they are -1.

        Raises UsageError unless the policy is a `CodePolicy` and each level is normalized over all of its codes.
        """
        policy = check_scores_codes(self.policy, self.normalize, "a proposer of codes")
        places = last_places(self.history) if self.places is None else self.places
        with torch.set_grad_enabled(self._has_gradient and torch.is_grad_enabled()):
            return policy.code_level_log_prob(self.history, places, codes)

    def top(self, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items of each row without a gradient; items of `exclude` int64 [X, E] (0 = none) are left out."""
        if isinstance(self.policy, CatalogPolicy):
            return self._catalog.top(n, exclude)
        history, places = self._histories
        return beams(self.policy, history, n, exclude, places)

    def sample(self, n: int, exclude: Tensor | None, generator: Generator) -> ItemSample:
        """Draw `n` distinct items for each row without a gradient, from all items but `exclude`, an int64 [X, E] with 0 for none.

        A `CatalogPolicy` draws from the scores of `level_log_prob`, others, which must be a `SamplingPolicy`, in evaluation mode.
        """
        if isinstance(self.policy, CatalogPolicy):
            return self._catalog.sample(n, exclude, generator)
        assert isinstance(self.policy, SamplingPolicy)
        history, places = self._histories
        drawn = samples(self.policy, history, n, exclude, generator, places)
        return drawn._replace(log_prob=drawn.constrained) if self.normalize == "children" else drawn

    @torch.no_grad()
    def proposing_log_prob(self, items: Tensor) -> Tensor:
        """Return the log-probabilities of items int64 [X, M] of the policy as `top` and `sample` see it, float32 [X, M]."""
        if isinstance(self.policy, CatalogPolicy):
            return self.level_log_prob(items).detach().sum(-1)
        with evaluation_mode(self.policy):
            return self.level_log_prob(items).sum(-1)

    def rank(self, items: Tensor) -> Tensor | None:
        """Return the place (0 is the best) of items int64 [X, M] in the whole catalog, N for item 0; None if only beams are known."""
        return self._catalog.rank(items) if isinstance(self.policy, CatalogPolicy) else None


def scores_of(
    policy: Policy,
    batch: SequenceBatch | WindowBatch,
    places: Tensor | None,
    rows: SequenceBatch,
    normalize: Normalize,
) -> PolicyRowScores:
    """Return the scores of a policy on the rows of a batch.

    All tensors are on the policy's device. `places` int64 [X, 2] holds the (window, place) of each row of a `WindowBatch` and is None
    for a `SequenceBatch`; `rows` has each row's whole history and target (`genrec.objectives.rows.rows_of`).
    """
    return PolicyRowScores(policy, batch, places, rows, normalize)


@torch.no_grad()
def scores_without_gradient(policy: Policy, rows: SequenceBatch, normalize: Normalize) -> PolicyRowScores:
    """Return the scores of a policy on whole histories, without a gradient."""
    return PolicyRowScores(policy, rows, None, rows, normalize)


def check_scores_codes(policy: Policy, normalize: Normalize, proposer: str) -> CodePolicy:
    """Return the policy. Raise UsageError if it cannot score code sequences that no item has; `proposer` is for the message."""
    if normalize != "codes":
        raise UsageError(
            f"align.normalize '{normalize}' gives code sequences of no item the probability 0, but {proposer} compares theirs; "
            "set align.normalize codes"
        )
    if not isinstance(policy, CodePolicy):
        raise UsageError(
            f"{proposer} needs a policy that scores code sequences of no item (code_level_log_prob, genrec.types.CodePolicy), got "
            f"{name_with_place(type(policy))}; use Tiger or Gpt, or another proposer"
        )
    if getattr(getattr(policy, "specification", None), "normalization", None) == "catalog":
        raise UsageError(
            f"policy.normalization 'catalog' gives code sequences of no item the probability 0, but {proposer} compares theirs; "
            "set policy.normalization codes"
        )
    return policy
