"""A policy on trial: the log-probabilities that its checks compare."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec.semantic_ids import SemanticIds
from genrec.testing.event_histories import same_histories
from genrec.testing.plugin_watch import call_plugin
from genrec.testing.specification_checks import ContractError
from genrec.types import CatalogPolicy, Policy
from genrec.value_forms import form_of

TOLERANCE = 1e-4  # rounding error of a log-probability


class Trial(NamedTuple):
    """A policy in evaluation mode, and the histories that it is checked with."""

    name: str
    policy: Policy
    semantic_ids: SemanticIds
    history: Tensor  # int64 [B, T]  of every length from 1 to T


def all_candidates(trial: Trial) -> Tensor:
    """Return candidate 0 and all items, int64 [B, 1 + N]."""
    return torch.arange(trial.semantic_ids.items + 1).expand(len(trial.history), -1).contiguous()


def levels(trial: Trial, history: Tensor | None = None, items: Tensor | None = None) -> Tensor:
    """Return `level_log_prob`, float32 [B, M, L], of all items by default."""
    history, items = trial.history if history is None else history, all_candidates(trial) if items is None else items
    copies = history.clone(), items.clone()
    result = call_plugin(trial.name, "level_log_prob", lambda: trial.policy.level_log_prob(history, items))
    found = check_tensor(trial.name, "level_log_prob", result, (*items.shape, num_levels(trial)))
    if not same_histories(history, copies[0]) or not torch.equal(items, copies[1]):
        raise ContractError(f"{trial.name}: level_log_prob modified its input in place; work on a copy")
    return found


def num_levels(trial: Trial) -> int:
    """Return the number of levels of log-probabilities: 1 for a policy that scores items as one code."""
    return 1 if isinstance(trial.policy, CatalogPolicy) else trial.semantic_ids.levels


def check_tensor(name: str, method: str, result: Any, shape: tuple[int, ...]) -> Tensor:
    """Return the result of a method, if it is float32 of the shape; raise ContractError otherwise."""
    if not isinstance(result, Tensor) or result.dtype != torch.float32 or tuple(result.shape) != shape:
        raise ContractError(f"{name}: {method} must return a tensor float32 {list(shape)}, got {form_of(result)}")
    return result


def check_same(trial: Trial, message: str, first: Tensor, second: Tensor) -> None:
    """Raise ContractError with the message unless two tensors of log-probabilities are equal up to rounding."""
    difference = (first.masked_fill(first == -torch.inf, 1) - second.masked_fill(second == -torch.inf, 1)).abs().max()
    if not difference <= TOLERANCE:
        raise ContractError(f"{trial.name}: {message} (they differ by up to {difference:g})")
