"""Checks that every plug-in must pass: it is a frozen dataclass and implements its protocol."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass

import numpy as np
import torch

from genrec.errors import InputError

MISSPELT = 0.8  # similarity of two names (`difflib`) from which one is taken for the other misspelt: `need`, `check_contxt`


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


def check_names(plugin: object, capabilities: Iterable[str], former: Mapping[str, str], elsewhere: Iterable[str] = ()) -> None:
    """Raise ContractError if a public attribute of a plug-in has no effect because its name is a former one or misspelt.

    `capabilities` are the optional and required attributes that genrec reads, `former` maps names without effect to their remedy, and
    `elsewhere` are fields of the value that the plug-in builds, of which an attribute may be a misspelt copy.
    """
    name, known = type(plugin).__name__, list(capabilities)
    for attribute in dir(plugin):
        if attribute.startswith("_") or attribute in known:
            continue
        if attribute in former:
            raise ContractError(f"{name}: the attribute {attribute} has no effect; {former[attribute]}")
        nearest = difflib.get_close_matches(attribute, known, 1, cutoff=MISSPELT)
        if nearest and not hasattr(plugin, nearest[0]):
            raise ContractError(
                f"{name}: the attribute {attribute} has no effect; did you mean {nearest[0]!r}? Otherwise give it another name"
            )
        copied = [] if attribute in elsewhere else difflib.get_close_matches(attribute, [*former, *elsewhere], 1, cutoff=MISSPELT)
        if copied and not nearest and not hasattr(plugin, copied[0]):
            remedy = former.get(copied[0], f"give {copied[0]}=... to the value that the plug-in builds")
            raise ContractError(
                f"{name}: the attribute {attribute} has no effect; did you mean {copied[0]!r}? Then {remedy}; otherwise give it "
                "another name"
            )


def random_states() -> dict[str, str]:
    """Return the state of each global random generator, by its name in messages."""
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes().hex(),
        "NumPy's global generator": repr([np.asarray(part).tolist() for part in np.random.get_state()]),  # noqa: NPY002
        "Python's global generator": repr(random.getstate()),
    }
