"""genrec: generative recommendation with Semantic IDs, from raw interactions to a table that compares SFT with DPO and S-DPO.

The functions below are what `genrec run`, `genrec compare` and `genrec recommend` call. Importing genrec imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from genrec.endpoints import Endpoint
    from genrec.experiment import Experiment
    from genrec.results import Results
    from genrec.serving.trained_rows import TrainedRow

__version__ = "0.2.0"
__all__ = ["compare", "load", "run"]


def run(
    experiments: Experiment | Sequence[Experiment] | str,
    seeds: int | Sequence[int] | None = None,
    *,
    refresh: str | None = None,
    replace: bool = False,
    track: str | Sequence[str] = (),
    on: str | None = None,
    devices: int = 1,
    strategy: str = "ddp",
    endpoints: Sequence[Endpoint] = (),
) -> Results:
    """Run an experiment or a list of experiments, record the rows and return their table; see `genrec.results.run`.

    `experiments` may also be the text FILE.py:FUNCTION or MODULE:FUNCTION, as on the command line. `track` names trackers as
    `genrec run --track` does: tensorboard, wandb, mlflow or FILE.py:CLASS. `on` runs the stages in other processes as
    `genrec run --on` does: "local:2", "ray" or "slurm". `devices` processes train each policy together, as
    with `genrec run --trainer.devices`, and `strategy` is that of `--trainer.strategy`. `endpoints` are the tests for which a list is
    run; a file names its own with `genrec.endpoints.endpoint`.
    """
    from genrec import experiment_commands, results, row_tracking
    from genrec.errors import UsageError

    trackers = row_tracking.trackers_of([track] if isinstance(track, str) else track)
    if isinstance(experiments, str):
        if endpoints:
            raise UsageError(
                f"endpoints are for a list of experiments; name those of {experiments} in its file: @endpoint(ROW, REFERENCE)"
            )
        return experiment_commands.run_named(
            experiments, seeds, refresh=refresh, replace=replace, trackers=trackers, on=on, devices=devices, strategy=strategy
        )
    return results.run(
        experiments, seeds, refresh=refresh, replace=replace, trackers=trackers, on=on, devices=devices, strategy=strategy,
        endpoints=endpoints,
    )  # fmt: skip


def compare(
    names: str | Sequence[str],
    metric: str = "ndcg@10",
    reference: str | None = None,
    seeds: int | Sequence[int] | None = None,
    *,
    folder: Path | str | None = None,
) -> Results:
    """Compare stored rows, or those that `genrec keep` wrote to a folder, and return their table; see `genrec.results.compare`."""
    from genrec import results

    return results.compare(names, metric, reference, seeds, folder=folder)


def load(name: str | Path, seed: int | None = None, code: str | None = None, num_beams: int = 0) -> TrainedRow:
    """Load a trained row, or the folder of an export; it recommends items to histories and users. See `genrec.serving.load`."""
    from genrec import serving

    return serving.load(name, seed, code, num_beams)
