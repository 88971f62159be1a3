"""The seeds of baselines where each seed has targets of its own, because ties are in a random order of each seed."""

from __future__ import annotations

from collections.abc import Sequence

from genrec import pipeline
from genrec.errors import UsageError
from genrec.evaluation.comparison.comparable import missing_seeds
from genrec.experiment import Experiment


def check_target_seeds(experiments: Sequence[Experiment]) -> None:
    """Raise UsageError, before anything is trained, if a baseline lacks a seed of the list for data with targets of each seed."""
    lists: dict[str, list[Experiment]] = {}  # key of the data without the seed -> experiments
    for experiment in experiments:
        if pipeline.has_targets_per_seed(experiment):
            step = pipeline.plan(experiment)[0]
            lists.setdefault(pipeline.key_for_all_seeds(step), []).append(experiment)
    for found in lists.values():
        message = missing_seeds([(each.name, each.seed, "sft" in each.stages) for each in found])
        if message:
            raise UsageError(message)
