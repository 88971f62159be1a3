"""The checks behind `genrec check`: find the protocol that a component implements and run the checks of that protocol."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

from genrec.errors import UsageError
from genrec.testing.encoder_checks import check_encoder
from genrec.testing.filter_checks import check_filter
from genrec.testing.loss_checks import check_loss
from genrec.testing.policy_checks import check_policy
from genrec.testing.quantizer_checks import check_quantizer
from genrec.testing.reward_checks import check_reward
from genrec.testing.sampler_checks import check_sampler
from genrec.testing.source_checks import check_source
from genrec.types import CandidateFilter, ItemEncoder, NegativeSampler, PolicySpecification, PreferenceLoss, Quantizer, Reward, Source


def check_component(component: object, raw: Path) -> None:
    """Run the checks of the protocol that `component` implements. Raises ContractError if one fails.

    `raw` is the folder of downloaded files, which sources read. Raises UsageError if the component implements no known protocol.
    """
    if isinstance(component, PolicySpecification) and builds_policy(component):
        check_policy(component)
    elif isinstance(component, NegativeSampler):
        check_sampler(component)
    elif isinstance(component, PreferenceLoss):
        check_loss(component)
    elif isinstance(component, Reward):
        check_reward(component)
    elif isinstance(component, CandidateFilter):
        check_filter(component)
    elif isinstance(component, Source):
        check_source(component, raw)
    elif isinstance(component, Quantizer):
        check_quantizer(component)
    elif isinstance(component, ItemEncoder):
        check_encoder(component)
    else:
        raise UsageError(
            f"{component!r} implements none of the protocols that genrec can check. Add the methods of one: NegativeSampler or "
            "PolicySpecification (build), PreferenceLoss (__call__), Reward (rate), CandidateFilter (refuse), Source (load), "
            "Quantizer (fit, level_sizes, restore) or ItemEncoder (encode); see genrec.types"
        )


def builds_policy(component: PolicySpecification | NegativeSampler) -> bool:
    """Return whether `build` makes a policy and not a sampler: its first parameter is `semantic_ids`, by name or annotation."""
    first = list(signature(component.build).parameters.values())[:1]
    return any(parameter.name == "semantic_ids" or "SemanticIds" in str(parameter.annotation) for parameter in first)
