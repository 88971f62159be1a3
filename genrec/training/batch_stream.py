"""Stages 4 and 5, the batches of a training: examples -> batches without end, each a function of (seed, step) alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from genrec.data.examples import epoch_order


class Batched(Protocol):
    """What is trained on: examples by number, `genrec.data.examples.Examples` or `Windows`."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Any:
        """Examples int64 [B] -> their batch, a named tuple of tensors."""
        ...


class Batches:
    """The batches from step `start` on, without end: batch i is a function of (seed, i) alone.

    `prepare` makes of batch i what its objective takes, on the host and ahead of the step. What is made here is in pinned memory where
    there is a GPU, so that its transfer waits for nothing.
    """

    def __init__(self, examples: Batched, size: int, seed: int, start: int, prepare: Callable[[Any, int], Any] | None = None) -> None:
        self.examples, self.size, self.seed, self.start, self.prepare = examples, size, seed, start, prepare

    def __iter__(self) -> Iterator[Any]:
        an_epoch = math.ceil(len(self.examples) / self.size)
        epoch, place = divmod(self.start, an_epoch)
        while True:
            order = epoch_order(len(self.examples), self.seed, epoch)
            for number in range(place, an_epoch):
                batch = self.examples.batch(order[number * self.size : (number + 1) * self.size])
                if self.prepare is not None:
                    batch = self.prepare(batch, epoch * an_epoch + number)
                yield pinned(batch) if torch.cuda.is_available() else batch
            epoch, place = epoch + 1, 0


def pinned(batch: Any) -> Any:
    """A named tuple, nested or not, with its tensors in pinned memory; what is neither stays as it is."""
    if isinstance(batch, Tensor):
        return batch.pin_memory()
    return type(batch)(*map(pinned, batch)) if isinstance(batch, tuple) else batch
