"""The peer's side of `generative.py`: RPG and TIGER of cornac, run by `export.run_peer` in cornac's environment.

    python cornac_generative.py DATA OUT '{"task": "train", "model": "RPG", "config": "RPG_CONFIG", "changes": {}, ...}'

The task `train` fits a model and writes it to OUT/model, the ranks of validation users' targets to OUT/ranks.tsv, and seconds, steps,
epochs and memory to OUT/training.json. The task `rank` reads the model and writes the ranks of all test users' targets.

| setting | content |
|---|---|
| model | RPG or TIGER |
| config | name of a configuration that cornac ships, such as RPG_CONFIG |
| changes | arguments of the model that differ from it |
| sessions | `whole`: a user's training items are a session; `windows`: a session for each `window` targets, as genrec trains |
| seconds | processor seconds of training, with validation and without the tokenizer |
| window, seed | items of a history; the seed |
| scoring | of the task `rank`: `exact`, or `beam` (TIGER), which ranks the items of 50 beams and counts other targets as missed |
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import export
import numpy as np

METHODS = {"RPG": ("_opq_tokenize", "_fit_backbone"), "TIGER": ("_tokenize", "_fit_seq2seq")}  # tokenizer, training
PACKAGES = ["cornac", "torch", "transformers", "faiss-cpu", "scikit-learn", "numpy"]
TRIAL_STEPS, TRIAL_USERS = 4, 20  # that the time of a step and of a validation user is measured on
VALIDATIONS = 10  # most validations of a training
VALIDATION_SHARE = 0.1  # of the seconds, at most
VALIDATION_USERS = 300  # most users of a validation; 2,000 in cornac's configurations
WARMUP_SHARE = 0.1  # of the steps; the shipped 10,000 steps are longer than these trainings


class Plan(NamedTuple):
    """The length of a training that fits the seconds."""

    epochs: int  # a part of the last one counts as one if the clock ends it
    every: int  # epochs between validations
    users: int  # of a validation; 0: no validation, and the clock ends the last epoch
    warmup_steps: int
    has_whole_epoch: bool


class Finished(Exception):
    """Raised inside a training to end it."""


class Clock:
    """Counts the steps and processor seconds of a training, and ends it at a limit."""

    def __init__(self, most_steps: float = math.inf, most_seconds: float = math.inf) -> None:
        self.most_steps, self.most_seconds = most_steps, most_seconds
        self.seconds = 0.0
        self.steps: list[float] = []  # processor time at the end of each step

    def around(self, train: Callable[..., None]) -> Callable[..., None]:
        """Return a function that trains until it is done or a limit is reached."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        def limited(*arguments: Any) -> None:
            self.began = time.process_time()
            handle = register_optimizer_step_post_hook(self._after_step)
            try:
                train(*arguments)
            except Finished:
                pass
            finally:
                handle.remove()
                self.seconds = time.process_time() - self.began

        return limited

    def _after_step(self, *_: Any) -> None:
        self.steps.append(time.process_time())
        if len(self.steps) >= self.most_steps or self.steps[-1] - self.began >= self.most_seconds:
            raise Finished

    @property
    def step_seconds(self) -> float:
        """Seconds of a step, without the first one."""
        return (self.steps[-1] - self.steps[0]) / (len(self.steps) - 1)


