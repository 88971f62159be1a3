"""An endless stream of training batches, each a function of the seed and the step number alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec import process_group
from genrec.data.examples import epoch_order, epoch_steps
from genrec.objectives.numbered_examples import NumberedBatch
from genrec.randomness import PartOfStep
from genrec.types import EventHistory, TrainingExamples, WindowBatch


class Part(NamedTuple):
    """A part of a step's batch."""

    batch: Any  # the input of the objective; None if another process computes the part
    targets: int  # its targets: places of windows that have one, else examples
    number: int  # from 0


class BatchStream:
    """An endless iterable of batches in parts, starting at step `start`. Batch i is a function of (seed, i) alone.

    A batch is cut into `parts` parts of consecutive examples; a small last batch of an epoch may have fewer. Processes that train
    together take turns: part p is for the process of rank p modulo their number.

    `prepare(batch, step)` turns a part of a batch into the input of the objective, on the CPU and before the step needs it. On a
    machine with a GPU the tensors are in pinned memory, so that the transfer to the GPU does not block.
    """

    def __init__(
        self, examples: TrainingExamples, batch_size: int, seed: int, start: int,
        prepare: Callable[[Any, int], Any] | None = None, parts: int = 1,
    ) -> None:  # fmt: skip
        self.examples, self.batch_size, self.seed, self.start = examples, batch_size, seed, start
        self.prepare, self.parts = prepare, parts

    def __iter__(self) -> Iterator[tuple[Part, ...]]:
        steps = epoch_steps(len(self.examples), self.batch_size)
        epoch, first = divmod(self.start, steps)
        while True:
            order = epoch_order(len(self.examples), self.seed, epoch)
            for index in range(first, steps):
                examples = order[index * self.batch_size : (index + 1) * self.batch_size]
                cut = [each for each in torch.tensor_split(examples, self.parts) if len(each)]
                yield tuple(self._part(each, PartOfStep(epoch * steps + index, number)) for number, each in enumerate(cut))
            epoch, first = epoch + 1, 0

    def _part(self, index: Tensor, step: PartOfStep) -> Part:
        batch = self.examples.batch(index)
        targets = targets_in(batch)
        if step.part % process_group.size() != process_group.rank():
            return Part(None, targets, step.part)
        if self.prepare is not None:
            batch = self.prepare(batch, step)
        return Part(pin_memory(batch) if torch.cuda.is_available() else batch, targets, step.part)


def targets_in(batch: Any) -> int:
    """Return the number of targets in a batch of `TrainingExamples`: places of windows that have one, else examples."""
    batch = batch.batch if isinstance(batch, NumberedBatch) else batch
    return int((batch.target > 0).sum()) if isinstance(batch, WindowBatch) else len(batch.user)


def users_of_step(examples: TrainingExamples, batch_size: int, seed: int, step: int) -> Tensor:
    """Return the user numbers of the batch that `BatchStream` gives for a step, counted from 0: int64 [B]."""
    epoch, index = divmod(step, epoch_steps(len(examples), batch_size))
    order = epoch_order(len(examples), seed, epoch)[index * batch_size : (index + 1) * batch_size]
    users: Tensor = examples.batch(order).user
    return users


def pin_memory(batch: Any) -> Any:
    """Return a copy of a (nested) named tuple with its tensors and histories in pinned memory. Other values are returned unchanged."""
    if isinstance(batch, Tensor | EventHistory):
        return batch.pin_memory()
    return type(batch)(*map(pin_memory, batch)) if isinstance(batch, tuple) else batch
