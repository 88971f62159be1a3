"""Training examples with their numbers, for candidates and log-probabilities that are looked up by example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from genrec.types import SequenceBatch, TrainingExamples


class NumberedBatch(NamedTuple):
    """A batch with the numbers of its examples."""

    user: Tensor  # int64 [B]
    batch: SequenceBatch  # [B]
    number: Tensor  # int64 [B]


@dataclass(frozen=True, eq=False)
class NumberedExamples:
    """Examples (`genrec.types.TrainingExamples`) that give numbered batches."""

    examples: TrainingExamples
    own: bool  # whether they are the proposer's own

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, index: Tensor) -> NumberedBatch:
        """Return the batch of examples `index` int64 [B]."""
        batch = self.examples.batch(index)
        return NumberedBatch(batch.user, batch, index)


def without_numbers(examples: TrainingExamples) -> TrainingExamples:
    """Return the examples without their numbers."""
    return examples.examples if isinstance(examples, NumberedExamples) else examples
