"""TensorBoard logging of training curves. Does nothing if TensorBoard is not installed."""

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

    def write(row: Row) -> None:
        nonlocal writer
        step = int(row["step"])
        if writer is None:
            writer = SummaryWriter(folder, purge_step=step)
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(tag(name), value, step)
        writer.flush()

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def tag(name: str) -> str:
    """Return the TensorBoard tag of a curve: `training/loss`, `validation/ndcg@10`."""
    return f"validation/{name.removeprefix(VALIDATION)}" if name.startswith(VALIDATION) else f"training/{name}"
