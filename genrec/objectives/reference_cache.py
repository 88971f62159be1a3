"""The reference's log-probabilities of candidates that never change, scored once for each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.errors import UsageError
from genrec.objectives.numbered_examples import NumberedExamples
from genrec.objectives.prepared_rows import equal_identities, in_words
from genrec.ragged_rows import RaggedRows, joined, ragged
from genrec.types import FrozenPolicy

MAX_VALUES = 1 << 28  # log-probabilities that are kept at most, 1 GiB


class ReferenceCache:
    """Cache the reference's level log-probabilities float32 [L] of all candidates, from the first step on and in the checkpoint.

    They are scored in batches of `part_size` examples. They are kept only if this saves work and fits: the training takes at least as
    many examples (`trained`) as there are, the reference never changes, and there are at most `MAX_VALUES` values. Else every step
    scores its own candidates, with the same result up to rounding: a policy's sums depend on the examples that are scored together in
    the last digits. Rows keep their own number of candidates, without masked ones at the end, so that one long row does not widen the
    others.

    Each step compares its candidates with those that were scored, on the CPU, and raises UsageError if they changed.
    """

    def __init__(self, examples: NumberedExamples, part_size: int, trained: int, reference: FrozenPolicy) -> None:
        self.examples, self.part_size, self.reference = examples, part_size, reference
        self.pays = len(examples) <= trained
        self.levels: RaggedRows | None = None  # E rows of float32 [L]
        self.identities: RaggedRows | None = None  # E rows with the identities of the scored candidates; proposed anew after a resume

    def tensors(self) -> dict[str, Tensor]:
        """Return the log-probabilities; none before the first step."""
        levels = RaggedRows(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)) if self.levels is None else self.levels
        return {"reference_levels": levels.values, "reference_first": levels.first}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take the log-probabilities of a checkpoint. Raise ValueError if they are of another number of examples."""
        levels, first = saved["reference_levels"], saved["reference_first"]
        if not len(first):
            self.levels = None
            return
        if levels.ndim != 2 or len(first) != len(self.examples) + 1 or int(first[-1]) != len(levels):
            raise ValueError(f"reference_levels are of {len(first) - 1} examples, expected {len(self.examples)}")
        self.levels = RaggedRows(levels.clone(), first.clone())

    @torch.no_grad()
    def gather(self, number: Tensor, width: int, score: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return the log-probabilities of examples int64 [B], float32 [B, M, L], -inf where masked; None if they are not kept.

        M is `width`. `score` returns those of examples int64 [X], on the CPU, by the reference, with an M of its own. At the first
        call it scores all examples.
        """
        if self.levels is None:
            self.levels = self._scored(score)
        if self.levels is None:
            return None
        if self.levels.values.device != number.device:
            self.levels = self.levels.to(number.device)
        return self.levels.padded(number, width, -torch.inf)

    def check(self, number: Tensor, found: Tensor, propose: Callable[[Tensor], Tensor]) -> None:
        """Raise UsageError if examples int64 [B] have other candidates than before. All tensors are on the CPU.

        `found` int64 [B, M, E] are the `identities_of` the candidates: items and code sequences. `propose` returns those of examples.
        At the first call it proposes those of all examples.
        """
        if self.levels is None:
            return
        if self.identities is None:
            index = torch.split(torch.arange(len(self.examples)), self.part_size)
            self.identities = joined(_of_one_size([ragged(propose(each).int(), 0) for each in index]))
        before = self.identities.padded(number, max(found.shape[1], self.identities.longest(number)), 0)
        changed = ~equal_identities(before, found)
        if bool(changed.any()):
            place = int(changed.nonzero()[0])
            raise UsageError(
                f"a static proposer gave the candidates {in_words(found[place])} for example {int(number[place])} and "
                f"{in_words(before[place])} before; candidates must depend on the example alone, not on the step or on the "
                "rest of the batch: set Proposals.static to False"
            )

    def _scored(self, score: Callable[[Tensor], Tensor]) -> RaggedRows | None:
        """Return the log-probabilities of all examples, or None if they are not to be kept."""
        if not self.pays or self.reference.kept:
            return None
        scored, total = [], 0
        for index in torch.split(torch.arange(len(self.examples)), self.part_size):
            scored.append(ragged(score(index), -torch.inf))
            total += scored[-1].values.numel()
            if total > MAX_VALUES:
                self.pays = False
                return None
        return joined(scored)


def _of_one_size(parts: Sequence[RaggedRows]) -> list[RaggedRows]:
    """Return rows of entries [V, E] with the largest E: batches without code sequences have entries of the item alone."""
    size = max(part.values.shape[1] for part in parts)
    return [RaggedRows(pad(part.values, (0, size - part.values.shape[1])), part.first) for part in parts]
