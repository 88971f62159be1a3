"""Contract checks for preference losses."""

from __future__ import annotations

import math
from dataclasses import is_dataclass

import torch
from torch import Tensor

from genrec.errors import UsageError, counted
from genrec.non_finite_source import find_source
from genrec.progress import say
from genrec.testing.loss_inputs import ROWS, columns, extreme_inputs, masked, one_row, random_inputs, with_log_probs
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.specification_checks import ContractError, check_names, check_specification
from genrec.types import LogProbs, LossNeeds, PreferenceLoss, PreferenceTerms
from genrec.unchanged_values import same

CAPABILITIES = ("needs", "check", "check_context")  # attributes of a loss that genrec reads, besides __call__
FORMER = {
    "mismatched": "write needs = LossNeeds(mismatched=True)",
    "reward": "write needs = LossNeeds(rewards=True), and set the reward at align.objective.reward",
    "rewards": "write needs = LossNeeds(rewards=True), and set the reward at align.objective.reward",
}


def check_loss(loss: PreferenceLoss) -> None:
    """Raise ContractError if a loss breaks `genrec.types.PreferenceLoss`.

    The loss is called with 1 and with 3 negatives; one that raises UsageError for 3 is checked with 1. `LogProbs.mismatched` and
    `LogProbs.rewards` are set only if the loss needs them, `LogProbs.levels` (3 codes) always. Checked:

    - it is a frozen dataclass, `needs` is a `LossNeeds`, and no attribute looks like a misspelt `needs`;
    - it returns float32 `PreferenceTerms` with one loss per example and detached rewards;
    - loss, rewards and gradients are finite, also for log-ratios of 10,000, where policy and reference are equal, and in a batch of
      one example;
    - the loss of an example has no gradient with respect to another example;
    - where policy and log-ratio prefer the positive, its reward is not below a negative's, and vice versa;
    - a masked negative has no influence, and the order of the negatives does not matter;
    - with `needs.positive` False, rows without a positive have finite gradients, and their negatives are learned from;
    - at the start, a descent step raises the positive and raises no negative;
    - the inputs, also their masked places, and global random state stay unchanged, and there is no state between calls.

    Printed, because it is no violation: that the loss of an example changes with the other examples, without `needs.batch`.
    """
    _check_needs(loss)
    check_specification(loss, PreferenceLoss, "__call__(policy, reference) and needs = LossNeeds()")
    try:
        _call(loss, *random_inputs(loss, 3))
        counts: tuple[int, ...] = (1, 3)
    except UsageError:
        counts = (1,)
    for count in counts:
        policy, reference = random_inputs(loss, count)
        _check_terms(loss, policy, reference)
        _check_terms(loss, *extreme_inputs(loss, count))
        _check_masked(loss, policy, reference)
        if not loss.needs.positive:
            _check_without_positives(loss, policy, reference)
        _check_rows(loss, policy, reference)  # before the signs, which a mean over the batch changes
        _check_start(loss, policy)
        _check_sides(loss, policy)
        _check_pure(loss, policy, reference)
    _check_alone(loss, counts)


def _check_needs(loss: object) -> None:
    """Check the type of `needs`, and that no other attribute looks like a capability."""
    if not callable(loss) or not is_dataclass(loss) or isinstance(loss, type):
        return  # no loss at all, which the next check tells
    name = type(loss).__name__
    check_names(loss, CAPABILITIES, FORMER)
    needs = getattr(loss, "needs", None)
    if isinstance(needs, LossNeeds):
        return
    if not hasattr(loss, "needs"):
        raise ContractError(
            f"{name} has no attribute needs, which every loss must have; write needs = LossNeeds(), or LossNeeds(rewards=True) for a "
            "loss that reads LogProbs.rewards"
        )
    how = "; write it as an attribute or a property, not as a method" if callable(needs) else ", such as LossNeeds(mismatched=True)"
    raise ContractError(f"{name}: needs must be a genrec.types.LossNeeds{how}; got {needs!r}")


