"""The schedule of a training: the numbers of its recipe, with those that depend on the size of the data filled in.

A recipe may leave `max_steps`, `warmup_steps`, `learning_rate` and `every` open (None). They then follow from the number of training
examples alone, so the same recipe and data give the same schedule on every machine.

    max_steps       the steps of 40 epochs, at least 500 and at most 20,000
    warmup_steps    5 % of max_steps, at most 1,000
    learning_rate   3e-4 * sqrt(20,000 / max_steps), at most 2e-3
    every           1/20 of max_steps, rounded up: 20 validations

With 128,000 examples or more and a batch size of 256 these are 20,000 steps, 1,000 steps of warm-up, 3e-4, and a validation every
1,000 steps. The learning rate grows with the square root because a short training would otherwise end before the policy has learned
anything: AdamW moves a weight by at most the learning rate in a step, whatever the size of the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from genrec.data.examples import Windows, epoch_steps
from genrec.errors import counted
from genrec.objectives.numbered_examples import without_numbers
from genrec.objectives.training_length import MOST_STEPS, default_steps
from genrec.plugin_source import named_objects
from genrec.preference.schedules import check_length
from genrec.training.recipes import SFT, Align
from genrec.types import Refresh, Refreshing, TrainingExamples

WARMUP_SHARE, MOST_WARMUP = 0.05, 1_000
LEARNING_RATE, MOST_LEARNING_RATE = 3e-4, 2e-3  # at `MOST_STEPS`, and the limit for few steps
VALIDATIONS = 20


class Schedule(NamedTuple):
    """The numbers of a training, none of them open."""

    max_steps: int  # optimizer steps
    warmup_steps: int  # steps of linear warm-up
    learning_rate: float  # peak learning rate
    every: int  # steps between validations
    batch_size: int  # examples per step
    examples: int  # number of training examples
    decay_steps: int | None = None  # step at which the learning rate is 0; None: max_steps
    parts: int | None = None  # parts of a step, if there are several: `Optimization.accumulate`

    @property
    def epochs(self) -> float:
        """Passes over the training examples. The last batch of each pass may be smaller than the others."""
        return self.max_steps / epoch_steps(self.examples, self.batch_size)

    def resolved(self) -> dict[str, Any]:
        """Return the numbers by name, for `recipe.json`."""
        known = {name: value for name, value in self._asdict().items() if value is not None}
        return {**known, "epochs": round(self.epochs, 3)}

    def in_words(self, data: TrainingExamples) -> str:
        """Return the numbers in words; `data` are the examples of the training, which may be windows."""
        unit = "windows" if isinstance(without_numbers(data), Windows) else "examples"
        batch = f"{self.batch_size:,} {unit}{'' if self.parts is None else f' in {self.parts} parts'}"
        return (
            f"{self.max_steps:,} steps of {batch} ({self.epochs:.3g} epochs of {self.examples:,} {unit}), "
            f"warm-up {self.warmup_steps:,} steps, learning rate {self.learning_rate:.3g}, validation every {self.every:,} steps"
        )

    def warnings(self, path: str, recipe: SFT | Align) -> list[str]:
        """Return what is unusual about the numbers; `path` is that of the `recipe` on the command line, such as align."""
        found = []
        if self.warmup_steps >= self.max_steps:
            found.append(
                f"the warm-up takes all {self.max_steps:,} steps, so the learning rate only rises; lower "
                f"{path}.optimization.warmup_steps, or set it to None for 5 % of the steps"
            )
        if self.every > self.max_steps:
            found.append(
                f"{path}.validation.every is {self.every:,}, more than the {self.max_steps:,} steps, so the policy is validated at "
                f"step 0 and at the end alone; lower it, or set it to None for {VALIDATIONS} validations"
            )
        return [*found, *self._refresh_warnings(path, recipe)]

    def _refresh_warnings(self, path: str, recipe: SFT | Align) -> Iterator[str]:
        """Yield a warning for each frozen copy of the policy that is due for no refresh after step 0."""
        epoch = epoch_steps(self.examples, self.batch_size)
        for place, component in named_objects(recipe):
            refresh = _refresh_of(component)
            steps = refresh.every * (epoch if refresh.unit == "epochs" else 1)
            if steps >= self.max_steps:
                in_steps = f" ({steps:,} steps)" if refresh.unit == "epochs" else ""
                yield (
                    f"{path}.{place} ({type(component).__name__}) refreshes its copy of the policy every {refresh.every:,} "
                    f"{refresh.unit}{in_steps}, but the training has {counted(self.max_steps, 'step')}, so the copy stays the policy "
                    "of step 0; refresh it more often, or train longer"
                )


def _refresh_of(component: object) -> Refresh:
    """Return how often a component of an objective refreshes a frozen copy of the policy; every 0 steps: never."""
    if isinstance(component, type):
        return Refresh()
    return (component.policy_refresh() if isinstance(component, Refreshing) else None) or Refresh()


def schedule(recipe: SFT | Align, examples: int) -> Schedule:
    """Return the schedule of a recipe for a number of training examples.

    Raises UsageError if open steps turn out to be fewer than those of a schedule of the objective (`check_length`).
    """
    optimization, validation = recipe.optimization, recipe.validation
    steps = optimization.max_steps
    if steps is None:  # of SFT alone
        steps = default_steps(examples, optimization.batch_size)
        check_length("sft", recipe.objective, steps)
    warmup, rate, every = optimization.warmup_steps, optimization.learning_rate, validation.every
    return Schedule(
        max_steps=steps,
        warmup_steps=min(int(WARMUP_SHARE * steps), MOST_WARMUP) if warmup is None else warmup,
        learning_rate=min(LEARNING_RATE * math.sqrt(MOST_STEPS / steps), MOST_LEARNING_RATE) if rate is None else rate,
        every=-(-steps // VALIDATIONS) if every is None else every,
        batch_size=optimization.batch_size,
        examples=examples,
        decay_steps=optimization.decay_steps,
        parts=None if optimization.accumulate == 1 else optimization.accumulate,
    )


def learning_rate(plan: Schedule, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to 0 at `decay_steps`."""
    if step < plan.warmup_steps:
        return plan.learning_rate * (step + 1) / plan.warmup_steps
    last = plan.max_steps if plan.decay_steps is None else plan.decay_steps
    done = (step - plan.warmup_steps) / max(1, last - plan.warmup_steps)
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
