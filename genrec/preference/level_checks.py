"""Checks of components that read the levels of an item: the policy must score the codes of a Semantic ID one by one."""

from __future__ import annotations

from typing import Any

from genrec.errors import UsageError
from genrec.semantic_ids import SemanticIds
from genrec.types import Baseline, WholeItemSpecification

OTHERS = 'a policy whose log-probabilities have levels, such as Tiger or RPG(normalization="digits")'


def check_has_levels(component: object, reads: str, experiment: Any, instead: str = "") -> None:
    """Raise UsageError if the experiment's policy scores an item as one code. `reads` is what the component needs, for the message.

    Without a tokenizer every item is a code of its own. `instead` is a component that does the same there.
    """
    policy, name = experiment.policy, type(component).__name__
    start, advice = f"{experiment.name}: {name} needs {reads}, but ", f"leave {name} out"
    if instead:
        advice += f" or use {instead}"
    if experiment.tokenize is None and not isinstance(policy, Baseline):
        raise UsageError(
            f"{start}with tokenize=None every item is a code of its own, so there is one level; {advice}, or set tokenize and {OTHERS}"
        )
    if isinstance(policy, WholeItemSpecification) and policy.scores_whole_items():
        raise UsageError(
            f"{start}{type(policy).__name__} as set here scores an item as one code, without levels; {advice}, or choose {OTHERS}"
        )


def check_several_levels(component: object, reads: str, semantic_ids: SemanticIds) -> None:
    """Raise UsageError if a Semantic ID has one code, which a tokenizer may also give."""
    if semantic_ids.levels < 2:
        name = type(component).__name__
        raise UsageError(
            f"{name} needs {reads}, but the Semantic IDs have one code; leave {name} out, or give the quantizer two or more levels"
        )
