"""Stages 4 and 5, what is seen of a training: rows of numbers by step, as they come and as a table.

In: what every step logged, and what validations gave. Out: rows, each a mean over the steps since the one before; whoever asked is
told of a row once it is whole. A resumed training goes on with the rows of its checkpoint, so that none is doubled and none is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from pandas import DataFrame
from torch import Tensor

from genrec.errors import UsageError

Row = dict[str, float]  # `step`, and what was logged by then
OnRow = Callable[[Row], None]  # is given every row, once it is whole
Watcher = Callable[[Row], str | None]  # is given every row, and returns what the person should read

SELECTED = "ndcg@10"  # what chooses the step that is kept
VALIDATION = "validation_"  # before the name of whatever a validation gave


class Curves:
    """The rows of one training. `rows` is the checkpoint's list, and grows in place.

    After a resume `on_row` is given the last kept row again: what it was given from that step on is void. Watchers are shown the kept
    rows, and what they say of them was said before.
    """

    def __init__(self, rows: list[Row], on_row: OnRow | None = None, watchers: Sequence[Watcher] = ()) -> None:
        self.rows, self.on_row, self.watchers = rows, on_row, watchers
        self.pending: list[dict[str, Tensor]] = []  # of the steps since the last row
        self._told = len(rows)
        for row in rows:
            for watcher in watchers:
                watcher(row)
        if rows and on_row is not None:
            on_row(rows[-1])

    def flush(self, step: int) -> Row:
        """One row from the pending steps."""
        self.rows.append({"step": step, **means(self.pending)})
        self.pending.clear()
        return self.rows[-1]

    def validated(self, step: int, scores: Mapping[str, float]) -> None:
        """Add what a validation gave, to the row of its step where there is one."""
        if SELECTED not in scores:
            raise UsageError(
                f"validate must give {SELECTED}, which chooses the step that is kept; got {', '.join(scores) or 'nothing'}"
            )
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1].update({f"{VALIDATION}{name}": float(score) for name, score in scores.items()})

    def tell(self) -> list[str]:
        """The rows so far are whole: show the new ones; returns what the watchers say."""
        new, self._told = self.rows[self._told :], len(self.rows)
        if self.on_row is not None:
            for row in new:
                self.on_row(row)
        return [said for row in new for watcher in self.watchers if (said := watcher(row)) is not None]


def means(steps: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The mean of every name over the steps that logged it, in the order of first logging: scalars, `loss` among them."""
    names = dict.fromkeys(name for logged in steps for name in logged)
    device = steps[0]["loss"].device  # one number after the other to the host would make it wait for each
    values = [torch.stack([logged[name].float() for logged in steps if name in logged]).mean().to(device) for name in names]
    return dict(zip(names, torch.stack(values).tolist(), strict=True))


def scores(rows: Sequence[Row], name: str = SELECTED) -> dict[int, float]:
    """Step -> what validation gave there."""
    return {int(row["step"]): row[f"{VALIDATION}{name}"] for row in rows if f"{VALIDATION}{name}" in row}


def table(rows: Sequence[Row]) -> DataFrame:
    """One row a step, NaN where nothing was logged; step and loss first, then what steps logged, then what validations gave."""
    names = dict.fromkeys(name for row in rows for name in row)
    rank = {"step": 0, "loss": 1}
    return DataFrame(rows, columns=sorted(names, key=lambda name: rank.get(name, 3 if name.startswith(VALIDATION) else 2)))


def save(rows: Sequence[Row], folder: Path) -> None:
    """The table twice: `curves.parquet`, and `curves.csv` for spreadsheets and eyes, empty where nothing was logged."""
    found = table(rows)
    found.to_parquet(folder / "curves.parquet", index=False)
    found.to_csv(folder / "curves.csv", index=False)


def best_step(curves: DataFrame) -> tuple[int, float]:
    """The first step with the best NDCG@10 on validation, and what it was: what training keeps where it keeps the best."""
    name = f"{VALIDATION}{SELECTED}"
    found = curves[["step", name]].dropna()
    place = int(found[name].to_numpy().argmax())
    return int(found["step"].iloc[place]), float(found[name].iloc[place])


def last_values(curves: DataFrame) -> dict[str, float]:
    """The last value of every column that has one, in their order."""
    return {str(name): float(column.dropna().iloc[-1]) for name, column in curves.items() if name != "step" and column.notna().any()}
