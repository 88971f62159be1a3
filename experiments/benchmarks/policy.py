"""Benchmark of policies: training, alignment and decoding, compared with a T5 from transformers (the peer).

    python experiments/benchmarks/policy.py                              # train, align and decode, float32 and bfloat16
    python experiments/benchmarks/policy.py train decode --rounds 5 --precision float32
    python experiments/benchmarks/policy.py all --device cuda
    python experiments/benchmarks/policy.py --threads 1                  # one thread in each process
    python experiments/benchmarks/policy.py decode --lengths beauty      # history lengths as in Amazon Beauty, not always 20 items

| part | measurement | compared with |
|---|---|---|
| `train` | fine-tuning, one target per history, bidirectional encoder: examples/s | the peer |
| `targets` | causal encoder, every target of a window in one pass: targets/s | the peer, the same prefixes one by one |
| `align` | S-DPO with K = 3: histories/s | the peer, with 1 + K copies of a history |
| `decode` | 20 beams, 20 items: users/s | the peer, `generate` over a dictionary trie |
| `small` | `train` and `align` with 8 histories per step | the peer |
| `kept` | `align` with the reference's log-probabilities kept: histories/s | the peer, which computes them |
| `parallel` | RPG and SASRec: training and S-DPO (K = 15) on windows, ranking of all items | a causal Tiger, decoding by beams |
| `million` | RPG: exact ranking of 1e4, 1e5, 1e6 items, seconds per 100 users | Tiger by beams, and 1e4 items |
| `loop` | `train` by genrec's training loop, with data loading and Lightning: examples/s | the training steps only |
| `history` | genrec with an encoder of items instead of codes: training, decoding | genrec with an encoder of codes |
| `policies` | Tiger (codes, items, causal) and Gpt: training, alignment, decoding | Tiger (codes) |
| `exact` | ranking of the whole catalog over the trie: users/s | scoring item by item |
| `candidates` | `align` at K = 1, 3, 7, 15, 31 | the peer, and K = 1 |
| `beams` | `decode` at 10 to 200 beams | the peer, and 10 beams |
| `catalog` | `decode` at 1e4, 1e5, 1e6 items; MB of tables; share of search and of masks | the peer, and 1e4 items |
| `lengths` | `train` and `decode` at histories of 20, 50, 200 items | the peer, and 20 items |
| `floor` | computed operations per unit of work, divided by the measured peak of a matrix product | |
| `profile` | torch's profile of one training step of genrec | |

Each side runs in a process of its own, which tells its peak memory. The sides alternate and never run at the same time; warm-up is
not counted; rates are medians over the rounds. The script prints a JSON line per measurement and a table per part. README.md in this
folder explains the columns.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import policy_floor as floor
import torch
from policy_ours import Ours, gpt, tiger
from policy_parallel import million, parallel
from policy_peer import Peer
from policy_processes import alone, measure
from policy_shapes import (
    BEAMS,
    Case,
    Options,
    Pairs,
    Sizes,
    Step,
    examples,
    prefixes,
    semantic_ids,
    sizes_of,
    table,
    timed,
    users,
    windows,
)
from torch import Tensor

FEW = 8  # histories per step in the part `small`


def ours(options: Options, sizes: Sizes, precision: str, beams: int = BEAMS, **choices: Any) -> Ours:
    """Return genrec's Tiger; `choices` are further fields of the specification."""
    return Ours(tiger(sizes, beams, **choices), semantic_ids(sizes), options.device, precision)


def peer(options: Options, sizes: Sizes, precision: str) -> Peer:
    """Return the peer's T5."""
    return Peer(sizes, semantic_ids(sizes), options.device, precision)


def train(options: Options) -> Iterator[Case]:
    """Compare fine-tuning with one target per history."""
    sizes = sizes_of(options)
    yield from training_cases(options, sizes, options.batch)


def training_cases(options: Options, sizes: Sizes, batch: int, task: str = "", setting: str = "") -> Iterator[Case]:
    """Compare fine-tuning with the peer's."""

    def pairs() -> Pairs:
        return examples(options.lengths, sizes, batch)

    for precision in options.precision:
        sides: dict[str, Callable[[], Step]] = {
            "ours": lambda p=precision: ours(options, sizes, p).training(pairs()),
            "peer": lambda p=precision: peer(options, sizes, p).training(pairs()),
        }
        yield Case("examples", precision, sides, task, setting, {"batch": batch})


