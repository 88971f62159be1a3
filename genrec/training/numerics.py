"""Checks for non-finite numbers in training: losses, gradients, weights, buffers and validation scores.

A non-finite gradient makes all weights NaN in one step. On a CPU a step is refused before the optimizer applies it. On a GPU, where
reading a value would make the CPU wait, the first bad step is remembered on the device and read before the next row of the curves,
validation or checkpoint, so no file ever holds its weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genrec.errors import NumericsError
from genrec.types import StepFault

NAMED_USERS = 5  # users of a batch that a message names
FIRST_STEP = (
    "the learning rate is not the cause; look for log or sqrt of 0, 0 / 0, and masked places, where a log-probability is -inf: set "
    "the places of a target or candidate 0 to a finite number by masked_fill before any arithmetic"
)
UsersOf = Callable[[int], Sequence[str]]  # step, counted from 0 -> the ids of the users in its batch


class BadStep(NamedTuple):
    """The first step whose loss or gradient is not finite."""

    step: int  # counted from 0
    loss: float
    grad_norm: float  # L2 norm of the gradient before clipping


class StepRecord:
    """Remembers the first step with a non-finite loss or gradient norm, on the device and without waiting for it."""

    def __init__(self) -> None:
        self._step: Tensor | None = None  # int64 scalar, -1 if all steps were finite
        self._values: Tensor | None = None  # float32 [2]: loss and gradient norm of that step

    def add(self, step: int, loss: Tensor, grad_norm: Tensor) -> None:
        """Record a step's loss and gradient norm, both scalars."""
        values = torch.stack([loss.float(), grad_norm.float().to(loss.device)])
        if self._step is None or self._values is None:
            self._step, self._values = torch.full_like(values[0], -1, dtype=torch.int64), torch.zeros_like(values)
        is_first = ~values.isfinite().all() & (self._step < 0)
        self._step = torch.where(is_first, step, self._step)
        self._values = torch.where(is_first, values, self._values)

    def read(self) -> BadStep | None:
        """Return the first bad step, or None. Waits for the device."""
        step = -1 if self._step is None else int(self._step)
        if step < 0 or self._values is None:
            return None
        loss, grad_norm = self._values.tolist()
        return BadStep(step, loss, grad_norm)


