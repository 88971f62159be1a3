"""The specifications of the two training stages: SFT and alignment. No Lightning here, so that an experiment is quick to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from genrec.data.batches import Padding
from genrec.errors import UsageError
from genrec.preference.losses import DPO, Anchored, SoftmaxDPO
from genrec.preference.negatives import BestOf, Uniform
from genrec.preference.negatives.traits import inside
from genrec.types import NegativeSampler, PreferenceLoss

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning: the likelihood of the next item after every prefix; the best step on validation is kept."""

    steps: int = 20_000  # optimiser steps at most
    batch: int = 256  # prefixes a step, each with its target; windows a step with targets="all"
    targets: Literal["one", "all"] = (
        "one"  # of a sequence read: the item after it, or, by a causal policy in one pass over a window, the item after every place
    )
    padding: Padding = "zero"  # left of a window; "repeat" fills it with the sequence again and again, a 0 between
    learning_rate: float = 3e-4  # of AdamW, at the end of the warm-up
    warmup: int = 1_000  # steps of linear warm-up; a cosine to 0 follows
    weight_decay: float = 0.035  # of AdamW
    clip: float = 1.0  # largest norm of the gradient
    validate_every: int = 1_000  # steps between validations
    patience: int = 15  # validations without a better NDCG@10 after which training stops
    validation_users: int = 2_000  # drawn for validation; 0 takes all
    precision: Precision = "32-true"  # of Lightning

    def __post_init__(self) -> None:
        _check(self, "sft")
        if self.padding == "repeat" and self.targets == "one":
            raise UsageError("sft.padding repeat is for windows, which sft.targets all trains on; got sft.targets one")


@dataclass(frozen=True)
class Align:
    """Alignment: preferences of the positive over drawn negatives, from the SFT policy, which stays beside as the frozen reference.

    Trained without dropout, so that step 0 is the reference exactly. With keep="best", step 0, the SFT policy itself, is a candidate.
    """

    loss: PreferenceLoss = field(default_factory=lambda: Anchored(SoftmaxDPO()))  # the objective
    negatives: NegativeSampler = field(default_factory=Uniform)  # where the rejected items come from
    count: int = 3  # K, negatives for each positive
    normalise: Literal["codes", "children"] = (
        "codes"  # each level's softmax: over all of its codes, or over those alone that lead to a real item
    )
    rounds: int = 1  # equal ones, `steps` long all together; at the beginning of each the reference becomes the policy
    round_sft: int = 0  # steps of each round that are SFT, before the reference becomes the policy and preferences begin (SPRec)
    steps: int = 500  # optimiser steps at most
    batch: int = 128  # histories a step
    learning_rate: float = 1e-4  # of AdamW, at the end of the warm-up
    warmup: int = 50  # steps of linear warm-up; a cosine to 0 follows
    weight_decay: float = 0.0  # of AdamW
    clip: float = 1.0  # largest norm of the gradient
    keep: Literal["best", "last"] = "best"  # the best step on validation, or the last one, whatever it is worth
    validate_every: int = 100  # steps between validations
    patience: int = 1_000  # validations without a better NDCG@10 after which training stops
    validation_users: int = 2_000  # drawn for validation; 0 takes all
    precision: Precision = "32-true"  # of Lightning

    def __post_init__(self) -> None:
        _check(self, "align")
        if self.count < 1:
            raise UsageError(f"align.count must be at least 1, got {self.count}")
        if self.rounds < 1 or self.steps % self.rounds:
            raise UsageError(f"align.rounds must be 1 or more and divide align.steps = {self.steps}, got {self.rounds}")
        if not 0 <= self.round_sft < self.steps // self.rounds:
            raise UsageError(
                f"align.round_sft must lie in 0..{self.steps // self.rounds - 1}, less than a round's steps, got {self.round_sft}"
            )
        loss = self.loss
        while isinstance(loss, Anchored):
            loss = loss.loss
        if isinstance(loss, DPO) and self.count > 1:
            raise UsageError(f"DPO takes one negative, got align.count {self.count}: set it to 1, or use SoftmaxDPO (S-DPO)")
        _check_candidates(self.negatives, self.count, "align.count")


def _check_candidates(sampler: NegativeSampler, count: int, name: str) -> None:
    """Refuse a `BestOf`, however deep, that has fewer candidates than it is asked for."""
    if isinstance(sampler, BestOf):
        if sampler.candidates < count:
            raise UsageError(f"BestOf.candidates must be at least {name} = {count}, the negatives asked for, got {sampler.candidates}")
        count, name = sampler.candidates, "candidates"
    for inner in inside(sampler):
        _check_candidates(inner, count, name)


def _check(recipe: SFT | Align, name: str) -> None:
    for field_name in ("steps", "batch", "validate_every", "patience"):
        if getattr(recipe, field_name) < 1:
            raise UsageError(f"{name}.{field_name} must be at least 1, got {getattr(recipe, field_name)}")
    for field_name in ("learning_rate", "clip"):
        if not 0 < getattr(recipe, field_name) < float("inf"):
            raise UsageError(f"{name}.{field_name} must be above 0 and finite, got {getattr(recipe, field_name)}")
    for field_name in ("warmup", "weight_decay", "validation_users"):
        if not 0 <= getattr(recipe, field_name) < float("inf"):
            raise UsageError(f"{name}.{field_name} must be 0 or more, got {getattr(recipe, field_name)}")
