"""A check of components that read the levels of an item: the policy must score the codes of a Semantic ID one by one."""

from __future__ import annotations

from typing import Any

from genrec.errors import UsageError
from genrec.types import WholeItemSpecification


def check_has_levels(component: object, reads: str, experiment: Any) -> None:
    """Raise UsageError if the experiment's policy scores an item as one code. `reads` is what the component needs, for the message."""
    policy = experiment.policy
    if isinstance(policy, WholeItemSpecification) and policy.scores_whole_items():
        name = type(policy).__name__
        raise UsageError(
            f"{experiment.name}: {type(component).__name__} needs {reads}, but {name} as set here scores an item as one code, without "
            f"levels; leave {type(component).__name__} out, or choose a policy whose log-probabilities have levels, such as Tiger or "
            'RPG(normalization="digits")'
        )
