"""The reference's log-probabilities of candidates that never change, scored once for each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.objectives.numbered_examples import NumberedExamples
from genrec.types import FrozenPolicy

MAX_VALUES = 1 << 28  # log-probabilities that are kept at most, 1 GiB


class ReferenceCache:
    """Level log-probabilities float32 [E, M, L] of all examples, scored in batches at the first step and kept in the checkpoint.

    They are kept only if this saves work and fits: the training takes at least `len(examples)` examples, the reference never changes,
    and there are at most `MAX_VALUES` values. Else every step scores its own candidates, with the same result up to rounding: a
    policy's sums depend on the examples that are scored together in the last digits.

    Each step compares its candidates with those that were scored, on the CPU, and raises UsageError if they changed.
    """

    def __init__(self, examples: NumberedExamples, batch_size: int, steps: int, reference: FrozenPolicy) -> None:
        self.examples, self.batch_size, self.reference = examples, batch_size, reference
        self.pays = len(examples) <= batch_size * steps
        self.levels = torch.zeros(0, 0, 0)
        self.items = torch.zeros(
            0, 0, dtype=torch.int32
        )  # [E, M]  the scored candidates, 0 where masked; proposed anew after a resume

    def tensors(self) -> dict[str, Tensor]:
        """Return the log-probabilities; none before the first step."""
        return {"reference_levels": self.levels}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take the log-probabilities of a checkpoint. Raise ValueError if they are of another number of examples."""
        levels = saved["reference_levels"]
        if levels.ndim != 3 or (levels.numel() and len(levels) != len(self.examples)):
            raise ValueError(f"reference_levels has the shape {list(levels.shape)}, expected [{len(self.examples)}, M, L]")
        self.levels = levels.clone()

    @torch.no_grad()
    def gather(self, number: Tensor, width: int, score: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return the log-probabilities of examples int64 [B], float32 [B, M, L]; None if they are not kept. M is `width`.

        `score` returns those of examples int64 [X], on the CPU, by the reference. At the first call it scores all examples.
        """
        if not self.levels.numel() and not self._fill(number, score):
            return None
        if self.levels.device != number.device:
            self.levels = self.levels.to(number.device)
        self._check_width(width)
        return self.levels[number]

    def check(self, number: Tensor, items: Tensor, propose: Callable[[Tensor], Tensor]) -> None:
        """Raise UsageError if examples int64 [B] have other candidates than before, int64 [B, M], 0 where masked. All on the CPU.

        `propose` returns the candidates of examples. At the first call it proposes those of all examples.
        """
        if not self.levels.numel():
            return
        self._check_width(items.shape[1])
        if not self.items.numel():
            index = torch.split(torch.arange(len(self.examples)), self.batch_size)
            self.items = torch.cat([propose(each).int() for each in index])
        changed = (self.items[number] != items).any(1)
        if bool(changed.any()):
            place = int(changed.nonzero()[0])
            raise UsageError(
                f"a static proposer gave the candidates {items[place].tolist()} for example {int(number[place])} and "
                f"{self.items[number[place]].tolist()} before; candidates must depend on the example alone, not on the step or on the "
                "rest of the batch: set Proposals.static to False"
            )

    def _fill(self, number: Tensor, score: Callable[[Tensor], Tensor]) -> bool:
        if not self.pays or self.reference.kept:
            return False
        scored: list[Tensor] = []
        for index in torch.split(torch.arange(len(self.examples)), self.batch_size):
            levels = score(index)
            if levels[0].numel() * len(self.examples) > MAX_VALUES:
                self.pays = False
                return False
            if not scored:
                self.levels = levels
            self._check_width(levels.shape[1])
            scored.append(levels)
        self.levels = torch.cat(scored)
        return True

    def _check_width(self, width: int) -> None:
        if width != self.levels.shape[1]:
            raise UsageError(
                f"a static proposer gave {width} candidates a row and {self.levels.shape[1]} before; expected one number for all "
                "examples, with masked candidates at the end of shorter rows"
            )
