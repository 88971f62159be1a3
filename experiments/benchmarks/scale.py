"""Growth of time, memory and disk with the number of items: Semantic IDs, decoding, training steps and negatives.

    python experiments/benchmarks/scale.py                             # all parts at 1e5, 1e6 and 1e7 items; up to 10 GB of memory
    python experiments/benchmarks/scale.py rpg tiger --items 1e5 1e6   # some of them
    python experiments/benchmarks/scale.py --tiny                      # seconds; tests that it runs, measures nothing

| part | a unit of work | prepared before |
|---|---|---|
| `ids` | `SemanticIds`: sort 4 x 256 codes and build the tables; "disk" is `codes.safetensors` | codes |
| `trie` | `Trie`: the tables of a policy | Semantic IDs |
| `append` | `append_level` on 3 x 256 codes, which collide | codes |
| `rpg` | RPG (16 x 256) ranks all items for 100 users, 10 items each | policy |
| `rpg-items` | the same with an embedding for each item | policy |
| `tiger` | Tiger (4 x 256), 20 beams, 100 users, 10 items each | policy |
| `step-rpg` | training step of RPG on 16 windows of 20 targets, `SampledSoftmax(1024, in_batch=0.5, log_q=True)` | policy |
| `step-rpg-all` | the same with the softmax over all items | policy |
| `step-rpg-items` | `step-rpg` with an embedding for each item; at most 1e6 items | policy |
| `step-tiger` | the same windows with a causal Tiger | policy |
| `uniform`, `popularity` | 1,024 rows of 15 negatives | sampler, without item vectors |
| `faiss` | the same, `FaissNeighbors(pool_size=100)`, vectors of width 64; up to 131,072 items exact, above IVF | sampler |

Every measurement is a process of its own with one thread. Codes are random, policies have the sizes of `policy.py` and are untrained.
After a warm-up the unit is repeated for `--seconds`, at least once and at most `--rounds` times; figures are medians. `build` is the
preparation that genrec does (Semantic IDs and policy, or sampler), once. "Tables" are what grows with the items in memory, "disk" the
codes or the weights in a file.

Prints a JSON line per measurement and a table. An exponent is the slope between two sizes: log(ratio of the figures) / log(ratio of
the items). Those of time are of processor seconds, which other work on the machine affects less. Those of memory are of the peak
without the `start` of the process (Python and libraries).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from negatives import batch_of, world
from policy_ours import Ours, tiger
from policy_parallel import DIGITS
from policy_processes import alone, peak_mb
from policy_shapes import BEAMS, Sizes, semantic_ids, sizes_of, users, windows
from torch import Tensor

from genrec.baselines import SampledSoftmax
from genrec.environment import processor
from genrec.model import RPG
from genrec.model.trie import Trie
from genrec.preference.negatives import FaissNeighbors, Popularity, Uniform
from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.collisions import append_level
from genrec.types import NegativeSampler

SIZES = (100_000, 1_000_000, 10_000_000)
USERS, LISTED = 100, 10  # users of a ranking, and items of a list
WINDOWS = 16  # of a training step
ROWS, NEGATIVES = 1_024, 15  # of a draw
WIDTH = 64  # of the vectors that faiss searches
LARGEST = {"step-rpg-items": 1_000_000}  # items; more take over 12 GB


class Work(NamedTuple):
    """A prepared unit of work, and the figures of its preparation."""

    unit: Callable[[], object]
    about: dict[str, float]  # build_s, build_cpu_s, tables_mb, disk_mb


def clocks() -> tuple[float, float]:
    """Return seconds and processor seconds of this process."""
    return time.perf_counter(), time.process_time()


def built(make: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what `make` returns, and its seconds and processor seconds."""
    began = clocks()
    result = make()
    seconds, processor_seconds = (now - then for now, then in zip(clocks(), began, strict=True))
    return result, {"build_s": seconds, "build_cpu_s": processor_seconds}


def megabytes(tensors: Iterator[Tensor]) -> float:
    """Return the size of tensors in MB (1e6 bytes)."""
    return sum(each.numel() * each.element_size() for each in tensors) / 1e6


def tables_of(ids: SemanticIds) -> Iterator[Tensor]:
    """Yield the tensors of Semantic IDs."""
    yield ids.codes
    yield from ids.items_by_leaf()
    yield ids._leaf_of_item
    for table in ids.tables:
        yield from (table.start, table.code)


