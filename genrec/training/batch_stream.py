"""An endless stream of training batches, each a function of the seed and the step number alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from genrec.data.examples import epoch_order, epoch_steps
from genrec.types import TrainingExamples


class BatchStream:
    """An endless iterable of batches, starting at step `start`. Batch i is a function of (seed, i) alone.

    `prepare(batch, step)` turns a batch into the input of the objective, on the CPU and before the step needs it. On a machine with a
    GPU the tensors are in pinned memory, so that the transfer to the GPU does not block.
    """

    def __init__(
        self, examples: TrainingExamples, batch_size: int, seed: int, start: int, prepare: Callable[[Any, int], Any] | None = None
    ) -> None:
        self.examples, self.batch_size, self.seed, self.start, self.prepare = examples, batch_size, seed, start, prepare

    def __iter__(self) -> Iterator[Any]:
        steps = epoch_steps(len(self.examples), self.batch_size)
        epoch, first = divmod(self.start, steps)
        while True:
            order = epoch_order(len(self.examples), self.seed, epoch)
            for index in range(first, steps):
                batch = self.examples.batch(order[index * self.batch_size : (index + 1) * self.batch_size])
                if self.prepare is not None:
                    batch = self.prepare(batch, epoch * steps + index)
                yield pin_memory(batch) if torch.cuda.is_available() else batch
            epoch, first = epoch + 1, 0


def users_of_step(examples: TrainingExamples, batch_size: int, seed: int, step: int) -> Tensor:
    """Return the user numbers of the batch that `BatchStream` gives for a step, counted from 0: int64 [B]."""
    epoch, index = divmod(step, epoch_steps(len(examples), batch_size))
    order = epoch_order(len(examples), seed, epoch)[index * batch_size : (index + 1) * batch_size]
    users: Tensor = examples.batch(order).user
    return users


def pin_memory(batch: Any) -> Any:
    """Return a copy of a (nested) named tuple with its tensors in pinned memory. Other values are returned unchanged."""
    if isinstance(batch, Tensor):
        return batch.pin_memory()
    return type(batch)(*map(pin_memory, batch)) if isinstance(batch, tuple) else batch
