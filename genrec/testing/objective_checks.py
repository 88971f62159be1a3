"""Contract checks for training objectives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from genrec.errors import InputError
from genrec.non_finite_source import find_source, leaves_of, named_tensors
from genrec.objectives.built_steps import step_fault
from genrec.objectives.held_out_examples import ADVICE
from genrec.plugin_errors import check_step
from genrec.plugin_source import name_with_place
from genrec.randomness import seed_of
from genrec.testing.objective_worlds import BATCH_SIZE, STEPS, objective_world
from genrec.testing.plugin_watch import call_plugin, change_weights
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import Objective, ObjectiveContext, TrainingStep
from genrec.unchanged_values import same


def check_objective(objective: Objective) -> None:
    """Raise ContractError if an objective breaks `genrec.types.Objective`.

    The objective trains a small policy for a few steps. Checked:

    - it is a frozen dataclass, and `build_step(context)` returns a `TrainingStep` with examples;
    - the loss is a finite scalar with a gradient for the policy, and the logs are detached scalars;
    - the modules of the objective get a gradient, and no parameter outside of them and of the policy does;
    - nothing is trained on the held-out items of `context.validation`;
    - equal seeds and steps give equal losses: random numbers come from the seed and the step;
    - the mode of the policy stays unchanged;
    - `prepare` does not read the weights of the policy, unless there is a `state`;
    - the tensors of the state have the same names after each step, and a restored state gives the same losses;
    - `measure` returns finite numbers.
    """
    check_specification(objective, Objective, "build_step(context)")
    name = name_with_place(type(objective))
    losses, step = _train(name, objective, STEPS // 4)
    other, _ = _train(name, objective, STEPS // 4, held_out=1)
    if losses != other:
        again, _ = _train(name, objective, STEPS // 4)
        if losses == again:
            raise ContractError(f"{name}: the losses change with the held-out items of context.validation; {ADVICE}")
        raise ContractError(
            f"{name}: two trainings with equal seeds gave the losses {losses[:3]} and {again[:3]}; take all random numbers from "
            "genrec.randomness.generator(context.seed, purpose, step)"
        )
    _check_prepare(name, objective)
    _check_resume(name, objective)
    _check_measure(name, step)


def _build(name: str, objective: Objective, context: ObjectiveContext) -> TrainingStep:
    step = call_plugin(name, "build_step(context)", lambda: objective.build_step(context))
    fault = step_fault(step)
    if fault is not None:
        raise ContractError(f"{name}: {fault}")
    if step.examples is context.validation:
        raise ContractError(f"{name}: TrainingStep.examples is context.validation, which holds held-out items; {ADVICE}")
    return step


def _train(name: str, objective: Objective, steps: int, held_out: int = 0) -> tuple[list[float], TrainingStep]:
    """Take steps with a plain gradient descent. Return the losses and the built objective. `held_out` seeds the held-out items."""
    context = objective_world(held_out=held_out)
    step = _build(name, objective, context)
    return _steps(name, context, step, range(steps)), step


def _steps(name: str, context: ObjectiveContext, step: TrainingStep, numbers: range) -> list[float]:
    policy, losses, reached = context.policy, [], False
    assert isinstance(policy, nn.Module)
    trained = [each for module in (policy, *step.modules) for each in module.parameters() if each.requires_grad]
    mode = policy.training
    for number in numbers:
        torch.manual_seed(seed_of(0, "check of an objective", number))
        loss, source = _loss(name, step, number)
        for each in trained:
            each.grad = None
        _check_leaves(name, loss, trained)
        loss.backward()  # type: ignore[no-untyped-call]
        if any(each.grad is not None and not bool(each.grad.isfinite().all()) for each in trained):
            raise ContractError(f"{name}: the gradient of the loss of step {number} is not finite{source()}")
        reached |= _has_gradient(policy)
        _check_modules(name, step)
        with torch.no_grad():
            for each in trained:
                if each.grad is not None:
                    each.sub_(0.01 * each.grad)
        losses.append(float(loss.detach()))
        if policy.training != mode:
            raise ContractError(f"{name}: step {number} left the policy in another mode (train or eval); restore it")
    if not reached:  # a single step may have none, as behind a hit gate
        raise ContractError(f"{name}: the loss has no gradient for the policy in any step; score candidates with context.policy")
    return losses


def _loss(name: str, step: TrainingStep, number: int) -> tuple[Tensor, Callable[[], str]]:
    """Return the loss of one step, and a function that names the source of a value that is not finite. Check it, and the logs."""
    batch = _batch(step, number)
    prepared = batch if step.prepare is None else _prepared(name, step.prepare, batch, number)
    if step.begin is not None:
        start = step.begin
        call_plugin(name, "begin(step)", lambda: start(number))
    found = call_plugin(name, "loss(batch, step)", lambda: step.loss(prepared, number))
    try:
        check_step(found, number, None)
    except InputError as error:
        raise ContractError(f"{name}: {error}") from None
    loss, _ = found

    def source() -> str:
        told = find_source(lambda: step.loss(prepared, number)[0], named_tensors(batch) | named_tensors(prepared))
        return "" if told is None else f"; {told}"

    if not bool(loss.isfinite()):
        raise ContractError(f"{name}: the loss of step {number} is {float(loss.detach())}{source()}")
    return loss, source


def _batch(step: TrainingStep, number: int) -> Any:
    begin = number * BATCH_SIZE % max(1, len(step.examples) - BATCH_SIZE)
    return step.examples.batch(torch.arange(begin, min(begin + BATCH_SIZE, len(step.examples))))


def _prepared(name: str, prepare: Callable[[Any, int], Any], batch: object, number: int) -> Any:
    return call_plugin(name, "prepare(batch, step)", lambda: prepare(batch, number))


def _check_prepare(name: str, objective: Objective) -> None:
    """Raise ContractError if what `prepare` returns changes with the weights of the policy, as it is called ahead of its step."""
    context = objective_world()
    step = _build(name, objective, context)
    if step.prepare is None or step.state is not None:
        return
    before = _prepared(name, step.prepare, _batch(step, 0), 0)
    change_weights(context)
    after = _prepared(name, step.prepare, _batch(step, 0), 0)
    values = [[each for each in tree_leaves(prepared) if isinstance(each, Tensor)] for prepared in (before, after)]
    if len(values[0]) != len(values[1]) or not all(map(same, *values)):
        raise ContractError(
            f"{name}: what prepare(batch, step) returns changes with the weights of context.policy; it runs before its step begins, "
            "so a resumed training would get other values; compute this in loss(batch, step)"
        )


def _has_gradient(policy: nn.Module) -> bool:
    return any(each.grad is not None and bool(each.grad.abs().sum() > 0) for each in policy.parameters())


def _check_modules(name: str, step: TrainingStep) -> None:
    for module in step.modules:
        if not any(each.grad is not None for each in module.parameters()):
            raise ContractError(f"{name}: the loss has no gradient for {type(module).__name__}, one of TrainingStep.modules")


def _check_leaves(name: str, loss: Tensor, trained: Sequence[Tensor]) -> None:
    """Raise ContractError if the loss has a gradient for a parameter that the optimizer does not get."""
    known = {id(each) for each in trained}
    for leaf in leaves_of(loss):
        if isinstance(leaf, nn.Parameter) and id(leaf) not in known:
            raise ContractError(
                f"{name}: the loss has a gradient for a parameter {list(leaf.shape)} that belongs neither to context.policy nor to "
                "TrainingStep.modules, so it would be neither trained nor saved; hold it in a torch.nn.Module and return "
                "TrainingStep(..., modules=(module,))"
            )


def _check_resume(name: str, objective: Objective) -> None:
    """Train in one piece and in two, with the state and the weights copied in between, and compare the losses."""
    context = objective_world()
    step = _build(name, objective, context)
    first = _steps(name, context, step, range(2))
    state = {} if step.state is None else {key: value.clone() for key, value in step.state.tensors().items()}
    weights = [copy.deepcopy(module.state_dict()) for module in _modules(context, step)]
    rest = _steps(name, context, step, range(2, 4))
    resumed = objective_world()
    step = _build(name, objective, resumed)
    for module, saved in zip(_modules(resumed, step), weights, strict=True):
        module.load_state_dict(saved)
    if step.state is not None:
        if set(step.state.tensors()) != set(state):
            raise ContractError(f"{name}: the names of the state's tensors changed: {sorted(set(state) ^ set(step.state.tensors()))}")
        try:
            step.state.restore(state)
        except ValueError as error:
            raise ContractError(f"{name}: the state does not take back its own tensors: {error}") from error
        if not all(same(value, state[key]) for key, value in step.state.tensors().items()):
            raise ContractError(f"{name}: tensors of the state differ after they were restored")
    again = _steps(name, resumed, step, range(2, 4))
    if rest != again:
        raise ContractError(
            f"{name}: a resumed training gave the losses {again}, an uninterrupted one {rest} (after {first}); put what changes into "
            "TrainingStep.state or modules"
        )


def _modules(context: ObjectiveContext, step: TrainingStep) -> list[nn.Module]:
    assert isinstance(context.policy, nn.Module)
    return [context.policy, *step.modules]


def _check_measure(name: str, step: TrainingStep) -> None:
    if step.measure is None:
        return
    found = call_plugin(name, "measure()", step.measure)
    if not isinstance(found, Mapping):
        raise ContractError(f"{name}: measure() must return a mapping of numbers by name, got {type(found).__name__}")
    for key, value in found.items():
        if not isinstance(value, float | int) or value != value:
            raise ContractError(f"{name}: measure() must return numbers by name, got {key!r}: {value!r}")
