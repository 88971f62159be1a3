"""Processes that share the batch of a step: losses and weights are those of one process with the whole batch, up to rounding."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from alignments import align, constant, parts, recipe
from torch import Tensor
from torch.distributed import FileStore
from torch.multiprocessing import start_processes

from genrec import process_group
from genrec.objectives import PolicyGradient, Preference
from genrec.preference.candidates import Rollouts, Sampled, TopItems
from genrec.preference.losses import KTO, Anchored, SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.training.batch_stream import BatchStream
from genrec.training.recipes import Align
from genrec.types import Candidates, ObjectiveContext, Proposals, SequenceBatch, TrainingExamples

LIMIT = 600  # seconds until SIGALRM ends a process that waits for another one
SEED = 2


@dataclass(frozen=True)
class Chosen:
    """Some examples of a data set."""

    entries: TrainingExamples
    index: Tensor  # int64 [E]

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, index: Tensor) -> Any:
        return self.entries.batch(self.index[index])


def with_targets(highest: int, count: int) -> Chosen:
    """Return the first `count` examples with a target of at most `highest`."""
    _, entries, _ = parts()
    targets = entries.batch(torch.arange(len(entries))).target
    return Chosen(entries, (targets <= highest).nonzero().squeeze(1)[:count])


@dataclass(frozen=True)
class Labeled:
    """The target and the next two items. Of a target with an even number, there is no positive; of one above `last`, no preference."""

    last: int = 40
    positives: bool = True
    weighted: bool = False

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        def propose(rows: SequenceBatch, step: int) -> Candidates:
            items = (rows.target.unsqueeze(1) + torch.arange(3) - 1) % 40 + 1
            mask = torch.ones_like(items, dtype=torch.bool)
            mask[:, 0] = (rows.target % 2 == 1) | self.positives
            weight = rows.target.float() if self.weighted else None
            return Candidates(items, mask, rows.target <= self.last, weight=weight)

        return Proposals(on_host=propose)


def train(rank: int, count: int, folder: str, settings: Align, entries: TrainingExamples) -> None:
    """Align as one of `count` processes, each with a part of every step, and write the rows of the curves and the weights."""
    torch.set_num_threads(1)  # a fork lacks the threads of its parent
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout has a handler, which does not run while a process waits
    signal.alarm(LIMIT)
    settings = replace(settings, optimization=replace(settings.optimization, accumulate=count))
    built, _, context = parts()
    built.double()  # AdamW takes large steps for the small gradients that differ by rounding
    place = process_group.Meeting(FileStore(f"{folder}/store", count))
    with process_group.joined(place, rank, count):
        outcome, *_ = align(built, entries, context, settings, SEED, Path(folder) / str(rank), constant)
    torch.save((outcome.curves, built.state_dict()), f"{folder}/result {rank}")


def results(count: int, folder: Path, settings: Align, entries: TrainingExamples) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return the curves and the weights of a training by so many processes, those of the last one."""
    folder.mkdir()
    start_processes(train, (count, str(folder), settings, entries), nprocs=count, start_method="fork")
    found: tuple[list[dict[str, Any]], dict[str, Tensor]] = torch.load(folder / f"result {count - 1}", weights_only=False)
    return found


def settings_of(objective: object, batch_size: int = 32) -> Align:
    """Return an alignment of eight steps, each with a row in the curves. Its last step is kept."""
    return recipe(objective=objective, max_steps=8, batch_size=batch_size, every=1, keep="last")


def check_same(count: int, folder: Path, settings: Align, entries: TrainingExamples, compared: Callable[[str], bool]) -> None:
    """Check that processes have the losses of one process within 1e-6 of them, and its weights within 1e-5.

    Log-probabilities and logs are float32, all else is float64.
    """
    (ours, weights), (theirs, expected) = (results(each, folder / str(each), settings, entries) for each in (count, 1))
    columns = [name for name in theirs[1] if compared(name)]
    assert "loss" in columns
    assert len(ours) == len(theirs) == 9
    for row, other in zip(ours[1:], theirs[1:], strict=True):
        assert [row[name] for name in columns] == pytest.approx([other[name] for name in columns], rel=1e-6, abs=1e-9)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-5)


def is_loss(name: str) -> bool:
    return name.endswith("loss") or name == "preference_share"


OBJECTIVES = {
    "KTO": Preference(loss=KTO(beta=2.0), candidates=Sampled(Uniform(), 3), likelihood=0.5),
    "KTO of events": Preference(loss=Anchored(KTO(beta=2.0, paired=False)), candidates=Labeled(positives=False), likelihood=0.5),
    "gated S-DPO": Preference(loss=SoftmaxDPO(), candidates=TopItems(size=8), likelihood=0.5),
    "weighted rows": Preference(loss=SoftmaxDPO(), candidates=Labeled(20, weighted=True), likelihood=0.5),
    "GRPO": PolicyGradient(candidates=Rollouts(size=4), kl=0.1),
}


@pytest.mark.parametrize(
    "name", [*list(OBJECTIVES)[:3], *(pytest.param(each, marks=pytest.mark.slow) for each in list(OBJECTIVES)[3:])]
)
def test_two_processes_have_the_losses_of_one_with_the_whole_batch(name: str, tmp_path: Path) -> None:
    _, entries, _ = parts()
    check_same(2, tmp_path, settings_of(OBJECTIVES[name]), entries, is_loss)


FEW = {
    "KTO": Preference(loss=KTO(beta=2.0), candidates=Labeled(last=1)),
    "KTO of events": Preference(loss=KTO(beta=2.0, paired=False), candidates=Labeled(last=1, positives=False)),
    "gated S-DPO": Preference(loss=SoftmaxDPO(), candidates=Labeled(last=1), likelihood=0.5),
}


@pytest.mark.parametrize("name", FEW)
def test_a_process_without_pairs_preferences_or_examples_takes_part(name: str, tmp_path: Path) -> None:
    """Three processes: steps of 2 + 1 + 1 examples, and at the end of an epoch one of 1 + 1 for the first two.

    All targets are item 1, which has a preference, or item 2. In some steps a process has no preference, in some none has; two
    neighbors with the same target are no mismatched pair.
    """
    entries = with_targets(highest=2, count=14)
    stream = iter(BatchStream(entries, 4, SEED, start=0))
    targets = [next(stream)[0].batch.target for _ in range(8)]
    cut = [torch.tensor_split(each, 3) for each in targets]
    assert [len(each) for each in targets] == [4, 4, 4, 2] * 2
    assert any(
        (step == 1).any() and any(len(part) and not (part == 1).any() for part in own) for step, own in zip(targets, cut, strict=True)
    )
    assert any((each != each.roll(1)).any() and (each == each.roll(1)).any() for each in targets)
    check_same(3, tmp_path, settings_of(FEW[name], batch_size=4), entries, is_loss)
