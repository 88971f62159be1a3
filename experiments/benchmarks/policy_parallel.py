"""Parts of `policy.py` for policies that score the whole catalog: RPG and SASRec beside a causal Tiger, all of them genrec's.

RPG has 16 random digits, the catalog softmax and 2 layers; SASRec has the layers of `experiments/amazon.py`. Both have Tiger's width,
Tiger its usual layers (4 + 4) and 4 codes an item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from policy_ours import Ours, tiger
from policy_shapes import BEAMS, Case, Options, Sizes, Step, candidates_after, semantic_ids, sizes_of, users, windows

from genrec import model
from genrec.baselines import SASRec
from genrec.semantic_ids import SemanticIds

DIGITS = 16  # levels of the parallel policy
NEGATIVES = 15  # of S-DPO


def rpg(sizes: Sizes, device: str, precision: str) -> Ours:
    """Return a parallel policy over random digits."""
    specification = model.RPG(d_model=sizes.width, d_ff=4 * sizes.width, dropout=sizes.dropout)
    return Ours(specification, semantic_ids(replace(sizes, levels=DIGITS)), device, precision)


def sasrec(sizes: Sizes, device: str, precision: str) -> Ours:
    """Return a SASRec."""
    specification = SASRec(d_model=sizes.width, d_ff=sizes.width, num_heads=2, dropout=sizes.dropout, max_positions=sizes.history)
    return Ours(specification, SemanticIds(torch.arange(sizes.items)[:, None]), device, precision)


def causal_tiger(sizes: Sizes, device: str, precision: str) -> Ours:
    """Return a causal Tiger."""
    return Ours(tiger(sizes, BEAMS, encoder="causal"), semantic_ids(sizes), device, precision)


MAKERS: dict[str, Callable[[Sizes, str, str], Ours]] = {"RPG": rpg, "SASRec": sasrec, "Tiger": causal_tiger}


def parallel(options: Options) -> Iterator[Case]:
    """Compare training and S-DPO on windows, and the ranking of all items with a search by beams."""
    sizes = sizes_of(options)
    count, few, half = (max(1, options.batch // part) for part in (4, 8, 2))

    def alignment(ours: Ours) -> Step:
        pairs = windows(options.lengths, sizes, few)
        return ours.window_alignment(candidates_after(pairs, sizes.items, NEGATIVES))

    tasks: dict[str, tuple[str, int, Callable[[Ours], Step]]] = {
        "training on windows": ("targets", count, lambda ours: ours.windows(windows(options.lengths, sizes, count))),
        f"S-DPO on windows, K = {NEGATIVES}": ("targets", few, alignment),
        "decoding, all items or beams": ("users", half, lambda ours: ours.decoding(users(options.lengths, sizes, half), BEAMS)),
    }
    for task, (unit, batch, make_step) in tasks.items():
        for precision in options.precision:
            sides = {
                name: lambda make=make, step=make_step, p=precision: step(make(sizes, options.device, p))
                for name, make in MAKERS.items()
            }
            yield Case(unit, precision, sides, task, about={"batch": batch})


def million(options: Options) -> Iterator[Case]:
    """Compare the exact ranking of an increasing number of items with a search by beams: 10 items for 100 users."""
    batch, n = (4, 5) if options.tiny else (100, 10)
    for items in (300, 600) if options.tiny else (10_000, 100_000, 1_000_000):
        sizes = replace(sizes_of(options), items=items)
        for precision in options.precision:
            sides: dict[str, Callable[[], Step]] = {
                name: lambda make=MAKERS[name], sizes=sizes, p=precision: make(sizes, options.device, p).decoding(
                    users(options.lengths, sizes, batch), n
                )
                for name in ("RPG", "Tiger")
            }
            about = {"batch": batch, "n": n}
            yield Case("users", precision, sides, setting=f"{items:,} items", about=about, seconds_of=100)
