"""Recipes of the training stages: supervised fine-tuning (`SFT`) and alignment (`Align`).

This module does not import Lightning, so that importing an experiment is fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from genrec.errors import UsageError, given
from genrec.objectives import Preference, Supervised
from genrec.precision import Precision
from genrec.preference.schedules import check_length
from genrec.store import NEW_IN_KEY
from genrec.types import Objective
from genrec.types.specification import check_at_least, check_is, check_types


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW with linear warm-up, cosine decay to 0 and gradient clipping.

    A field that is None is chosen by the number of training examples: see `genrec.training.schedule`. With `decay_steps` a training
    stops at `max_steps` before the learning rate is 0: its weights are those of the longer training at this step.

    With `accumulate` above 1 the batch of a step is cut into so many parts, one after the other, and their gradients are added up,
    so that a step takes the memory of a part. Each part's loss counts by its number of targets. Where the loss of a batch is a mean
    over its targets, the sum is the gradient of the whole batch. What compares examples does so within a part: in-batch negatives, the
    reference point of `KTO`, the mean over the rows that pass a gate.

    With `processes` above 1 so many processes compute parts at the same time. The reference point of `KTO` and the means over the rows
    that pass a gate or have a preference are those of all these parts, and so of the whole batch if each process has one. In-batch
    negatives stay within a part, as do the views of `ViewContrast`, the level weights of `PrefixContrast` and the whitened advantages
    of `ProximalPolicy`. The likelihood alone depends on the parts only, so its number of processes stays 1.
    """

    max_steps: int | None = None  # optimizer steps, at least 1; None: 40 epochs, at least 500 and at most 20,000 steps
    batch_size: int  # examples per step, at least 1
    accumulate: int = field(default=1, metadata=NEW_IN_KEY)  # parts of a step, 1 to batch_size; their gradients are added up
    processes: int = field(default=1, metadata=NEW_IN_KEY)  # that compute parts at the same time; `--trainer.devices` sets it
    learning_rate: float | None = None  # peak learning rate, reached at the end of the warm-up; None: by the number of steps
    warmup_steps: int | None = 0  # steps of linear warm-up, at least 0; None: 5 % of the steps, at most 1,000
    weight_decay: float = 0.0  # AdamW's decoupled weight decay, at least 0
    max_grad_norm: float = 1.0  # gradients are clipped to this L2 norm, above 0
    precision: Precision = "32-true"  # Lightning's precision flag; auto: bf16-mixed where the hardware has it, else 32-true
    decay_steps: int | None = field(default=None, metadata=NEW_IN_KEY)  # step with a rate of 0, at least max_steps; None: max_steps

    def __post_init__(self) -> None:
        check_types(self, "optimization")
        check_at_least(self, "optimization", 1, *_chosen(self, "max_steps"), "batch_size", "accumulate", "processes")
        if self.accumulate > self.batch_size:
            raise UsageError(
                f"optimization.accumulate must be at most optimization.batch_size = {self.batch_size}, because each part has at least "
                f"one example, got {self.accumulate}"
            )
        if self.processes > self.accumulate:
            raise UsageError(
                f"optimization.processes must be at most optimization.accumulate = {self.accumulate}, the number of parts, got "
                f"{self.processes}; --trainer.devices sets both"
            )
        if self.decay_steps is not None and (self.max_steps is None or self.decay_steps < self.max_steps):
            raise UsageError(
                f"optimization.decay_steps must be at least optimization.max_steps = {self.max_steps}, the step at which training "
                f"stops, got {self.decay_steps}; set max_steps to a smaller number, or decay_steps to None"
            )
        for name in (*_chosen(self, "learning_rate"), "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"optimization.{name} must be above 0 and finite, got {getattr(self, name)}")
        check_at_least(self, "optimization", 0, *_chosen(self, "warmup_steps"), "weight_decay")

    @property
    def part_size(self) -> int:
        """Examples of the largest part of a step; the smallest part of a full batch has at most one less."""
        return -(-self.batch_size // self.accumulate)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How often a policy is validated during training, on how many users, and when training stops early."""

    every: int | None = None  # steps between validations, at least 1; None: 20 validations in all
    patience: int | None = None  # stop after this many validations without a better score (`Selection`); None never stops early
    users: int = 2_000  # users drawn for validation, the same for all seeds and stages; 0 takes all

    def __post_init__(self) -> None:
        check_types(self, "validation")
        check_at_least(self, "validation", 1, *_chosen(self, "every", "patience"))
        check_at_least(self, "validation", 0, "users")


def _chosen(specification: object, *fields: str) -> list[str]:
    """Return the fields that are not None."""
    return [field for field in fields if getattr(specification, field) is not None]


@dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning: train a policy from its initial weights. The best step on validation is kept.

    By default the length of the training follows from the size of the data (see `genrec.training.schedule`): 20,000 steps with a
    learning rate of 3e-4 for 128,000 prefixes or more, fewer steps for less data.
    """

    optimization: Optimization = field(  # batch_size counts prefixes, or windows with targets="all"
        default_factory=lambda: Optimization(batch_size=256, warmup_steps=None, weight_decay=0.035)
    )
    validation: Validation = field(default_factory=lambda: Validation(patience=15))
    objective: Objective = field(default_factory=Supervised)  # what a step minimizes

    def __post_init__(self) -> None:
        check_types(self, "sft")
        check_is("sft.optimization", self.optimization, Optimization)
        check_is("sft.validation", self.validation, Validation)
        _check_objective("sft.objective", self.objective)

    def check(self, experiment: Any) -> None:
        """Raise UsageError if a schedule of the objective is longer than SFT. Open steps are known when it begins."""
        if self.optimization.max_steps is not None:
            check_length("sft", self.objective, self.optimization.max_steps)

    @property
    def reads_vectors(self) -> bool:
        """Whether the objective may read item vectors, as part of `ObjectiveContext.data`: any but the likelihood alone."""
        return not isinstance(self.objective, Supervised)


@dataclass(frozen=True)
class Align:
    """A stage of alignment: train the policy of the stage before it further, by an objective with a frozen reference.

    With dropout off, the default, the policy equals the reference at step 0. With keep="best", the policy from before the stage
    (step 0) is kept if no step improves on it.
    """

    objective: Objective = field(default_factory=Preference)  # what a step minimizes
    reference: Literal["previous", "sft"] = "previous"  # the frozen reference: the policy of the stage before, or of SFT
    refresh_reference: int = 0  # steps after which the reference becomes a copy of the policy, again and again; 0: never
    dropout: bool = False  # whether the policy trains with dropout; the reference never has it
    normalize: Literal["codes", "children"] = "codes"  # softmax of each level: over all codes, or over codes that lead to an item
    optimization: Optimization = field(  # batch_size counts histories, or windows with targets="all"
        default_factory=lambda: Optimization(max_steps=500, batch_size=128, learning_rate=1e-4, warmup_steps=50)
    )
    validation: Validation = field(default_factory=lambda: Validation(every=100))
    keep: Literal["best", "last"] = "best"  # keep the best step on validation, or the last step

    def __post_init__(self) -> None:
        check_types(self, "align")
        check_is("align.optimization", self.optimization, Optimization)
        check_is("align.validation", self.validation, Validation)
        _check_objective("align.objective", self.objective)
        check_at_least(self, "align", 0, "refresh_reference")
        if self.optimization.learning_rate is None:
            raise UsageError(
                "align.optimization.learning_rate must be a number, such as 1e-4, got None; only SFT chooses it by itself"
            )
        _ = self.steps

    def check(self, experiment: Any) -> None:
        """Raise UsageError if a schedule of the objective is longer than this stage, or if the reference would never be refreshed."""
        place = experiment.alignments.index(self)
        path = "align" if len(experiment.alignments) == 1 else f"align.{place}"
        check_length(path, self.objective, self.steps)
        if self.refresh_reference >= self.steps:
            raise UsageError(
                f"{experiment.name}: {path}.refresh_reference is {self.refresh_reference} steps, but the stage has {self.steps}, so "
                f"the reference would never be refreshed; set --{path}.refresh-reference to less than {self.steps}, or to 0 for a "
                f"reference that stays, or --{path}.optimization.max-steps to more than {self.refresh_reference}"
            )

    @property
    def steps(self) -> int:
        """The number of optimizer steps. Raises UsageError if it is None: schedules depend on it, so it cannot depend on the data."""
        if self.optimization.max_steps is None:
            raise UsageError("align.optimization.max_steps must be a number, such as 500, got None; only SFT chooses it by itself")
        return self.optimization.max_steps


def _check_objective(path: str, objective: object) -> None:
    """Raise UsageError unless this is an instance of an objective's specification."""
    if isinstance(objective, type) or not isinstance(objective, Objective):
        raise UsageError(f"{path} must be an objective, such as Supervised() or Preference(), got {given(objective)}")
