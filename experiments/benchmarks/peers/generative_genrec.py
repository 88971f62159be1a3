"""genrec's side of `generative.py`: the recipes, their length for a number of processor seconds, and the training."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import export

sys.path.append(str(Path(__file__).parents[2]))  # the recipes

HISTORY = 20  # items of a history
VALIDATIONS = 10  # of a training
SHORT, LONG, GAPS = 5, 20, 2  # steps between the validations of two trials, and the number of such parts that are timed


def recipe(data: str, model: str, path: Path | None) -> Any:
    """Return genrec's experiment with its recipe, before the length is known."""
    import amazon
    import movielens_tables
    import parallel

    from genrec.data.splits import LeaveOneOut
    from genrec.experiment import Evaluate

    recipes: dict[tuple[str, str], Callable[[], Any]] = {
        ("movielens", "RPG"): movielens_tables.rpg,
        ("movielens", "TIGER"): movielens_tables.tiger,
        ("beauty", "RPG"): parallel.warm_digits,
        ("beauty", "TIGER"): amazon.windows,
    }
    base = recipes[data, model]()
    policy = replace(base.policy, item_embedding=False) if model == "RPG" else base.policy
    return replace(
        base,
        name=f"peers-{data}-{model}",
        source=replace(base.source, path=path),
        split=LeaveOneOut(),
        policy=policy,
        history_length=HISTORY,
        evaluate=Evaluate(cutoffs=(1, 5, 10), scoring="exact"),
    )


def with_steps(experiment: Any, steps: int, every: int) -> Any:
    """Return the experiment with a number of steps, a validation after every `every`, and the recipe's share of warm-up."""
    old = experiment.sft.optimization
    warmup = steps * old.warmup_steps // old.max_steps
    optimization = replace(old, max_steps=steps, warmup_steps=warmup)
    validation = replace(experiment.sft.validation, every=every, patience=None)
    return replace(experiment, sft=replace(experiment.sft, optimization=optimization, validation=validation))


class Trial(NamedTuple):
    """Processor seconds of a short training."""

    part: float  # of a number of steps and a validation
    rest: float  # of everything else, such as the start and the validation of the baselines


def steps_that_fit(seconds: float, short: Trial, long: Trial) -> int:
    """Return the steps of a training with ten validations, from trials of 5 and of 20 steps before each validation.

    The rest is that of the long trial, because the short one is the first and imports libraries.

    Raises SystemExit if the validations leave no time.
    """
    step = (long.part - short.part) / (LONG - SHORT)
    validation = max(short.part - SHORT * step, 0.0)
    left = seconds - long.rest - VALIDATIONS * validation
    if step <= 0 or left < VALIDATIONS * step:
        raise SystemExit(f"{VALIDATIONS} validations of {validation:.1f} s leave no time to train; raise --seconds")
    return int(left / step)


def measured(experiment: Any, steps: int) -> Trial:
    """Train for a moment, with a validation after every `steps` steps, and return the seconds of its parts."""
    from genrec import pipeline

    ends: list[float] = []

    def note(row: dict[str, float]) -> None:
        if row["step"] % steps == 0:
            ends.append(time.process_time())

    trial = with_steps(experiment, (1 + GAPS) * steps, steps)
    began = time.process_time()
    pipeline.run(trial, refresh="sft", last="sft", on_row=note)
    spent = time.process_time() - began
    part = (ends[-1] - ends[-1 - GAPS]) / GAPS
    return Trial(part, spent - (1 + GAPS) * part)


def own_side(data: str, model: str, path: Path | None, seconds: float) -> dict[str, Any]:
    """Train genrec's policy for the seconds and return its figures and ranks."""
    import torch

    from genrec import pipeline
    from genrec.data.corpus import Corpus
    from genrec.data.examples import windows

    torch.set_num_threads(1)
    experiment = recipe(data, model, path)
    artifacts = pipeline.run(experiment, last="embed")
    began = time.process_time()
    pipeline.run(experiment, refresh="tokenize", last="tokenize")
    tokenizer_seconds = time.process_time() - began
    steps = steps_that_fit(seconds, measured(experiment, SHORT), measured(experiment, LONG))
    experiment = with_steps(experiment, steps, steps // VALIDATIONS)
    validations: list[float] = []

    def note(row: dict[str, float]) -> None:
        validations.append(row.get("validation_ndcg@10", 0.0))

    began = time.process_time()
    pipeline.run(experiment, refresh="sft", last="sft", on_row=note)
    spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    ranks = export.own_ranks(pipeline.run(experiment)["evaluate"].folder)
    count = len(windows(Corpus.load(artifacts["data"].folder), HISTORY))
    figures = {
        "tokenizer_seconds": tokenizer_seconds,
        "seconds": spent,
        "steps": steps,
        "peak_mb": peak,
        "validation": max(validations),
    }
    return figures | {"epochs": steps * experiment.sft.optimization.batch_size / count, "ranks": sorted(ranks.items())}
