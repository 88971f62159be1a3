"""Checks of objectives that draw items: the policy must support draws, with probabilities of items that add up to 1."""

from __future__ import annotations

from typing import Any

from genrec.errors import UsageError
from genrec.plugin_source import components, name_with_place
from genrec.types import CatalogPolicy, ObjectiveContext, Policy, SamplingPolicy, WholeItemSpecification

NOT_NORMALIZED = (
    "{} needs probabilities of items that add up to 1, and those over all codes add up to less; use it in an "
    "alignment with align.normalize children, or with a policy that scores whole items, such as RPG"
)
WITHOUT_REFERENCE = "{}.kl {} needs a reference, which SFT has not; set kl to 0, or use it in an alignment"


def check_draws_items(name: str, policy: Policy) -> None:
    """Raise UsageError unless the policy draws items. `name` is that of the objective."""
    if not isinstance(policy, (CatalogPolicy, SamplingPolicy)):
        raise UsageError(
            f"{name} needs a policy that draws items (genrec.types.SamplingPolicy), such as Tiger or Gpt, or that scores "
            f"the whole catalog (genrec.types.CatalogPolicy), such as SASRec, got {name_with_place(type(policy))}"
        )


def check_experiment(objective: object, kl: object, experiment: Any) -> None:
    """Raise UsageError if an objective with this `kl` lacks a reference, or if the probabilities of items do not add up to 1."""
    name = type(objective).__name__
    if kl and objective in components(experiment.sft):
        raise UsageError(f"{experiment.name}: {WITHOUT_REFERENCE.format(name, kl)}")
    policy = experiment.policy
    exact = isinstance(policy, WholeItemSpecification) and policy.scores_whole_items()
    holding = [each for each in (experiment.sft, *experiment.alignments) if objective in components(each)]
    over_codes = [each for each in holding if getattr(each, "normalize", "codes") == "codes"]
    if over_codes and experiment.tokenize is not None and not exact:
        raise UsageError(f"{experiment.name}: {NOT_NORMALIZED.format(name)}")


def check_training(objective: object, kl: object, context: ObjectiveContext) -> None:
    """Raise UsageError if the policy cannot draw items, `kl` lacks a reference, or the probabilities of items sum to less than 1."""
    name = type(objective).__name__
    check_draws_items(name, context.policy)
    if context.normalize == "codes" and not isinstance(context.policy, CatalogPolicy):
        raise UsageError(NOT_NORMALIZED.format(name))
    if kl and context.reference is None:
        raise UsageError(WITHOUT_REFERENCE.format(name, kl))