def plan(seconds: float, step_seconds: float, epoch_steps: int, user_seconds: float) -> Plan:
    """Return the epochs that fit, with validations if there are ten epochs or more; otherwise the clock ends the last epoch."""
    fitting = seconds / (step_seconds * epoch_steps)
    warmup = int(WARMUP_SHARE * fitting * epoch_steps)
    if fitting < VALIDATIONS:
        return Plan(math.ceil(fitting), 1, 0, warmup, fitting >= 1)
    epochs = int((1 - VALIDATION_SHARE) * fitting)
    every = -(-epochs // VALIDATIONS)
    users = int(VALIDATION_SHARE * seconds / (user_seconds * (epochs // every)))
    return Plan(epochs, every, min(max(users, 1), VALIDATION_USERS), warmup, True)


def arguments_of(found: Plan) -> dict[str, Any]:
    """Return the model's arguments. Less than an epoch has a constant learning rate, since cornac's decay takes whole epochs."""
    arguments = {
        "n_epochs": found.epochs,
        "val_eval_every": found.every,
        "val_sample": found.users,
        "warmup_steps": found.warmup_steps,
    }
    if not found.users:
        arguments["model_selection"] = "last"
    if not found.has_whole_epoch:
        arguments["lr_schedule"] = "constant"
    return arguments


def cut(items: list[int], window: int | None) -> Iterator[list[int]]:
    """Yield sessions of at most `window` targets that hold each item but the first as a target once; None: one session."""
    step = window or len(items)
    for start in range(0, len(items) - 1, step):
        yield items[start : start + step + 1]


def by_user(events: np.ndarray) -> dict[int, list[int]]:
    """Return the items of each user in order, of events int64 [E, 3]."""
    found: dict[int, list[int]] = {}
    for user, item, _ in events.tolist():
        found.setdefault(user, []).append(item)
    return found


def rows(sessions: list[tuple[int, list[int]]]) -> list[tuple[str, str, str, int]]:
    """Return sessions as cornac's tuples of user, session, item and time."""
    return [
        (str(user), str(number), str(item), place) for number, (user, items) in enumerate(sessions) for place, item in enumerate(items)
    ]


def evaluation_of(data: Path, window: int | None) -> Any:
    """Return cornac's data sets: training sessions, and a validation session of each user that ends with its target."""
    from cornac.data import FeatureModality
    from cornac.eval_methods import NextItemEvaluation

    train, validation, test = (by_user(export.read_part(data, part)) for part in export.PARTS)
    vectors = np.load(data / "vectors.npy")
    known = {user: train.get(user, []) + items for user, items in validation.items()}
    return NextItemEvaluation.from_splits(
        train_data=rows([(user, part) for user, items in train.items() for part in cut(items, window)]),
        val_data=rows(list(known.items())),
        test_data=rows([(user, known.get(user, []) + items) for user, items in test.items()]),
        fmt="USIT",
        mode="last",
        item_feature=FeatureModality(features=vectors, ids=[str(item + 1) for item in range(len(vectors))]),
    )


def model_of(settings: dict[str, Any], **further: Any) -> Any:
    """Return the untrained model with a shipped configuration, the changes and further arguments."""
    from cornac import models

    package = models.rpg if settings["model"] == "RPG" else models.tiger
    shipped = getattr(package, settings["config"])
    changes = settings["changes"] | {"max_len": settings["window"], "seed": settings["seed"], "device": "cpu"} | further
    return getattr(models, settings["model"])(**shipped | changes)


def fit(model: Any, evaluation: Any, clock: Clock, codes: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Fit the model under the clock and return its codes and the processor seconds of its tokenizer; given codes replace it."""
    tokenizer, training = METHODS[type(model).__name__]
    tokenize, made = getattr(model, tokenizer), []

    def timed(*arguments: Any) -> Any:
        began = time.process_time()
        made.append(tokenize(*arguments) if codes is None else codes)
        made.append(time.process_time() - began)
        return made[0]

    setattr(model, tokenizer, timed)
    setattr(model, training, clock.around(getattr(model, training)))
    model.fit(evaluation.train_set, evaluation.val_set)
    delattr(model, tokenizer)  # the class's methods again, so that the model can be saved
    delattr(model, training)
    return made[0], made[1]


def ranks(model: Any, data: Path, targets: np.ndarray, before: tuple[str, ...]) -> np.ndarray:
    """Return the rank of each target of events int64 [B, 3], after the user's events of the parts `before`; 0: not in the beams."""
    number = model.iid_map
    items = np.array([number[str(item + 1)] for item in range(export.item_count(data))])  # cornac's number of each of genrec's items
    history = by_user(np.concatenate([export.read_part(data, part) for part in before]))
    found = []
    for user, target, _ in targets.tolist():
        scores = model.score(user, [number[str(item)] for item in history.get(user, [])])[items]
        is_listed = scores[target - 1] > -1e9  # cornac's score of other items than those of the beams is -1e10
        found.append(export.ranks_of(scores[None], np.array([target]))[0] if is_listed else 0)
    return np.array(found)


def train(data: Path, out: Path, settings: dict[str, Any]) -> None:
    """Measure a step, fit the model for the seconds, and write the model, the ranks in validation and the figures of the training."""
    evaluation = evaluation_of(data, settings["window"] if settings["sessions"] == "windows" else None)
    validation = export.read_part(data, "validation")
    order = np.random.default_rng(settings["seed"]).permutation(len(validation))
    validation = validation[np.sort(order[:VALIDATION_USERS])]
    scoring = {"scoring": "exact"} if settings["model"] == "RPG" else {}
    trial, trial_clock = model_of(settings, n_epochs=1, model_selection="last", **scoring), Clock(most_steps=TRIAL_STEPS)
    codes, tokenizer_seconds = fit(trial, evaluation, trial_clock)
    began = time.process_time()
    ranks(trial, data, validation[:TRIAL_USERS], ("train",))
    user_seconds = (time.process_time() - began) / min(TRIAL_USERS, len(validation))
    epoch_steps = steps_of_epoch(settings["model"], [len(ids) for ids in evaluation.train_set.sessions.values()], trial)
    found = plan(settings["seconds"], trial_clock.step_seconds, epoch_steps, user_seconds)
    clock = Clock(most_seconds=math.inf if found.users else settings["seconds"])
    model = model_of(settings, **arguments_of(found), **scoring)
    fit(model, evaluation, clock, codes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.save(str(out / "model"))
    export.write_ranks(out, validation[:, 0], ranks(model, data, validation, ("train",)), PACKAGES)
    figures = {
        "tokenizer_seconds": tokenizer_seconds,
        "seconds": clock.seconds,
        "steps": len(clock.steps),
        "epochs": len(clock.steps) / epoch_steps,
        "peak_mb": peak * 1024 / 1e6,
    }
    (out / "training.json").write_text(json.dumps(figures))


def steps_of_epoch(name: str, lengths: list[int], model: Any) -> int:
    """Return the steps of an epoch. TIGER has a row for each target; RPG one for a session, and one more for each target after it."""
    lengths = [length for length in lengths if length > 1]
    number = sum(max(length - model.max_len, 1) if name == "RPG" else length - 1 for length in lengths)
    return -(-number // model.batch_size)


def rank(data: Path, out: Path, settings: dict[str, Any]) -> None:
    """Write the ranks of all test users' targets by the model in OUT/model."""
    from cornac import models

    model = getattr(models, settings["model"]).load(str(out / "model" / settings["model"]))
    model.scoring = settings["scoring"]
    model.n_beams = 50
    test = export.read_part(data, "test")
    export.write_ranks(out, test[:, 0], ranks(model, data, test, ("train", "validation")), PACKAGES)


def main() -> None:
    """Run the task."""
    import torch

    torch.set_num_threads(1)
    data, out, settings = export.peer_arguments()
    tasks = {"train": train, "rank": rank}
    tasks[settings["task"]](data, out, settings)


if __name__ == "__main__":
    sys.exit(main())
