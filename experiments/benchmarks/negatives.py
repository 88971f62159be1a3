"""Time and memory of negative samplers, and the recall of approximate neighbor search.

    python experiments/benchmarks/negatives.py                       # 1,000,000 items x 128; flat, ivf and hnsw build for minutes
    python experiments/benchmarks/negatives.py --sides ivf --effort 16
    python experiments/benchmarks/negatives.py --tiny                # seconds; tests that it runs, measures nothing

The catalog is generated: unit vectors in two levels of clusters (200 centers, then one center per 100 items), because pure noise
cannot be searched; popularity by rank; users with 20 items each. Every side draws K negatives for the same batch of random targets
through the public interface, which includes search, shuffling and exclusions. `flat` is exact and is the reference.

Prints a JSON line per measurement and a table: median milliseconds per batch, processor milliseconds (summed over all processors,
and less sensitive to other work on the machine; use OMP_NUM_THREADS=1), the ratio to `flat`, the recall of the allowed items of the
exact pool (64 rows, by brute force), the sampler's memory in addition to the catalog, and the seconds to build it. Each side runs in
a separate process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from genrec.preference.exclusions import Exclusions
from genrec.preference.negatives import FaissNeighbors, Popularity, Uniform
from genrec.semantic_ids import SemanticIds
from genrec.types import NegativeSampler, SamplerContext, SequenceBatch

SIDES = ("flat", "ivf", "hnsw", "uniform", "popularity")
HISTORY = 20  # items per user
STATM = Path("/proc/self/statm")
CHUNK = 100_000  # items whose vectors are placed at once
CHECKED = 64  # rows with recall measured by brute force


def world(items: int, width: int, users: int) -> SamplerContext:
    """Generate the catalog and its training set."""
    source = torch.Generator().manual_seed(0)
    centers = torch.randn(200, width, generator=source)
    clusters = max(1, items // 100)
    centers = centers[torch.randint(200, (clusters,), generator=source)] + 0.7 * torch.randn(clusters, width, generator=source)
    vectors = torch.randn(items + 1, width, generator=source).mul_(0.5)
    for rows, cluster in zip(vectors[1:].split(CHUNK), torch.randint(clusters, (items,), generator=source).split(CHUNK), strict=True):
        rows += centers[cluster]
        normalize(rows, dim=1, out=rows)
    vectors[0] = 0
    popularity = torch.cat([torch.zeros(1), 1e6 / (10.0 + torch.randperm(items, generator=source))]).ceil().long()
    level_sizes = (max(1000, -(-items // 1000)), 1000)
    codes = torch.stack(torch.unravel_index(torch.arange(items), level_sizes), 1)
    taken = torch.randint(1, items + 1, (users * HISTORY,), generator=source)
    events = {"user": torch.arange(users).repeat_interleave(HISTORY), "item": taken, "time": torch.arange(len(taken))}
    interactions = pd.DataFrame({name: column.numpy() for name, column in events.items()})
    return SamplerContext(items, interactions, popularity, vectors, SemanticIds(codes, level_sizes))


def batch_of(context: SamplerContext, size: int) -> SequenceBatch:
    """Return the histories of the first users, with a random target for each."""
    history = torch.from_numpy(context.interactions["item"].to_numpy(copy=True)).view(-1, HISTORY)[:size]
    target = torch.randint(1, context.item_count + 1, (size,), generator=torch.Generator().manual_seed(1))
    return SequenceBatch(torch.arange(size), history, target)


def sampler_of(side: str, options: argparse.Namespace) -> NegativeSampler:
    """Return the sampler of a side."""
    plain: dict[str, NegativeSampler] = {"uniform": Uniform(), "popularity": Popularity()}
    return plain.get(side) or FaissNeighbors(pool_size=options.pool, index=side, effort=0 if side == "flat" else options.effort)


def recall(context: SamplerContext, rows: SequenceBatch, offered: Tensor, pool: int) -> float:
    """Return the share of the exact pools' allowed items that are among the offered items int64 [B, pool]."""
    cosine = context.vectors[rows.target] @ context.vectors.T
    cosine.scatter_(1, rows.target.unsqueeze(1), -torch.inf)[:, 0] = -torch.inf
    exact = cosine.topk(pool, dim=1).indices
    allowed = ~Exclusions(context)(rows, exact)
    there = (exact.unsqueeze(2) == offered.unsqueeze(1)).any(2)
    return float((there & allowed).sum() / allowed.sum())


