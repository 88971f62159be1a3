"""The `Experiment`: a frozen dataclass with one field per stage. The command line overrides single fields.

    def sdpo() -> Experiment:
        objective = Preference(loss=SoftmaxDPO(beta=1.0), candidates=Sampled(FaissNeighbors(), 3), likelihood=1.0)
        return replace(sft(), name="beauty-sdpo", align=Align(objective))

Experiments with equal settings in a stage and in all stages before it share the artifact of that stage.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated

from genrec.baselines import ItemKNN, Popularity
from genrec.data.splits import LeaveOneOut, tie_order_of
from genrec.embeddings import TextOrInteractions
from genrec.errors import GenrecError, UsageError, given, plain_integer
from genrec.evaluation import CandidateHitRate, IntraListDistance, ListOverlap
from genrec.evaluation.evaluate import Evaluate
from genrec.model import Tiger
from genrec.plugin_source import components, find_failure, is_plugin_class, name_with_place, named_objects
from genrec.preference.rating_requirements import check_has_ratings
from genrec.preference.reward_models import BradleyTerry
from genrec.stage_names import align_stage, kind_of_stage, place_of
from genrec.tokenizer import Tokenize
from genrec.training.model_selection import Selection
from genrec.training.recipes import SFT, Align, Optimization, Validation
from genrec.types import (
    Baseline,
    CheckedSpecification,
    ItemEncoder,
    NamesFiles,
    Objective,
    PolicySpecification,
    Source,
    Split,
    VectorSpecification,
)
from genrec.types.event_history import inputs_of
from genrec.types.specification import check_is, check_types

if TYPE_CHECKING:
    PolicyOrBaseline = PolicySpecification | Baseline
else:  # tyro follows the class of the value; it cannot read a union of protocols, which is for `genrec.component_choices`
    PolicyOrBaseline = Annotated[object, PolicySpecification | Baseline]

__all__ = [
    "BEYOND_ACCURACY", "SFT", "Align", "Evaluate", "Experiment", "Optimization", "Selection", "Tokenize", "Validation", "baselines",
    "seeds", "uses_seed", "with_seeds",
]  # fmt: skip

# Metrics for `Evaluate.metrics` that describe the lists beyond accuracy. Each takes about as long as a baseline's evaluation.
BEYOND_ACCURACY = (IntraListDistance(TextOrInteractions()), ListOverlap(ItemKNN()), CandidateHitRate())
NUM_SEEDS = 5  # of a comparison; with three or more the variation between seeds can be estimated
MAX_SEED = 2**63  # seeds are below; they are in names of files too
MAX_NAME = 100  # characters; names of files, which have at most 255 bytes, begin with the name of the row


@dataclass(frozen=True)
class Experiment:
    """The settings of one row of a results table. All seeds of a row share its name.

    Every component with a method `check(experiment)` checks itself against the experiment, so a plug-in can refuse an experiment
    before any stage runs (see `genrec.types.CheckedSpecification`).
    """

    name: str  # name of the row and of data/runs/NAME.json: letters, digits, '-', '_', '.'
    source: Source  # the data set
    split: Split = field(default_factory=LeaveOneOut)  # filters, and which interactions are held out
    embed: ItemEncoder = field(default_factory=TextOrInteractions)  # items -> vectors
    tokenize: Tokenize | None = field(default_factory=Tokenize)  # vectors -> Semantic IDs; None: each item is one code
    policy: PolicyOrBaseline = field(default_factory=Tiger)  # the recommender; a baseline needs the stages data and evaluate alone
    history_length: int = 20  # most recent items of a user that the policy reads, in training and in evaluation
    sft: SFT = field(default_factory=SFT)  # supervised fine-tuning
    align: Align | tuple[Align, ...] | None = None  # alignment after SFT: one stage, a chain of stages, or None for SFT alone
    evaluate: Evaluate = field(default_factory=Evaluate)  # the evaluation protocol
    selection: Selection = field(default_factory=Selection)  # the validation metric that selects the best step of SFT and of alignment
    seed: int = 0  # seed of weights, order, dropout and negatives; item encoder and tokenizer have seeds of their own

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not is_name(self.name):
            raise UsageError(f"name must be letters, digits, '-', '_' or '.', at most {MAX_NAME} of them, got {self.name!r}")
        for name, protocol in (("source", Source), ("split", Split), ("embed", ItemEncoder)):
            if not isinstance(getattr(self, name), protocol) or isinstance(getattr(self, name), str | type):  # a text has `encode`
                raise UsageError(f"{name} must be an instance of a genrec.types.{protocol.__name__}, got {given(getattr(self, name))}")
        self._accept_objectives()
        kinds = {"tokenize": Tokenize, "sft": SFT, "selection": Selection, "evaluate": Evaluate}
        for name, kind in kinds.items():
            if getattr(self, name) is not None or name in ("sft", "selection", "evaluate"):
                check_is(name, getattr(self, name), kind)
        for place, alignment in enumerate(self.alignments):
            check_is("align" if len(self.alignments) == 1 else f"align.{place}", alignment, Align)
        if not isinstance(self.policy, PolicySpecification | Baseline) or isinstance(self.policy, type):
            raise UsageError(f"policy must be an instance of a genrec.types.PolicySpecification or Baseline, got {given(self.policy)}")
        if isinstance(self.policy, Baseline) and self.alignments:
            raise UsageError(f"{self.name}: a baseline cannot be aligned; set align=None")
        for name, least in (("history_length", 1), ("seed", 0)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise UsageError(f"{name} must be an integer of {least} or more, got {getattr(self, name)!r}")
        if self.seed >= MAX_SEED:
            raise UsageError(f"seed must be below 2**63, got a number of {len(f'{self.seed:b}')} bits")
        held = list(named_objects(self))
        for path, component in held:
            if is_dataclass(component) and not isinstance(component, type) and not is_plugin_class(type(component)):
                check_types(component, path)
        for _, component in held:
            if isinstance(component, CheckedSpecification) and not isinstance(component, type):
                _check_component(component, self)
        if "rating" in inputs_of(self.policy):
            check_has_ratings(self.policy, self)

    def _accept_objectives(self) -> None:
        """Give an objective that stands for a stage the default recipe: `align=Preference()` is `align=Align(Preference())`."""

        def stage(value: object) -> object:
            return Align(value) if isinstance(value, Objective) and not isinstance(value, type) else value

        align: object = self.align
        changed = tuple(map(stage, align)) if isinstance(align, tuple | list) else stage(align)
        if changed != align or type(changed) is not type(align):
            object.__setattr__(self, "align", changed)

    @property
    def alignments(self) -> tuple[Align, ...]:
        """The stages of alignment, in order; empty for SFT alone."""
        if self.align is None:
            return ()
        return self.align if isinstance(self.align, tuple) else (self.align,)

    @property
    def sft_reads_vectors(self) -> bool:
        """Whether SFT may read item vectors, for its objective or for the policy."""
        return self.sft.reads_vectors or isinstance(self.policy, VectorSpecification)

    @property
    def reward_model(self) -> BradleyTerry | None:
        """The reward model of SFT or an alignment, which is trained in the stage `reward`; None without one."""
        return reward_model_in(self.sft, *self.alignments)

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages that this experiment runs, in order."""
        if isinstance(self.policy, Baseline):
            return ("data", "evaluate")
        embed = ("embed",) if self.tokenize is not None or self.alignments or self.sft_reads_vectors else ()
        tokenize = ("tokenize",) if self.tokenize is not None else ()
        reward = ("reward",) if self.reward_model is not None else ()
        return ("data", *embed, *tokenize, *reward, "sft", *map(align_stage, range(len(self.alignments))), "evaluate")


