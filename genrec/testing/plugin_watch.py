"""What a check watches while a plug-in works: what it raises, and what it must leave as it was. Out: nothing, or a `ContractError`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from pandas import DataFrame
from torch import Tensor, nn

from genrec.errors import GenrecError
from genrec.testing.specification_checks import ContractError, random_states
from genrec.types import SamplerContext

Answer = TypeVar("Answer")


def call_plugin(name: str, what: str, call: Callable[[], Answer]) -> Answer:
    """The call's answer; what a plug-in raises is told with its circumstances, and what it says in the package's words stays."""
    try:
        return call()
    except GenrecError:
        raise
    except Exception as error:
        raise ContractError(f"{name}: {what} raised {error!r}") from error


@contextmanager
def check_unchanged(name: str, context: SamplerContext, given: Mapping[str, Tensor], remedy: str) -> Iterator[None]:
    """Refuse a change of global random state (`remedy` says what to do instead), of the context's parts or of the `given` tensors."""
    watched = {**_tensors(context), **given}
    before, tables, modes = {key: tensor.clone() for key, tensor in watched.items()}, _tables(context), _modes(context)
    copies = {key: table.copy() for key, table in tables.items()}
    with check_no_global_draws(name, remedy):
        yield
    changed = [key for key, tensor in {**_tensors(context), **given}.items() if not same(tensor, before[key])]
    changed += [key for key, table in tables.items() if not table.equals(copies[key])]
    if changed:
        raise ContractError(f"{name}: {changed[0]} was modified, which others read too; work on a copy")
    if modes != _modes(context):
        raise ContractError(
            f"{name}: context.policy was left in another mode (train or eval), which others read too; leave it as it comes, in eval"
        )


@contextmanager
def check_no_global_draws(name: str, remedy: str) -> Iterator[None]:
    """Refuse a change of global random state."""
    states = random_states()
    yield
    for (library, state), now in zip(states.items(), random_states().values(), strict=True):
        if state != now:
            raise ContractError(f"{name}: {library} was drawn from or seeded; {remedy}")


def same(first: Tensor, second: Tensor) -> bool:
    """Equal, NaN in the same places included."""
    return first.shape == second.shape and bool(((first == second) | (first.isnan() & second.isnan())).all())


def copied(context: SamplerContext) -> SamplerContext | None:
    """The context with a copy of its policy, which may be changed; None where the policy has no weights."""
    policy = context.policy
    return context._replace(policy=copy.deepcopy(policy)) if isinstance(policy, nn.Module) else None


@torch.no_grad()
def change_weights(context: SamplerContext) -> None:
    """Other weights for the policy, in place, as training refreshes it."""
    assert isinstance(context.policy, nn.Module)
    for number, parameter in enumerate(context.policy.parameters()):
        parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).to(parameter)


def _tensors(context: SamplerContext) -> dict[str, Tensor]:
    """By name, as they are now."""
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
