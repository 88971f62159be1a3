"""Specifications of supervised fine-tuning (`SFT`) and preference alignment (`Align`).

This module does not import Lightning, so that importing an experiment is fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from genrec.data.examples import Padding
from genrec.errors import UsageError
from genrec.precision import Precision
from genrec.preference.losses import DPO, Anchored, SoftmaxDPO, find_requirement
from genrec.preference.negatives import BestOf, Uniform
from genrec.preference.negatives.capabilities import check_is_sampler, inner_samplers, most_negatives
from genrec.types import Baseline, NegativeSampler, PreferenceLoss, Reward
from genrec.types.specification import check_at_least, check_is, check_types


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW with linear warm-up, cosine decay to 0 and gradient clipping.

    A field that is None is chosen by the number of training examples: see `genrec.training.schedule`.
    """

    max_steps: int | None = None  # optimizer steps, at least 1; None: 40 epochs, at least 500 and at most 20,000 steps
    batch_size: int  # examples per step, at least 1
    learning_rate: float | None = None  # peak learning rate, reached at the end of the warm-up; None: by the number of steps
    warmup_steps: int | None = 0  # steps of linear warm-up, at least 0; None: 5 % of the steps, at most 1,000
    weight_decay: float = 0.0  # AdamW's decoupled weight decay, at least 0
    max_grad_norm: float = 1.0  # gradients are clipped to this L2 norm, above 0
    precision: Precision = "32-true"  # Lightning's precision flag; auto: bf16-mixed where the hardware has it, else 32-true

    def __post_init__(self) -> None:
        check_types(self, "optimization")
        check_at_least(self, "optimization", 1, *_chosen(self, "max_steps"), "batch_size")
        for name in (*_chosen(self, "learning_rate"), "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"optimization.{name} must be above 0 and finite, got {getattr(self, name)}")
        check_at_least(self, "optimization", 0, *_chosen(self, "warmup_steps"), "weight_decay")


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
    """Supervised fine-tuning: maximize the likelihood of the next item after every prefix. The best step on validation is kept.

    By default the length of the training follows from the size of the data (see `genrec.training.schedule`): 20,000 steps with a
    learning rate of 3e-4 for 128,000 prefixes or more, fewer steps for less data.
    """

    optimization: Optimization = field(  # batch_size counts prefixes, or windows with targets="all"
        default_factory=lambda: Optimization(batch_size=256, warmup_steps=None, weight_decay=0.035)
    )
    validation: Validation = field(default_factory=lambda: Validation(patience=15))
    targets: Literal["one", "all"] = "one"  # one target per prefix, or, for a causal policy, every target of a window in one pass
    padding: Padding = "zero"  # left padding of a window; "repeat" fills it with copies of the sequence, separated by a 0

    def __post_init__(self) -> None:
        check_types(self, "sft")
        check_is("sft.optimization", self.optimization, Optimization)
        check_is("sft.validation", self.validation, Validation)
        if self.padding == "repeat" and self.targets == "one":
            raise UsageError(
                "sft.padding 'repeat' pads windows, which need sft.targets 'all', got sft.targets 'one'; set sft.padding zero or "
                "sft.targets all"
            )

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `targets` is "all" and the policy is not causal."""
        if self.targets == "all" and not getattr(experiment.policy, "causal", False) and not isinstance(experiment.policy, Baseline):
            raise UsageError(
                f"{experiment.name}: sft.targets 'all' needs a causal policy, in which each position sees only earlier items; "
                f"{type(experiment.policy).__name__} is bidirectional; set sft.targets one or choose a causal policy"
            )


@dataclass(frozen=True)
class Align:
    """Preference alignment of the SFT policy: prefer the next item over sampled negatives. The frozen SFT policy is the reference.

    Training runs without dropout, so that the policy equals the reference at step 0. With keep="best", the SFT policy itself (step 0)
    is kept if no step improves on it.
    """

    loss: PreferenceLoss = field(default_factory=lambda: Anchored(SoftmaxDPO()))  # the objective
    negatives: NegativeSampler = field(default_factory=Uniform)  # the sampler of rejected items
    num_negatives: int = 3  # K, negatives per positive, at least 1
    normalize: Literal["codes", "children"] = "codes"  # softmax of each level: over all codes, or over codes that lead to an item
    rounds: int = 1  # rounds of equal length; at the start of each the reference becomes a copy of the policy
    round_sft_steps: int = 0  # SFT steps at the start of each round, before the reference is refreshed (SPRec)
    optimization: Optimization = field(  # batch_size counts histories
        default_factory=lambda: Optimization(max_steps=500, batch_size=128, learning_rate=1e-4, warmup_steps=50)
    )
    validation: Validation = field(default_factory=lambda: Validation(every=100))
    keep: Literal["best", "last"] = "best"  # keep the best step on validation, or the last step

    def __post_init__(self) -> None:
        check_types(self, "align")
        check_is("align.optimization", self.optimization, Optimization)
        check_is("align.validation", self.validation, Validation)
        check_is_sampler("align.negatives", self.negatives)
        if isinstance(self.loss, type) or not isinstance(self.loss, PreferenceLoss):
            raise UsageError(f"align.loss must be a loss, such as DPO(), got {self.loss!r}")
        reward = find_requirement(self.loss, "reward")
        if reward is not None and (isinstance(reward, type) or not isinstance(reward, Reward)):
            raise UsageError(f"align.loss: the reward of a loss must be a genrec.types.Reward, got {reward!r}")
        if self.num_negatives < 1:
            raise UsageError(f"align.num_negatives must be at least 1, got {self.num_negatives}")
        if self.optimization.learning_rate is None:
            raise UsageError(
                "align.optimization.learning_rate must be a number, such as 1e-4, got None; only SFT chooses it by itself"
            )
        steps = self.steps
        if self.rounds < 1 or steps % self.rounds:
            raise UsageError(f"align.rounds must be 1 or more and divide align.optimization.max_steps = {steps}, got {self.rounds}")
        if not 0 <= self.round_sft_steps < steps // self.rounds:
            raise UsageError(
                f"align.round_sft_steps must lie in 0..{steps // self.rounds - 1}, below the {steps // self.rounds} steps of a round, "
                f"got {self.round_sft_steps}"
            )
        loss = self.loss
        while isinstance(loss, Anchored):
            loss = loss.loss
        if isinstance(loss, DPO) and self.num_negatives > 1:
            raise UsageError(
                f"DPO takes one negative, got align.num_negatives {self.num_negatives}; set it to 1 "
                "(--align.num-negatives 1), or use SoftmaxDPO (S-DPO)"
            )
        _check_candidates(self.negatives, self.num_negatives, "align.num_negatives")

    @property
    def steps(self) -> int:
        """The number of optimizer steps. Raises UsageError if it is None: rounds divide it, so it cannot depend on the data."""
        if self.optimization.max_steps is None:
            raise UsageError("align.optimization.max_steps must be a number, such as 500, got None; only SFT chooses it by itself")
        return self.optimization.max_steps

    def check(self, experiment: Any) -> None:
        """Raise UsageError if no row can get `num_negatives` negatives, because the sampler has fewer candidates by its settings."""
        most = most_negatives(self.negatives, experiment)
        if most < self.num_negatives:
            raise UsageError(
                f"{experiment.name}: align.num_negatives = {self.num_negatives}, but {self.negatives!r} gives a row at most "
                f"{most:.0f} negatives in this experiment; lower align.num_negatives, or give the sampler more candidates (pool_size, "
                "num_beams, recent, batch_size)"
            )


def _check_candidates(sampler: NegativeSampler, count: int, name: str) -> None:
    """Raise UsageError if a `BestOf`, at any depth, draws fewer candidates than the negatives requested from it."""
    if isinstance(sampler, BestOf):
        if sampler.num_candidates < count:
            raise UsageError(
                f"BestOf.num_candidates must be at least {name} = {count}, the negatives that it selects, got {sampler.num_candidates}"
            )
        count, name = sampler.num_candidates, "num_candidates"
    for inner in inner_samplers(sampler):
        _check_candidates(inner, count, name)
