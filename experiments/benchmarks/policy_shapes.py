"""Common parts of `policy.py`: sizes, Semantic IDs, histories, timing and the table. Both sides get the same seeded data."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genrec.semantic_ids import SemanticIds

Options = argparse.Namespace
Pairs = list[tuple[Tensor, Tensor]]
Step = Callable[[], int]  # does one unit of work; returns its number of examples, histories, targets or users
BATCHES = 4  # distinct batches, repeated forever
BEAMS = 20
EXTRA = ("table_mb", "search_share", "masks_share")  # further columns of parts with a growing size, where a row has them

# Beauty's 5-core, 22,363 users, 198,502 events: the number of histories, of 1,000, that are 1, 2, ... 19, and 20 or more items long.
BEAUTY = {
    "train": (170, 170, 116, 84, 63, 49, 39, 32, 27, 23, 19, 17, 15, 13, 11, 10, 9, 9, 8, 115),  # all prefixes in training
    "windows": (0, 320, 189, 120, 81, 61, 39, 31, 25, 20, 16, 12, 9, 10, 6, 5, 5, 5, 4, 42),  # training sequences of all users
    "test": (0, 0, 0, 320, 189, 120, 81, 61, 39, 31, 25, 20, 16, 12, 9, 10, 6, 5, 5, 51),  # test histories of all users
}


class Missing(Exception):
    """A side cannot run on this machine or with this version; it is left out and reported."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the policy and of its codes: TIGER's by default, toy sizes with `--tiny`."""

    width: int = 128  # width of the residual stream
    inner: int = 1024  # width of the feed-forward layers
    heads: int = 6  # attention heads
    head_width: int = 64  # width of one head
    layers: int = 4  # layers of the encoder, and of the decoder
    dropout: float = 0.1  # rate in fine-tuning
    levels: int = 4  # codes per item
    codes: int = 256  # codes per level
    items: int = 12_101  # items of Amazon Beauty
    history: int = 20  # items of the longest history


TINY = Sizes(width=16, inner=32, heads=2, head_width=8, layers=1, codes=16, items=300, history=4)


@dataclass(frozen=True)
class Case:
    """One comparison of several sides."""

    unit: str  # unit of the rates: examples, histories, targets or users
    precision: str  # float32 or bfloat16
    sides: dict[str, Callable[[], Step]]  # functions that prepare each side's step; the last side is the reference
    task: str = ""  # in a part with several tasks: training, decoding
    setting: str = ""  # in a part with a growing size: K = 3
    about: dict[str, Any] = field(default_factory=dict)  # further fields of the JSON lines; a side may add to it while it is prepared
    seconds_of: int = 0  # units of a column of seconds: 100 for seconds per 100 users; 0: no such column


def sizes_of(options: Options) -> Sizes:
    """Return TIGER's sizes, or toy sizes with `--tiny`."""
    return TINY if options.tiny else Sizes()


