"""Weights & Biases: one run for each row and seed, in the group of the row. WANDB_MODE=offline keeps everything in `data/wandb/`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

from genrec.errors import ResourceError, UsageError
from genrec.types.tracking import TrackedRow, TrackedRun

START_SECONDS = 30.0  # time for the connection at the start
FINISH_SECONDS = 45  # time for what has not been sent at the end; `wandb sync` sends the rest later


class WandB:
    """A `genrec.types.Tracker`. The variables of W&B are in force: WANDB_MODE, WANDB_PROJECT (default: genrec), WANDB_API_KEY."""

    def check(self) -> None:
        """Raise ResourceError if W&B is not installed, UsageError if nobody is logged in. Nothing is asked."""
        try:
            import wandb
        except ImportError as error:
            raise ResourceError(f"--track wandb needs wandb ({error}): pip install 'genrec[wandb]'") from error
        online = os.environ.get("WANDB_MODE", "online") in ("online", "shared")
        if online and not wandb.login(prompt=False, verify=False):
            raise UsageError(
                "--track wandb found no login of W&B; run 'wandb login', set WANDB_API_KEY, or track without a network by "
                "WANDB_MODE=offline"
            )

    def start(self, row: TrackedRow, identifier: str | None) -> TrackedRun:
        """Begin a session of the run; one that exists goes on."""
        import wandb

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "genrec",
            id=identifier or secrets.token_hex(8),
            name=f"{row.name} (seed {row.seed})",
            group=row.name,
            config={"name": row.name, "seed": row.seed, **row.configuration},
            dir=row.folder,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off", init_timeout=START_SECONDS, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True
            ),
        )
        return _Run(run, row.points)


class _Run:
    def __init__(self, run: Any, points: int) -> None:
        self.run, self.points = run, points  # W&B's own count of points, which a session without a network would begin at 0
        self._stages: set[str] = set()

    def identifier(self) -> str:
        return str(self.run.id)

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log one point; each stage has an axis of its own, because steps begin again at 0."""
        if stage not in self._stages:
            self._stages.add(stage)
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self.run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}}, step=self.points)
        self.points += 1

    def finish(self, metrics: Mapping[str, float]) -> None:
        self.run.summary.update({f"test/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        self.run.finish()
