"""Errors of plug-ins during training: attribute exceptions to the plug-in that raised them, and check what a loss returns."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

from torch import Tensor

from genrec.errors import GenrecError, InputError, ResourceError
from genrec.storage_errors import explain
from genrec.types import LogProbs, PreferenceTerms


@contextmanager
def attribute_to(component: object, when: str) -> Iterator[None]:
    """Turn an exception of a plug-in into an `InputError` that names the plug-in, says when it failed and holds the traceback.

    A component counts as a plug-in if its class, or the class of a component inside it, is defined outside this package. Exceptions
    of other components are bugs of this package and pass unchanged, and so do `GenrecError` and errors of memory and disk.
    """
    try:
        yield
    except (GenrecError, MemoryError):
        raise
    except Exception as error:
        if not is_plugin(component) or re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE):
            raise
        if isinstance(explain(error), ResourceError):
            raise
        raise InputError(
            f"{component!r} raised {error!r} {when}; run 'genrec check FILE.py:CLASS' to test the plug-in before training; its own "
            f"error:\n{traceback.format_exc()}"
        ) from None


def is_plugin(component: object) -> bool:
    """Return whether the class of the component, or of any component inside it, is defined outside this package."""
    if isinstance(component, list | tuple):
        return any(map(is_plugin, component))
    if not is_dataclass(component):
        return not isinstance(component, str | int | float | bool | None)
    if not type(component).__module__.startswith("genrec."):
        return True
    return any(is_plugin(getattr(component, field.name)) for field in fields(component))


def check_terms(loss: object, terms: PreferenceTerms, policy: LogProbs) -> None:
    """Raise InputError unless a loss returned `PreferenceTerms` with the right shapes and a gradient.

    Only types and shapes are checked: reading a value would make the CPU wait for the GPU.
    """
    name, (batch, count) = type(loss).__name__, policy.rejected.shape
    if not isinstance(terms, PreferenceTerms):
        raise InputError(f"{name} must return genrec.types.PreferenceTerms, got {type(terms).__name__}")
    for part, shape in (("loss", (batch,)), ("chosen_reward", (batch,)), ("rejected_reward", (batch, count))):
        found = getattr(terms, part)
        if not isinstance(found, Tensor) or tuple(found.shape) != shape:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"{name}: {part} must be a tensor {list(shape)} with one row per example (no mean or sum), got {got}")
    if not terms.loss.requires_grad:
        raise InputError(f"{name}: the loss has no gradient; do not detach the policy's log-probabilities")