def memory_gb() -> float:
    """Return the resident memory of this process in GB on Linux, or its peak on other systems."""
    if STATM.exists():
        return int(STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def measure(side: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Build one side and draw negatives for one batch, for every K."""
    context = world(options.items, options.width, 10 * options.batch)
    batch, before, began = batch_of(context, options.batch), memory_gb(), time.perf_counter()
    draw = sampler_of(side, options).build(context).draw
    base: dict[str, Any] = {
        "side": side,
        "items": options.items,
        "width": options.width,
        "batch": options.batch,
        "pool": options.pool,
    }
    base |= {"threads": torch.get_num_threads(), "build_seconds": round(time.perf_counter() - began, 1)}
    base |= {"memory_gb": round(memory_gb() - before, 2), "recall": None}
    if side in SIDES[:3]:
        checked = SequenceBatch(*(tensor[:CHECKED] for tensor in batch))
        base["recall"] = recall(context, checked, draw(checked, options.pool, torch.Generator()), options.pool)
    rows = []
    for count in options.counts:
        times, processor, deadline = [], [], time.perf_counter() + options.seconds
        while not times or (len(times) < options.rounds and time.perf_counter() < deadline):
            began, used = time.perf_counter(), time.process_time()
            draw(batch, count, torch.Generator().manual_seed(len(times)))
            times.append(1000 * (time.perf_counter() - began))
            processor.append(1000 * (time.process_time() - used))
        took = {"ms": statistics.median(times), "cpu_ms": statistics.median(processor), "all_ms": [round(each, 2) for each in times]}
        rows.append({**base, "count": count, **took})
    return rows


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table, one per side and K."""
    yield "| sampler | K | ms per batch | processor ms | time / flat | recall | memory, GB | build, s |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    exact = {row["count"]: row["ms"] for row in rows if row["side"] == "flat"}
    for row in rows:
        ratio = f"{row['ms'] / exact[row['count']]:.4f}" if row["count"] in exact else ""
        share = "" if row["recall"] is None else f"{row['recall']:.3f}"
        cells = (row["side"], row["count"], f"{row['ms']:.1f}", f"{row['cpu_ms']:.1f}", ratio, share)
        cells += (f"{row['memory_gb']:.2f}", f"{row['build_seconds']:.1f}")
        yield "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Run the benchmark; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--items", type=lambda text: int(float(text)), default=1_000_000, help="size of the catalog")
    parser.add_argument("--width", type=int, default=128, help="width of the vectors")
    parser.add_argument("--batch", type=int, default=1024, help="targets per batch")
    parser.add_argument("--pool", type=int, default=200, help="neighbors in the pool of a target")
    parser.add_argument("--counts", type=int, nargs="+", default=[3, 15], help="numbers of negatives K")
    parser.add_argument("--effort", type=int, default=0, help="effort of ivf and hnsw; 0: default")
    parser.add_argument("--rounds", type=int, default=20, help="most rounds per side and K")
    parser.add_argument("--seconds", type=float, default=20.0, help="start no new round of a side after this time")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, one round, one process")
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        options.items, options.width, options.batch, options.pool, options.rounds = 3000, 16, 100, 20, 1
    rows = []
    for side in [options.measure] if options.measure else options.sides:
        if options.measure or options.tiny:
            found = measure(side, options)
        else:
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", side]
            lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
            found = [json.loads(line) for line in lines]
        for row in found:
            print(json.dumps(row), flush=True)
        rows += found
    if not options.measure:
        print("\n" + "\n".join(table(rows)), flush=True)


if __name__ == "__main__":
    main()
