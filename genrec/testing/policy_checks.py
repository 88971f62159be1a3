"""The checks of policies. In: a policy's specification. Out: nothing, or a `ContractError`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from genrec.errors import GenrecError, UsageError
from genrec.semantic_ids import SemanticIds
from genrec.store import describe
from genrec.testing.plugin_watch import call_plugin
from genrec.testing.ranking_checks import check_rankings
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import Policy, PolicySpecification, SequencePolicy

ITEMS, SIZES = 40, (4, 3, 5)  # of the catalog that policies are checked on
CLOSE = 1e-4  # what rounding may change of a log-probability


class Trial(NamedTuple):
    """A policy in evaluation mode, and what it is asked."""

    name: str
    policy: Policy
    semantic_ids: SemanticIds
    history: Tensor  # int64 [B, T]  of all lengths from 1 to T


def check_policy(specification: PolicySpecification, semantic_ids: SemanticIds | None = None) -> None:
    """Refuse a policy that breaks `genrec.types.Policy`, on small random Semantic IDs or on your own (distinct ones).

    Checked: a frozen dataclass that can be described for a key; a module whose weights follow from torch's seed; float32 [B, M, L], at
    most 0, -inf for no candidate, probabilities that add up to at most 1; nothing depends on padding, on the batch or on the other
    candidates; no state, no random number in evaluation; lists of real, distinct, allowed items, sorted, with the scores of
    `log_prob`; finite gradients; the weights stored and restored. Of a `SequencePolicy`, that one pass is every prefix apart. One
    that refuses three levels is checked with items as codes of their own.
    """
    check_specification(specification, PolicySpecification, "build(semantic_ids)")
    name = type(specification).__name__
    _check_description(name, specification)
    trial = _trial(name, specification, semantic_ids)
    _check_build(trial, specification)
    with torch.no_grad():
        levels = _check_log_probs(trial)
        _check_company(trial, levels)
        check_rankings(name, trial.policy, trial.history, levels.sum(-1))
        _check_sequence(trial, specification)
        _check_same(trial, "the same call gives other log-probabilities the second time", levels, _levels(trial))
        _check_weights(trial, specification, levels)
    _check_gradients(trial)


def _check_description(name: str, specification: PolicySpecification) -> None:
    try:
        describe(specification, Path(), name)
    except UsageError as error:
        raise ContractError(str(error)) from None


def _trial(name: str, specification: PolicySpecification, semantic_ids: SemanticIds | None) -> Trial:
    """Build the policy, on codes of one level if it refuses several."""
    if semantic_ids is None:
        semantic_ids = _catalog(SIZES)
        try:
            policy = _build(specification, semantic_ids)
        except ContractError:
            raise
        except GenrecError:  # it takes items as codes of their own; if not, its error is the one it raises now
            semantic_ids = SemanticIds(torch.arange(ITEMS)[:, None])
            policy = _build(specification, semantic_ids)
    else:
        policy = _build(specification, semantic_ids)
    source = torch.Generator().manual_seed(1)
    history = torch.randint(1, semantic_ids.items + 1, (6, 6), generator=source)
    padding = torch.arange(5, -1, -1)[:, None]
    return Trial(name, policy, semantic_ids, history.masked_fill(torch.arange(6) < padding, 0))


def _catalog(sizes: tuple[int, ...]) -> SemanticIds:
    """Random Semantic IDs, all distinct."""
    flat = torch.randperm(int(np.prod(sizes)), generator=torch.Generator().manual_seed(0))[:ITEMS]
    return SemanticIds(torch.stack(torch.unravel_index(flat, sizes), 1), sizes)


def _build(specification: PolicySpecification, semantic_ids: SemanticIds, seed: int = 0) -> Policy:
    """The policy of a seed, in evaluation mode; torch's generator is put back."""
    name = type(specification).__name__
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = call_plugin(name, "build", lambda: specification.build(semantic_ids))
    if not isinstance(policy, nn.Module) or not isinstance(policy, Policy):
        raise ContractError(
            f"{name}: build must return a torch.nn.Module with level_log_prob, log_prob and recommend; got {type(policy).__name__}"
        )
    return cast(Policy, policy.eval())


