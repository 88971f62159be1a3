"""Contract checks for the parts of a policy gradient: advantages and surrogates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from genrec.objectives.advantage_check import advantages_fault, terms_fault
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.specification_checks import ContractError, check_names, check_specification
from genrec.types import Advantage, Advantages, CandidateGroups, GroupLogProbs, Surrogate, SurrogateTerms
from genrec.unchanged_values import same

ROWS, CANDIDATES, LEVELS = 6, 5, 3  # of the synthetic groups
CAPABILITIES = ("estimate", "terms", "check")  # attributes that genrec reads
Parts = TypeVar("Parts", Advantages, SurrogateTerms)
REMEDY = "a part of a policy gradient must be a pure function of its arguments"


def check_advantage(advantage: Advantage) -> None:
    """Raise ContractError if an advantage breaks `genrec.types.Advantage`.

    It gets 6 groups of 5 candidates with Semantic IDs of 3 codes: some are masked, one group has equal rewards and one has a single
    candidate. Checked:

    - it is a frozen dataclass, and no attribute looks like a misspelt method;
    - `estimate(groups)` returns `Advantages`: float values [X, M] or [X, M, L], detached and finite, and `spread` bool [X];
    - values are 0 where masked and in groups without spread, and groups with equal rewards or one candidate have no spread;
    - masked candidates change no value, and groups do not depend on each other;
    - the candidate with the highest reward of a group does not have a lower advantage than the one with the lowest;
    - the inputs and global random state stay unchanged, and a second call returns the same.
    """
    check_specification(advantage, Advantage, "estimate(groups)")
    check_names(advantage, CAPABILITIES, {})
    name, groups = type(advantage).__name__, _groups()

    def estimate(of: CandidateGroups) -> Advantages:
        return call_plugin(name, f"estimate of {len(of.mask)} groups of {CANDIDATES} candidates", lambda: advantage.estimate(of))

    found = _pure(name, groups, lambda: estimate(groups))
    _check_advantages(name, found, groups)
    other = groups._replace(rewards=torch.where(groups.mask, groups.rewards, 1e3))
    if not _close(estimate(other).values, found.values):
        raise ContractError(f"{name}: the rewards of masked candidates change values; leave out candidates where groups.mask is false")
    for row in range(ROWS):
        alone = estimate(CandidateGroups(*(each[row : row + 1] for each in groups)))
        if not _close(alone.values[0], found.values[row]):
            raise ContractError(f"{name}: the values of a group change with the other groups; compare the candidates of one row alone")
    total = found.values if found.values.ndim == 2 else found.values.sum(2)
    for row in torch.nonzero(found.spread).flatten().tolist():
        rewards = groups.rewards[row].masked_fill(~groups.mask[row], torch.nan)
        best, worst = int(rewards.nan_to_num(-1e9).argmax()), int(rewards.nan_to_num(1e9).argmin())
        if total[row, best] < total[row, worst]:
            raise ContractError(
                f"{name}: the candidate with the highest reward has the advantage {float(total[row, best]):g}, that with the lowest "
                f"{float(total[row, worst]):g}; a higher reward must not give a lower advantage"
            )


def check_surrogate(surrogate: Surrogate) -> None:
    """Raise ContractError if a surrogate breaks `genrec.types.Surrogate`.

    It gets 6 groups of 5 candidates with 3 codes, with one advantage for each candidate and with one for each code. Checked:

    - it is a frozen dataclass, and no attribute looks like a misspelt method;
    - `terms(log_probs, advantages)` returns `SurrogateTerms`: a finite loss [X, M] with a gradient, not reduced, and bool `clipped`;
    - a candidate with an advantage of 0, such as a masked one, has loss 0 and no gradient;
    - the loss of a candidate has no gradient with respect to another one;
    - on policy, a descent step makes candidates with an advantage above 0 more likely and the others less likely;
    - the inputs and global random state stay unchanged, and a second call returns the same.
    """
    check_specification(surrogate, Surrogate, "terms(log_probs, advantages)")
    check_names(surrogate, CAPABILITIES, {})
    for by_level in (False, True):
        _check_surrogate(surrogate, _log_probs(), _advantages(by_level))


def _check_surrogate(surrogate: Surrogate, log_probs: GroupLogProbs, advantages: Advantages) -> None:
    name = type(surrogate).__name__

    def terms(of: GroupLogProbs) -> SurrogateTerms:
        return call_plugin(name, f"terms of {ROWS} groups of {CANDIDATES} candidates", lambda: surrogate.terms(of, advantages))

    found = _pure(name, (*log_probs, *advantages), lambda: terms(log_probs))
    _check_terms(name, found, advantages)
    _check_gradient(name, found, log_probs, advantages)
    if not bool(terms(log_probs._replace(behavior=log_probs.behavior + 1.5)).loss.isfinite().all()):
        raise ContractError(f"{name}: the loss is not finite for a ratio of exp(-1.5)")


def _groups() -> CandidateGroups:
    """Return groups with masked candidates, a group of equal rewards (row 4) and one with a single candidate (row 5)."""
    draw = torch.Generator().manual_seed(0)
    rewards = torch.rand(ROWS, CANDIDATES, generator=draw)
    rewards[1] = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    rewards[4] = 0.5
    mask = torch.ones(ROWS, CANDIDATES, dtype=torch.bool)
    mask[2, 3:], mask[5, 1:] = False, False
    return CandidateGroups(rewards, mask, torch.randint(0, 2, (ROWS, CANDIDATES, LEVELS), generator=draw))


def _log_probs() -> GroupLogProbs:
    levels = -1.5 * torch.rand(ROWS, CANDIDATES, LEVELS, generator=torch.Generator().manual_seed(1)) - 0.1
    mask = _groups().mask
    levels = levels.masked_fill(~mask.unsqueeze(2), 0.0)
    return GroupLogProbs(levels.clone().requires_grad_(), levels.sum(2))


def _advantages(by_level: bool) -> Advantages:
    """Return advantages of both signs, 0 where masked and for one candidate of each group."""
    groups = _groups()
    values = torch.randn(ROWS, CANDIDATES, generator=torch.Generator().manual_seed(2)).masked_fill(~groups.mask, 0.0)
    values[:4, 1] = 0.0
    values[4:] = 0.0
    spread = torch.tensor([True] * 4 + [False] * 2)
    return Advantages(values.unsqueeze(2).expand(-1, -1, LEVELS).clone() if by_level else values, spread)


def _pure(name: str, inputs: tuple[Tensor, ...], call: Callable[[], Parts]) -> Parts:
    """Return what `call` returns. Raise ContractError if it changes its inputs or draws globally, or returns something else again."""
    copies = [each.detach().clone() for each in inputs]
    with check_no_global_draws(name, REMEDY):
        found, again = call(), call()
    if not all(same(each.detach(), copy) for each, copy in zip(inputs, copies, strict=True)):
        raise ContractError(f"{name}: it changes its input in place; {REMEDY}")
    tensors = [[each for each in result if isinstance(each, Tensor)] for result in (found, again)]
    if len(tensors[0]) != len(tensors[1]) or not all(same(first, second) for first, second in zip(*tensors, strict=True)):
        raise ContractError(f"{name}: a second call with the same arguments returns other values; {REMEDY}")
    return found


def _check_advantages(name: str, found: object, groups: CandidateGroups) -> None:
    fault = advantages_fault(found, (ROWS, CANDIDATES, LEVELS))
    if fault is not None:
        raise ContractError(f"{name}: {fault}")
    assert isinstance(found, Advantages)
    if found.values.requires_grad:
        raise ContractError(f"{name}: values have a gradient; detach them")
    if not bool(found.values.isfinite().all()):
        raise ContractError(f"{name}: values are not finite, such as in a group with equal rewards; divide by no deviation of 0")
    total = found.values.abs() if found.values.ndim == 2 else found.values.abs().sum(2)
    if bool((total[~groups.mask] != 0).any()):
        raise ContractError(f"{name}: values of masked candidates are not 0; set them to 0 where groups.mask is false")
    if bool(found.spread[4:].any()):
        raise ContractError(f"{name}: spread is true for a group with equal rewards or one candidate; nothing can be learned from it")
    if bool((total[~found.spread] != 0).any()):
        raise ContractError(f"{name}: values of a group without spread are not 0")
    if not bool(found.spread[1]):
        raise ContractError(f"{name}: spread is false for a group with one hit of {CANDIDATES}; no group would be learned from")


def _check_terms(name: str, found: object, advantages: Advantages) -> None:
    fault = terms_fault(found, (ROWS, CANDIDATES))
    if fault is not None:
        raise ContractError(f"{name}: {fault}")
    assert isinstance(found, SurrogateTerms)
    if not bool(found.loss.isfinite().all()):
        raise ContractError(f"{name}: the loss is not finite")
    idle = advantages.values == 0 if advantages.values.ndim == 2 else (advantages.values == 0).all(2)
    if bool((found.loss[idle] != 0).any()):
        raise ContractError(f"{name}: a candidate with an advantage of 0 has a loss other than 0")


def _check_gradient(name: str, found: SurrogateTerms, log_probs: GroupLogProbs, advantages: Advantages) -> None:
    """Check the gradient on policy: its sign, and that candidates do not depend on each other."""
    (gradient,) = torch.autograd.grad(found.loss.sum(), log_probs.levels, retain_graph=True)
    values = advantages.values if advantages.values.ndim == 3 else advantages.values.unsqueeze(2).expand_as(gradient)
    if not bool(gradient.isfinite().all()):
        raise ContractError(f"{name}: the gradient is not finite")
    if bool((gradient[values == 0] != 0).any()):
        raise ContractError(f"{name}: a candidate with an advantage of 0 has a gradient")
    if bool((gradient * values > 0).any()) or not bool((gradient * values < 0).any()):
        raise ContractError(
            f"{name}: a descent step must make candidates with an advantage above 0 more likely and the others less likely; the "
            "gradient of the loss has the wrong sign, or is 0 on policy"
        )
    (one,) = torch.autograd.grad(found.loss[0, 0], log_probs.levels, retain_graph=True)
    if bool((one.flatten(0, 1)[1:] != 0).any()):
        raise ContractError(f"{name}: the loss of a candidate depends on the log-probabilities of another one; return one loss each")


def _close(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool(torch.allclose(first, second, atol=1e-5))
