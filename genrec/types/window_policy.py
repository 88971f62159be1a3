"""Protocols of policies that score and search after any place of a window, encoded once, and those of exact scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from genrec.types.policy import ItemSample, Policy, Ranking, SamplingPolicy

if TYPE_CHECKING:
    from torch import Generator, Tensor


@runtime_checkable
class WindowPolicy(Policy, Protocol):
    """A policy that scores candidates after any place of a history, with the history encoded once for all of its places."""

    def place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Return the log-probability of each code of each candidate after places of the histories.

        `history` is int64 [B, T], `places` int64 [X, 2] holds (row of `history`, place in it) in any order, repeated or not, and
        `items` is int64 [X, M]. Row x of the result, float32 [X, M, L], equals `level_log_prob(history[b : b + 1, : t + 1],
        items[x : x + 1])` for (b, t) = places[x].
        """
        ...


@runtime_checkable
class ConstrainedWindowPolicy(WindowPolicy, Protocol):
    """A `WindowPolicy` that can also normalize over the codes of real items only, see `ConstrainedPolicy`."""

    def constrained_place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Return `place_level_log_prob` with each level's softmax over the children of the candidate's prefix only."""
        ...


@runtime_checkable
class CatalogPolicy(Policy, Protocol):
    """A policy whose p(item | history) is one softmax over the whole catalog, so that one pass scores every item exactly.

    Preferences score such an item as one code, whatever the number of levels of its Semantic ID.
    """

    def catalog_log_prob(self, history: Tensor, places: Tensor) -> Tensor:
        """Return log p of items 1..N after places of the histories, with a gradient: float32 [X, N], column i is item i + 1.

        `history` int64 [B, T] and `places` int64 [X, 2] are as in `WindowPolicy`. Row x equals `log_prob(history[b : b + 1, : t + 1],
        [1..N])` for (b, t) = places[x], and its probabilities add up to 1. The histories are encoded once.
        """
        ...


@runtime_checkable
class PlaceSearchPolicy(SamplingPolicy, Protocol):
    """A policy that lists and draws items after any place of a history, with the history encoded once where the policy is causal."""

    def recommend_after(self, history: Tensor, places: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return `recommend` of the prefixes that end at places int64 [X, 2] of histories int64 [B, T], as in `WindowPolicy`.

        `exclude` is int64 [X, E]. Scores are equal up to rounding.
        """
        ...

    def sample_items_after(self, history: Tensor, places: Tensor, n: int, exclude: Tensor | None, generator: Generator) -> ItemSample:
        """Draw as `sample_items` of these prefixes; rounding aside, with the same draws by the same generator."""
        ...
