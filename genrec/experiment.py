"""An experiment is a value: a frozen dataclass with one field a stage, that the command line overrides field by field.

    def sdpo() -> Experiment:
        return replace(sft(), name="beauty-sdpo", align=Align(loss=Anchored(SoftmaxDPO(beta=1.0)), negatives=FaissNeighbors()))

Two experiments that agree in a stage and in all before it share that stage's artifact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from genrec.baselines import ItemKNN, Popularity
from genrec.data.splits import LeaveOneOut
from genrec.embeddings import TfidfSvd
from genrec.errors import UsageError
from genrec.evaluation.evaluate import Evaluate
from genrec.model import Tiger
from genrec.preference.negatives import ModelBeams, PrefixNeighbors
from genrec.preference.negatives.capabilities import inside
from genrec.tokenizer import Tokenize
from genrec.training.recipes import SFT, Align, Optimization, Validation
from genrec.types import Baseline, ItemEncoder, NegativeSampler, PolicySpecification, Source, Split

if TYPE_CHECKING:
    PolicyOrBaseline = PolicySpecification | Baseline
else:
    PolicyOrBaseline = object  # the command line follows the value's own class; it cannot read a union of protocols

__all__ = ["SFT", "Align", "Evaluate", "Experiment", "Optimization", "Tokenize", "Validation", "baselines", "seeds"]


@dataclass(frozen=True)
class Experiment:
    """One row of a table: what is trained on what, and how it is measured. All seeds of a row share its name."""

    name: str  # of the row and of data/runs/NAME.json: letters, digits, '-', '_', '.'
    source: Source  # the data set
    split: Split = field(default_factory=LeaveOneOut)  # filters, and what is held out
    embed: ItemEncoder = field(default_factory=TfidfSvd)  # items -> vectors
    tokenize: Tokenize | None = field(
        default_factory=Tokenize
    )  # vectors -> Semantic IDs; None: an item is its own code, and nothing is embedded but for alignment
    policy: PolicyOrBaseline = field(
        default_factory=Tiger
    )  # what recommends; a baseline needs none of the stages but data and evaluate
    sft: SFT = field(default_factory=SFT)  # supervised fine-tuning of the policy
    align: Align | None = None  # preference alignment after it; None for SFT alone
    evaluate: Evaluate = field(default_factory=Evaluate)  # the protocol
    seed: int = 0  # of weights, order, dropout and negatives; the tokenizer and the item encoder have their own

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UsageError(f"name must be letters, digits, '-', '_' or '.', got {self.name!r}")
        for name, protocol in (("source", Source), ("split", Split), ("embed", ItemEncoder)):
            if not isinstance(getattr(self, name), protocol) or isinstance(getattr(self, name), str | type):
                raise UsageError(f"{name} must be a genrec.types.{protocol.__name__}, got {getattr(self, name)!r}")
        if not isinstance(self.policy, PolicySpecification | Baseline):
            raise UsageError(f"policy must be a genrec.types.PolicySpecification or Baseline, got {self.policy!r}")
        if self.is_baseline and self.align is not None:
            raise UsageError(f"{self.name}: a baseline has nothing to align; leave align=None")
        if not self.is_baseline:
            self._check_policy()
        self._check_beams()
        if self.align is not None:
            self._check_negatives(self.align.negatives)
        if self.seed < 0:
            raise UsageError(f"seed must be 0 or more, got {self.seed}")

    def _check_beams(self) -> None:
        """A beam search can't rank more items than it has beams; exact scoring can."""
        own, spec = getattr(self.policy, "beams", None), self.evaluate
        if own is None:
            if spec.num_beams and not self.is_baseline:
                raise UsageError(f"evaluate.num_beams = {spec.num_beams}, but the policy has no beams: {self.policy!r}")
            return
        most = spec.cutoffs[-1] if spec.scoring == "beam" else 0
        needed = 10 if spec.num_beams else max(10, most)  # validation ranks ten, by the policy's own
        if own < needed:
            raise UsageError(f"policy.num_beams must be at least {needed}, the most items ranked (evaluate.cutoffs), got {own}")
        if 0 < spec.num_beams < most:
            raise UsageError(
                f"evaluate.num_beams must be at least {most}, the most items ranked (evaluate.cutoffs), got {spec.num_beams}"
            )

    def _check_negatives(self, sampler: NegativeSampler) -> None:
        """Refuse what can be known, before any stage, to be more than the policy or its Semantic IDs have."""
        beams, levels = getattr(self.policy, "beams", None), getattr(getattr(self.tokenize, "quantizer", None), "levels", None)
        if isinstance(sampler, ModelBeams) and beams is not None and sampler.num_beams > beams:
            raise UsageError(
                f"align.negatives: ModelBeams.num_beams must be at most policy.num_beams = {beams}, got {sampler.num_beams}"
            )
        depth = getattr(sampler, "locked" if isinstance(sampler, ModelBeams) else "depth", 0)
        if isinstance(sampler, ModelBeams | PrefixNeighbors) and levels is not None and self.tokenize is not None:
            levels += self.tokenize.collisions == "append"
            if depth >= levels:
                raise UsageError(f"align.negatives: {sampler!r} must share fewer codes than the {levels} of a Semantic ID")
        for inner in inside(sampler):
            self._check_negatives(inner)

    def _check_policy(self) -> None:
        """Refuse a policy that cannot be trained as the other fields say."""
        if self.sft.targets == "all" and not getattr(self.policy, "causal", False):
            raise UsageError(
                f"{self.name}: sft.targets all needs a causal policy, whose every place knows only what came before; "
                f"{type(self.policy).__name__} reads both ways: set sft.targets one, or take a causal one"
            )
        if self.tokenize is not None and getattr(self.policy, "items_are_codes", False):
            raise UsageError(f"{self.name}: {type(self.policy).__name__} scores items, not Semantic IDs: set tokenize=None")
        longest = getattr(self.policy, "longest_history", None)
        if longest is not None and longest < self.evaluate.history_length:
            raise UsageError(
                f"{self.name}: {type(self.policy).__name__} reads {longest} items of a history at most, but "
                f"evaluate.history_length is {self.evaluate.history_length}: raise policy.max_positions"
            )

    @property
    def is_baseline(self) -> bool:
        """Whether `policy` is fitted in evaluation, without training."""
        return isinstance(self.policy, Baseline)


def baselines(experiment: Experiment) -> list[Experiment]:
    """The simple rows that every table shows, on this experiment's data and protocol: popularity and ItemKNN."""
    return [
        replace(experiment, name=f"{_stem(experiment)}-{name}", policy=policy, align=None, seed=0)
        for name, policy in (("popularity", Popularity()), ("itemknn", ItemKNN()))
    ]


def seeds(experiments: Sequence[Experiment], numbers: Sequence[int]) -> list[Experiment]:
    """Every experiment with every seed."""
    return [replace(experiment, seed=number) for experiment in experiments for number in numbers]


def _stem(experiment: Experiment) -> str:
    """The data set's part of a name: `beauty` of `beauty-sdpo`."""
    return experiment.name.rsplit("-", 1)[0]


def flatten(description: object, path: str = "") -> dict[str, object]:
    """A description's leaves by key path, as they are named on the command line: {'align.loss.beta': 1.0, ...}."""
    if isinstance(description, dict):
        result: dict[str, object] = {}
        for key, value in description.items():
            result |= flatten(value, f"{path}.{key}" if path else key)
        return result
    return {path: description}
