"""The checks of preference losses. In: a loss. Out: nothing, or a `ContractError`."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.losses import asked
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws, same
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import LogProbs, PreferenceLoss, PreferenceTerms, Reward

ROWS = 8  # examples a loss is given


def check_loss(loss: PreferenceLoss) -> None:
    """Refuse a loss that breaks `genrec.types.PreferenceLoss`; one that raises `UsageError` for 3 negatives is checked with 1.

    Checked: a frozen dataclass, whose `reward` is a `Reward` or None and whose `mismatched` is a bool; float32;
    one loss an example, without a gradient by another's log-probabilities; finite values, rewards and gradients, at log-ratios of
    10,000 too; detached rewards, the positive's not below a negative's where policy and log-ratio both prefer it, nor the other way
    round; a masked negative counts as none; the order of negatives does not matter; at the start the positive is pushed up and no
    negative is; inputs, masked places too, and global random state left alone; no state. What the loss asks for by `mismatched` or
    `reward`, and nothing else, is there. What it raises is told with the call.
    """
    check_specification(loss, PreferenceLoss, "__call__(policy, reference)")
    _check_asks(loss)
    try:
        _ask(loss, *_log_probs(loss, 3))
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


def _check_asks(loss: PreferenceLoss) -> None:
    """What the loss, or one that it wraps, asks for has the right type."""
    inner: object | None = loss
    while inner is not None:
        name, reward, mismatched = type(inner).__name__, getattr(inner, "reward", None), getattr(inner, "mismatched", False)
        if reward is not None and (isinstance(reward, type) or not isinstance(reward, Reward)):
            raise ContractError(
                f"{name}: reward must be a Reward, such as genrec.preference.rewards.Popular(), or None; got {reward!r}"
            )
        if not isinstance(mismatched, bool):
            raise ContractError(f"{name}: mismatched must be True or False, got {mismatched!r}")
        inner = getattr(inner, "loss", None)


def _log_probs(loss: PreferenceLoss, count: int) -> tuple[LogProbs, LogProbs]:
    """Of policy and reference, 3 codes long, with what the loss asks for; the last row has no mismatched pair."""
    source = torch.Generator().manual_seed(count)
    draws = [-0.1 - 10 * torch.rand(ROWS, 2 + count, generator=source) for _ in range(2)]
    rewards = 0.5 + 4.5 * torch.rand(ROWS, 1 + count, generator=source) if asked(loss, "reward") else None
    for draw in draws:
        draw[-1, -1] = -torch.inf
    mismatched = [draw[:, -1] if asked(loss, "mismatched") else None for draw in draws]
    ours, theirs = (LogProbs(draw[:, 0], draw[:, 1:-1], 3, other, rewards) for draw, other in zip(draws, mismatched, strict=True))
    return ours, theirs


def _extreme(loss: PreferenceLoss, count: int) -> tuple[LogProbs, LogProbs]:
    """Log-ratios of about +10,000 and -10,000 for positive and negatives, in all four combinations, and rewards far apart."""
    high = torch.arange(ROWS)
    chosen, rejected, other = (torch.where(high // half % 2 == 0, -0.01, -1e4) for half in (1, 2, 4))
    rewards = torch.where(high // 4 % 2 == 0, 1e-2, 1e2).unsqueeze(1).repeat(1, 1 + count) if asked(loss, "reward") else None
    if rewards is not None:
        rewards[:, 0] = 1.0
    mismatched = other if asked(loss, "mismatched") else None
    ours = LogProbs(chosen, rejected.unsqueeze(1).repeat(1, count), 3, mismatched, rewards)
    return ours, ours._replace(
        chosen=-1e4 - chosen, rejected=-1e4 - ours.rejected, mismatched=None if mismatched is None else -1e4 - mismatched
    )


def _columns(part: LogProbs, places: list[int]) -> LogProbs:
    """The negatives at these places alone, in this order."""
    rewards = None if part.rewards is None else part.rewards[:, [0, *(1 + place for place in places)]]
    return part._replace(rejected=part.rejected[:, places], rewards=rewards)


def _without(part: LogProbs, mask: Tensor) -> LogProbs:
    """The negatives masked, and with them their rewards, where bool [B, K] is true."""
    rewards = None
    if part.rewards is not None:
        rewards = torch.cat([part.rewards[:, :1], part.rewards[:, 1:].masked_fill(mask, -torch.inf)], 1)
    return part._replace(rejected=part.rejected.masked_fill(mask, -torch.inf), rewards=rewards)


def _ask(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """Call the loss; a failure is told with what it was given, which stays as it was. The terms have the right form."""
    name, there = type(loss).__name__, [key for key in ("mismatched", "rewards") if getattr(policy, key) is not None]
    given = [part for part in (*policy, *reference) if isinstance(part, Tensor)]
    kept = [tensor.detach().clone() for tensor in given]
    what = (
        f"for {ROWS} examples of {policy.rejected.shape[1]} negatives, with "
        f"{' and '.join(there) or 'neither mismatched nor rewards'} (LogProbs.mismatched is there only if the loss has an attribute "
        "mismatched, true, and LogProbs.rewards only if its attribute reward is a Reward), it"
    )
    with check_no_global_draws(name, "a loss is pure and draws nothing"):
        terms = call_plugin(name, what, lambda: loss(policy, reference))
    if not all(map(same, kept, given)):
        raise ContractError(f"{name}: the log-probabilities were modified; use no in-place operation on them")
    _check_form(name, terms, policy)
    return terms


def _check_form(name: str, terms: PreferenceTerms, policy: LogProbs) -> None:
    """Three tensors float32 of the right shapes; the rewards detached."""
    if not isinstance(terms, PreferenceTerms):
        raise ContractError(f"{name}: must return PreferenceTerms (loss, chosen_reward, rejected_reward); got {type(terms).__name__}")
    one = policy.chosen.shape
    for part, tensor, shape in zip(terms._fields, terms, (one, one, policy.rejected.shape), strict=True):
        if not isinstance(tensor, Tensor):
            raise ContractError(f"{name}: {part} must be a tensor float32 {list(shape)}, got {type(tensor).__name__}")
        if tensor.shape != shape:
            which = ", one an example, not reduced" if part == "loss" else ""
            raise ContractError(f"{name}: {part} must be {list(shape)}{which}; got {list(tensor.shape)}")
        if tensor.dtype != torch.float32:
            got = str(tensor.dtype).removeprefix("torch.")
            raise ContractError(f"{name}: {part} must be float32, as the log-probabilities are; got {got}")
        if part != "loss" and tensor.requires_grad:
            raise ContractError(f"{name}: {part} must be detached, since it is only shown; call .detach()")


def _gradients(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> tuple[PreferenceTerms, Tensor, Tensor]:
    """The terms, and the gradients of the losses' sum by the policy's chosen [B] and rejected [B, K]."""
    terms, leaves = _with_leaves(loss, policy, reference)
    found = torch.autograd.grad(terms.loss.sum(), leaves, allow_unused=True, materialize_grads=True)
    return terms, found[0], found[1]


def _with_leaves(
    loss: PreferenceLoss, policy: LogProbs, reference: LogProbs
) -> tuple[PreferenceTerms, tuple[Tensor, Tensor]]:  # fmt: skip
    """The terms, and the policy's chosen [B] and rejected [B, K] that the losses have a gradient by."""
    chosen, rejected = policy.chosen.clone().requires_grad_(), policy.rejected.clone().requires_grad_()
    terms = _ask(loss, policy._replace(chosen=chosen, rejected=rejected), reference)
    if not terms.loss.requires_grad:
        raise ContractError(f"{type(loss).__name__}: the loss has no gradient; do not detach the policy's log-probabilities")
    return terms, (chosen, rejected)


