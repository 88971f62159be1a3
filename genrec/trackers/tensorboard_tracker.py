"""TensorBoard: `data/tensorboard/NAME/seed-S`, the curves of all stages, the configuration and the test's metrics of a row and seed.

The curves of a training alone, which are written wherever TensorBoard is installed, are in `genrec.training.tensorboard_log`. That
writer belongs to an artifact, resumes by dropping points, and does nothing without TensorBoard. This one belongs to a row, resumes
after the last step that `TrackingThread` has recorded, and is refused without TensorBoard. They have the call of `add_scalar` alone in
common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from genrec.errors import ResourceError
from genrec.types.tracking import TrackedRow, TrackedRun

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """A `genrec.types.Tracker`."""

    def check(self) -> None:
        """Raise ResourceError if TensorBoard is not installed."""
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise ResourceError(f"--track tensorboard needs tensorboard ({error}): pip install 'genrec[track]'") from error

    def start(self, row: TrackedRow, identifier: str | None) -> TrackedRun:
        """Open the folder of the row and seed. A run that starts anew removes the event files of the one before it."""
        from torch.utils.tensorboard import SummaryWriter

        name = f"{row.name}/seed-{row.seed}"
        folder = row.folder / "tensorboard" / name
        if identifier != name:
            for file in folder.glob("events.out.tfevents.*"):
                file.unlink()
        return _Run(name, SummaryWriter(folder), row, is_new=identifier != name)


class _Run:
    def __init__(self, name: str, writer: SummaryWriter, row: TrackedRow, is_new: bool) -> None:
        self.name, self.writer, self.row = name, writer, row
        if is_new:
            settings = json.dumps(dict(row.configuration), indent=1, ensure_ascii=False)
            writer.add_text("configuration", "\n".join(f"    {line}" for line in settings.splitlines()))  # a block of code in Markdown
            writer.flush()

    def identifier(self) -> str:
        return self.name

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{stage}/{name}", value, step)
        self.writer.flush()

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics as scalars, and with the configuration for TensorBoard's table of hyperparameters."""
        from torch.utils.tensorboard.summary import hparams

        for name, value in metrics.items():
            self.writer.add_scalar(f"test/{name}", value, 0)
        settings: dict[str, bool | int | float | str] = {"name": self.row.name, "seed": self.row.seed}
        for path, entry in self.row.configuration.items():
            settings[path] = entry if isinstance(entry, bool | int | float | str) else json.dumps(entry)
        assert self.writer.file_writer is not None
        for summary in hparams(settings, {f"test/{name}": value for name, value in metrics.items()}):
            self.writer.file_writer.add_summary(summary)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