def _check_build(trial: Trial, specification: PolicySpecification) -> None:
    """The same weights from the same seed of torch, and from nothing else."""
    others = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(7), np.random.seed(7)  # noqa: NPY002
    try:
        again = _weights(_build(specification, trial.semantic_ids))
    finally:
        random.setstate(others[0]), np.random.set_state(others[1])  # noqa: NPY002
    first = _weights(trial.policy)
    if not first:
        raise ContractError(f"{trial.name}: the policy has no weights; make them nn.Parameter, and submodules the module's attributes")
    for key, value in first.items():
        if key not in again or not torch.equal(value, again[key]):
            raise ContractError(
                f"{trial.name}: two policies built from one seed of torch differ in {key}; draw initial weights from torch's global "
                "generator alone"
            )


def _weights(policy: Policy) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in cast(nn.Module, policy).state_dict().items()}


def _everything(trial: Trial) -> Tensor:
    """Nothing and every item, int64 [B, 1 + N]."""
    return torch.arange(trial.semantic_ids.items + 1).expand(len(trial.history), -1).contiguous()


def _levels(trial: Trial, history: Tensor | None = None, items: Tensor | None = None) -> Tensor:
    """The policy's answer, float32 [B, M, L], for all items if none are named."""
    history, items = trial.history if history is None else history, _everything(trial) if items is None else items
    given = history.clone(), items.clone()
    found = call_plugin(trial.name, "level_log_prob", lambda: trial.policy.level_log_prob(history, items))
    answer = _check_tensor(trial.name, "level_log_prob", found, (*items.shape, trial.semantic_ids.levels))
    if not torch.equal(history, given[0]) or not torch.equal(items, given[1]):
        raise ContractError(f"{trial.name}: level_log_prob modified its input, which others read too; work on a copy")
    return answer


