"""A signal to one of two processes that train together, at any moment: both stop after the same step, and none waits for the other."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed import FileStore
from torch.multiprocessing import start_processes
from trainings import RECIPE, constant, policy, train, training_examples

from genrec import process_group
from genrec.errors import Stopped
from genrec.objectives.supervised import negative_log_likelihood
from genrec.training.checkpoint import damage_of
from genrec.types import SequenceBatch

IN_TWO_PARTS = replace(RECIPE, optimization=replace(RECIPE.optimization, accumulate=2))
LIMIT = 300  # seconds until SIGALRM ends a process that waits for the other one


def stopped(rank: int, folder: str, signalled: int, moment: str, number: int) -> None:
    """Train as one of two processes. Process `signalled` gets SIGTERM at the moment of this number, from 1."""
    torch.set_num_threads(1)  # a fork lacks the threads of its parent
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout has a handler, which does not run while a process waits
    signal.alarm(LIMIT)
    built, counts, exchange = policy(), dict.fromkeys(("step", "validation", "exchange"), 0), process_group.of_all

    def count(name: str) -> None:
        counts[name] += 1
        if (rank, name, counts[name]) == (signalled, moment, number):
            os.kill(os.getpid(), signal.SIGTERM)

    def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        count("step")
        return negative_log_likelihood(built, batch), {}

    def validate() -> dict[str, float]:
        count("validation")
        return constant()

    def of_all(value: object) -> list[object]:
        found = exchange(value)
        count("exchange")
        return found

    process_group.of_all = of_all  # type: ignore[assignment]
    with process_group.joined(process_group.Meeting(FileStore(f"{folder}/store", 2)), rank, 2):
        try:
            train(built, objective, training_examples(), IN_TWO_PARTS, 5, Path(folder) / "last", validate, "test")
        except Stopped as error:
            (Path(folder) / str(rank)).write_text(f"{error.exit_code}: {error}", encoding="utf-8")


@pytest.mark.parametrize(
    ("signalled", "moment", "number", "step"),
    [
        (0, "step", 7, 7),
        (1, "step", 7, 7),
        (0, "exchange", 7, 8),  # the one after step 7: too late to stop there
        (1, "exchange", 7, 8),
        (0, "validation", 2, 20),  # the other process waits meanwhile
        (0, "validation", 4, 50),  # that of the last step
    ],
)
def test_both_processes_stop_after_the_same_step(signalled: int, moment: str, number: int, step: int, tmp_path: Path) -> None:
    start_processes(stopped, (str(tmp_path), signalled, moment, number), nprocs=2, start_method="fork")
    said = [(tmp_path / str(rank)).read_text(encoding="utf-8") for rank in range(2)]
    assert said == [f"143: stopped at step {step}, checkpoint saved; run the same command to resume"] * 2
    assert damage_of(tmp_path / "last") is None
