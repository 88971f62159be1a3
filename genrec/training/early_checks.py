"""Checks before SFT: what evaluation and alignment will need of the policy and of the data.

A specification refuses what its fields show when the experiment is made (`check(experiment)`). The rest is known when the Semantic
IDs exist and the policy is built, which is still before any training.
"""

from __future__ import annotations

from collections.abc import Callable

from pandas import DataFrame

from genrec.errors import UsageError
from genrec.evaluation.evaluate import Evaluate, check_scoring
from genrec.plugin_source import components, name_with_place
from genrec.training.recipes import Align
from genrec.types import CheckedContext, CheckedHeldOut, ConstrainedPolicy, Policy, SamplerContext


def check_before_training(
    policy: Policy, evaluate: Evaluate, alignments: tuple[Align, ...], context: Callable[[], SamplerContext],
    held_out: Callable[[], DataFrame],
) -> None:  # fmt: skip
    """Raise if evaluation or alignment will not be able to use this untrained policy or the data, so that no training is in vain.

    `context` reads the training data of alignment. It is called only with an alignment, and the data are not kept. For `held_out` see
    `check_held_out`.
    """
    check_scoring(policy, evaluate)
    if alignments:
        data = context()
        for align in alignments:
            check_alignment(policy, data, align)
            check_held_out(align, data, held_out)


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


def check_held_out(recipe: Align, context: SamplerContext, held_out: Callable[[], DataFrame]) -> None:
    """Raise if a component of the alignment prefers a held-out event.

    `held_out` reads the events of validation and test. It is called only if a component compares itself with them, and no training
    gets them.
    """
    for component in components(recipe):
        if isinstance(component, CheckedHeldOut) and not isinstance(component, type):
            component.check_held_out(context, held_out())
