"""Errors of plug-ins: attribute an exception to the plug-in that raised it, and check what a loss returns."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from genrec import renamed
from genrec.errors import GenrecError, InputError, ResourceError
from genrec.plugin_source import check_command, find_failure, name_with_place, plugins_in, short
from genrec.storage_errors import explain
from genrec.types import LogProbs, PreferenceTerms


@contextmanager
def attribute_to(component: object, when: str) -> Iterator[None]:
    """Turn an exception of a plug-in into an `InputError` that names the plug-in and its line, and holds its own traceback.

    `component` is a component, or a tuple of them; the plug-ins are those of its dataclasses that are defined outside this package.
    `when` completes "X raised E ...", such as "in stage sft". A `GenrecError`, an error of memory or of a full disk, and an exception
    where there is no plug-in pass unchanged. `sys.exit` in a plug-in counts as an exception.
    """
    try:
        yield
    except (GenrecError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        message = None if _is_resource_error(error) else _message(error, plugins_in(component), when)
        if message is None:
            raise
        raise InputError(message) from None


def _is_resource_error(error: BaseException) -> bool:
    """Return whether memory or the disk ran out."""
    if isinstance(error, OSError):
        return isinstance(explain(error), ResourceError)
    return bool(re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE))


def _message(error: BaseException, plugins: list[object], when: str) -> str | None:
    """Return what to tell the user about an error, or None if no plug-in can have caused it."""
    failure = find_failure(error, plugins)
    if failure is not None:
        kind, former = type(failure.plugin), renamed.explain(error)
        hint = f" ({former})" if former else ""
        return (
            f"{name_with_place(kind)} raised {short(error)} at {failure.place} {when}{hint}; test the plug-in alone with "
            f"'{check_command(kind)}'; its own error:\n{failure.own_traceback}"
        )
    if not plugins or isinstance(error, OSError | SystemExit):
        return None
    names = names_of_plugins(tuple(plugins))
    return (
        f"{short(error)} was raised {when} by code that uses the result of {names}; test it alone with "
        f"'{check_command(type(plugins[0]))}'; if it keeps its contract, report a bug of genrec; the error:\n"
        f"{''.join(traceback.format_exception(error))}"
    )


RESERVED = ("loss", "step", "epoch")  # columns of the curves that the training itself gives


def check_step(found: object, step: int, objective: object) -> None:
    """Raise InputError unless an objective's loss is a scalar with a gradient, with detached scalars to log. No value is read."""
    own = f"{names_of_plugins(objective)}: " if plugins_in(objective) else ""
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], Mapping):
        raise InputError(
            f"{own}the loss of an objective must return a scalar tensor and a dict of tensors to log, got {_kind(found)} in step "
            f"{step}"
        )
    loss, logs = found
    if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
        raise InputError(f"{own}the loss of an objective must be a scalar tensor with a gradient, got {_kind(loss)} in step {step}")
    for name, value in logs.items():
        if not isinstance(value, Tensor) or value.ndim or value.requires_grad:
            raise InputError(
                f"{own}the log {name!r} of an objective must be a detached scalar tensor, got {_kind(value)} in step {step}; return "
                "value.detach(), or torch.tensor(value) of a number"
            )
        if name in RESERVED:
            raise InputError(f"{own}an objective's log has the name {name!r}, which the training itself uses; choose another name")


def names_of_plugins(component: object) -> str:
    """Return the plug-ins among a component and its parts, each with its file and line; '' if there is none."""
    return " or ".join(dict.fromkeys(name_with_place(type(plugin)) for plugin in plugins_in(component)))


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"a tensor {list(value.shape)}{' with a gradient' if value.requires_grad else ''}"


def check_terms(loss: object, terms: PreferenceTerms, policy: LogProbs) -> None:
    """Raise InputError unless a loss returned `PreferenceTerms` with the right shapes and a gradient.

    Only types and shapes are checked: reading a value would make the CPU wait for the GPU.
    """
    name, (batch, count) = name_with_place(type(loss)), policy.rejected.shape
    if not isinstance(terms, PreferenceTerms):
        raise InputError(f"{name} must return genrec.types.PreferenceTerms, got {type(terms).__name__}")
    for part, shape in (("loss", (batch,)), ("chosen_reward", (batch,)), ("rejected_reward", (batch, count))):
        found = getattr(terms, part)
        if not isinstance(found, Tensor) or tuple(found.shape) != shape:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"{name}: {part} must be a tensor {list(shape)} with one row per example (no mean or sum), got {got}")
    if not terms.loss.requires_grad:
        raise InputError(f"{name}: the loss has no gradient; do not detach the policy's log-probabilities")