def _check_tensor(name: str, what: str, found: Any, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(found, Tensor) or found.dtype != torch.float32 or tuple(found.shape) != shape:
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ContractError(f"{name}: {what} must give a tensor float32 {list(shape)}, got {got}".replace("torch.", ""))
    return found


def _check_log_probs(trial: Trial) -> Tensor:
    """Numbers that can be log-probabilities, float32 [B, 1 + N, L]."""
    name, levels = trial.name, _levels(trial)
    if not bool((levels[:, 0] == -torch.inf).all()):
        raise ContractError(
            f"{name}: level_log_prob of candidate 0 (none) must be -inf on every level, got {levels[0, 0].tolist()}; use "
            "masked_fill((items == 0).unsqueeze(-1), -inf)"
        )
    real = levels[:, 1:]
    if bool(real.isnan().any()) or bool((real > CLOSE).any()):
        raise ContractError(f"{name}: a log-probability is at most 0 and not NaN, got {real.max():g}; end in log_softmax")
    total = torch.logsumexp(real.sum(-1), 1).exp()
    if bool((total > 1 + 1e-3).any()):
        raise ContractError(
            f"{name}: the probabilities of all {trial.semantic_ids.items} items add up to {total.max():g}, which is more than 1; each "
            "level is a softmax over that level's codes, given the codes before"
        )
    sums = call_plugin(name, "log_prob", lambda: trial.policy.log_prob(trial.history, _everything(trial)))
    _check_tensor(name, "log_prob", sums, tuple(levels.shape[:2]))
    _check_same(trial, "log_prob is not the sum of level_log_prob over levels", levels.sum(-1), sums)
    empty = _levels(trial, torch.zeros_like(trial.history[:1]), torch.arange(1, 3)[None])
    if not bool(empty.isfinite().all()):
        raise ContractError(f"{name}: a history of padding alone (all 0) gives {empty.flatten().tolist()}; it must be finite")
    return levels


def _check_company(trial: Trial, levels: Tensor) -> None:
    """A history's answer is its own, whatever pads it, and whoever is beside it."""
    for row, history in enumerate(trial.history):
        alone = history[history > 0][None]
        everything = _everything(trial)[:1]
        _check_same(
            trial,
            f"a history of {alone.shape[1]} items has other log-probabilities alone than padded to {len(history)} beside longer ones; "
            "hide padding from attention and from means, and count positions from the end",
            levels[row : row + 1],
            _levels(trial, alone, everything),
        )
    few = torch.tensor([[7, 0, 3]]).expand(len(levels), -1).contiguous()
    _check_same(
        trial,
        "a candidate has other log-probabilities beside other candidates; a candidate sees the history and its own codes alone",
        levels[:, few[0]],
        _levels(trial, items=few),
    )


def _check_same(trial: Trial, what: str, first: Tensor, second: Tensor) -> None:
    gap = (first.masked_fill(first == -torch.inf, 1) - second.masked_fill(second == -torch.inf, 1)).abs().max()
    if not gap <= CLOSE:
        raise ContractError(f"{trial.name}: {what} (up to {gap:g} off)")


def _check_sequence(trial: Trial, specification: PolicySpecification) -> None:
    """`causal` and `sequence_log_prob` go together; one pass is every prefix apart, for any targets and with zeros inside."""
    name, policy, causal = trial.name, trial.policy, getattr(specification, "causal", False)
    if not isinstance(policy, SequencePolicy):
        if causal:
            raise ContractError(f"{name}: causal is true, but the policy has no sequence_log_prob(history, targets)")
        return
    if causal is False and hasattr(specification, "causal"):
        return  # one class for both ways to read; that it refuses here is its own affair
    if causal is not True:
        raise ContractError(
            f"{name}: the policy has sequence_log_prob; let its specification say so by a class variable causal = True"
        )
    following = torch.nn.functional.pad(trial.history[:, 1:], (0, 1), value=5)
    gap = trial.history * (torch.arange(trial.history.shape[1]) != 3)
    for what, history, targets in (
        ("whose targets are its next items", trial.history, following),
        ("whose targets are any items", trial.history, following.flip(0)),
        ("with a 0 between its items", gap, following),
    ):
        given = history.clone(), targets.clone()
        found = call_plugin(name, "sequence_log_prob", lambda: policy.sequence_log_prob(*given))  # noqa: B023
        _check_tensor(name, "sequence_log_prob", found, (*history.shape, trial.semantic_ids.levels))
        places = range(history.shape[1])
        apart = torch.cat([_levels(trial, history[:, : t + 1], targets[:, t : t + 1]) for t in places], 1)
        _check_same(trial, f"sequence_log_prob of a history {what} is not level_log_prob of every prefix", apart, found)


def _check_weights(trial: Trial, specification: PolicySpecification, levels: Tensor) -> None:
    """What is learned is in the state dict: another policy that takes it gives the same."""
    other = _build(specification, trial.semantic_ids, seed=1)
    cast(nn.Module, other).load_state_dict(_weights(trial.policy))
    _check_same(
        trial,
        "a policy of another seed with this one's state_dict gives other log-probabilities; what they depend on must be a parameter "
        "or a stored buffer, and other buffers must follow from the Semantic IDs",
        levels,
        _levels(trial._replace(policy=other)),
    )


def _check_gradients(trial: Trial) -> None:
    """In training mode, with a candidate that is none."""
    module = cast(nn.Module, trial.policy).train()
    items = torch.tensor([[7, 0, 3]]).expand(len(trial.history), -1).contiguous()
    with torch.random.fork_rng(devices=[]):
        found = _levels(trial, items=items)
        if not found.requires_grad:
            raise ContractError(f"{trial.name}: log-probabilities have no gradient; no detach, no torch.no_grad in level_log_prob")
        found[:, [0, 2]].sum().backward()  # type: ignore[no-untyped-call]
    module.eval()
    for key, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            raise ContractError(
                f"{trial.name}: the gradient of {key} is not finite beside a candidate 0; put masked places to a finite number before "
                "exp, log and division, and to -inf only at the end"
            )
    module.zero_grad()
