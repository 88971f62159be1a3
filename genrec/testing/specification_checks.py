"""What every plug-in owes: to be a frozen dataclass with its protocol's method. Out: nothing, or a `ContractError`."""

from __future__ import annotations

import random
from dataclasses import is_dataclass

import numpy as np
import torch

from genrec.errors import InputError


class ContractError(InputError):
    """A plug-in breaks its contract."""


def check_specification(plugin: object, protocol: type, method: str) -> None:
    """Refuse what is no frozen dataclass with the protocol's method."""
    name = plugin.__name__ if isinstance(plugin, type) else type(plugin).__name__
    if isinstance(plugin, type) or not isinstance(plugin, protocol):
        raise ContractError(f"{name} is no {protocol.__name__}: pass an instance, such as {name}(), that has {method}")
    if not is_dataclass(plugin) or not plugin.__dataclass_params__.frozen:  # type: ignore[union-attr]
        raise ContractError(
            f"{name} is no frozen dataclass, so that it cannot be stored or compared: put @dataclass(frozen=True) on it"
        )


def random_states() -> dict[str, str]:
    """Global random state, by owner."""
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes().hex(),
        "NumPy's global generator": repr([np.asarray(part).tolist() for part in np.random.get_state()]),  # noqa: NPY002
        "Python's global generator": repr(random.getstate()),
    }
