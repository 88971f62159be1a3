"""Filtering, k-core and sequences of a generated log: genrec compared with the same work in pandas.

    python experiments/benchmarks/data.py                        # 20 million events, genrec and pandas, three rounds; about 5 minutes
    python experiments/benchmarks/data.py --events 2e6 20e6 100e6 --only ours      # growth of time, memory and disk
    python experiments/benchmarks/data.py --read 1e6             # read reviews in JSON, in the format of Amazon Reviews 2023

Prints a JSON line per run and a table at the end. Each run is a separate process. Time excludes imports; memory is the peak resident
size of the process, imports included. The log is written once, as Parquet, below `--work`.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

CORE = 5  # least interactions per user and item
BATCH = 1_000_000  # events generated at once


def generate(path: Path, events: int, seed: int = 0) -> None:
    """Write a log of events as Parquet.

    It has 8 events per user and 40 per item, both skewed, ids of 10 to 14 characters, times of whole days and 1 % exact repeats.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    random = np.random.default_rng(seed)
    users, items = max(1, events // 8), max(1, events // 40)
    kinds = {"user": pa.string(), "item": pa.string(), "time": pa.int64(), "rating": pa.float64()}
    with pq.ParquetWriter(path, pa.schema(list(kinds.items()))) as writer:
        for begin in range(0, events, BATCH):
            count = min(BATCH, events - begin)
            user = (users * random.random(count) ** 2).astype(np.int64) * 2654435761 % (1 << 40)
            item = (items * random.random(count) ** 3).astype(np.int64) * 40503 % (1 << 34)
            day = random.integers(11_000, 17_000, count) * 86_400
            rating = random.integers(1, 6, count).astype(np.float64)
            again = random.integers(0, count, count // 100)
            for column in (user, item, day, rating):
                column[again] = column[again - 1]
            names = [
                pc.binary_join_element_wise(letter, pa.array(code).cast(pa.string()), "")
                for letter, code in (("A", user), ("B", item))
            ]
            writer.write_table(pa.table([*names, pa.array(day), pa.array(rating)], schema=writer.schema))


def ours(log: Path, folder: Path) -> dict[str, int]:
    """Run the data stage: all work of `genrec run` before item vectors, including statistics and tables."""
    from genrec.data.corpus_builder import prepare
    from genrec.data.sources import Frames
    from genrec.data.splits import LeaveOneOut

    corpus = prepare(Frames(log).stream(folder), LeaveOneOut(core=CORE), folder)
    return {"kept": len(corpus.item), "users": corpus.user_count, "items": corpus.item_count}


def in_pandas(log: Path, folder: Path) -> dict[str, int]:
    """Apply the same filters, numbering, sort and arrays in pandas, with ids converted to integers first."""
    import pandas as pd

    frame = pd.read_parquet(log)
    names = {}
    for name in ("user", "item"):
        codes, names[name] = pd.factorize(frame[name])
        frame[name] = codes.astype(np.int32)
    frame = frame.drop_duplicates(ignore_index=True)
    while True:
        enough = np.ones(len(frame), dtype=bool)
        for name in ("user", "item"):
            codes = frame[name].to_numpy()
            enough &= np.bincount(codes)[codes] >= CORE
        if enough.all():
            break
        frame = frame[enough]
    for name in ("user", "item"):
        codes, kept = pd.factorize(frame[name])
        frame[name] = (codes + 1).astype(np.int32)
        pd.DataFrame({f"{name}_id": names[name][kept]}).to_parquet(folder / f"{name}s.parquet", index=False)
    frame = frame.sort_values(["user", "time"], kind="stable", ignore_index=True)
    left = frame.groupby("user", sort=False).cumcount(ascending=False).to_numpy()
    frame.to_parquet(folder / "interactions.parquet", index=False)
    pd.DataFrame({"part": np.select([left == 0, left == 1], ["test", "validation"], "train")}).to_parquet(folder / "split.parquet")
    for name in ("item", "time", "rating"):
        np.save(folder / f"event_{name}.npy", frame[name].to_numpy())
    ends = np.bincount(frame["user"])[1:].cumsum()
    np.save(folder / "bounds.npy", np.stack([np.append(0, ends[:-1]), ends - 2, ends - 1, ends], axis=1))
    return {"kept": len(frame), "users": len(ends), "items": int(frame["item"].max())}


def opened(folder: Path) -> float:
    """Return the seconds to open the corpus and its training examples, and to gather a batch of 256."""
    import torch

    from genrec.data.corpus import Corpus
    from genrec.data.examples import examples

    began = time.perf_counter()
    entries = examples(Corpus.load(folder), "train", 20)
    entries.batch(torch.arange(0, len(entries), max(1, len(entries) // 256))[:256])
    return time.perf_counter() - began


def measure(side: str, log: Path, folder: Path) -> None:
    """Run one side in this process and print its JSON line."""
    if side == "open":
        import genrec.data.examples  # imported before timing

        print(json.dumps({"side": side, "seconds": round(opened(folder), 3)}))
        return
    run = {"ours": ours, "pandas": in_pandas}[side]
    import genrec.data.corpus_builder
    import genrec.data.sources  # noqa: F401

    disk = [0.0]
    threading.Thread(target=_watch, args=(folder, disk), daemon=True).start()
    began = time.perf_counter()
    outcome = run(log, folder)
    figures = {
        "seconds": round(time.perf_counter() - began, 2),
        "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3),
        "disk_gb": round(max(disk[0], size_of(folder)), 2),
        "result_gb": round(size_of(folder), 3),
    }
    print(json.dumps({"side": side, **figures, **outcome}))


def size_of(folder: Path) -> float:
    """Return the disk space of a folder in GB."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # temporary files may disappear
            total += path.stat().st_blocks * 512
    return total / 1e9


def _watch(folder: Path, largest: list[float]) -> None:
    """Record the largest size of the folder, including temporary files."""
    while True:
        largest[0] = max(largest[0], size_of(folder))
        time.sleep(0.5)


def in_turn(counts: list[int], sides: list[str], rounds: int, work: Path) -> Iterator[dict[str, float]]:
    """Run every number of events `rounds` times with alternating sides, each run in a separate process."""
    for count in counts:
        log = work / f"log-{count}.parquet"
        if not log.exists():
            generate(log.with_suffix(".new"), count)
            log.with_suffix(".new").rename(log)
        for _ in range(rounds):
            for side in sides:
                folder = Path(tempfile.mkdtemp(dir=work))
                yield _run(side, log, folder) | {"events": count}
                if side == "ours":
                    yield _run("open", log, folder) | {"events": count}
                shutil.rmtree(folder)


def _run(side: str, log: Path, folder: Path) -> dict[str, float]:
    """Run one side in a new process and return its figures."""
    command = [sys.executable, __file__, "--measure", side, str(log), str(folder)]
    line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    print(line, flush=True)
    outcome: dict[str, float] = json.loads(line)
    return outcome


def table(rows: list[dict[str, float]]) -> Iterator[str]:
    """Yield the lines of the table: medians over the rounds."""
    yield "| events | side | seconds | million events/s | peak memory, GB | peak disk, GB | result, GB | opening time, s |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for count in dict.fromkeys(row["events"] for row in rows):
        of = {side: [row for row in rows if row["events"] == count and row["side"] == side] for side in ("ours", "pandas", "open")}
        for side in ("ours", "pandas"):
            if of[side]:
                seconds, memory, disk, size = (_median(of[side], name) for name in ("seconds", "memory_gb", "disk_gb", "result_gb"))
                open_time = f"{_median(of['open'], 'seconds'):.3f}" if side == "ours" else ""
                rate = f"{seconds:.1f} | {count / seconds / 1e6:.2f}"
                yield f"| {count:,} | {side} | {rate} | {memory:.2f} | {disk:.1f} | {size:.2f} | {open_time} |"
        if of["ours"] and of["pandas"]:
            outcomes = {(row["kept"], row["users"], row["items"]) for side in ("ours", "pandas") for row in of[side]}
            assert len(outcomes) == 1, f"the two sides differ: {outcomes}"
            ratios = [a["seconds"] / b["seconds"] for a, b in zip(of["ours"], of["pandas"], strict=True)]
            yield f"| | ours / pandas | {statistics.median(ratios):.2f} | | | | | |"


def _median(rows: list[dict[str, float]], name: str) -> float:
    """Return the median of a figure."""
    return statistics.median(row[name] for row in rows)


def read_reviews(count: int, work: Path) -> None:
    """Generate gzipped reviews in the format of Amazon Reviews 2023, read their events and print a JSON line."""
    import gzip

    from genrec.data.sources import AmazonReviews2023

    folder = work / f"reviews-{count}"
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghijklmnoprstuvw"), size)) for size in random.integers(2, 11, 20_000)]
    popularity = 1 / np.arange(1, len(words) + 1)
    with gzip.open(folder / "Made.jsonl.gz", "wt", compresslevel=6, encoding="utf-8") as file:
        for begin in range(0, count, 10_000):
            chosen = iter(random.choice(words, 60 * 10_000, p=popularity / popularity.sum()))
            for place in range(begin, min(begin + 10_000, count)):
                text = " ".join(word for _, word in zip(range(int(random.integers(5, 60))), chosen, strict=False))
                record = {
                    "rating": float(random.integers(1, 6)),
                    "title": text[:30],
                    "text": text,
                    "images": [],
                    "asin": f"B{place % 99_991:09}",
                }
                more = {"parent_asin": record["asin"], "user_id": f"A{place % 300_007:027}", "timestamp": 1_600_000_000_000 + place}
                file.write(json.dumps({**record, **more, "helpful_vote": 0, "verified_purchase": True}) + "\n")
    size = (folder / "Made.jsonl.gz").stat().st_size
    began = time.perf_counter()
    events = sum(len(piece) for piece in AmazonReviews2023("Made", folder, metadata=False).stream(work).interactions)
    seconds = time.perf_counter() - began
    rates = {"events_per_s": round(events / seconds), "packed_mb_per_s": round(size / seconds / 1e6, 1)}
    print(
        json.dumps(
            {
                "side": "reviews",
                "events": events,
                "seconds": round(seconds, 2),
                "packed_bytes_per_review": round(size / count),
                **rates,
            }
        )
    )
    shutil.rmtree(folder)


def main() -> None:
    """Run the benchmark; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, nargs="+", default=[20e6], help="numbers of events")
    parser.add_argument("--only", choices=["ours", "pandas"], help="run a single side")
    parser.add_argument("--rounds", type=int, default=3, help="rounds per side")
    parser.add_argument("--read", type=float, help="measure reading this number of reviews instead")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "genrec-benchmark", help="folder of generated logs")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]), Path(options.measure[2]))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    if options.read:
        read_reviews(int(options.read), options.work)
        return
    sides = [options.only] if options.only else ["ours", "pandas"]
    print("\n".join(table(list(in_turn([int(count) for count in options.events], sides, options.rounds, options.work)))))


if __name__ == "__main__":
    main()
