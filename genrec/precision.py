"""The precision of a training: resolves "auto", and warns of bfloat16 on a processor that has to emulate it.

bfloat16 halves the time of a step where the hardware multiplies it, and takes tens of times longer than float32 where it does not.
"auto" takes bf16-mixed if the hardware reports bfloat16 instructions and a short measurement confirms them, else 32-true.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch

from genrec.cpu_info import cpu_flags
from genrec.progress import say

Precision = Literal["auto", "32-true", "bf16-mixed"]
Resolved = Literal["32-true", "bf16-mixed"]
SLOW_RATIO = 1.5  # bfloat16 time / float32 time from which bfloat16 counts as slow: 0.4 with instructions, 30 or more without
CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86's, x86's and Arm's names of bfloat16 instructions
SIZE = 256  # rows and columns of the measured product: below 1 ms in float32
TRIES = 8  # products in each precision, of which the fastest counts
MORE_TRIES = 24  # further ones before bfloat16 counts as slow


def resolve(precision: Precision, has: Callable[[], bool] | None = None, ratio: Callable[[], float] | None = None) -> Resolved:
    """Return the precision to train in. Warn once per process of an explicit bf16-mixed on hardware where it is slow.

    `has` returns whether the hardware reports bfloat16 instructions, `ratio` the measured bfloat16 time / float32 time.
    """
    has, ratio = has or has_bf16, ratio or bf16_ratio
    if precision == "auto":
        return "bf16-mixed" if has() and ratio() < SLOW_RATIO else "32-true"
    if precision == "bf16-mixed" and (measured := ratio()) >= SLOW_RATIO:
        warn_of_slow_bf16(measured)
    return precision


@cache
def warn_of_slow_bf16(ratio: float) -> None:
    """Print that bfloat16 is slow here."""
    say(
        f"bf16-mixed: a bfloat16 product takes {ratio:.0f} times as long as one in float32 on this machine, which has no fast "
        "bfloat16 instructions; use optimization.precision auto or 32-true"
    )


def has_bf16() -> bool:
    """Return whether the device that trains reports bfloat16 instructions."""
    if torch.cuda.is_available():
        reported: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return reported
    if torch.backends.mps.is_available():
        return False
    return bool(CPU_FLAGS & cpu_flags())


@cache
def bf16_ratio() -> float:
    """Measure the time of a matrix product in bfloat16, divided by that in float32, on the device that trains."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ones = torch.ones(SIZE, SIZE, device=device)

    matrices = {dtype: ones.to(dtype) for dtype in (torch.bfloat16, torch.float32)}

    def seconds(dtype: torch.dtype) -> float:
        matrix, start = matrices[dtype], _finished()
        matrix @ matrix
        return _finished() - start

    for dtype in matrices:
        seconds(dtype)  # the first product is slower: it is prepared
    return measured_ratio(seconds)


def measured_ratio(seconds: Callable[[torch.dtype], float]) -> float:
    """Return the least time of a product in bfloat16, divided by the least in float32. `seconds` measures one product.

    The two alternate, so that another process that takes the cores slows both. If bfloat16 seems slow, more products decide.
    """
    best = {torch.bfloat16: math.inf, torch.float32: math.inf}
    for tries in (TRIES, MORE_TRIES):
        for _ in range(tries):
            for dtype in best:
                best[dtype] = min(best[dtype], seconds(dtype))
        if best[torch.bfloat16] < SLOW_RATIO * best[torch.float32]:
            break
    return best[torch.bfloat16] / best[torch.float32]


def _finished() -> float:
    """Return seconds, after the GPU has finished the work that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