def ids(options: argparse.Namespace, sizes: Sizes) -> Work:
    """Prepare the construction of Semantic IDs."""
    made = semantic_ids(sizes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "codes.safetensors"
        made.save(file)
        disk = file.stat().st_size / 1e6
    about = {"tables_mb": megabytes(tables_of(made)), "disk_mb": disk}
    return Work(lambda: SemanticIds(made.codes, made.level_sizes).tables, about)


def trie(options: argparse.Namespace, sizes: Sizes) -> Work:
    """Prepare the construction of a policy's trie."""
    made = semantic_ids(sizes)
    return Work(lambda: Trie(made), {"tables_mb": megabytes(Trie(made).buffers())})


def append(options: argparse.Namespace, sizes: Sizes) -> Work:
    """Prepare the resolution of collisions of random codes with one level less."""
    codes = torch.randint(sizes.codes, (sizes.items, sizes.levels - 1), generator=torch.Generator().manual_seed(0))
    collided = SemanticIds(codes).collided
    return Work(lambda: append_level(codes), {"collided_before": collided, "collided": SemanticIds(append_level(codes)).collided})


def policy(specification: Any, sizes: Sizes) -> tuple[Ours, dict[str, float]]:
    """Build a policy over random Semantic IDs, and return it with the figures of its construction."""
    codes = semantic_ids(sizes).codes
    ours, about = built(lambda: Ours(specification, SemanticIds(codes, (sizes.codes,) * sizes.levels), "cpu", "float32"))
    return ours, about | {"tables_mb": megabytes(ours.policy.buffers()), "disk_mb": megabytes(ours.policy.parameters())}


def rpg(sizes: Sizes, **choices: Any) -> tuple[Ours, dict[str, float]]:
    """Build RPG over random digits; `choices` are further fields."""
    specification = RPG(d_model=sizes.width, d_ff=4 * sizes.width, dropout=sizes.dropout, **choices)
    return policy(specification, replace(sizes, levels=DIGITS))


def causal_tiger(sizes: Sizes) -> tuple[Ours, dict[str, float]]:
    """Build a causal Tiger."""
    return policy(tiger(sizes, BEAMS, encoder="causal"), sizes)


def ranking(options: argparse.Namespace, sizes: Sizes, made: tuple[Ours, dict[str, float]]) -> Work:
    """Prepare the ranking of items for users."""
    ours, about = made
    return Work(ours.decoding(users("full", sizes, 4 if options.tiny else USERS), LISTED), about)


def step(options: argparse.Namespace, sizes: Sizes, made: tuple[Ours, dict[str, float]]) -> Work:
    """Prepare a training step: the policy's own loss, if it has one, or the likelihood."""
    ours, about = made
    batches = windows("full", sizes, 2 if options.tiny else WINDOWS)
    if getattr(ours.policy.specification, "loss", None) is None:
        return Work(ours.windows(batches), about)
    optimizer, numbers = ours.optimizer(), count()
    ours.policy.train()

    def unit() -> None:
        number = next(numbers)
        loss = ours.policy.sequence_loss(*batches[number % len(batches)], torch.Generator().manual_seed(number))
        ours.update(loss, optimizer)

    return Work(unit, about)


def draws(options: argparse.Namespace, sizes: Sizes, sampler: NegativeSampler, width: int) -> Work:
    """Prepare the draw of negatives."""
    rows = 20 if options.tiny else ROWS
    context = world(sizes.items, width, 10 * rows)
    batch, numbers = batch_of(context, rows), count()
    draw, about = built(lambda: sampler.build(context).draw)
    return Work(lambda: draw(batch, NEGATIVES, torch.Generator().manual_seed(next(numbers))), about)


SAMPLED = SampledSoftmax(num_negatives=1_024, in_batch=0.5, log_q=True)
PARTS: dict[str, Callable[[argparse.Namespace, Sizes], Work]] = {
    "ids": ids,
    "trie": trie,
    "append": append,
    "rpg": lambda options, sizes: ranking(options, sizes, rpg(sizes)),
    "rpg-items": lambda options, sizes: ranking(options, sizes, rpg(sizes, item_embedding=True)),
    "tiger": lambda options, sizes: ranking(options, sizes, causal_tiger(sizes)),
    "step-rpg": lambda options, sizes: step(options, sizes, rpg(sizes, loss=SAMPLED)),
    "step-rpg-all": lambda options, sizes: step(options, sizes, rpg(sizes)),
    "step-rpg-items": lambda options, sizes: step(options, sizes, rpg(sizes, loss=SAMPLED, item_embedding=True)),
    "step-tiger": lambda options, sizes: step(options, sizes, causal_tiger(sizes)),
    "uniform": lambda options, sizes: draws(options, sizes, Uniform(), 1),
    "popularity": lambda options, sizes: draws(options, sizes, Popularity(), 1),
    "faiss": lambda options, sizes: draws(options, sizes, FaissNeighbors(pool_size=100), WIDTH),
}


def measure(part: str, items: int, options: argparse.Namespace) -> dict[str, Any]:
    """Prepare and measure a part with this number of items in this process."""
    start = peak_mb()
    work = PARTS[part](options, replace(sizes_of(options), items=items))
    prepared, times = peak_mb(), []
    work.unit()
    deadline = time.perf_counter() + options.seconds
    while not times or (len(times) < options.rounds and time.perf_counter() < deadline):
        began = clocks()
        work.unit()
        times.append([now - then for now, then in zip(clocks(), began, strict=True)])
    seconds, processor_seconds = (statistics.median(column) for column in zip(*times, strict=True))
    row = {"part": part, "items": items, "seconds": seconds, "cpu_seconds": processor_seconds, "rounds": len(times)} | work.about
    return row | {"start_mb": start, "prepared_mb": prepared, "peak_mb": peak_mb(), "processor": processor()}


def measured_alone(part: str, items: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of `measure` in a process of its own with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.json"
        alone(lambda: file.write_text(json.dumps(measure(part, items, options)), encoding="utf-8"), threads=1)
        row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return row


def exponent(first: dict[str, Any], second: dict[str, Any], figure: Callable[[dict[str, Any]], float]) -> float:
    """Return the slope of log figure by log items between two rows; NaN if a figure is not positive."""
    one, other = figure(first), figure(second)
    return math.log(other / one) / math.log(second["items"] / first["items"]) if min(one, other) > 0 else math.nan


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table: a line for each part and size, with the exponents since the size before."""
    yield "| part | items | s | processor s | exponent | peak MB | exponent | build, processor s | exponent | tables MB | disk MB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    figures: tuple[Callable[[dict[str, Any]], float], ...] = (
        lambda row: row["cpu_seconds"],
        lambda row: row["peak_mb"] - row["start_mb"],
        lambda row: row.get("build_cpu_s", 0.0),
    )
    for before, row in pairwise([None, *rows]):
        assert row is not None
        grown = ["", "", ""]
        if before is not None and before["part"] == row["part"] and before["items"] < row["items"]:
            grown = [f"{slope:.2f}" if math.isfinite(slope := exponent(before, row, figure)) else "" for figure in figures]
        build = f"{row['build_cpu_s']:.3g}" if "build_cpu_s" in row else ""
        cells = [row["part"], f"{row['items']:,}", f"{row['seconds']:.3g}", f"{row['cpu_seconds']:.3g}", grown[0]]
        cells += [f"{row['peak_mb']:,.0f}", grown[1], build, grown[2]]
        cells += [f"{row[name]:,.1f}" if name in row else "" for name in ("tables_mb", "disk_mb")]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the benchmark; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--items", type=lambda text: int(float(text)), nargs="+", default=list(SIZES), help="sizes of the catalog")
    parser.add_argument("--rounds", type=int, default=5, help="most repetitions of a unit")
    parser.add_argument("--seconds", type=float, default=10.0, help="start no further repetition after this time")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, one round, one process")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    if options.tiny:
        options.items, options.rounds, options.seconds = [300, 600], 1, 0.0
    rows = []
    for part in options.parts or PARTS:
        for items in sorted(options.items):
            if items > LARGEST.get(part, items):
                print(f"{part} is left out at {items:,} items: it takes over 12 GB of memory", flush=True)
                continue
            row = measure(part, items, options) if options.tiny else measured_alone(part, items, options)
            print(json.dumps(row), flush=True)
            rows.append(row)
    print("\n" + "\n".join(table(rows)), flush=True)


if __name__ == "__main__":
    main()
