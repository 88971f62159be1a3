"""The checks behind `genrec check`: find the protocol that a component implements and run the checks of that protocol."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from inspect import isfunction, signature
from pathlib import Path
from typing import Any, NamedTuple

from genrec.errors import GenrecError, UsageError
from genrec.plugin_source import find_failure, is_plugin_class, name_with_place, place_of, short
from genrec.renamed import former_attribute
from genrec.testing.baseline_checks import check_baseline
from genrec.testing.encoder_checks import check_encoder
from genrec.testing.filter_checks import check_filter
from genrec.testing.history_checks import check_history_views
from genrec.testing.item_loss_checks import check_item_loss
from genrec.testing.item_vector_checks import check_item_vectors
from genrec.testing.loss_checks import check_loss
from genrec.testing.metric_checks import check_metric
from genrec.testing.objective_checks import check_objective
from genrec.testing.policy_checks import check_policy
from genrec.testing.policy_gradient_checks import check_advantage, check_surrogate
from genrec.testing.proposer_checks import check_proposer
from genrec.testing.quantizer_checks import check_quantizer
from genrec.testing.reward_checks import check_reward
from genrec.testing.sampler_checks import check_sampler
from genrec.testing.source_checks import check_source
from genrec.testing.specification_checks import MISSPELT, ContractError
from genrec.testing.split_checks import check_split
from genrec.types import (
    AdaptiveQuantizer,
    Advantage,
    Baseline,
    CandidateFilter,
    CatalogQuantizer,
    CheckedCatalog,
    CheckedContext,
    CheckedData,
    CheckedHeldOut,
    CheckedSpecification,
    CodeProposer,
    DividingSplit,
    EvaluationMetric,
    FilteringSplit,
    HistoryStatesSpecification,
    HistoryViews,
    InteractionQuantizer,
    ItemEncoder,
    ItemLoss,
    ItemVectors,
    KeepingSplit,
    LabelDividingSplit,
    LabelingSplit,
    NegativeSampler,
    Objective,
    PartsBaseline,
    PolicySpecification,
    PreferenceLoss,
    Proposer,
    Quantizer,
    RatedSource,
    RestorableBaseline,
    ResumableEncoder,
    Reward,
    SamplingCorrection,
    SizedProposer,
    Source,
    Split,
    StreamedSource,
    Surrogate,
    TieOrderingSplit,
    VectorSpecification,
    WholeItemSpecification,
)

WORLD_IDS = re.compile(r"'(item|user)-\d+' \(number")  # of `sampler_context`
SYNTHETIC = " (these users and items are of the check's synthetic data, genrec.testing.sampler_context, not of yours)"


class Kind(NamedTuple):
    """A protocol that plug-ins implement, and its checks."""

    protocol: Any
    methods: str  # for messages
    check: Callable[[Any, Path], None]  # of an instance, with the folder of downloaded files


KINDS = (  # the first that fits; a quantizer has `fit` like a baseline
    Kind(Objective, "build_step(context)", lambda plugin, _: check_objective(plugin)),
    Kind(Proposer, "build_proposals(context)", lambda plugin, _: check_proposer(plugin)),
    Kind(HistoryViews, "build_views(context, examples)", lambda plugin, _: check_history_views(plugin)),
    Kind(PolicySpecification, "build(semantic_ids)", lambda plugin, _: check_policy(plugin)),
    Kind(NegativeSampler, "build(context)", lambda plugin, _: check_sampler(plugin)),
    Kind(PreferenceLoss, "__call__", lambda plugin, _: check_loss(plugin)),
    Kind(Reward, "rate", lambda plugin, _: check_reward(plugin)),
    Kind(Advantage, "estimate(groups)", lambda plugin, _: check_advantage(plugin)),
    Kind(Surrogate, "terms(log_probs, advantages)", lambda plugin, _: check_surrogate(plugin)),
    Kind(CandidateFilter, "refuse", lambda plugin, _: check_filter(plugin)),
    Kind(Source, "load", check_source),
    Kind(Split, "assign", lambda plugin, _: check_split(plugin)),
    Kind(Quantizer, "fit, level_sizes, restore", lambda plugin, _: check_quantizer(plugin)),
    Kind(Baseline, "fit(interactions, item_count)", lambda plugin, _: check_baseline(plugin)),
    Kind(ItemEncoder, "encode", lambda plugin, _: check_encoder(plugin)),
    Kind(ItemVectors, "vectors", lambda plugin, _: check_item_vectors(plugin)),
    Kind(ItemLoss, "draw_items, item_loss", lambda plugin, _: check_item_loss(plugin)),
    Kind(EvaluationMetric, "measure(evaluated)", lambda plugin, _: check_metric(plugin)),
)


OPTIONAL: dict[str, tuple[type, ...]] = {  # protocol -> the protocols that its plug-ins may implement too
    "PolicySpecification": (WholeItemSpecification, VectorSpecification, HistoryStatesSpecification),
    "HistoryViews": (),
    "Objective": (),
    "Proposer": (SizedProposer, CodeProposer),
    "Source": (StreamedSource, RatedSource),
    "Split": (KeepingSplit, FilteringSplit, DividingSplit, LabelingSplit, LabelDividingSplit, TieOrderingSplit),
    "Quantizer": (AdaptiveQuantizer, CatalogQuantizer, InteractionQuantizer),
    "Baseline": (PartsBaseline, RestorableBaseline),
    "ItemEncoder": (ResumableEncoder,),
    "ItemLoss": (SamplingCorrection,),
    "EvaluationMetric": (),
}
ANY_KIND = (CheckedSpecification, CheckedCatalog, CheckedData, CheckedContext, CheckedHeldOut)


def check_component(component: object, raw: Path) -> None:
    """Run the checks of the protocol that `component` implements. Raises ContractError, with the place of the class, if one fails.

    `raw` is the folder of downloaded files, which sources read. Raises UsageError if the component implements no known protocol.
    """
    try:
        kind = kind_of(component)  # may read a property of the component
        former = former_attribute(kind.protocol.__name__, component)
        if former is not None:
            raise ContractError(f"{type(component).__name__}: {former}")
        _check_method_names(kind, component)
        kind.check(component, raw)
    except GenrecError as error:
        if not isinstance(error, ContractError):
            raise
        place = place_of(type(component)) if is_plugin_class(type(component)) else None
        defined = "" if place is None or str(place) in str(error) else f" ({type(component).__name__} is defined at {place})"
        synthetic = SYNTHETIC if WORLD_IDS.search(str(error)) else ""
        if not defined and not synthetic:
            raise
        raise ContractError(f"{error}{defined}{synthetic}") from error.__cause__
    except (Exception, SystemExit) as error:
        failure = find_failure(error, [component])
        if failure is None:
            raise
        name = name_with_place(type(component))
        raise ContractError(f"{name} raised {short(error)} at {failure.place}; its own error:\n{failure.own_traceback}") from error


def kind_of(component: object) -> Kind:
    """Return the protocol that a component implements. Raises UsageError if it is none that genrec can check."""
    for kind in KINDS:
        if isinstance(component, kind.protocol) and (kind.protocol is not PolicySpecification or builds_policy(component)):
            return kind
    if callable(component) and is_dataclass(component):
        return next(kind for kind in KINDS if kind.protocol is PreferenceLoss)  # a loss without `needs`, which its check explains
    listed = ", ".join(f"{kind.protocol.__name__} ({kind.methods})" for kind in KINDS)
    misspelt = misspelt_method(type(component))
    hint = "" if misspelt is None else f"Did you mean {misspelt[1]} of {misspelt[2]}, in place of {misspelt[0]}? "
    raise UsageError(
        f"{name_with_place(type(component))} implements none of the protocols that genrec can check. {hint}Add the "
        f"methods of one: {listed}; see genrec.types"
    )


def _check_method_names(kind: Kind, component: object) -> None:
    """Raise ContractError if a method of a component looks like a misspelt one of its protocol, or of one that it may implement too.

    Losses, rewards and samplers, which have further attributes, are checked by their own checks.
    """
    optional = OPTIONAL.get(kind.protocol.__name__)
    meant = _methods(kind.protocol, *ANY_KIND, *(() if optional is None else optional))
    for name in () if optional is None else _methods(type(component)):
        nearest = difflib.get_close_matches(name, meant, 1, cutoff=MISSPELT)
        if name not in meant and nearest and not hasattr(component, nearest[0]):
            raise ContractError(
                f"{type(component).__name__}: the method {name} has no effect; did you mean {nearest[0]!r} of a "
                f"{kind.protocol.__name__}? Otherwise give it another name"
            )


def _methods(*kinds: type) -> list[str]:
    """Return the public methods that classes and their bases define."""
    members = [vars(each) for kind in kinds for each in kind.__mro__]
    return [name for found in members for name, value in found.items() if not name.startswith("_") and isfunction(value)]


def misspelt_method(kind: type) -> tuple[str, str, str] | None:
    """Return a public method of a class that looks like a misspelt one of a protocol, the method meant and the protocol's name.

    Of several protocols the one with the most arguments of the same names is meant, the first of equals.
    """
    found: list[tuple[int, tuple[str, str, str]]] = []
    for each in KINDS:
        for name in _methods(kind):
            nearest = difflib.get_close_matches(name, _methods(each.protocol), 1, cutoff=MISSPELT)
            if nearest and name != nearest[0]:
                shared = _arguments(kind, name) & _arguments(each.protocol, nearest[0])
                found.append((len(shared), (name, nearest[0], each.protocol.__name__)))
    return max(found, key=lambda each: each[0])[1] if found else None


def _arguments(kind: type, method: str) -> set[str]:
    """Return the names of the arguments of a method without `self`."""
    return set(signature(getattr(kind, method)).parameters) - {"self"}


def builds_policy(component: Any) -> bool:
    """Return whether `build` makes a policy and not a sampler: its first parameter is `semantic_ids`, by name or annotation."""
    first = list(signature(component.build).parameters.values())[:1]
    return any(parameter.name == "semantic_ids" or "SemanticIds" in str(parameter.annotation) for parameter in first)
