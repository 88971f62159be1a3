"""The protocol of policies that read the vectors of the items beside their Semantic IDs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from genrec.types.policy import Policy, PolicySpecification

if TYPE_CHECKING:
    from torch import Tensor

    from genrec.semantic_ids import SemanticIds


@runtime_checkable
class VectorSpecification(PolicySpecification, Protocol):
    """The architecture of a policy that reads the vectors of the item encoder, and which items have training interactions.

    SFT builds it by `build_with_vectors`. The policy keeps what it has read in its state_dict, so that `build` followed by
    `load_state_dict` restores a trained policy where there are no vectors, as in an export.

    A policy that ranks by another score than `log_prob` is also a `genrec.types.ItemScorer`, and the scores of its lists are those
    of `score_items`.
    """

    def build_with_vectors(self, semantic_ids: SemanticIds, vectors: Tensor, popularity: Tensor) -> Policy:
        """Return an untrained policy for these items; its initial weights are drawn from torch's global generator.

        `vectors` is float32 [N + 1, D], row 0 is zero; `popularity` int64 [N + 1] counts the training interactions of each item, 0 for
        row 0.
        """
        ...
