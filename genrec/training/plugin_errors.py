"""Stage 5, plug-ins while training: their own errors are told as theirs, and what a loss returns is looked at once."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

from torch import Tensor

from genrec.errors import GenrecError, InputError
from genrec.types import LogProbs, PreferenceTerms


@contextmanager
def of(component: object, doing: str) -> Iterator[None]:
    """What a component from outside the package raises, alone or inside one of ours, is an `InputError` with its traceback.

    Where all of it is ours it is a bug of ours, and stays what it is; so does a lack of memory.
    """
    try:
        yield
    except (GenrecError, MemoryError):
        raise
    except Exception as error:
        if not is_foreign(component) or re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE):
            raise
        raise InputError(
            f"{component!r} raised {error!r} {doing}; 'genrec check FILE.py:CLASS' tries a plug-in beforehand; its own error:\n"
            f"{traceback.format_exc()}"
        ) from None


def is_foreign(component: object) -> bool:
    """Whether its class, or that of something that it holds, is from outside the package."""
    if isinstance(component, list | tuple):
        return any(map(is_foreign, component))
    if not is_dataclass(component):
        return not isinstance(component, str | int | float | bool | None)
    if not type(component).__module__.startswith("genrec."):
        return True
    return any(is_foreign(getattr(component, field.name)) for field in fields(component))


def check_terms(loss: object, terms: PreferenceTerms, policy: LogProbs) -> None:
    """Refuse what is no `PreferenceTerms` of these log-probabilities; no value is read, so that nobody waits."""
    name, (batch, count) = type(loss).__name__, policy.rejected.shape
    if not isinstance(terms, PreferenceTerms):
        raise InputError(f"{name} must return genrec.types.PreferenceTerms, got {type(terms).__name__}")
    for part, wanted in (("loss", (batch,)), ("chosen_reward", (batch,)), ("rejected_reward", (batch, count))):
        found = getattr(terms, part)
        if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"{name}: {part} must be a tensor {list(wanted)}, one number an example and not reduced, got {got}")
    if not terms.loss.requires_grad:
        raise InputError(f"{name}: the loss has no gradient; do not detach the policy's log-probabilities")
