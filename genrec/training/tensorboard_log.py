"""TensorBoard logging of training curves. Does nothing if TensorBoard is not installed; an error ends the logging alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.progress import say
from genrec.training.curves import VALIDATION, OnRow, Row

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@contextmanager
def tensorboard(folder: Path) -> Iterator[OnRow | None]:
    """Yield a function that writes each row of the curves to `folder` at once, or None if TensorBoard is not installed.

    Older points in the folder are dropped from the step of the first row on. That step is 0 for a new run and the last saved step
    for a resumed run, so no point appears twice.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield None
        return
    writer: SummaryWriter | None = None
    failed = False

    def write(row: Row) -> None:
        nonlocal failed
        if not failed:
            try:
                add(row)
            except Exception as error:  # such as a full disk
                failed = True
                say(f"TensorBoard files in {folder} end here ({type(error).__name__}: {error}); the training goes on")

    def add(row: Row) -> None:
        nonlocal writer
        step = int(row["step"])
        if writer is None:
            _wait_for_new_second(folder)
            writer = SummaryWriter(folder, purge_step=step)
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(tag(name), value, step)
        writer.flush()

    try:
        yield write
    finally:
        if writer is not None:
            with suppress(Exception) if failed else nullcontext():
                writer.close()


def tag(name: str) -> str:
    """Return the TensorBoard tag of a curve: `training/loss`, `validation/ndcg@10`."""
    return f"validation/{name.removeprefix(VALIDATION)}" if name.startswith(VALIDATION) else f"training/{name}"


def _wait_for_new_second(folder: Path) -> None:
    """Wait until no event file in the folder was begun in the present second.

    TensorBoard reads files in the order of their names, `events.out.tfevents.SECOND.HOST.PROCESS.NUMBER`. Within one second number 10
    sorts before 9, and the points that the later file drops would stay.
    """
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.02)