class FiniteCheck:
    """Raises NumericsError for non-finite numbers of one training, with the step, the batch and the last good checkpoint.

    - `description`, `path`: the training's name and the key path of its recipe, such as `SFT` and `sft`.
    - `folder`: the folder of its checkpoint.
    - `users_of`: returns the users of a step's batch, for the message.
    - `fault`: returns the first fault that the objective found itself, such as a reward that is NaN.
    - `plugins`: the user's own classes in the objective, with file and line, for messages; '' if there is none.
    """

    def __init__(
        self, description: str, path: str, folder: Path, users_of: UsersOf, fault: Callable[[], StepFault | None] | None = None,
        plugins: str = "",
    ) -> None:  # fmt: skip
        self.plugins = plugins
        self.description, self.path, self.folder, self.users_of, self.fault = description, path, folder, users_of, fault
        self.saved_step: int | None = None  # step of the checkpoint on disk, None if there is none
        self.steps = StepRecord()
        self.unchecked: frozenset[str] = frozenset()  # tensors that were not finite before training

    def start(self, policy: nn.Module) -> None:
        """Note what is not finite before training, such as the constant mask of an attention: later checks leave it out."""
        self.unchecked = frozenset(non_finite(_untrained(policy)))

    def add(self, step: int, loss: Tensor, grad_norm: Tensor, find_source: Callable[[], str | None] | None = None) -> None:
        """Record a step, counted from 0. On a CPU, raise NumericsError at once if its loss or gradient is not finite.

        `find_source` then names the operation behind it. On a GPU the weights have changed by then, so it is not called.
        """
        if loss.device.type != "cpu":
            self.steps.add(step, loss, grad_norm)
        elif not (math.isfinite(loss) and math.isfinite(grad_norm)):
            source = None if find_source is None else find_source()
            raise self._bad_step(BadStep(step, float(loss), float(grad_norm)), source)

    def check_steps(self) -> None:
        """Raise NumericsError if a recorded step had a non-finite loss or gradient, or a fault that the objective found before."""
        bad, fault = self.steps.read(), None if self.fault is None else self.fault()
        if fault is not None and (bad is None or fault.step <= bad.step):
            raise NumericsError(f"{self.description}: {fault.message}")
        if bad is not None:
            raise self._bad_step(bad)

    def _bad_step(self, bad: BadStep, source: str | None = None) -> NumericsError:
        own = f" of {self.plugins}" if self.plugins else ""
        found = "" if source is None else f"; {source}"
        advice = self._advice() if bad.step else f"no weight has changed yet, so {FIRST_STEP}"
        return NumericsError(
            f"{self.description}: the loss{own} is {bad.loss:g} and the norm of the gradient {bad.grad_norm:g} in step {bad.step} "
            f"(counted from 0), expected finite numbers{found}; {self._batch(bad.step)}; {advice}"
        )

    def check_weights(self, policy: nn.Module, step: int) -> None:
        """Raise NumericsError if a trainable weight, or a saved tensor that was finite at the start, is not after `step` steps."""
        self.check_steps()
        others = {name: value for name, value in _untrained(policy).items() if name not in self.unchecked}
        names = non_finite(_trained(policy) | others)
        if names:
            raise NumericsError(
                f"{self.description}: {listed(names, 3)} hold NaN or infinity after step {step}, expected finite numbers; these "
                f"weights are not saved; {self._advice()}"
            )

    def check_score(self, name: str, score: float, step: int) -> None:
        """Raise NumericsError if the validation score that selects the best step is not finite."""
        if not math.isfinite(score):
            raise NumericsError(
                f"{self.description}: the validation score {name} is {score} after step {step}, expected a finite number; "
                f"{self._advice()}"
            )

    def at_validation(self, error: NumericsError, step: int) -> NumericsError:
        """Return an error of a validation with the step of the training."""
        return NumericsError(f"{self.description}: the validation after step {step} failed: {error}; {self._advice()}")

    def _batch(self, step: int) -> str:
        """Return the users of a step's batch, in words."""
        users = list(dict.fromkeys(self.users_of(step)))
        return f"the histories of its batch are of the users {listed(users, NAMED_USERS)}"

    def _advice(self) -> str:
        """Return what to do, and where the last good checkpoint is if there is one."""
        smaller = f"try a smaller {self.path}.optimization.learning_rate or {self.path}.optimization.max_grad_norm"
        if self.saved_step is None:
            return smaller
        return (
            f"the last good checkpoint, of step {self.saved_step}, is kept in {self.folder}: the same command resumes from it, which "
            f"helps if the fault was a passing one; if it comes back, {smaller}, which starts a new training"
        )


def _trained(policy: nn.Module) -> dict[str, Tensor]:
    """Return the trainable weights by name."""
    return {name: value.detach() for name, value in policy.named_parameters() if value.requires_grad}


def _untrained(policy: nn.Module) -> dict[str, Tensor]:
    """Return the other tensors of floating-point numbers that are saved with the policy: frozen weights and buffers."""
    trained = {name for name, value in policy.named_parameters(remove_duplicate=False) if value.requires_grad}
    saved = policy.state_dict()
    return {name: value for name, value in saved.items() if name not in trained and value.is_floating_point()}


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity. Waits once for the device."""
    if not tensors:
        return []
    device = next(iter(tensors.values())).device
    finite = torch.stack([value.isfinite().all().to(device) for value in tensors.values()]).tolist()
    return [name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite]


def check_finite(policy: nn.Module, where: str) -> None:
    """Raise NumericsError if a trainable weight is not finite; `where` says what the weights are."""
    names = non_finite(_trained(policy))
    if names:
        raise NumericsError(f"{where}: {listed(names, 3)} hold NaN or infinity, expected finite numbers; nothing is saved")


def listed(names: Sequence[str], count: int) -> str:
    """Return the first `count` names, and how many more there are: `'a', 'b' and 3 more`."""
    shown = ", ".join(repr(name) for name in names[:count])
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"
