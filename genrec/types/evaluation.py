"""The protocol of evaluation metrics, and the data that they receive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from genrec.types.policy import Recommender, SequenceBatch


class HeldOutItems(NamedTuple):
    """The items of the users' events in the part that is evaluated, oldest first, with their labels."""

    items: Tensor  # int64 [B, M]  0 for padding
    label: Tensor  # int8 [B, M]  1 liked, 0 neutral or padding, -1 disliked


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The lists and ranks of an evaluation, with the data that a metric may need. All tensors are on the CPU, users ascending.

    Metrics share these objects: work on a copy instead of changing them.
    """

    user: Tensor  # int64 [U]  1..users
    target: Tensor  # int64 [U]  the held-out item
    rank: Tensor  # int64 [U]  1 = first, 0 = not in the list
    items: Tensor  # int64 [U, n]  the list, best first, as long as the last cut-off; 0 for an invalid slot
    ranks: DataFrame  # `genrec.evaluation.evaluate.Evaluation.ranks`, for `per_user` with shared Semantic IDs
    cutoffs: tuple[int, ...]  # `Evaluate.cutoffs`
    history_length: Tensor  # int64 [U]  number of events before the target, not cut to `Experiment.history_length`
    popularity: Tensor  # int64 [N + 1]  training interactions of each item; entry 0 belongs to no item
    train: Callable[[], DataFrame]  # training interactions (user, item, time), read at the first call
    catalog: DataFrame  # str columns item_id, text and those of the source; row i is item i + 1
    recommender: Recommender  # in evaluation mode
    batches: Sequence[SequenceBatch]  # users, histories and targets, on the recommender's device, in any order of users
    seen: Callable[[Tensor], Tensor]  # users int64 [B] -> items of all their events before the target, int64 [B, E], padded with 0
    filter_seen: bool  # `Evaluate.filter_seen`: seen items were excluded from the lists
    shared: Tensor | None = None  # int64 [N + 1]  number of each item's Semantic ID, 0 for entry 0, if several items share one
    held_out: Callable[[Tensor], HeldOutItems] | None = None  # users int64 [B] -> their held-out events; None without labels
    greedy: Callable[[Tensor], Tensor] | None = None  # histories int64 [B, T] -> item that unconstrained greedy decoding generates,
    # int64 [B], 0 if it is no real item; None for a recommender that generates no codes

    def exclude(self, user: Tensor) -> Tensor | None:
        """Return the items that the lists of users int64 [B] leave out, int64 [B, E], padded with 0; None without `filter_seen`."""
        return self.seen(user) if self.filter_seen else None

    def by_user(self, function: Callable[[SequenceBatch], Tensor]) -> Tensor:
        """Return the values of a function of a batch, [B, ...], for all users in the order of `user`: [U, ...], on the CPU."""
        import torch  # here, so that importing the protocols is fast

        with torch.no_grad():
            values = torch.cat([function(batch).cpu() for batch in self.batches])
        return values[torch.cat([batch.user.cpu() for batch in self.batches]).argsort()]


@runtime_checkable
class EvaluationMetric(Protocol):
    """A metric of evaluation, a frozen dataclass: one of `Evaluate.metrics`."""

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        """Return figures by name, such as `novelty@10`. It is deterministic and does not depend on the order of `evaluated.batches`.

        float64 [U]: a value per user, in the order of `evaluated.user`, NaN for a user whom the metric does not count. The mean over
        the counted users is reported, and `genrec compare --metric NAME` tests it over users and seeds. float64 []: a figure of all
        lists together, such as coverage, which is finite and is tested over seeds. A figure that is not defined is left out.
        """
        ...