def loop(options: Options) -> Iterator[Case]:
    """Measure the overhead of the training loop; all histories have full length."""
    sizes, batch, steps = sizes_of(options), options.batch, 300 if options.device == "cuda" else 4

    def the_loop(precision: str) -> Step:
        history, target = (torch.cat(column) for column in zip(*examples("full", sizes, batch), strict=True))
        return ours(options, sizes, precision).whole_loop(history, target, batch, steps)

    for precision in options.precision:
        sides: dict[str, Callable[[], Step]] = {
            "the loop": lambda p=precision: the_loop(p),
            "bare steps": lambda p=precision: ours(options, sizes, p).training(examples("full", sizes, batch)),
        }
        yield Case("examples", precision, sides, about={"batch": batch, "steps": steps})


def targets(options: Options) -> Iterator[Case]:
    """Compare all targets of a window in one pass with one target at a time."""
    sizes, count = sizes_of(options), max(1, options.batch // 4)

    def pairs() -> Pairs:
        return windows(options.lengths, sizes, count)

    def single() -> Pairs:
        return prefixes(pairs(), options.batch)

    for precision in options.precision:
        sides: dict[str, Callable[[], Step]] = {
            "ours, causal": lambda p=precision: ours(options, sizes, p, encoder="causal").windows(pairs()),
            "ours, one target a prefix": lambda p=precision: ours(options, sizes, p).training(single()),
            "peer": lambda p=precision: peer(options, sizes, p).training(single()),
        }
        yield Case("targets", precision, sides, about={"windows": count, "batch": options.batch})


def align(options: Options) -> Iterator[Case]:
    """Compare S-DPO with three negatives."""
    yield from alignment_cases(options, max(1, options.batch // 2), 3)


def candidates(options: Options) -> Iterator[Case]:
    """Compare S-DPO with an increasing number of negatives."""
    for count in (1, 3) if options.tiny else (1, 3, 7, 15, 31):
        yield from alignment_cases(options, max(1, options.batch // 8), count, f"K = {count}")


def small(options: Options) -> Iterator[Case]:
    """Compare fine-tuning and S-DPO with few histories per step."""
    batch = 2 if options.tiny else FEW
    yield from training_cases(options, sizes_of(options), batch, "training")
    yield from alignment_cases(options, batch, 3, task="S-DPO, K = 3")


def kept(options: Options) -> Iterator[Case]:
    """Compare S-DPO with kept log-probabilities of the reference: candidates that never change, scored once."""
    yield from alignment_cases(options, max(1, options.batch // 2), 3, keeps=True)


def alignment_cases(
    options: Options, batch: int, count: int, setting: str = "", task: str = "", keeps: bool = False
) -> Iterator[Case]:
    """Compare alignment with the peer's; with `keeps` also alignment with kept log-probabilities of the reference."""
    sizes = sizes_of(options)

    def pairs() -> Pairs:
        return examples(options.lengths, sizes, batch, 1 + count)

    for precision in options.precision:
        sides: dict[str, Callable[[], Step]] = {
            "ours": lambda p=precision: ours(options, sizes, p).alignment(pairs()),
            "peer": lambda p=precision: peer(options, sizes, p).alignment(pairs()),
        }
        if keeps:
            sides = {"ours, kept": lambda p=precision: ours(options, sizes, p).kept_alignment(pairs())} | sides
        yield Case("histories", precision, sides, task, setting, {"batch": batch, "negatives": count})


def decode(options: Options) -> Iterator[Case]:
    """Compare beam search, with as many items as beams."""
    yield from decoding_cases(options, sizes_of(options), max(1, options.batch // 2), BEAMS)


def beams(options: Options) -> Iterator[Case]:
    """Compare beam search with an increasing number of beams."""
    sizes = sizes_of(options)
    for width in (5, 8) if options.tiny else (10, 20, 50, 100, 200):
        yield from decoding_cases(options, sizes, max(1, options.batch // 8), width, setting=f"{width} beams")


def decoding_cases(options: Options, sizes: Sizes, batch: int, width: int, task: str = "", setting: str = "") -> Iterator[Case]:
    """Compare decoding with the peer's."""

    def histories() -> list[Tensor]:
        return users(options.lengths, sizes, batch)

    for precision in options.precision:
        sides: dict[str, Callable[[], Step]] = {
            "ours": lambda p=precision: ours(options, sizes, p, width).decoding(histories(), width),
            "peer": lambda p=precision: peer(options, sizes, p).decoding(histories(), width),
        }
        yield Case("users", precision, sides, task, setting, {"batch": batch, "beams": width})


def catalog(options: Options) -> Iterator[Case]:
    """Compare decoding with an increasing number of items; of genrec also the size of tables and the shares of search and of masks."""
    batch = max(1, options.batch // 2)
    for items in (300, 600) if options.tiny else (10_000, 100_000, 1_000_000):
        sizes = replace(sizes_of(options), items=items)
        for case in decoding_cases(options, sizes, batch, BEAMS, setting=f"{items:,} items"):
            about = dict(case.about)

            def measured(case: Case = case, about: dict[str, object] = about, sizes: Sizes = sizes) -> Step:
                side = ours(options, sizes, case.precision)
                step = side.decoding(users(options.lengths, sizes, batch), BEAMS)
                about["table_mb"] = sum(each.numel() * each.element_size() for each in side.policy.trie.buffers()) / 1e6
                step()
                with torch.no_grad():
                    steps = (step, *floor.search_steps(side.policy, batch, BEAMS, sizes, options.device))
                    for each in steps[1:]:
                        each()
                    tries = range(
                        1 if options.tiny else 7
                    )  # the best of several, since a temporary slowdown would affect only one of the three
                    whole, search, unconstrained = (min(batch / timed(each, 1, options.device) for _ in tries) for each in steps)
                about |= {"search_share": search / whole, "masks_share": max(0.0, search - unconstrained) / whole}
                return step

            yield replace(case, sides=case.sides | {"ours": measured}, about=about)


def lengths(options: Options) -> Iterator[Case]:
    """Compare training and decoding with an increasing history length."""
    batch = max(1, options.batch // 8)
    several = [replace(sizes_of(options), history=length) for length in ((4, 8) if options.tiny else (20, 50, 200))]
    for sizes in several:
        yield from training_cases(options, sizes, batch, "training", f"{sizes.history} items")
    for sizes in several:
        yield from decoding_cases(options, sizes, batch, BEAMS, "decoding", f"{sizes.history} items")


def policy_makers(options: Options, sizes: Sizes, names: list[str], precision: str) -> dict[str, Callable[[], Ours]]:
    """Return functions that build genrec's policies, in reverse order, so that the first name is the reference of the comparison."""
    specifications = {
        "Tiger, codes": lambda: tiger(sizes, BEAMS),
        "Tiger, items": lambda: tiger(sizes, BEAMS, history="items"),
        "Tiger, causal": lambda: tiger(sizes, BEAMS, encoder="causal"),
        "Gpt": lambda: gpt(sizes, BEAMS),
    }
    return {
        name: lambda make=specifications[name]: Ours(make(), semantic_ids(sizes), options.device, precision)
        for name in reversed(names)
    }


def history(options: Options) -> Iterator[Case]:
    """Compare an encoder of items with an encoder of codes."""
    yield from side_by_side(options, ["Tiger, codes", "Tiger, items"], ("training", "decoding"))


def policies(options: Options) -> Iterator[Case]:
    """Compare all policies of genrec."""
    names = ["Tiger, codes", "Tiger, items", "Tiger, causal", "Gpt"]
    yield from side_by_side(options, names, ("training", "all targets", "alignment", "decoding"))


def side_by_side(options: Options, names: list[str], task_names: tuple[str, ...]) -> Iterator[Case]:
    """Compare policies of genrec in each of several tasks."""
    sizes, half = sizes_of(options), max(1, options.batch // 2)
    tasks: dict[str, tuple[str, Callable[[Ours], Step]]] = {
        "training": ("examples", lambda ours: ours.training(examples(options.lengths, sizes, options.batch))),
        "all targets": ("targets", lambda ours: ours.windows(windows(options.lengths, sizes, max(1, options.batch // 4)))),
        "alignment": ("histories", lambda ours: ours.alignment(examples(options.lengths, sizes, half, 4))),
        "decoding": ("users", lambda ours: ours.decoding(users(options.lengths, sizes, half), BEAMS)),
    }
    for task in task_names:
        unit, make_step = tasks[task]
        for precision in options.precision:
            makers = policy_makers(options, sizes, names, precision)
            sides = {name: lambda make=make, step=make_step: step(make()) for name, make in makers.items()}
            yield Case(unit, precision, sides, task)


def exact(options: Options) -> Iterator[Case]:
    """Compare the ranking of the whole catalog over the trie with scoring item by item, for a few users."""
    sizes, batch = sizes_of(options), max(1, options.batch // 32)

    def histories() -> list[Tensor]:
        return users(options.lengths, sizes, batch)

    for precision in options.precision:
        sides: dict[str, Callable[[], Step]] = {
            "over the trie": lambda p=precision: ours(options, sizes, p).exact(histories(), BEAMS),
            "item by item": lambda p=precision: ours(options, sizes, p).item_by_item(histories(), sizes.items, BEAMS),
        }
        yield Case("users", precision, sides, about={"batch": batch})


def print_floor(options: Options) -> None:
    """Print the operations of each unit of work, and the rate that the measured peak allows."""
    sizes = sizes_of(options)
    rows = options.batch * sizes.history * sizes.levels
    peaks = {}
    for precision in options.precision:
        gflops = {}
        for name, (product, work) in floor.products(sizes, rows, precision, options.device).items():
            gflops[name] = floor.peak(product, work, options.device, 0.01 if options.tiny else options.seconds) / 1e9
            print(
                json.dumps({"part": "floor", "what": name, "precision": precision, "rows": rows, "gflops": gflops[name]}), flush=True
            )
        peaks[precision] = max(gflops.values())
    print("\n| floor | Mop | " + " | ".join(f"{each} at {peak:.0f} Gop/s, 1/s" for each, peak in peaks.items()) + " |")
    print("| --- | ---: |" + " ---: |" * len(peaks))
    for name, work in floor.needs(sizes).items():
        print(f"| {name} | {work / 1e6:.4g} | " + " | ".join(f"{peak * 1e9 / work:.4g}" for peak in peaks.values()) + " |")
    print(flush=True)


def print_profile(options: Options) -> None:
    """Print the profile of one training step of genrec."""
    sizes = sizes_of(options)
    for precision in options.precision:
        step = ours(options, sizes, precision).training(examples(options.lengths, sizes, options.batch))
        print(f"profile of a training step, batch {options.batch}, {precision}")
        print(floor.profile(step, options.device), flush=True)


COMPARED: dict[str, Callable[[Options], Iterator[Case]]] = {
    each.__name__: each
    for each in (
        train,
        targets,
        align,
        decode,
        small,
        kept,
        parallel,
        million,
        loop,
        history,
        policies,
        exact,
        candidates,
        beams,
        catalog,
        lengths,
    )
}
PRINTED: dict[str, Callable[[Options], None]] = {"floor": print_floor, "profile": print_profile}
PARTS = [*COMPARED, *PRINTED]


def compared(part: str, options: Options) -> None:
    """Measure the cases of a part, then print their table."""
    rows = []
    for case in COMPARED[part](options):
        for side, measured in measure(case, options.rounds, options.seconds, options.device, options.threads).items():
            row = {
                "part": part,
                "task": case.task,
                "setting": case.setting,
                "precision": case.precision,
                "side": side,
                "unit": case.unit,
            }
            rate = statistics.median(measured.rates)
            row |= {"rate": rate, "rates": measured.rates, "device": options.device}
            if case.seconds_of:
                row[f"seconds_per_{case.seconds_of}"] = case.seconds_of / rate
            row |= {"lengths": options.lengths, "reference": list(case.sides)[-1], **measured.about}
            rows.append(row)
            print(json.dumps(row), flush=True)
    if rows:
        print("\n" + "\n".join(table(part, rows)), end="\n\n", flush=True)


def main() -> None:
    """Run the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}, or all (default: train align decode)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds, in which the sides alternate")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="approximate duration of a side's measurement in a round, in seconds; at least one step",
    )
    parser.add_argument(
        "--batch", type=int, help="training examples per step; other parts use a fraction of it (default: 64, on CUDA 256)"
    )
    parser.add_argument(
        "--lengths", choices=("full", "beauty"), default="full", help="length of histories: always 20 items, or as in Amazon Beauty"
    )
    parser.add_argument("--threads", type=int, help="threads of each process (default: torch's, one for each core)")
    parser.add_argument("--tiny", action="store_true", help="toy sizes and one round: a test run without meaningful timings")
    options = parser.parse_args()
    parts = PARTS if options.parts == ["all"] else options.parts or ["train", "align", "decode"]
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; expected {', '.join(PARTS)}, or all")
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if options.batch is None:
        options.batch = 8 if options.tiny else 256 if options.device == "cuda" else 64
    if options.tiny:
        options.rounds, options.seconds = 1, 0.0
    for part in parts:
        if part in COMPARED:
            compared(part, options)
        else:
            alone(partial(PRINTED[part], options), options.threads)


if __name__ == "__main__":
    main()