def reward_model_in(*recipes: object) -> BradleyTerry | None:
    """Return the reward model that recipes of training hold, or None."""
    return next((each for _, each in named_objects(recipes) if isinstance(each, BradleyTerry)), None)


def flags_in_words(experiment: Experiment, stage: str) -> str:
    """Return the flags of a stage in a chain of alignments, such as ' (flags: --align.1.FIELD)' for align-2; of other stages ''."""
    in_chain = kind_of_stage(stage) == "align" and len(experiment.alignments) > 1
    return f" (flags: --align.{place_of(stage)}.FIELD)" if in_chain else ""


def is_name(name: object) -> bool:
    """Return whether this can be the name of a row, and so of its files."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None and len(name) <= MAX_NAME


def _check_component(component: CheckedSpecification, experiment: Experiment) -> None:
    """Call a component's check. An error other than UsageError is a bug of the component and is reported as such."""
    try:
        component.check(experiment)
    except GenrecError:
        raise
    except Exception as error:
        failure = find_failure(error, [component])
        shown = "".join(traceback.format_exception(error)) if failure is None else failure.own_traceback
        raise UsageError(f"{name_with_place(type(component))}: check(experiment) failed; its own error:\n{shown}") from error


def file_names(component: object) -> list[str]:
    """Return the names of the files that a component, or anything that it holds, reads; for labels."""
    parts = [each for each in (component, *components(component)) if isinstance(each, NamesFiles) and not isinstance(each, type)]
    names = [name for each in parts for name in each.file_names()]
    return [
        name.encode(errors="surrogateescape").decode(errors="replace") for name in names
    ]  # bytes that are no UTF-8 can't be written into a manifest


