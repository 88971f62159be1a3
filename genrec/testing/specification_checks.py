"""Checks that every plug-in must pass: it is a frozen dataclass and implements its protocol."""

from __future__ import annotations

import random
from dataclasses import is_dataclass

import numpy as np
import torch

from genrec.errors import InputError


class ContractError(InputError):
    """A plug-in breaks the contract of its protocol."""


def check_specification(plugin: object, protocol: type, method: str) -> None:
    """Raise ContractError unless `plugin` is an instance of a frozen dataclass that implements `protocol`.

    `method` names the methods of the protocol for the message.
    """
    name = plugin.__name__ if isinstance(plugin, type) else type(plugin).__name__
    if isinstance(plugin, type) or not isinstance(plugin, protocol):
        raise ContractError(f"{name} does not implement {protocol.__name__}: pass an instance, such as {name}(), with {method}")
    if not is_dataclass(plugin) or not plugin.__dataclass_params__.frozen:  # type: ignore[union-attr]
        raise ContractError(
            f"{name} is not a frozen dataclass, so it cannot be stored or compared: decorate the class with @dataclass(frozen=True)"
        )


def random_states() -> dict[str, str]:
    """Return the state of each global random generator, by its name in messages."""
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes().hex(),
        "NumPy's global generator": repr([np.asarray(part).tolist() for part in np.random.get_state()]),  # noqa: NPY002
        "Python's global generator": repr(random.getstate()),
    }
