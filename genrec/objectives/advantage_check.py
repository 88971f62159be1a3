"""The check of what an advantage and a surrogate return: training and `genrec check` use the same words.

Types, shapes and the gradient are checked; no value is read, so that a CPU does not wait for a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.plugin_source import name_with_place
from genrec.types import Advantages, SurrogateTerms
from genrec.value_forms import form_of


def check_advantages(advantage: object, found: object, levels: Tensor) -> None:
    """Raise InputError unless a plug-in's advantages have the right types and shapes. `levels` is float32 [X, M, L]."""
    _raise(advantage, advantages_fault(found, tuple(levels.shape)))


def check_list_advantages(advantage: object, found: object, rewards: Tensor) -> None:
    """Raise InputError unless there is one advantage for each list. `rewards` is float32 [X, G]."""
    fault = advantages_fault(found, tuple(rewards.shape))
    if fault is not None and isinstance(found, Advantages):
        fault += "; advantages by code do not fit lists, use GroupAdvantage() or LeaveOneOutAdvantage()"
    _raise(advantage, fault)


def check_terms(surrogate: object, found: object, mask: Tensor) -> None:
    """Raise InputError unless a plug-in's surrogate has the right types and shapes, and a gradient. `mask` is bool [X, M]."""
    _raise(surrogate, terms_fault(found, tuple(mask.shape)))


def _raise(plugin: object, fault: str | None) -> None:
    if fault is not None:
        raise InputError(f"{name_with_place(type(plugin))}: {fault}")


def advantages_fault(found: object, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with the types and shapes of advantages, or None.

    `shape` is [X, M, L] for candidates with L codes, where [X, M] is accepted too, or [X, G] for lists.
    """
    if not isinstance(found, Advantages):
        return f"estimate(groups) must return genrec.types.Advantages, got {type(found).__name__}"
    allowed = dict.fromkeys((shape[:2], shape))
    if not _is_float(found.values, *allowed):
        return f"values must be float {' or '.join(str(list(each)) for each in allowed)}, got {form_of(found.values)}"
    if not _is_bool(found.spread, shape[:1]):
        return f"spread must be bool {[shape[0]]}, one value for each group, got {form_of(found.spread)}"
    return None


def terms_fault(found: object, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with the types, shapes and gradient of the surrogate terms of candidates [X, M], or None."""
    if not isinstance(found, SurrogateTerms):
        return f"terms(log_probs, advantages) must return genrec.types.SurrogateTerms, got {type(found).__name__}"
    if not _is_float(found.loss, shape):
        return f"loss must be float {list(shape)}, one value for each candidate (no mean or sum), got {form_of(found.loss)}"
    if not _is_bool(found.clipped, shape):
        return f"clipped must be bool {list(shape)}, got {form_of(found.clipped)}"
    if not found.loss.requires_grad:
        return "the loss has no gradient; do not detach the policy's log-probabilities"
    return None


def _is_float(value: object, *shapes: tuple[int, ...]) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point and tuple(value.shape) in shapes


def _is_bool(value: object, shape: tuple[int, ...]) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool and tuple(value.shape) == shape
