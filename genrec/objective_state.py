"""Tensors that an objective changes during training, and that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genrec.types import ObjectiveState


class FixedTensors:
    """An `ObjectiveState` of tensors that keep their shapes. The objective changes them in place."""

    def __init__(self, held: dict[str, Tensor] | None = None) -> None:
        self.held = {} if held is None else held

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors."""
        return self.held

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Copy the values of a checkpoint into the tensors, none of them if a shape differs."""
        for name, value in self.held.items():
            if value.shape != saved[name].shape:
                shapes = f"{list(saved[name].shape)}, expected {list(value.shape)}"
                raise ValueError(f"the objective's tensor {name} has the shape {shapes}")
        for name, value in self.held.items():
            value.copy_(saved[name])


class JoinedStates:
    """An `ObjectiveState` of several ones. The names of the tensors begin with those of the parts: `PART.NAME`."""

    def __init__(self, parts: Mapping[str, ObjectiveState | None]) -> None:
        self.parts = {f"{name}.": part for name, part in parts.items() if part is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return {f"{start}{name}": value for start, part in self.parts.items() for name, value in part.tensors().items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take the tensors of a checkpoint. Raise ValueError if they do not fit."""
        for start, part in self.parts.items():
            part.restore({name.removeprefix(start): value for name, value in saved.items() if name.startswith(start)})


class WithModules:
    """An `ObjectiveState` with the weights of an objective's modules beside the tensors of another state."""

    def __init__(self, state: ObjectiveState, modules: tuple[nn.Module, ...]) -> None:
        self.state, self.modules = state, nn.ModuleList(modules)

    def _weights(self) -> dict[str, Tensor]:
        return {f"module.{name}": value for name, value in self.modules.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return self._weights() | self.state.tensors()

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take the tensors of a checkpoint. Raise ValueError if they do not fit."""
        weights = self._weights()
        FixedTensors(weights).restore(saved)
        self.state.restore({name: value for name, value in saved.items() if name not in weights})


def check_names(state: ObjectiveState, saved: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a checkpoint has the tensors of this objective."""
    expected = state.tensors()
    if set(saved) != set(expected):
        names = [", ".join(each) or "none" for each in (saved, expected)]
        raise ValueError(f"it holds the tensors {names[0]} of the objective, expected {names[1]}")
