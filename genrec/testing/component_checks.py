"""`genrec check`: which contract a component is held against. In: a component. Out: nothing, or an error that says what is wrong."""

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
    """Refuse a component that breaks the contract of what it is; `raw`: where sources find fetched files."""
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
            f"{component!r} is no NegativeSampler and no PolicySpecification (no build), no PreferenceLoss (it can't be called), no "
            "Reward (no rate), no CandidateFilter (no refuse), no Source (no load), no Quantizer (no fit, level_sizes and restore) "
            "and no ItemEncoder (no encode)"
        )


def builds_policy(component: PolicySpecification | NegativeSampler) -> bool:
    """Policies and samplers both have `build`: a policy's takes `semantic_ids`, by that name or by its annotation."""
    taken = list(signature(component.build).parameters.values())[:1]
    return any(one.name == "semantic_ids" or "SemanticIds" in str(one.annotation) for one in taken)
