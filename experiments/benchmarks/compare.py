"""Time of a comparison: `compare` of rows x seeds runs, as in `genrec compare`, without reading the run files.

    python experiments/benchmarks/compare.py                        # 4 rows x 5 seeds of 22,363 users (Beauty), five rounds; seconds
    python experiments/benchmarks/compare.py --rows 38 --users 943
    python experiments/benchmarks/compare.py --tiny                 # tests that it runs, measures nothing

The ranks are random: about 6 % of the users have their target among the first ten, 17 % among the first 50, and the runs of a row
agree for most users. Beside NDCG@10 a metric with a value of its own for every user is compared, because the bootstrap draws rare
values one by one. "Processor" is the time of all threads; on a busy machine it is far below the wall-clock time.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from pandas import DataFrame

from genrec.environment import environment
from genrec.evaluation.compare import Run, compare

DEPTH = 50  # length of the lists
ITEMS = 12_101
METRICS = ("ndcg@10", "novelty@10")


def random_runs(rows: int, seeds: int, users: int) -> list[Run]:
    """Return evaluated runs with random ranks, all rows trained."""
    random = np.random.default_rng(0)
    user = np.arange(1, users + 1)
    target = random.integers(1, ITEMS + 1, users)
    taste = random.standard_normal(users)  # how well every run ranks the user's target
    runs = []
    for row in range(rows):
        for seed in range(seeds):
            score = 0.9 * taste + 0.4 * random.standard_normal(users)
            rank = np.ceil(np.exp(6.5 - 2.7 * score)).astype(np.int64)
            rank[rank > DEPTH] = 0
            metrics = {f"{name}@{cutoff}": 0.0 for name in ("recall", "ndcg", "mrr") for cutoff in (10, DEPTH)}
            novelty = DataFrame({"user": user, "novelty@10": 8 + taste + 0.1 * random.standard_normal(users)})
            ranks = DataFrame({"user": user, "target": target, "rank": rank})
            protocol: dict[str, object] = {"data": "random", "users": users, "items": ITEMS}
            settings: dict[str, object] = {"sft.optimization.max_steps": row + 1}
            runs.append(Run(f"row-{row}", seed, ranks, metrics | {"novelty@10": 0.0}, protocol, settings, user_metrics=novelty))
    return runs


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--users", type=int, default=22_363)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="40 users and one round")
    options = parser.parse_args()
    users, rounds = (40, 1) if options.tiny else (options.users, options.rounds)
    runs = random_runs(options.rows, options.seeds, users)
    here = environment()
    shape = f"{len(runs)} runs ({options.rows} rows x {options.seeds} seeds) of {users} users"
    print(f"{shape}; {here['processor']}, threads {here['threads']}; {rounds} rounds\n")
    print("| metric | median, s | least, s | most, s | processor, median, s |")
    print("|---|---:|---:|---:|---:|")
    for metric in METRICS:
        wall, busy = [], []
        for _ in range(rounds):
            start = time.perf_counter(), time.process_time()
            compare(runs, metric=metric)
            wall.append(time.perf_counter() - start[0])
            busy.append(time.process_time() - start[1])
        print(f"| {metric} | {statistics.median(wall):.2f} | {min(wall):.2f} | {max(wall):.2f} | {statistics.median(busy):.2f} |")


if __name__ == "__main__":
    main()
