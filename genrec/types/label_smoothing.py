"""Protocols of policies that smooth labels in SFT (`Supervised(label_smoothing=...)`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from genrec.types.policy import Policy, PolicySpecification

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class LabelSmoothing(Policy, Protocol):
    """A policy that gives smoothed log-probabilities, which SFT maximizes with `Supervised(label_smoothing=...)`.

    With e the label smoothing, in [0, 1), the smoothed log-probability of a code is

        (1 - e) log p(code | history, codes before) + e (mean of log p over the possible codes, the code among them)

    The possible codes of a level are those that the policy's softmax is over: all codes of the level, those that continue the codes
    before to a real item, or all items. Losses of an alignment read no smoothed log-probabilities.

    Its specification is a `LabelSmoothingSpecification`.
    """

    def smoothed_level_log_prob(self, history: Tensor, items: Tensor, label_smoothing: float) -> Tensor:
        """Return the smoothed log-probability of each code of each candidate, float32 [B, M, L], with a gradient.

        `history` int64 [B, T] and `items` int64 [B, M] are those of `Policy.level_log_prob`. The candidate 0 gets -inf. With a label
        smoothing of 0 the result is that of `level_log_prob`.
        """
        ...


@runtime_checkable
class SequenceLabelSmoothing(Policy, Protocol):
    """A `LabelSmoothing` and `SequencePolicy` that gives smoothed log-probabilities of all targets of a history in one pass."""

    def smoothed_sequence_log_prob(self, history: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Return the smoothed log-probability of a target after every place of the history, float32 [B, T, L].

        `history` and `targets` int64 [B, T] are those of `SequencePolicy.sequence_log_prob`. Place `t` of the result equals
        `smoothed_level_log_prob(history[:, : t + 1], targets[:, t])`, and is -inf where the target is 0.
        """
        ...


@runtime_checkable
class LabelSmoothingSpecification(PolicySpecification, Protocol):
    """The architecture of a policy that may be a `LabelSmoothing`. `Supervised` refuses others before any stage runs."""

    def has_label_smoothing(self) -> bool:
        """Return whether `build` returns a `LabelSmoothing` that SFT trains by its likelihood, not by a loss of its own."""
        ...
