"""Processes of `policy.py`: every side is measured in one of its own, so that its peak memory is that of no other row.

The processes are copies (fork) of one that has only imported libraries. Parts create no tensors outside of a side's function: OpenMP
and CUDA, once used, do not work in a copy.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch
from policy_shapes import Case, Missing, timed, wait

FORK = multiprocessing.get_context("fork")


class Measurement(NamedTuple):
    """The figures of one side."""

    rates: list[float]  # units per second, one for each round
    about: dict[str, Any]  # fields of the case and of the process, see `_serve`


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MB (1e6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def measure(case: Case, rounds: int, seconds: float, device: str, threads: int | None = None) -> dict[str, Measurement]:
    """Return the figures of each side; the sides alternate, and only one works at a time.

    One step (three on a GPU) warms up and is not counted. A round repeats the step for about `seconds`. `threads` are those of a
    process, None for torch's default. Raises RuntimeError if a process ends before its measurement.
    """
    processes: dict[str, tuple[BaseProcess, Connection]] = {}
    where = ", ".join(filter(None, (case.task, case.setting, case.precision)))
    sys.stdout.flush()
    try:
        for side in case.sides:
            mine, theirs = FORK.Pipe()
            process = FORK.Process(target=_serve, args=(theirs, case, side, seconds, device, threads))
            process.start()
            theirs.close()
            processes[side] = process, mine
            if reason := _answer(side, mine):
                print(f"{where}: {side} is left out, {reason}", flush=True)
                processes.pop(side)[0].join()
        rates: dict[str, list[float]] = {side: [] for side in processes}
        for _ in range(rounds):
            for side, (_, connection) in processes.items():
                connection.send(True)
                rates[side].append(_answer(side, connection))
        result = {}
        for side, (process, connection) in processes.items():
            connection.send(False)
            result[side] = Measurement(rates[side], _answer(side, connection))
            process.join()
    finally:
        for process, _ in processes.values():
            process.kill()
    return result


def _serve(connection: Connection, case: Case, side: str, seconds: float, device: str, threads: int | None) -> None:
    """Prepare and warm up the step of one side, and send a rate for each request; if the side is missing, send the reason instead.

    The last message has the fields of the case, the number of threads, and the peak memory in MB at the start (libraries only), when
    the step was prepared (data and model), and at the end; on a GPU also that of the tensors on it.
    """
    _set_threads(threads)
    start = peak_mb()
    try:
        step = case.sides[side]()
    except Missing as reason:
        connection.send(str(reason))
        return
    prepared = peak_mb()
    for _ in range(3 if device == "cuda" else 1):
        wait(device)
        began = time.perf_counter()
        step()
        wait(device)
    times = max(1, round(seconds / (time.perf_counter() - began)))
    connection.send("")
    while connection.recv():
        connection.send(timed(step, times, device))
    about = {"threads": torch.get_num_threads(), "start_mb": start, "prepared_mb": prepared, "peak_mb": peak_mb()}
    if device == "cuda":
        about["device_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    connection.send(case.about | about)


def _set_threads(threads: int | None) -> None:
    """Set the number of torch's threads."""
    if threads is not None:
        torch.set_num_threads(threads)


def _answer(side: str, connection: Connection) -> Any:
    """Return what the process of a side sent."""
    try:
        return connection.recv()
    except EOFError:
        raise RuntimeError(f"the process of {side!r} ended before its measurement (see above; or it was killed for memory)") from None


def alone(function: Callable[[], None], threads: int | None = None) -> None:
    """Call a function in a process of its own. Raise RuntimeError if it fails."""

    def call() -> None:
        _set_threads(threads)
        function()

    sys.stdout.flush()
    process = FORK.Process(target=call)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"a process ended with the exit code {process.exitcode} (see above)")