def _call(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """Call the loss and check the form of its terms, and that the inputs stay unchanged. A failure names the inputs."""
    name, optional = type(loss).__name__, [key for key in ("mismatched", "rewards") if getattr(policy, key) is not None]
    inputs = [part for part in (*policy, *reference) if isinstance(part, Tensor)]
    copies = [tensor.detach().clone() for tensor in inputs]
    action = (
        f"a call with {counted(len(policy.chosen), 'example')}, {policy.rejected.shape[1]} negatives each and "
        f"{' and '.join(optional) or 'no optional input'} "
        "(LogProbs.mismatched and LogProbs.rewards are set only if needs says so)"
    )
    with check_no_global_draws(name, "a loss must be pure: draw nothing"):
        terms = call_plugin(name, action, lambda: loss(policy, reference))
    if not all(map(same, copies, inputs)):
        raise ContractError(f"{name}: the log-probabilities were modified; use no in-place operation on them")
    _check_form(name, terms, policy)
    return terms


def _check_form(name: str, terms: PreferenceTerms, policy: LogProbs) -> None:
    """Check that the terms are float32 tensors of the right shapes, and that the rewards are detached."""
    if not isinstance(terms, PreferenceTerms):
        raise ContractError(f"{name}: must return PreferenceTerms(loss, chosen_reward, rejected_reward); got {type(terms).__name__}")
    per_example = policy.chosen.shape
    for part, tensor, shape in zip(terms._fields, terms, (per_example, per_example, policy.rejected.shape), strict=True):
        if not isinstance(tensor, Tensor):
            raise ContractError(f"{name}: {part} must be a tensor float32 {list(shape)}, got {type(tensor).__name__}")
        if tensor.shape != shape:
            which = ", one loss per example, not reduced" if part == "loss" else ""
            raise ContractError(f"{name}: {part} must be {list(shape)}{which}; got {list(tensor.shape)}")
        if tensor.dtype != torch.float32:
            got = str(tensor.dtype).removeprefix("torch.")
            raise ContractError(f"{name}: {part} must be float32 like the log-probabilities; got {got}")
        if part != "loss" and tensor.requires_grad:
            raise ContractError(f"{name}: {part} must be detached, because it is only logged; call .detach()")


def _gradients(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> tuple[PreferenceTerms, Tensor, Tensor]:
    """Return the terms, and the gradients of the summed loss with respect to the policy's chosen [B] and rejected [B, K].

    Gradients with respect to the levels are added to these.
    """
    terms, leaves = _with_leaves(loss, policy, reference)
    return terms, *_by_item(terms.loss.sum(), leaves)


def _by_item(value: Tensor, leaves: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the gradients of a scalar with respect to chosen [B] and rejected [B, K], with those of their levels added."""
    by_chosen, by_rejected, by_level = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    return by_chosen + by_level[:, 0].sum(1), by_rejected + by_level[:, 1:].sum(2)


def _with_leaves(
    loss: PreferenceLoss, policy: LogProbs, reference: LogProbs
) -> tuple[PreferenceTerms, tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    """Return the terms and the leaf tensors for gradients: the policy's chosen [B], rejected [B, K] and levels [B, 1 + K, 3]."""
    assert policy.levels is not None
    chosen, rejected, levels = (part.clone().requires_grad_() for part in (policy.chosen, policy.rejected, policy.levels))
    terms = _call(loss, policy._replace(chosen=chosen, rejected=rejected, levels=levels), reference)
    if not terms.loss.requires_grad:
        raise ContractError(f"{type(loss).__name__}: the loss has no gradient; do not detach the log-probabilities of the policy")
    return terms, (chosen, rejected, levels)


def _check_terms(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs, where: str = "") -> None:
    """Check that loss, gradients and rewards are finite, except the rewards of masked items. `where` describes the inputs."""
    name, named = type(loss).__name__, {"policy.chosen": policy.chosen, "policy.rejected": policy.rejected}
    terms, chosen, rejected = _gradients(loss, policy, reference)
    rewards = (
        terms.chosen_reward.masked_fill(policy.chosen.isneginf(), 0.0),
        terms.rejected_reward.masked_fill(policy.rejected.isneginf(), 0.0),
    )
    for part, tensor in (
        ("loss", terms.loss), ("gradient of chosen", chosen), ("gradient of rejected", rejected),
        ("chosen_reward", rewards[0]), ("rejected_reward", rewards[1]),
    ):  # fmt: skip
        if not bool(torch.isfinite(tensor).all()):
            row = int((~torch.isfinite(tensor)).nonzero()[0, 0])
            ratio = float(policy.chosen[row] - reference.chosen[row]), float(policy.rejected[row, 0] - reference.rejected[row, 0])
            negative = f"{ratio[1]:g} (negative)" if math.isfinite(ratio[1]) else "a masked negative (-inf)"
            of_loss = part not in ("chosen_reward", "rejected_reward")
            found = find_source(lambda: _with_leaves(loss, policy, reference)[0].loss, named) if of_loss else None
            remedy = found or (
                "use logsumexp, logsigmoid or log_softmax, and set masked places to 0 before subtracting (-inf minus -inf is NaN)"
            )
            at = f"log-ratios {ratio[0]:g} (positive) and {negative}{where}"
            raise ContractError(f"{name}: the {part} is not finite at {at}; {remedy}")


def _check_masked(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """Check that a masked negative has a gradient of 0, a reward of -inf and no influence, also in a row without any other."""
    name, count = type(loss).__name__, policy.rejected.shape[1]
    mask = torch.zeros(ROWS, count, dtype=torch.bool)
    mask[:, 0] = True
    ours, theirs = masked(policy, mask), masked(reference, mask)
    _check_terms(loss, ours, theirs)
    terms, _, rejected = _gradients(loss, ours, theirs)
    if bool((rejected[mask] != 0).any()):
        raise ContractError(f"{name}: the gradient of a masked negative (-inf under policy and reference) must be 0")
    if not bool(terms.rejected_reward[mask].isneginf().all()):
        raise ContractError(f"{name}: rejected_reward must be -inf where the negative is masked")
    if count > 1:
        ours, theirs = (columns(part, list(range(1, count))) for part in (policy, reference))
        _require_equal(terms.loss, _call(loss, ours, theirs).loss, f"{name}: a masked negative must not change the loss")


def _check_without_positives(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """Check rows without a positive, for a loss that learns from them."""
    name, missing = type(loss).__name__, torch.arange(ROWS) % 2 == 0
    none = torch.zeros_like(policy.rejected, dtype=torch.bool)
    ours, theirs = masked(policy, none, missing), masked(reference, none, missing)
    terms, chosen, rejected = _gradients(loss, ours, theirs)
    if not bool((rejected[missing] != 0).any()):
        raise ContractError(
            f"{name}: rows without a positive have no gradient; write LossNeeds(positive=True), the default, so that alignment "
            "refuses such rows"
        )
    _check_terms(loss, ours, theirs)
    if bool((chosen[missing] != 0).any()) or not bool(terms.chosen_reward[missing].isneginf().all()):
        raise ContractError(f"{name}: in a row without a positive (-inf) its gradient must be 0 and chosen_reward -inf")


def _check_start(loss: PreferenceLoss, policy: LogProbs) -> None:
    """Check the signs of the gradients where policy and reference are equal and all items are equally likely."""
    level = with_log_probs(policy, policy.chosen, policy.chosen.unsqueeze(1).repeat(1, policy.rejected.shape[1]))
    _check_terms(loss, level, level, ", where policy and reference are equal, as at the first step")
    _, chosen, rejected = _gradients(loss, level, level)
    if bool((chosen >= 0).any()) or bool((rejected < 0).any()):
        raise ContractError(
            f"{type(loss).__name__}: at the start, a descent step must raise the positive and no negative; got gradients "
            f"{chosen[0]:g} (chosen) and {rejected[0].tolist()} (rejected): check the sign of the loss"
        )


def _check_sides(loss: PreferenceLoss, policy: LogProbs) -> None:
    """Check that rewards follow the policy where it and the log-ratios agree on which item is better."""
    high = torch.where(torch.arange(ROWS) % 2 == 0, -1.0, -9.0)
    side = with_log_probs(policy, high, (-10 - high).unsqueeze(1).expand_as(policy.rejected).clone())
    level = with_log_probs(policy, torch.full_like(high, -5.0), torch.full_like(policy.rejected, -5.0))
    terms = _call(loss, side, level)
    margin = (terms.chosen_reward.unsqueeze(1) - terms.rejected_reward) * torch.where(high > -5, 1.0, -1.0).unsqueeze(1)
    if bool((margin < 0).any()):
        row = int((margin < 0).nonzero()[0, 0])
        raise ContractError(
            f"{type(loss).__name__}: the rewards are swapped or have the wrong sign: for log-probabilities {float(high[row]):g} of "
            f"the positive and {float(side.rejected[row, 0]):g} of the negatives, and -5 under the reference, chosen_reward is "
            f"{float(terms.chosen_reward[row]):g} and rejected_reward is {terms.rejected_reward[row].tolist()}"
        )


def _check_rows(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """Check that the loss of an example has no gradient with respect to another example."""
    terms, leaves = _with_leaves(loss, policy, reference)
    for row in range(ROWS):
        by_chosen, by_rejected = _by_item(terms.loss[row], leaves)
        others = (by_chosen != 0) | (by_rejected != 0).any(1)
        others[row] = False
        if bool(others.any()):
            raise ContractError(
                f"{type(loss).__name__}: the loss of example {row + 1} has a gradient with respect to the log-probabilities of "
                f"example {int(others.nonzero()[0]) + 1}; compute each example on its own, and detach values taken from the batch"
            )


def _check_pure(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """Check that the same inputs give the same loss, in any order of the negatives."""
    name = type(loss).__name__
    first = _call(loss, policy, reference).loss
    _call(loss, *extreme_inputs(loss, policy.rejected.shape[1]))
    again = _call(loss, policy, reference).loss
    _require_equal(first, again, f"{name}: a second call with the same inputs gives another loss; keep no state")
    ours, theirs = (columns(part, list(reversed(range(policy.rejected.shape[1])))) for part in (policy, reference))
    _require_equal(first, _call(loss, ours, theirs).loss, f"{name}: the order of the negatives must not matter")


def _check_alone(loss: PreferenceLoss, counts: tuple[int, ...]) -> None:
    """Check that a batch of one example has finite terms, and print that the loss of an example changes with its batch."""
    depends = False
    for count in counts:
        policy, reference = random_inputs(loss, count)
        together = _call(loss, policy, reference).loss
        for row in range(ROWS):
            ours, theirs = (one_row(part, row) for part in (policy, reference))
            if row == 0:
                _check_terms(loss, ours, theirs, ", in a batch of one example")
            depends |= not torch.allclose(_call(loss, ours, theirs).loss, together[row : row + 1], rtol=1e-3, atol=1e-4)
    if depends and not loss.needs.batch:
        say(
            f"{type(loss).__name__}: the loss of an example changes with the other examples of its batch; with --trainer.devices a "
            "process sees its own examples alone; write needs = LossNeeds(batch=True) for those of all processes"
        )


def _require_equal(first: Tensor, second: Tensor, message: str) -> None:
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        row = int((first - second).abs().argmax())
        got = f"{first[row].item():g} and {second[row].item():g}"
        raise ContractError(f"{message}; got {got} in example {row + 1} of {len(first)}")
