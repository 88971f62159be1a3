"""Watch a plug-in while it runs: its exceptions, its use of global random state and its changes to shared data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from pandas import DataFrame
from torch import Tensor, nn

from genrec import renamed
from genrec.errors import GenrecError
from genrec.plugin_source import own_line
from genrec.testing.specification_checks import ContractError, random_states
from genrec.types import ObjectiveContext, SamplerContext
from genrec.unchanged_values import unchanged

Result = TypeVar("Result")


def call_plugin(name: str, action: str, call: Callable[[], Result]) -> Result:
    """Return the result of `call`. Raise ContractError, with the action and the plug-in's line, if it raises or exits.

    A `GenrecError` passes unchanged.
    """
    try:
        return call()
    except GenrecError:
        raise
    except (Exception, SystemExit) as error:
        place, former = own_line(error), renamed.explain(error)
        where, hint = "" if place is None else f" at {place}", f"; {former}" if former else ""
        raise ContractError(f"{name}: {action} raised {error!r}{where}{hint}") from error


@contextmanager
def check_unchanged(name: str, context: SamplerContext, inputs: Mapping[str, Tensor], remedy: str) -> Iterator[None]:
    """Raise ContractError if the body changes global random state, a part of the context or one of the input tensors.

    `remedy` is the advice for a plug-in that uses global random state.
    """

    def values() -> dict[str, Tensor | DataFrame]:
        return {**_tensors(context), **inputs, **_tables(context)}

    modes = _modes(context)
    with unchanged(name, values, "components", ContractError), check_no_global_draws(name, remedy):
        yield
    if modes != _modes(context):
        raise ContractError(
            f"{name}: context.policy was left in another mode (train or eval), but other components use it too; leave it in eval mode"
        )


@contextmanager
def check_no_global_draws(name: str, remedy: str) -> Iterator[None]:
    """Raise ContractError if the body changes the state of a global random generator."""
    states = random_states()
    yield
    for (library, before), after in zip(states.items(), random_states().values(), strict=True):
        if before != after:
            raise ContractError(f"{name}: {library} was drawn from or seeded; {remedy}")


def copied(context: SamplerContext) -> SamplerContext | None:
    """Return the context with a copy of its policy, so that its weights can be changed; None if the policy is not a module."""
    policy = context.policy
    return context._replace(policy=copy.deepcopy(policy)) if isinstance(policy, nn.Module) else None


@torch.no_grad()
def change_weights(context: SamplerContext | ObjectiveContext) -> None:
    """Change the weights of the policy in place, as a step or a refresh during training does."""
    assert isinstance(context.policy, nn.Module)
    for number, parameter in enumerate(context.policy.parameters()):
        parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).to(parameter)


def _tensors(context: SamplerContext) -> dict[str, Tensor]:
    """Return the tensors of the context, and of its policy, by name."""
    tables = {"popularity": context.popularity, "vectors": context.vectors, "semantic_ids": context.semantic_ids.codes}
    tensors = {f"context.{key}": table for key, table in tables.items()}
    if isinstance(context.policy, nn.Module):
        tensors |= {f"context.policy's {key}": tensor for key, tensor in context.policy.state_dict().items()}
    return tensors


def _tables(context: SamplerContext) -> dict[str, DataFrame]:
    tables = {"context.interactions": context.interactions, "context.items": context.items}
    return {key: table for key, table in tables.items() if table is not None}


def _modes(context: SamplerContext) -> list[bool]:
    return [module.training for module in context.policy.modules()] if isinstance(context.policy, nn.Module) else []
