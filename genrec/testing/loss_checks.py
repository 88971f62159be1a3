"""Contract checks for preference losses."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws, same
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import LogProbs, LossNeeds, PreferenceLoss, PreferenceTerms

ROWS = 8  # examples per call


def check_loss(loss: PreferenceLoss) -> None:
    """Raise ContractError if a loss breaks `genrec.types.PreferenceLoss`.

    The loss is called with 1 and with 3 negatives; one that raises UsageError for 3 is checked with 1. `LogProbs.mismatched` and
    `LogProbs.rewards` are set only if the loss needs them. Checked:

    - it is a frozen dataclass, and `needs` is a `LossNeeds`;
    - it returns float32 `PreferenceTerms` with one loss per example and detached rewards;
    - loss, rewards and gradients are finite, also for log-ratios of 10,000;
    - the loss of an example has no gradient with respect to another example;
    - where policy and log-ratio prefer the positive, its reward is not below a negative's, and vice versa;
    - a masked negative has no influence, and the order of the negatives does not matter;
    - at the start, a descent step raises the positive and raises no negative;
    - the inputs, also their masked places, and global random state stay unchanged, and there is no state between calls.
    """
    check_specification(loss, PreferenceLoss, "__call__(policy, reference) and needs = LossNeeds()")
    _check_needs(loss)
    try:
        _call(loss, *_log_probs(loss, 3))
        counts: tuple[int, ...] = (1, 3)
    except UsageError:
        counts = (1,)
    for count in counts:
        policy, reference = _log_probs(loss, count)
        _check_terms(loss, policy, reference)
        _check_terms(loss, *_extreme(loss, count))
        _check_masked(loss, policy, reference)
        _check_start(loss, policy)
        _check_sides(loss, policy)
        _check_rows(loss, policy, reference)
        _check_pure(loss, policy, reference)


def _check_needs(loss: PreferenceLoss) -> None:
    """Check the type of `needs`, and that no other attribute looks like it."""
    name, needs = type(loss).__name__, loss.needs
    if not isinstance(needs, LossNeeds):
        raise ContractError(f"{name}: needs must be a genrec.types.LossNeeds, such as LossNeeds(mismatched=True); got {needs!r}")
    former = [each for each in ("mismatched", "reward") if hasattr(loss, each)]
    if former:
        raise ContractError(
            f"{name}: the attribute {former[0]} has no effect; write needs = LossNeeds(mismatched=True) or LossNeeds(rewards=True), "
            "and give the reward to Preference.reward"
        )


def _log_probs(loss: PreferenceLoss, count: int) -> tuple[LogProbs, LogProbs]:
    """Return random inputs of 3 codes for policy and reference, with the optional inputs of the loss.

    The last row has no mismatched pair.
    """
    source = torch.Generator().manual_seed(count)
    draws = [-0.1 - 10 * torch.rand(ROWS, 2 + count, generator=source) for _ in range(2)]
    rewards = 0.5 + 4.5 * torch.rand(ROWS, 1 + count, generator=source) if loss.needs.rewards else None
    for draw in draws:
        draw[-1, -1] = -torch.inf
    mismatched = [draw[:, -1] if loss.needs.mismatched else None for draw in draws]
    ours, theirs = (LogProbs(draw[:, 0], draw[:, 1:-1], 3, other, rewards) for draw, other in zip(draws, mismatched, strict=True))
    return ours, theirs


def _extreme(loss: PreferenceLoss, count: int) -> tuple[LogProbs, LogProbs]:
    """Return inputs with log-ratios near +10,000 and -10,000, in all combinations for positive and negatives, and distant rewards."""
    high = torch.arange(ROWS)
    chosen, rejected, other = (torch.where(high // half % 2 == 0, -0.01, -1e4) for half in (1, 2, 4))
    rewards = torch.where(high // 4 % 2 == 0, 1e-2, 1e2).unsqueeze(1).repeat(1, 1 + count) if loss.needs.rewards else None
    if rewards is not None:
        rewards[:, 0] = 1.0
    mismatched = other if loss.needs.mismatched else None
    ours = LogProbs(chosen, rejected.unsqueeze(1).repeat(1, count), 3, mismatched, rewards)
    return ours, ours._replace(
        chosen=-1e4 - chosen, rejected=-1e4 - ours.rejected, mismatched=None if mismatched is None else -1e4 - mismatched
    )


def _columns(part: LogProbs, places: list[int]) -> LogProbs:
    """Keep the negatives at `places`, in this order."""
    rewards = None if part.rewards is None else part.rewards[:, [0, *(1 + place for place in places)]]
    return part._replace(rejected=part.rejected[:, places], rewards=rewards)


def _masked(part: LogProbs, mask: Tensor) -> LogProbs:
    """Mask negatives, and their rewards, where `mask`, bool [B, K], is true."""
    rewards = None
    if part.rewards is not None:
        rewards = torch.cat([part.rewards[:, :1], part.rewards[:, 1:].masked_fill(mask, -torch.inf)], 1)
    return part._replace(rejected=part.rejected.masked_fill(mask, -torch.inf), rewards=rewards)


def _call(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """Call the loss and check the form of its terms, and that the inputs stay unchanged. A failure names the inputs."""
    name, optional = type(loss).__name__, [key for key in ("mismatched", "rewards") if getattr(policy, key) is not None]
    inputs = [part for part in (*policy, *reference) if isinstance(part, Tensor)]
    copies = [tensor.detach().clone() for tensor in inputs]
    action = (
        f"a call with {ROWS} examples, {policy.rejected.shape[1]} negatives each and {' and '.join(optional) or 'no optional input'} "
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
    """Return the terms, and the gradients of the summed loss with respect to the policy's chosen [B] and rejected [B, K]."""
    terms, leaves = _with_leaves(loss, policy, reference)
    by_chosen, by_rejected = torch.autograd.grad(terms.loss.sum(), leaves, allow_unused=True, materialize_grads=True)
    return terms, by_chosen, by_rejected


