"""Training curves: rows of metrics by step, collected during training and saved as a table.

A row holds the mean of every logged metric over the steps since the previous row, and the validation metrics of its step. Rows are
passed on to `on_row` and to the watchers once they are complete. A resumed run continues with the rows of its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from pandas import DataFrame
from torch import Tensor

from genrec.errors import UsageError

Row = dict[str, float]  # `step` and the metrics logged for it
OnRow = Callable[[Row], None]  # called with every complete row
Watcher = Callable[[Row], str | None]  # called with every complete row; returns a warning to print, or None

SELECTED = "ndcg@10"  # the validation metric that selects the best step by default (`genrec.training.model_selection.Selection`)
VALIDATION = "validation_"  # prefix of the names of validation metrics
STANDARD_ERROR = "_standard_error"  # suffix of the column with the standard error of a validation metric over the users


class Curves:
    """The rows of one training run. `rows` is the checkpoint's list and is extended in place.

    `pending` has the metrics of the checkpoint's steps after its last row, so that rows do not depend on where a run was interrupted.

    After a resume `on_row` receives the last saved row again: whatever it received for that step or a later one is void. Watchers
    also receive the saved rows, and the warnings they return for these are dropped because they were printed before. `selected` is
    the validation metric that selects the best step.
    """

    def __init__(
        self,
        rows: list[Row],
        on_row: OnRow | None = None,
        watchers: Sequence[Watcher] = (),
        selected: str = SELECTED,
        pending: Sequence[Row] = (),
    ) -> None:
        self.rows, self.on_row, self.watchers, self.selected = rows, on_row, watchers, selected
        # metrics of the steps since the last row
        self.pending = [{name: torch.tensor(value) for name, value in step.items()} for step in pending]
        self._emitted = len(rows)
        for row in rows:
            for watcher in watchers:
                watcher(row)
        if rows and on_row is not None:
            on_row(rows[-1])

    def flush(self, step: int) -> Row:
        """Add one row with the means over the pending steps, and return it."""
        self.rows.append({"step": step, **means(self.pending)})
        self.pending.clear()
        return self.rows[-1]

    def pending_values(self) -> list[Row]:
        """Return the metrics of each step since the last row as numbers, for a checkpoint."""
        return [{name: float(value) for name, value in step.items()} for step in self.pending]

    def add_validation(self, step: int, scores: Mapping[str, float]) -> None:
        """Add validation metrics to the row of `step`, or to a new row if there is none."""
        if self.selected not in scores:
            got = ", ".join(scores) or "nothing"
            raise UsageError(f"validate must return {self.selected}, which selects the best step; got {got}")
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1].update({f"{VALIDATION}{name}": float(score) for name, score in scores.items()})

    def emit(self) -> list[str]:
        """Pass all new rows, which must be complete, to `on_row` and the watchers. Return the watchers' warnings."""
        new, self._emitted = self.rows[self._emitted :], len(self.rows)
        if self.on_row is not None:
            for row in new:
                self.on_row(row)
        return [message for row in new for watcher in self.watchers if (message := watcher(row)) is not None]


def together(*called: OnRow | None) -> OnRow | None:
    """Return a function that passes a row on to all of these that are not None; None if there is none."""
    given = [each for each in called if each is not None]

    def on_row(row: Row) -> None:
        for each in given:
            each(row)

    return on_row if given else None


def means(steps: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return the mean of every metric over the steps that logged it, in the order of first logging.

    Each step holds scalar tensors by name, `loss` among them. A step in which a metric is NaN, such as the log-probability of the hits
    in a batch without one, has not logged it; the mean of no step is NaN.
    """
    names = dict.fromkeys(name for logged in steps for name in logged)
    device = steps[-1]["loss"].device  # one transfer for all metrics, because each transfer waits for the device
    values = [_mean([logged[name] for logged in steps if name in logged]).to(device) for name in names]
    return dict(zip(names, torch.stack(values).tolist(), strict=True))


def _mean(scalars: Sequence[Tensor]) -> Tensor:
    """Return the mean of the scalars that are not NaN, to the digit that of all of them if none is.

    Scalars of a checkpoint are on the CPU, later ones on the device.
    """
    values = torch.stack([each.float().to(scalars[-1].device) for each in scalars])
    mean = values.mean()
    return torch.where(mean.isnan(), values.nanmean(), mean)


def mean_and_error(name: str, values: Tensor) -> dict[str, float]:
    """Return a metric's mean over the users, and its standard error if there are two users or more. `values` is float [U]."""
    mean = {name: float(values.mean())}
    return mean if len(values) < 2 else mean | {f"{name}{STANDARD_ERROR}": float(values.std()) / len(values) ** 0.5}


def scores(rows: Sequence[Row], name: str = SELECTED) -> dict[int, float]:
    """Return a validation metric by step."""
    return {int(row["step"]): row[f"{VALIDATION}{name}"] for row in rows if f"{VALIDATION}{name}" in row}


def table(rows: Sequence[Row]) -> DataFrame:
    """Return a table with one line per row and NaN for missing metrics.

    The columns are step, loss, the other training metrics, and the validation metrics.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    rank = {"step": 0, "epoch": 0, "loss": 1}
    return DataFrame(rows, columns=sorted(names, key=lambda name: rank.get(name, 3 if name.startswith(VALIDATION) else 2)))


def save(rows: Sequence[Row], folder: Path) -> None:
    """Write the table to `curves.parquet` and `curves.csv`. Missing metrics are empty in the CSV file."""
    found = table(rows)
    found.to_parquet(folder / "curves.parquet", index=False)
    found.to_csv(folder / "curves.csv", index=False)


def best_step(curves: DataFrame, selected: str = SELECTED) -> tuple[int, float]:
    """Return the first step with the best score on validation, and that score; `selected` is the validation metric."""
    name = f"{VALIDATION}{selected}"
    found = curves[["step", name]].dropna()
    place = int(found[name].to_numpy().argmax())
    return int(found["step"].iloc[place]), float(found[name].iloc[place])


def last_values(curves: DataFrame) -> dict[str, float]:
    """Return the last value of every column but `step`, in column order. Columns without a value are left out."""
    return {str(name): float(column.dropna().iloc[-1]) for name, column in curves.items() if name != "step" and column.notna().any()}
