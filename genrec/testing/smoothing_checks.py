"""Checks of the smoothed log-probabilities that a policy gives."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from genrec.testing.event_histories import same_histories
from genrec.testing.plugin_watch import call_plugin
from genrec.testing.policy_trial import Trial, all_candidates, check_same, check_tensor, levels, num_levels
from genrec.testing.specification_checks import ContractError
from genrec.types import (
    CatalogPolicy,
    LabelSmoothing,
    LabelSmoothingSpecification,
    LossPolicy,
    PolicySpecification,
    SequenceLabelSmoothing,
)
from genrec.types.event_history import items_of

HALF, QUARTER = 0.5, 0.25


def check_label_smoothing(trial: Trial, specification: PolicySpecification, causal: bool) -> None:
    """Raise ContractError if a policy breaks `genrec.types.LabelSmoothing`, or if its specification does not announce it.

    `causal` says whether SFT may train the policy on windows. The policy is in evaluation mode. Checked:

    - `has_label_smoothing()` is true only if the policy has the methods and no loss of its own, and true if it has them and is no
      `LossPolicy`;
    - label smoothing of 0 gives `level_log_prob`, and the result is linear in it; candidate 0 has -inf;
    - the uniform part of the first level is the same for all candidates, and the mean over all codes, or over all items of a
      `CatalogPolicy`, if these are the codes of items;
    - with `causal`, `smoothed_sequence_log_prob` equals `smoothed_level_log_prob` of every prefix;
    - gradients exist and are finite in training mode.
    """
    if not _announced(trial, specification, causal):
        return
    with torch.no_grad():
        _check_values(trial)
        if causal:
            _check_sequence(trial)
    _check_gradients(trial)


def _announced(trial: Trial, specification: PolicySpecification, causal: bool) -> bool:
    """Return whether the specification announces smoothed log-probabilities; check that it is right."""
    announced = isinstance(specification, LabelSmoothingSpecification) and specification.has_label_smoothing()
    has_methods = isinstance(trial.policy, LabelSmoothing)
    own_loss = announced and _has_own_loss(trial)
    expected = has_methods and not own_loss
    if announced != expected and (announced or not isinstance(trial.policy, LossPolicy)):
        has = "trains with a loss of its own" if own_loss else f"has {'' if expected else 'no '}smoothed_level_log_prob"
        raise ContractError(
            f"{trial.name}: the policy {has}, so has_label_smoothing() of its specification must return {expected}: "
            "Supervised(label_smoothing=...) asks it before any stage runs"
        )
    if announced and causal and not isinstance(trial.policy, SequenceLabelSmoothing):
        raise ContractError(
            f"{trial.name}: the policy is causal and has smoothed_level_log_prob, so it needs "
            "smoothed_sequence_log_prob(history, targets, label_smoothing) too"
        )
    return announced


def _has_own_loss(trial: Trial) -> bool:
    policy = trial.policy
    if not isinstance(policy, LossPolicy):
        return False
    targets = pad(items_of(trial.history)[:, -1:], (trial.history.shape[1] - 1, 0))
    with torch.no_grad():
        loss = call_plugin(
            trial.name, "sequence_loss", lambda: policy.sequence_loss(trial.history.clone(), targets, torch.Generator().manual_seed(3))
        )
    return loss is not None


def _check_values(trial: Trial) -> None:
    name, plain = trial.name, levels(trial)
    none, quarter, half = (_smoothed(trial, trial.history, all_candidates(trial), each) for each in (0.0, QUARTER, HALF))
    check_same(trial, "smoothed_level_log_prob with a label smoothing of 0 is not level_log_prob", plain, none)
    if not bool((half[:, 0] == -torch.inf).all()):
        raise ContractError(f"{name}: smoothed_level_log_prob of candidate 0 (none) must be -inf on every level")
    plain, quarter, half = plain[:, 1:], quarter[:, 1:], half[:, 1:]
    if not bool(half.isfinite().all()):
        raise ContractError(
            f"{name}: smoothed_level_log_prob of a real item must be finite; leave codes that the softmax is not over out of the mean"
        )
    uniform = 2 * half - plain
    mixture = (1 - QUARTER) * plain + QUARTER * uniform
    check_same(trial, f"smoothed_level_log_prob is not linear in label_smoothing, from {QUARTER} to {HALF}", mixture, quarter)
    first = uniform[..., :1]
    message = "the uniform part of smoothed_level_log_prob on the first level depends on the candidate; take the mean over all codes"
    check_same(trial, message, first, first[:, :1].expand_as(first))
    codes, size = trial.semantic_ids.codes[:, 0], trial.semantic_ids.level_sizes[0]
    if isinstance(trial.policy, CatalogPolicy):
        codes, size = torch.arange(trial.semantic_ids.items), trial.semantic_ids.items
    item_of_code = {code: item for item, code in enumerate(codes.tolist())}
    if len(item_of_code) == size:
        mean = plain[:, list(item_of_code.values()), 0].mean(1, keepdim=True)
        message = (
            "the uniform part of smoothed_level_log_prob on the first level is not the mean of log p over its codes, or all items"
        )
        check_same(trial, message, mean, first[:, 0])


def _check_sequence(trial: Trial) -> None:
    policy, history = cast(SequenceLabelSmoothing, trial.policy), trial.history.clone()
    items = items_of(history)
    targets = torch.where(items > 0, items.flip(0), 0)
    targets[:, -2] = 0
    given = targets.clone()
    found = call_plugin(trial.name, "smoothed_sequence_log_prob", lambda: policy.smoothed_sequence_log_prob(history, given, QUARTER))
    check_tensor(trial.name, "smoothed_sequence_log_prob", found, (*targets.shape, num_levels(trial)))
    _check_unchanged(trial, "smoothed_sequence_log_prob", (history, given), (trial.history, targets))
    places = range(history.shape[1])
    expected = torch.cat([_smoothed(trial, trial.history[:, : t + 1], targets[:, t : t + 1], QUARTER) for t in places], 1)
    check_same(trial, "smoothed_sequence_log_prob is not smoothed_level_log_prob of every prefix", expected, found)


def _check_gradients(trial: Trial) -> None:
    module, items = cast(nn.Module, trial.policy).train(), torch.tensor([[7, 0, 3]]).expand(len(trial.history), -1)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        found = _smoothed(trial, trial.history, items, QUARTER)
        if not found.requires_grad:
            raise ContractError(f"{trial.name}: smoothed_level_log_prob has no gradient; remove detach and no_grad")
        found[:, [0, 2]].sum().backward()  # type: ignore[no-untyped-call]
    module.eval()
    for key, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            raise ContractError(
                f"{trial.name}: smoothed_level_log_prob gives {key} a gradient that is not finite; leave masked codes out of the mean"
            )
    module.zero_grad()


def _smoothed(trial: Trial, history: Tensor, items: Tensor, label_smoothing: float) -> Tensor:
    policy, given = cast(LabelSmoothing, trial.policy), (history.clone(), items.clone())
    method = "smoothed_level_log_prob"
    found = call_plugin(trial.name, method, lambda: policy.smoothed_level_log_prob(*given, label_smoothing))
    check_tensor(trial.name, method, found, (*items.shape, num_levels(trial)))
    _check_unchanged(trial, method, given, (history, items))
    return found


def _check_unchanged(trial: Trial, method: str, given: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor]) -> None:
    if not same_histories(given[0], before[0]) or not torch.equal(given[1], before[1]):
        raise ContractError(f"{trial.name}: {method} modified its input in place; work on a copy")