def baselines(experiment: Experiment) -> list[Experiment]:
    """Return the baseline rows of every table, popularity and ItemKNN, on this experiment's data and protocol."""
    return [
        replace(experiment, name=f"{_stem(experiment)}-{name}", policy=policy, align=None, seed=0)
        for name, policy in (("popularity", Popularity()), ("itemknn", ItemKNN()))
    ]


def seeds(experiments: Sequence[Experiment], numbers: int | Sequence[int] = NUM_SEEDS) -> list[Experiment]:
    """Return every experiment with every seed: seeds 0 to `numbers` - 1, or the given ones. Compare methods with five, at least three.

    Raises UsageError if there is no seed, or one twice.
    """
    return [replace(experiment, seed=number) for experiment in experiments for number in seed_numbers(numbers)]


def with_seeds(experiments: Sequence[Experiment], numbers: int | Sequence[int] = NUM_SEEDS) -> list[Experiment]:
    """Return the experiments with these seeds in place of their own, in the given order (`genrec run --seeds`).

    An experiment that occurs with several seeds counts once. One that does not use its seed is returned once, with seed 0.
    """
    found: list[Experiment] = []
    for experiment in (replace(experiment, seed=0) for experiment in experiments):
        if experiment not in found:
            found.append(experiment)
    return [each for experiment in found for each in (seeds([experiment], numbers) if uses_seed(experiment) else [experiment])]


def uses_seed(experiment: Experiment) -> bool:
    """Return whether the result depends on the experiment's seed.

    A policy is trained with it. A baseline has one result, unless each seed has targets of its own (`split.ties`).
    """
    return "sft" in experiment.stages or tie_order_of(experiment.split).per_seed


def seed_numbers(numbers: int | Sequence[int]) -> Sequence[int]:
    """Return seeds 0 to n - 1 of a number n, as a range, or the given seeds. Raises UsageError if there is none, or one twice."""
    number = plain_integer(numbers)
    numbers = numbers if number is None else number
    if not isinstance(numbers, int | Iterable) or isinstance(numbers, bool | str):
        raise UsageError(f"seeds must be a number of seeds, such as 5, or a list of seeds, such as (5, 6, 7), got {numbers!r}")
    if isinstance(numbers, int) and numbers >= MAX_SEED:
        raise UsageError(f"seeds must be below 2**63, got a number of seeds of {len(f'{numbers:b}')} bits")
    found: Sequence[int] = range(numbers) if isinstance(numbers, int) else tuple(map(_plain, numbers))
    if not found or (not isinstance(found, range) and len(set(found)) < len(found)):
        raise UsageError(f"seeds must be a number of seeds of 1 or more, or different seeds such as (5, 6, 7), got {numbers!r}")
    return found


def _plain(seed: int) -> int:
    """Return an integer of NumPy as int, and any other value as it is: the experiment refuses what is no seed."""
    number = plain_integer(seed)
    return seed if number is None else number


def _stem(experiment: Experiment) -> str:
    """Return the data set's part of a name: `beauty` of `beauty-sdpo`."""
    return experiment.name.rsplit("-", 1)[0]
