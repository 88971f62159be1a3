"""Benchmark of OpenMP's waiting: training steps per second of a small TIGER, on a quiet machine and beside other work.

    python experiments/benchmarks/threads.py [--rounds 5] [--seconds 5]

| side | environment |
|---|---|
| `torch` | no variable set: all cores, and threads that wait actively |
| `genrec` | what the command line sets (`genrec.threads`): all cores, and threads that sleep after a short wait |
| `passive` | `OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0`: all cores, and threads that sleep at once |
| `one thread` | `OMP_NUM_THREADS=1` |

Each measurement has a process of its own, because OpenMP reads its environment once. The sides alternate within a round, and rates are
medians over the rounds. "Loaded" runs one endless loop per core beside the training.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from genrec.environment import processor
from genrec.threads import CHOICES, NUMBER, WAITING, cores

PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
SIDES: dict[str, dict[str, str]] = {"torch": {}, "genrec": WAITING, "passive": PASSIVE, "one thread": {NUMBER: "1"}}
BATCH = 128


def steps_per_second(seconds: float) -> float:
    """Train the policy of experiments/shop.py on random histories for this long, after three steps of warm-up."""
    import torch

    from genrec.model import Tiger
    from genrec.semantic_ids import SemanticIds

    generator = torch.Generator().manual_seed(0)
    codes = torch.cartesian_prod(torch.arange(32), torch.arange(32), torch.arange(32))
    ids = SemanticIds(codes[torch.randperm(len(codes), generator=generator)[:1_000]], (32, 32, 32))
    policy = Tiger(d_model=64, d_ff=256, num_heads=4, d_kv=16, num_encoder_layers=2, num_decoder_layers=2, history="items")
    trained = policy.build(ids).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    items = torch.randint(1, 1_001, (BATCH, 21), generator=generator)

    def step() -> None:
        optimizer.zero_grad()
        (-trained.level_log_prob(items[:, :20], items[:, 20:]).mean()).backward()
        optimizer.step()

    for _ in range(3):
        step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - start)


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Run this many endless loops."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(side: str, seconds: float) -> float:
    """Return the steps per second of a process with the environment of this side."""
    clean = {name: value for name, value in os.environ.items() if name not in (NUMBER, *CHOICES)}
    command = [sys.executable, __file__, "--one", "--seconds", str(seconds)]
    return float(subprocess.run(command, env=clean | SIDES[side], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure all sides and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of one measurement")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(steps_per_second(options.seconds))
        return
    print(f"{cores()} cores of {processor()}; medians of {options.rounds} rounds of {options.seconds:g} s\n")
    print(f"| | {' | '.join(f'{side}, steps/s' for side in SIDES)} | genrec / torch | genrec / one thread |")
    print(f"|---|{'---:|' * (len(SIDES) + 2)}")
    for name, processes in (("quiet", 0), (f"loaded: {cores()} endless loops", cores())):
        with load(processes):
            rates = [{side: measure(side, options.seconds) for side in SIDES} for _ in range(options.rounds)]
        medians = {side: statistics.median(each[side] for each in rates) for side in SIDES}
        ratios = [statistics.median(each["genrec"] / each[side] for each in rates) for side in ("torch", "one thread")]
        print(
            f"| {name} | {' | '.join(f'{rate:.1f}' for rate in medians.values())} | {' | '.join(f'{each:.2f}' for each in ratios)} |"
        )


if __name__ == "__main__":
    main()
