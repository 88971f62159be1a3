"""Checks before SFT: what evaluation and alignment will need of the policy and of the data.

A specification refuses what its fields show when the experiment is made (`check(experiment)`). The rest is known when the Semantic
IDs exist and the policy is built, which is still before any training.
"""

from __future__ import annotations

from collections.abc import Callable

from genrec.errors import UsageError
from genrec.evaluation.evaluate import Evaluate, check_scoring
from genrec.plugin_source import components, name_with_place
from genrec.training.recipes import Align
from genrec.types import CheckedContext, ConstrainedPolicy, Policy, SamplerContext


def check_before_training(
    policy: Policy, evaluate: Evaluate, alignments: tuple[Align, ...], context: Callable[[], SamplerContext]
) -> None:
    """Raise if evaluation or alignment will not be able to use this untrained policy or the data, so that no training is in vain.

    `context` reads the training data of alignment. It is called only with an alignment, and the data are not kept.
    """
    check_scoring(policy, evaluate)
    if alignments:
        data = context()
        for align in alignments:
            check_alignment(policy, data, align)


def check_alignment(policy: Policy, context: SamplerContext, recipe: Align) -> None:
    """Raise if the policy, trained or not, or the data lack what alignment needs."""
    if recipe.normalize == "children" and not isinstance(policy, ConstrainedPolicy):
        raise UsageError(
            f"align.normalize 'children' needs a policy with constrained_level_log_prob (genrec.types.ConstrainedPolicy), got "
            f"{name_with_place(type(policy))}; set align.normalize codes"
        )
    for component in components(recipe):
        if isinstance(component, CheckedContext) and not isinstance(component, type):
            component.check_context(context._replace(policy=policy))
