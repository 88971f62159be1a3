"""Stages 4 and 5, a training's rows in TensorBoard while it runs, where TensorBoard is installed: rows in, event files out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.training.curves import VALIDATION, OnRow, Row

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@contextmanager
def tensorboard(folder: Path) -> Iterator[OnRow | None]:
    """What shows each row at once, in `folder`; None where TensorBoard is not installed.

    The first row says from which step on the folder's older points are void: step 0 of a training from its start, the last kept step
    of one that goes on.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield None
        return
    writer: SummaryWriter | None = None

    def show(row: Row) -> None:
        nonlocal writer
        step = int(row["step"])
        if writer is None:
            writer = SummaryWriter(folder, purge_step=step)
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(tag(name), value, step)
        writer.flush()

    try:
        yield show
    finally:
        if writer is not None:
            writer.close()


def tag(name: str) -> str:
    """A name of the curves in one of TensorBoard's two groups: `training/loss`, `validation/ndcg@10`."""
    return f"validation/{name.removeprefix(VALIDATION)}" if name.startswith(VALIDATION) else f"training/{name}"