def _with_leaves(
    loss: PreferenceLoss, policy: LogProbs, reference: LogProbs
) -> tuple[PreferenceTerms, tuple[Tensor, Tensor]]:  # fmt: skip
    """Return the terms and the leaf tensors for gradients: the policy's chosen [B] and rejected [B, K]."""
    chosen, rejected = policy.chosen.clone().requires_grad_(), policy.rejected.clone().requires_grad_()
    terms = _call(loss, policy._replace(chosen=chosen, rejected=rejected), reference)
    if not terms.loss.requires_grad:
        raise ContractError(f"{type(loss).__name__}: the loss has no gradient; do not detach the log-probabilities of the policy")
    return terms, (chosen, rejected)


def _check_terms(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """Check that loss, gradients and rewards are finite, except the rewards of masked negatives."""
    name = type(loss).__name__
    terms, chosen, rejected = _gradients(loss, policy, reference)
    masked = policy.rejected.isneginf() & reference.rejected.isneginf()
    for part, tensor in (
        ("loss", terms.loss), ("gradient of chosen", chosen), ("gradient of rejected", rejected),
        ("chosen_reward", terms.chosen_reward), ("rejected_reward", terms.rejected_reward.masked_fill(masked, 0.0)),
    ):  # fmt: skip
        if not bool(torch.isfinite(tensor).all()):
            row = int((~torch.isfinite(tensor)).nonzero()[0, 0])
            ratio = float(policy.chosen[row] - reference.chosen[row]), float(policy.rejected[row, 0] - reference.rejected[row, 0])
            raise ContractError(
                f"{name}: the {part} is not finite at log-ratios {ratio[0]:g} (positive) and {ratio[1]:g} (negative); use logsumexp, "
                "logsigmoid or log_softmax, and set masked places to 0 before subtracting (-inf minus -inf is NaN)"
            )


def _check_masked(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """Check that a masked negative has a gradient of 0, a reward of -inf and no influence, also in a row without any other."""
    name, count = type(loss).__name__, policy.rejected.shape[1]
    mask = torch.zeros(ROWS, count, dtype=torch.bool)
    mask[:, 0] = True
    ours, theirs = _masked(policy, mask), _masked(reference, mask)
    _check_terms(loss, ours, theirs)
    terms, _, rejected = _gradients(loss, ours, theirs)
    if bool((rejected[mask] != 0).any()):
        raise ContractError(f"{name}: the gradient of a masked negative (-inf under policy and reference) must be 0")
    if not bool(terms.rejected_reward[mask].isneginf().all()):
        raise ContractError(f"{name}: rejected_reward must be -inf where the negative is masked")
    if count > 1:
        ours, theirs = (_columns(part, list(range(1, count))) for part in (policy, reference))
        _require_equal(terms.loss, _call(loss, ours, theirs).loss, f"{name}: a masked negative must not change the loss")


def _check_start(loss: PreferenceLoss, policy: LogProbs) -> None:
    """Check the signs of the gradients where policy and reference are equal and all items are equally likely."""
    level = policy._replace(rejected=policy.chosen.unsqueeze(1).repeat(1, policy.rejected.shape[1]))
    _, chosen, rejected = _gradients(loss, level, level)
    if bool((chosen >= 0).any()) or bool((rejected < 0).any()):
        raise ContractError(
            f"{type(loss).__name__}: at the start, a descent step must raise the positive and no negative; got gradients "
            f"{chosen[0]:g} (chosen) and {rejected[0].tolist()} (rejected): check the sign of the loss"
        )


def _check_sides(loss: PreferenceLoss, policy: LogProbs) -> None:
    """Check that rewards follow the policy where it and the log-ratios agree on which item is better."""
    high = torch.where(torch.arange(ROWS) % 2 == 0, -1.0, -9.0)
    side = policy._replace(chosen=high, rejected=(-10 - high).unsqueeze(1).expand_as(policy.rejected).clone())
    level = policy._replace(chosen=torch.full_like(high, -5.0), rejected=torch.full_like(policy.rejected, -5.0))
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
        by_chosen, by_rejected = torch.autograd.grad(
            terms.loss[row], leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
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
    _call(loss, *_extreme(loss, policy.rejected.shape[1]))
    again = _call(loss, policy, reference).loss
    _require_equal(first, again, f"{name}: a second call with the same inputs gives another loss; keep no state")
    ours, theirs = (_columns(part, list(reversed(range(policy.rejected.shape[1])))) for part in (policy, reference))
    _require_equal(first, _call(loss, ours, theirs).loss, f"{name}: the order of the negatives must not matter")


def _require_equal(first: Tensor, second: Tensor, message: str) -> None:
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        row = int((first - second).abs().argmax())
        got = f"{first[row].item():g} and {second[row].item():g}"
        raise ContractError(f"{message}; got {got} in example {row + 1} of {len(first)}")
