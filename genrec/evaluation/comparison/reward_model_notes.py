"""The figures of a row's reward model, and the note below a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genrec.evaluation.compare import Row

ACCURACY, POPULARITY, PAIRS = (f"reward_model_{name}" for name in ("accuracy", "popularity_correlation", "pairs"))
NAMES = (ACCURACY, POPULARITY, PAIRS)


def reward_model_metrics(folder: Path | None) -> dict[str, float]:
    """Return the figures of the reward model of an artifact, for the metrics of a row; empty for a row without one."""
    if folder is None:
        return {}
    figures = json.loads((folder / "reward_model.json").read_text(encoding="utf-8"))
    return {name: float(figures[name.removeprefix("reward_model_")]) for name in NAMES}


def reward_model_notes(rows: Sequence[Row]) -> list[str]:
    """Return the note on rows with a reward model, one entry for each different model; empty if no row has one."""
    models: dict[tuple[float, ...], list[str]] = {}
    for row in rows:
        if ACCURACY in row.metrics:
            models.setdefault(tuple(row.metrics[name].mean for name in NAMES), []).append(row.name)
    if not models:
        return []
    listed = "; ".join(
        f"{', '.join(names)} {100 * accuracy:.1f} % of {pairs:,.0f} pairs, {correlation:.2f}"
        for (accuracy, correlation, pairs), names in models.items()
    )
    return [f"Reward models: held-out pairs in the right order, and rank correlation with popularity: {listed}."]
