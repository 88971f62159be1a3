"""Building an objective, with a check of the `TrainingStep` that it returns: training and `check_objective` use the same words."""

from __future__ import annotations

from collections.abc import Sized

from torch import nn

from genrec import plugin_errors
from genrec.errors import InputError
from genrec.plugin_source import check_command, is_plugin_class, name_with_place
from genrec.types import Objective, ObjectiveContext, TrainingStep

OPTIONAL_FUNCTIONS = ("prepare", "begin", "measure", "save", "fault")


def build_step(objective: Objective, context: ObjectiveContext) -> TrainingStep:
    """Return what an objective builds. Raise InputError, with its class and the field, if it is not a usable `TrainingStep`."""
    with plugin_errors.attribute_to(objective, "while the objective was built"):
        found = objective.build_step(context)
    fault = step_fault(found)
    if fault is None:
        return found
    kind = type(objective)
    test = f"; test it alone with '{check_command(kind)}'" if is_plugin_class(kind) else ""
    raise InputError(f"{name_with_place(kind)}: {fault}{test}")


def step_fault(found: object) -> str | None:
    """Return what is wrong with the result of `build_step(context)`, or None. No batch is read, and no function is called."""
    if not isinstance(found, TrainingStep):
        return f"build_step(context) must return a genrec.types.TrainingStep, got {_form(found)}"
    examples: object = found.examples
    if not isinstance(examples, Sized) or not callable(getattr(examples, "batch", None)):
        return f"TrainingStep.examples must have len() and batch(index), such as context.source.prefixes(), got {_form(examples)}"
    if len(examples) < 1:
        return "TrainingStep.examples holds no example"
    if not callable(found.loss):
        return f"TrainingStep.loss must be a function of a batch and a step, got {_form(found.loss)}"
    for name in OPTIONAL_FUNCTIONS:
        value = getattr(found, name)
        if value is not None and not callable(value):
            return f"TrainingStep.{name} must be a function or None, got {_form(value)}"
    return _modules_fault(found.modules) or _others_fault(found)


def _modules_fault(modules: object) -> str | None:
    expected = "TrainingStep.modules must be a tuple of torch.nn.Module"
    if isinstance(modules, nn.Module):
        return f"{expected}, got one {type(modules).__name__}; write modules=(module,), with a comma"
    if not isinstance(modules, tuple):
        return f"{expected}, got {_form(modules)}"
    for place, module in enumerate(modules):
        if isinstance(module, nn.Parameter):
            return f"{expected}, got a torch.nn.Parameter at place {place}; wrap it: modules=(torch.nn.ParameterList([parameter]),)"
        if not isinstance(module, nn.Module):
            return f"{expected}, got {_form(module)} at place {place}"
    return None


def _others_fault(found: TrainingStep) -> str | None:
    """Return what is wrong with the watchers or the state."""
    watchers: object = found.watchers
    if not isinstance(watchers, tuple) or not all(map(callable, watchers)):
        return f"TrainingStep.watchers must be a tuple of functions, got {_form(watchers)}"
    state: object = found.state
    if state is not None and not (callable(getattr(state, "tensors", None)) and callable(getattr(state, "restore", None))):
        return f"TrainingStep.state must have tensors() and restore(saved), or be None, got {_form(state)}"
    return None


def _form(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
