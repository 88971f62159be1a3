"""The specifications of the two training stages: SFT and alignment. No Lightning here, so that an experiment is quick to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from genrec.data.examples import Padding
from genrec.errors import UsageError
from genrec.preference.losses import DPO, Anchored, SoftmaxDPO
from genrec.preference.negatives import BestOf, Uniform
from genrec.preference.negatives.capabilities import inner_samplers
from genrec.types import Baseline, NegativeSampler, PreferenceLoss

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW with linear warm-up, cosine decay to 0 and gradient clipping."""

    max_steps: int  # optimizer steps, at least 1
    batch_size: int  # examples per step, at least 1
    learning_rate: float  # peak learning rate, reached at the end of the warm-up
    warmup_steps: int = 0  # steps of linear warm-up
    weight_decay: float = 0.0  # of AdamW
    max_grad_norm: float = 1.0  # gradients are clipped to this norm
    precision: Precision = "32-true"  # Lightning's name for it

    def __post_init__(self) -> None:
        _check_at_least(self, "optimization", 1, "max_steps", "batch_size")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"optimization.{name} must be above 0 and finite, got {getattr(self, name)}")
        _check_at_least(self, "optimization", 0, "warmup_steps", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How often a policy is validated during training, on how many users, and when training stops early."""

    every: int  # steps between validations, at least 1
    patience: int | None = None  # stop after this many validations without a better NDCG@10; None never stops early
    users: int = 2_000  # users drawn for validation, the same for all seeds and stages; 0 takes all

    def __post_init__(self) -> None:
        _check_at_least(self, "validation", 1, "every")
        _check_at_least(self, "validation", 0, "users")
        if self.patience is not None:
            _check_at_least(self, "validation", 1, "patience")


@dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning: maximize the likelihood of the next item after every prefix. The best step on validation is kept."""

    optimization: Optimization = field(  # batch_size counts prefixes, or windows with targets="all"
        default_factory=lambda: Optimization(
            max_steps=20_000, batch_size=256, learning_rate=3e-4, warmup_steps=1_000, weight_decay=0.035
        )
    )
    validation: Validation = field(default_factory=lambda: Validation(every=1_000, patience=15))
    targets: Literal["one", "all"] = "one"  # one target per prefix, or, for a causal policy, every target of a window in one pass
    padding: Padding = "zero"  # on the left of a window; "repeat" fills it with repetitions of the sequence, separated by a 0

    def __post_init__(self) -> None:
        if self.padding == "repeat" and self.targets == "one":
            raise UsageError("sft.padding repeat is for windows, which sft.targets all trains on; got sft.targets one")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if all targets of a window are to be trained at once, but the policy is not causal."""
        if self.targets == "all" and not getattr(experiment.policy, "causal", False) and not isinstance(experiment.policy, Baseline):
            raise UsageError(
                f"{experiment.name}: sft.targets all needs a causal policy, in which each place sees only the items before it; "
                f"{type(experiment.policy).__name__} reads both ways: set sft.targets one, or choose a causal policy"
            )


@dataclass(frozen=True)
class Align:
    """Preference alignment of the SFT policy: prefer the next item over sampled negatives. The frozen SFT policy is the reference.

    Training runs without dropout, so that the policy equals the reference at step 0. With keep="best", step 0 is a candidate too.
    """

    loss: PreferenceLoss = field(default_factory=lambda: Anchored(SoftmaxDPO()))  # the objective
    negatives: NegativeSampler = field(default_factory=Uniform)  # the sampler of rejected items
    num_negatives: int = 3  # K, negatives per positive
    normalize: Literal["codes", "children"] = "codes"  # each level's softmax: over all codes, or over the codes that lead to an item
    rounds: int = 1  # rounds of equal length; the reference becomes the policy at the beginning of each
    round_sft_steps: int = 0  # SFT steps at the beginning of each round, before the reference is refreshed (SPRec)
    optimization: Optimization = field(  # batch_size counts histories
        default_factory=lambda: Optimization(max_steps=500, batch_size=128, learning_rate=1e-4, warmup_steps=50)
    )
    validation: Validation = field(default_factory=lambda: Validation(every=100))
    keep: Literal["best", "last"] = "best"  # keep the best step on validation, or the last step

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise UsageError(f"align.num_negatives must be at least 1, got {self.num_negatives}")
        steps = self.optimization.max_steps
        if self.rounds < 1 or steps % self.rounds:
            raise UsageError(f"align.rounds must be 1 or more and divide align.optimization.max_steps = {steps}, got {self.rounds}")
        if not 0 <= self.round_sft_steps < steps // self.rounds:
            raise UsageError(
                f"align.round_sft_steps must lie in 0..{steps // self.rounds - 1}, less than a round's steps, "
                f"got {self.round_sft_steps}"
            )
        loss = self.loss
        while isinstance(loss, Anchored):
            loss = loss.loss
        if isinstance(loss, DPO) and self.num_negatives > 1:
            raise UsageError(
                f"DPO takes one negative, got align.num_negatives {self.num_negatives}: set it to 1, or use SoftmaxDPO (S-DPO)"
            )
        _check_candidates(self.negatives, self.num_negatives, "align.num_negatives")


def _check_at_least(specification: Optimization | Validation, name: str, least: int, *fields: str) -> None:
    for field_name in fields:
        if not least <= getattr(specification, field_name) < float("inf"):
            raise UsageError(f"{name}.{field_name} must be at least {least} and finite, got {getattr(specification, field_name)}")


def _check_candidates(sampler: NegativeSampler, count: int, name: str) -> None:
    """Refuse a `BestOf`, however deep, that has fewer candidates than it is asked for."""
    if isinstance(sampler, BestOf):
        if sampler.num_candidates < count:
            raise UsageError(
                f"BestOf.num_candidates must be at least {name} = {count}, the negatives asked for, got {sampler.num_candidates}"
            )
        count, name = sampler.num_candidates, "num_candidates"
    for inner in inner_samplers(sampler):
        _check_candidates(inner, count, name)
