"""Protocols of policies that generate Semantic IDs code by code, and that score code sequences whether an item has them or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from genrec.types.policy import Policy

if TYPE_CHECKING:
    from torch import Tensor

    from genrec.semantic_ids import SemanticIds

State = Any  # a policy's state of the beams so far, opaque to the search


class Decoding(Protocol):
    """Step-by-step generation of Semantic IDs, one level at a time, for B users with encoded histories."""

    def start(self) -> tuple[Tensor, State]:
        """Return the first level's log-probabilities, float32 [B, C1], and the state of one empty beam per user."""
        ...

    def advance(self, level: int, state: State, beam: Tensor, code: Tensor) -> tuple[Tensor, State]:
        """Append a code to beams; return the log-probabilities of level `level + 1`, float32 [B, W, C], and the state of the W beams.

        `beam` int64 [B, W] is the beam of `state` that each new beam continues, repeated and in any order; `code` int64 [B, W] is its
        code of level `level` (from 0). `state` must not be modified: it may be continued again.
        """
        ...


@runtime_checkable
class DecodingPolicy(Protocol):
    """A policy that generates Semantic IDs code by code."""

    semantic_ids: SemanticIds

    def decoding(self, history: Tensor) -> Decoding:
        """Encode histories int64 [B, T] and return a decoding of them."""
        ...


@runtime_checkable
class CodePolicy(Policy, Protocol):
    """A policy that scores code sequences after any place of a history, whether an item has them or not."""

    def code_level_log_prob(self, history: Tensor, places: Tensor, codes: Tensor) -> Tensor:
        """Return the log-probability of each code of each sequence, with each level's softmax over all codes of the level.

        `history` int64 [B, T] and `places` int64 [X, 2] are as in `WindowPolicy`, and `codes` is int64 [X, M, L], -1 for none. The
        result, float32 [X, M, L], is -inf where there is none, and has a gradient. For the codes of an item it equals
        `level_log_prob(history[b : b + 1, : t + 1], item)` for (b, t) = places[x]; over all sequences the probabilities add up to 1.
        """
        ...
