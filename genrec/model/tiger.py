"""TIGER: a T5-style encoder-decoder that reads a history's Semantic IDs and generates the next item's.

The history is encoded once, for any number of candidates or beams. Each level's output is a softmax over the codes of that level only.
If several items share a Semantic ID, the log-probability of an item is that of the Semantic ID.

Two likelihoods, in training and in decoding alike:

- `normalization="codes"`, the paper's: a softmax over all codes of a level. The probabilities of real items add up to less than 1.
- `normalization="catalog"`: a softmax over the codes that continue the codes so far to a real item. The probabilities of all items add
  up to 1, and every decoding ends in an item.

Source: Rajput et al. 2023, arXiv 2305.05065.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from genrec.model.event_embedding import check_inputs, chosen_inputs
from genrec.model.tiger_policy import TigerPolicy
from genrec.model.tiger_sizes import Sizes
from genrec.semantic_ids import SemanticIds
from genrec.store import NEW_IN_KEY
from genrec.types import HistoryInput
from genrec.types.specification import check_at_least, check_choices, check_dropout

__all__ = ["Tiger", "TigerPolicy"]


@dataclass(frozen=True)
class Tiger:
    """The architecture of a TIGER policy. A size of None is the paper's, or smaller below 2,048 items (`tiger_sizes`)."""

    d_model: int | None = None  # width of the residual stream; None: 128, or 64 for a small catalog
    d_ff: int | None = None  # width of the feed-forward layers; None: 1024 or 256
    num_heads: int | None = None  # attention heads; None: 6 or 4
    d_kv: int | None = None  # width of one head; None: 64 or 16
    num_encoder_layers: int | None = None  # None: 4 or 2
    num_decoder_layers: int | None = None  # None: 4 or 2
    dropout: float = 0.1  # rate, in [0, 1)
    history: Literal["codes", "items"] = "codes"  # encoder input: one token per code (TIGER), or one per item, the sum of its codes
    encoder: Literal["bidirectional", "causal"] = "bidirectional"  # causal: attend to earlier items; one pass scores all targets
    recency_positions: int = 20  # learned item ages, older items share the last one; 0: relative positions only, as in T5
    num_beams: int = 50  # of constrained beam search; the longest list of `recommend`
    user_tokens: int = field(default=0, metadata=NEW_IN_KEY)  # tokens that users are hashed to, one before the history; 0: none (2000)
    time_buckets: int = field(default=0, metadata=NEW_IN_KEY)  # buckets of log2 of the seconds since the event before; 0: no times
    ratings: tuple[float, ...] = field(default=(), metadata=NEW_IN_KEY)  # ratings with a vector each, as (1, 2, 3, 4, 5); (): none
    normalization: Literal["codes", "catalog"] = field(default="codes", metadata=NEW_IN_KEY)  # of each level's softmax, see above

    def __post_init__(self) -> None:
        check_at_least(self, "policy", 1, *(name for name in Sizes._fields if getattr(self, name) is not None), "num_beams")
        check_at_least(self, "policy", 0, "recency_positions")
        check_dropout(self.dropout, "policy")
        check_inputs(self, "policy")
        check_choices(self, "policy")

    @property
    def causal(self) -> bool:
        """Return whether the policy is a `genrec.types.SequencePolicy`."""
        return self.encoder == "causal"

    def has_history_states(self) -> bool:
        """Return that the policy gives states of histories; see `genrec.types.HistoryStates`."""
        return True

    def has_label_smoothing(self) -> bool:
        """Return that the policy gives smoothed log-probabilities; see `genrec.types.LabelSmoothing`."""
        return True

    def history_inputs(self) -> tuple[HistoryInput, ...]:
        """Return what the policy reads beside the items; see `genrec.types.InputSpecification`."""
        return chosen_inputs(self)

    def build(self, semantic_ids: SemanticIds) -> TigerPolicy:
        """Return an untrained policy for these Semantic IDs."""
        return TigerPolicy(self, semantic_ids)