def semantic_ids(sizes: Sizes, items: int | None = None) -> SemanticIds:
    """Return random distinct Semantic IDs."""
    count = sizes.items if items is None else items
    generator, level_sizes = torch.Generator().manual_seed(0), (sizes.codes,) * sizes.levels
    if sizes.codes**sizes.levels > 2**62:  # so many that random ones are distinct
        result = SemanticIds(torch.randint(sizes.codes, (count, sizes.levels), generator=generator), level_sizes)
        assert result.collided == 0, f"{result.collided} of {count} random Semantic IDs collide"
        return result
    numbers = torch.randint(sizes.codes**sizes.levels, (2 * count,), generator=generator).unique()
    numbers = numbers[torch.randperm(len(numbers), generator=generator)[:count]]
    assert len(numbers) == count, f"{sizes.codes}^{sizes.levels} codes are too few for {count} items"
    places = sizes.codes ** torch.arange(sizes.levels - 1, -1, -1)
    return SemanticIds(numbers[:, None] // places % sizes.codes, level_sizes)


def histories(count: int, length: int, items: int, kind: str, lengths: str, seed: int) -> Tensor:
    """Return random histories int64 [count, T], left-padded to the longest; `lengths` is full, or beauty with a `kind` of `BEAUTY`."""
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(1, items + 1, (count, length), generator=generator)
    if lengths == "full":
        return history
    drawn = 1 + torch.multinomial(torch.tensor(BEAUTY[kind], dtype=torch.float64), count, replacement=True, generator=generator)
    drawn = drawn.clamp(max=length)
    history = torch.where(torch.arange(length, 0, -1) <= drawn[:, None], history, 0)
    return history[:, length - int(drawn.max()) :]


def random_items(shape: tuple[int, ...], items: int, seed: int) -> Tensor:
    """Return random items int64, for targets and negatives."""
    return torch.randint(1, items + 1, shape, generator=torch.Generator().manual_seed(seed))


def examples(lengths: str, sizes: Sizes, batch: int, columns: int = 1) -> Pairs:
    """Return batches of histories [B, T] with targets [B] (one column) or candidates [B, columns]."""
    result = []
    for seed in range(BATCHES):
        history = histories(batch, sizes.history, sizes.items, "train", lengths, seed)
        items = random_items((batch, columns), sizes.items, 1_000 + seed)
        result.append((history, items[:, 0] if columns == 1 else items))
    return result


def users(lengths: str, sizes: Sizes, batch: int) -> list[Tensor]:
    """Return batches of test histories."""
    return [histories(batch, sizes.history, sizes.items, "test", lengths, seed) for seed in range(BATCHES)]


def windows(lengths: str, sizes: Sizes, batch: int) -> Pairs:
    """Return batches of training sequences [B, T] and the item after each place [B, T]."""
    result = []
    for seed in range(BATCHES):
        history = histories(batch, sizes.history, sizes.items, "windows", lengths, seed)
        last = random_items((batch, 1), sizes.items, 1_000 + seed)
        targets = torch.cat([history[:, 1:], last], 1).masked_fill(history == 0, 0)
        result.append((history, targets))
    return result


def candidates_after(pairs: Pairs, items: int, negatives: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Add candidates to windows: int64 [X, 1 + K] for the X targets in the order of windows and places, the target first."""
    result = []
    for seed, (history, targets) in enumerate(pairs):
        target = targets[targets > 0].unsqueeze(1)
        result.append((history, targets, torch.cat([target, random_items((len(target), negatives), items, 2_000 + seed)], 1)))
    return result


def prefixes(pairs: Pairs, batch: int) -> Pairs:
    """Split windows into one example per prefix: shuffled, in batches padded to their longest prefix."""
    rows, targets = [], []
    for window, following in pairs:
        length = window.shape[1]
        for place in range(length):
            cut = torch.nn.functional.pad(window[:, : place + 1], (length - place - 1, 0))
            rows.append(cut[following[:, place] > 0])
            targets.append(following[following[:, place] > 0, place])
    longest = max(row.shape[1] for row in rows)
    history = torch.cat([torch.nn.functional.pad(row, (longest - row.shape[1], 0)) for row in rows])
    order = torch.randperm(len(history), generator=torch.Generator().manual_seed(0))
    result = []
    for part in order.split(batch)[:BATCHES]:
        width = int((history[part] > 0).sum(1).max())
        result.append((history[part][:, longest - width :], torch.cat(targets)[part]))
    return result


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return autocast, enabled for bfloat16."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")


def wait(device: str) -> None:
    """Wait until the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(step: Step, times: int, device: str) -> float:
    """Return the rate per second over `times` steps."""
    wait(device)
    began, count = time.perf_counter(), 0
    for _ in range(times):
        count += step()
    wait(device)
    return count / (time.perf_counter() - began)


def table(title: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Return the lines of a table with medians over the rounds.

    A ratio is the median of the rounds' ratios, so that a temporary slowdown affects both sides. A part with a growing size also
    has the cost of a unit relative to the first setting of the same side and task.
    """
    reference, units = rows[0]["reference"], {row["unit"] for row in rows}
    grows = any(row["setting"] for row in rows)
    extra = [name for name in EXTRA if any(name in row for row in rows)] if grows else []
    extra += [name for name in rows[0] if name.startswith("seconds_per_")] + ["peak_mb"]
    extra += ["device_peak_mb"] if any("device_peak_mb" in row for row in rows) else []
    columns = [title, "task", "precision", f"{units.pop()}/s" if len(units) == 1 else "1/s", f"/ {reference}"]
    columns += [*(["cost / first"] if grows else []), *(name.replace("_", " ") for name in extra)]
    yield f"| {' | '.join(columns)} |"
    yield "| --- | --- | --- |" + " ---: |" * (len(columns) - 3)
    for row in rows:
        like = [each for each in rows if (each["task"], each["precision"]) == (row["task"], row["precision"])]
        first = next(each["rate"] for each in like if each["side"] == row["side"])
        other = [each for each in like if (each["setting"], each["side"]) == (row["setting"], reference)]
        ratio = (
            f"{statistics.median(a / b for a, b in zip(row['rates'], other[0]['rates'], strict=True)):.2f}" if other else "left out"
        )
        values = [row["side"], ", ".join(filter(None, (row["task"], row["setting"]))), row["precision"], f"{row['rate']:.4g}", ratio]
        values += [f"{first / row['rate']:.2f}"] if grows else []
        values += [_figure(name, row) for name in extra]
        yield f"| {' | '.join(values)} |"


def _figure(name: str, row: dict[str, Any]) -> str:
    """Return a figure of a row, empty if the row does not have it."""
    if name not in row:
        return ""
    return f"{row[name]:,.0f}" if name.endswith("peak_mb") else f"{row[name]:.3g}"