def _check_terms(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """Finite numbers, but for the rewards of masked negatives."""
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
                "logsigmoid or log_softmax, and put masked places to 0 before subtracting (-inf minus -inf is NaN)"
            )


def _check_masked(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """A masked negative has no gradient, an infinitely low reward and no influence; a row may have no negative at all."""
    name, count = type(loss).__name__, policy.rejected.shape[1]
    mask = torch.zeros(ROWS, count, dtype=torch.bool)
    mask[:, 0] = True
    ours, theirs = _without(policy, mask), _without(reference, mask)
    _check_terms(loss, ours, theirs)
    terms, _, rejected = _gradients(loss, ours, theirs)
    if bool((rejected[mask] != 0).any()):
        raise ContractError(f"{name}: a masked negative (-inf under policy and reference) must have a gradient of 0")
    if not bool(terms.rejected_reward[mask].isneginf().all()):
        raise ContractError(f"{name}: rejected_reward must be -inf where the negative is masked")
    if count > 1:
        ours, theirs = (_columns(part, list(range(1, count))) for part in (policy, reference))
        _require_equal(terms.loss, _ask(loss, ours, theirs).loss, f"{name}: a masked negative must count as if it were not there")


def _check_start(loss: PreferenceLoss, policy: LogProbs) -> None:
    """Where policy and reference are one and all items are as likely, descent raises the positive and raises no negative."""
    level = policy._replace(rejected=policy.chosen.unsqueeze(1).repeat(1, policy.rejected.shape[1]))
    _, chosen, rejected = _gradients(loss, level, level)
    if bool((chosen >= 0).any()) or bool((rejected < 0).any()):
        raise ContractError(
            f"{type(loss).__name__}: at the start a step must push the positive up and no negative; got gradients "
            f"{chosen[0]:g} (chosen) and {rejected[0].tolist()} (rejected): is a sign the wrong way round?"
        )


def _check_sides(loss: PreferenceLoss, policy: LogProbs) -> None:
    """Where policy and log-ratio prefer the positive, its reward is not below a negative's; where both prefer these, not above."""
    high = torch.where(torch.arange(ROWS) % 2 == 0, -1.0, -9.0)
    side = policy._replace(chosen=high, rejected=(-10 - high).unsqueeze(1).expand_as(policy.rejected).clone())
    level = policy._replace(chosen=torch.full_like(high, -5.0), rejected=torch.full_like(policy.rejected, -5.0))
    terms = _ask(loss, side, level)
    margin = (terms.chosen_reward.unsqueeze(1) - terms.rejected_reward) * torch.where(high > -5, 1.0, -1.0).unsqueeze(1)
    if bool((margin < 0).any()):
        row = int((margin < 0).nonzero()[0, 0])
        raise ContractError(
            f"{type(loss).__name__}: the rewards are swapped or have the wrong sign: with log-probability {float(high[row]):g} of "
            f"the positive and {float(side.rejected[row, 0]):g} of the negatives, and -5 under the reference, chosen_reward is "
            f"{float(terms.chosen_reward[row]):g} and rejected_reward {terms.rejected_reward[row].tolist()}"
        )


def _check_rows(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """No example's loss has a gradient by another's log-probabilities."""
    terms, leaves = _with_leaves(loss, policy, reference)
    for row in range(ROWS):
        found = torch.autograd.grad(terms.loss[row], leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        by = (found[0] != 0) | (found[1] != 0).any(1)
        by[row] = False
        if bool(by.any()):
            raise ContractError(
                f"{type(loss).__name__}: the loss of example {row + 1} has a gradient by the log-probabilities of example "
                f"{int(by.nonzero()[0]) + 1}; an example teaches by itself, and what is taken from the batch is detached"
            )


def _check_pure(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """The same from the same, in any order of negatives."""
    name = type(loss).__name__
    first = _ask(loss, policy, reference).loss
    _ask(loss, *_extreme(loss, policy.rejected.shape[1]))
    again = _ask(loss, policy, reference).loss
    _require_equal(first, again, f"{name}: the same input gives another loss the second time; keep no state")
    ours, theirs = (_columns(part, list(reversed(range(policy.rejected.shape[1])))) for part in (policy, reference))
    _require_equal(first, _ask(loss, ours, theirs).loss, f"{name}: the order of the negatives must not matter")


def _require_equal(first: Tensor, second: Tensor, message: str) -> None:
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        row = int((first - second).abs().argmax())
        got = f"{first[row].item():g} and {second[row].item():g}"
        raise ContractError(f"{message}; got {got} in example {row + 1} of {len(first)}")
