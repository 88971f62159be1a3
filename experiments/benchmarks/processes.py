"""Benchmark of `--trainer.devices 2`: a training step of two processes compared with that of one, same batch and policy.

    python experiments/benchmarks/processes.py [shop tiger] [--rounds 3] [--steps 10]

Each process has one thread and runs genrec's training loop on random histories of 20 items: the policy of experiments/shop.py with
batches of 128, and TIGER at the paper's sizes with batches of 64. One process and two alternate within a round; figures are those of
the round with the fewest seconds a step, without warm-up and validation. Processor seconds are given for each process, since other
work on the machine changes the seconds on the clock more than those. "At most" is the processor time of one process divided by
that of the busier one of two: the ratio with a free core for each process, if none ever waited for the other.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from policy_shapes import TINY, Sizes
from policy_shapes import semantic_ids as random_ids
from torch import Tensor
from torch.distributed import FileStore

from genrec import process_group, progress
from genrec.data.examples import Examples
from genrec.environment import processor
from genrec.model import Tiger
from genrec.objectives.supervised import negative_log_likelihood
from genrec.threads import cores
from genrec.training import loop
from genrec.training.recipes import SFT, Optimization, Validation
from genrec.types import SequenceBatch, TrainingStep

FORK = multiprocessing.get_context("fork")  # copies of a process that has only imported libraries
WARM_UP = 2  # steps
CASES = {
    "shop": (Sizes(width=64, inner=256, heads=4, head_width=16, layers=2, levels=3, codes=32, items=1_000), 128),
    "tiger": (Sizes(), 64),
}


class Measured(NamedTuple):
    """A step of one of the processes."""

    seconds: float  # on the clock
    processor: float  # seconds of the processor, of all threads


def examples_of(sizes: Sizes, count: int) -> Examples:
    """Return this many random histories of the same length with a target."""
    length, generator = sizes.history, torch.Generator().manual_seed(0)
    items = torch.randint(1, sizes.items + 1, (count * (length + 1),), generator=generator)
    begin = torch.arange(count) * (length + 1)
    return Examples(items, torch.arange(1, count + 1), begin, begin + length, torch.arange(1, count + 1), length)


def take_steps(rank: int, count: int, folder: Path, sizes: Sizes, batch: int, steps: int) -> Measured:
    """Train as one of `count` processes, and return the mean of `steps` steps after the warm-up."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    specification = Tiger(
        d_model=sizes.width, d_ff=sizes.inner, num_heads=sizes.heads, d_kv=sizes.head_width, num_encoder_layers=sizes.layers,
        num_decoder_layers=sizes.layers, dropout=sizes.dropout,
    )  # fmt: skip
    policy, moments = specification.build(random_ids(sizes)).train(), dict[int, tuple[float, float]]()

    def likelihood(part: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return negative_log_likelihood(policy, part), {}

    def begin(step: int) -> None:
        moments[step] = time.perf_counter(), time.process_time()

    last = WARM_UP + steps
    optimization = Optimization(max_steps=last + 1, batch_size=batch, learning_rate=3e-4, accumulate=count)
    recipe = SFT(optimization=optimization, validation=Validation(every=last + 1))
    objective = TrainingStep(examples=examples_of(sizes, batch * (last + 1)), loss=likelihood)
    checkpoint, validate = folder / "checkpoint" / "last", lambda: {"ndcg@10": 0.0}
    with progress.silenced():
        if count == 1:
            loop.train(policy, objective, recipe, 0, 0, checkpoint, validate, "one", begin=begin)
        else:
            with process_group.joined(process_group.Meeting(FileStore(str(folder / "store"), count)), rank, count):
                loop.train(policy, objective, recipe, 0, 0, checkpoint, validate, "several", begin=begin)
    return Measured(*((after - before) / steps for before, after in zip(moments[WARM_UP], moments[last], strict=True)))


def measure(count: int, sizes: Sizes, batch: int, steps: int) -> list[Measured]:
    """Return the figures of each of `count` processes."""
    with tempfile.TemporaryDirectory() as folder:
        pipes = [FORK.Pipe(duplex=False) for _ in range(count)]

        def work(rank: int) -> None:
            pipes[rank][1].send(take_steps(rank, count, Path(folder), sizes, batch, steps))

        processes = [FORK.Process(target=work, args=(rank,)) for rank in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError("a process of the benchmark has failed; see its message above")
        return [receiver.recv() for receiver, _ in pipes]


def best(measurements: list[list[Measured]]) -> list[Measured]:
    """Return the measurement with the fewest seconds on the clock."""
    return min(measurements, key=lambda each: each[0].seconds)


def row(name: str, one: list[Measured], two: list[Measured]) -> str:
    """Return the row of the table: milliseconds a step, and ratios."""
    busier = max(each.processor for each in two)
    cells = [name, f"{1e3 * one[0].seconds:.0f}", f"{1e3 * one[0].processor:.0f}", f"{1e3 * two[0].seconds:.0f}"]
    cells += [" + ".join(f"{1e3 * each.processor:.0f}" for each in two)]
    cells += [f"{one[0].seconds / two[0].seconds:.2f}", f"{one[0].processor / busier:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure all policies and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="*", choices=[*CASES, []], default=[], help="default: both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="steps of one measurement")
    parser.add_argument("--tiny", action="store_true", help="a toy policy, to try the benchmark")
    options = parser.parse_args()
    cases: dict[str, tuple[Sizes, int]] = {name: CASES[name] for name in options.policies or CASES}
    if options.tiny:
        cases = {"toy": (TINY, 16)}
    print(f"{cores()} cores of {processor()}; the best of {options.rounds} rounds of {options.steps} steps; one thread a process\n")
    print("| policy | one: ms | processor ms | two: ms | processor ms of each | ratio | at most |")
    print(f"|---|{'---:|' * 6}")
    for name, (sizes, batch) in cases.items():
        rounds = [[measure(count, sizes, batch, options.steps) for count in (1, 2)] for _ in range(options.rounds)]
        one, two = (best(list(each)) for each in zip(*rounds, strict=True))
        print(row(f"{name}, batches of {batch}", one, two), flush=True)


if __name__ == "__main__":
    main()
