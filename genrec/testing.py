"""For authors of plug-ins: small worlds, and checks of negative samplers and preference losses that say what is wrong and what to do.

    from genrec.testing import check_sampler
    check_sampler(MySampler())

In: a specification. Out: nothing, or a `ContractError`. `genrec check` runs the same checks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass

import numpy as np
import torch
from pandas import DataFrame, concat
from torch import Tensor

from genrec.data.batches import Examples
from genrec.data.worlds import Cyclic, Shop
from genrec.errors import GenrecError, InputError, UsageError
from genrec.preference.contract import DrawContract
from genrec.semantic_ids import SemanticIds
from genrec.types import DrawNegatives, LogProbs, NegativeSampler, PreferenceLoss, PreferenceTerms, SamplerContext, SequenceBatch

__all__ = ["ContractError", "Cyclic", "Shop", "batches_of", "check_loss", "check_sampler", "sampler_context"]

COUNTS = (1, 5)  # negatives asked for
EXAMPLES = 256  # looked at in each world
ROWS = 8  # examples a loss is given


class ContractError(InputError):
    """A plug-in breaks its contract."""


def sampler_context(seed: int = 0, items: int = 60, users: int = 40) -> SamplerContext:
    """A small synthetic training set: skewed popularity, vectors that follow the codes, and items that share a Semantic ID.

    `items` is at least 20. Every user takes between 3 and 12 items, each once.
    """
    if items < 20:
        raise UsageError(f"a world for samplers needs at least 20 items, got {items}")
    source = np.random.default_rng(seed)
    codes = source.integers(0, 4, (items, 3))
    codes[items - items // 5 :] = codes[: items // 5]  # the last fifth shares the Semantic IDs of the first
    vectors = sum(source.normal(size=(4, 16))[codes[:, level]] / 2**level for level in range(3))
    vectors = np.concatenate([np.zeros((1, 16)), vectors + 0.05 * source.normal(size=(items, 16))])
    weights = 1 / (source.permutation(items) + 1.0)
    taken = [source.choice(items, source.integers(3, 13), replace=False, p=weights / weights.sum()) + 1 for _ in range(users)]
    interactions = DataFrame(
        {
            "user": np.repeat(np.arange(users), [len(row) for row in taken]),
            "item": np.concatenate(taken),
            "time": np.concatenate([np.arange(len(row)) for row in taken]),
        }
    )
    popularity = torch.bincount(torch.from_numpy(interactions["item"].to_numpy(copy=True)), minlength=items + 1)
    vectors_ = torch.from_numpy(vectors).float()
    return SamplerContext(items, interactions, popularity, vectors_, SemanticIds(torch.from_numpy(codes), (4, 4, 4)))


def batches_of(context: SamplerContext, size: int = 32, length: int = 20) -> Iterator[SequenceBatch]:
    """All training examples of a context, one per prefix of length 1 or more, in a fixed shuffled order: `size` a batch."""
    table = context.interactions.sort_values(["user", "time"], kind="stable")
    user, item = (torch.from_numpy(table[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
    start = torch.searchsorted(user, user)
    position = (torch.arange(len(user)) > start).nonzero().squeeze(1)
    examples = Examples(item, user[position], start[position], position, length)
    order = torch.randperm(len(position), generator=torch.Generator().manual_seed(0))
    for index in order.split(size):  # type: ignore[no-untyped-call]
        yield examples.batch(index)


def check_sampler(sampler: NegativeSampler, context: SamplerContext | None = None) -> None:
    """Refuse a sampler that breaks `genrec.types.DrawNegatives`, on a synthetic world or on your own `context`.

    Checked: a frozen dataclass; shape and type; real, distinct items; never the target, an item with its Semantic ID, an item of
    the history or of the user's training, past or future; equal draws from equal generators and others from other seeds; global
    random state and inputs left alone; a shortfall of zeros for users who have taken (nearly) everything; one example or many.
    """
    _check_specification(sampler, NegativeSampler, "build(context)")
    context = context if context is not None else sampler_context()
    batch = next(batches_of(context, EXAMPLES))
    one = SequenceBatch(*(tensor[:1] for tensor in batch))
    crowded, full = _crowded(context)
    for world, batches in ((context, (batch, one)), (crowded, (full,))):
        for each in batches:
            with _left_alone(sampler, world, each):
                _check_draws(sampler, world, each)
    _check_randomness(sampler, context, batch)


def _check_specification(plugin: object, protocol: type, method: str) -> None:
    """Refuse what is no frozen dataclass with the protocol's method."""
    name = plugin.__name__ if isinstance(plugin, type) else type(plugin).__name__
    if isinstance(plugin, type) or not isinstance(plugin, protocol):
        raise ContractError(f"{name} is no {protocol.__name__}: pass an instance, such as {name}(), that has {method}")
    if not is_dataclass(plugin) or not plugin.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ContractError(
            f"{name} is no frozen dataclass, so that it cannot be stored or compared: put @dataclass(frozen=True) on it"
        )


def _check_draws(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """Draw for the batch and hold the result against the contract."""
    name, contract, draw, drawn = type(sampler).__name__, DrawContract(context), _build(sampler, context), 0
    for count in COUNTS:
        negatives = _draw(name, draw, batch, count, seed=0)
        try:
            contract.check(batch, negatives, count)
        except InputError as error:
            raise ContractError(f"{name}: {error}") from None
        drawn += int((negatives > 0).sum())
    if drawn == 0 and len(batch.target) == EXAMPLES:
        raise ContractError(f"{name}: no negative was drawn for any of {EXAMPLES} examples; 0 means that no item is left to draw")


def _check_randomness(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """Equal generators, equal draws; other seeds, other draws."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    first = _draw(name, draw, batch, max(COUNTS), seed=1)
    for again in (draw, _build(sampler, context)):
        if not torch.equal(first, _draw(name, again, batch, max(COUNTS), seed=1)):
            raise ContractError(
                f"{name}: two draws from generators of one seed differ; take all randomness from the generator that is passed, and "
                "keep no state between draws"
            )
    if torch.equal(first, _draw(name, draw, batch, max(COUNTS), seed=2)):
        raise ContractError(f"{name}: generators of different seeds give the same {EXAMPLES} rows; use the generator that is passed")


def _build(sampler: NegativeSampler, context: SamplerContext) -> DrawNegatives:
    draw = sampler.build(context)
    if not callable(draw):
        raise ContractError(
            f"{type(sampler).__name__}: build must return what draws, called with (batch, count, generator); got {draw!r}"
        )
    return draw


def _draw(name: str, draw: DrawNegatives, batch: SequenceBatch, count: int, seed: int) -> Tensor:
    """One draw, whose failure is told with its circumstances."""
    try:
        return draw(batch, count, torch.Generator().manual_seed(seed))
    except GenrecError:
        raise
    except Exception as error:
        size, user = len(batch.target), int(batch.user[0])
        raise ContractError(f"{name}: a draw of {count} for {size} examples (the first of user {user}) raised {error!r}") from error


def _crowded(context: SamplerContext) -> tuple[SamplerContext, SequenceBatch]:
    """The context with two users more, who have taken all items but the last two, and all; and a batch of the two."""
    items, last = context.item_count, int(context.interactions["user"].max())
    taken = np.concatenate([np.arange(1, items - 1), np.arange(1, items + 1)])
    users = np.repeat([last + 1, last + 2], [items - 2, items])
    more = context.interactions.iloc[np.zeros(len(taken), dtype=int)].assign(user=users, item=taken, time=taken)
    interactions = concat([context.interactions, more], ignore_index=True)
    popularity = context.popularity + torch.bincount(torch.from_numpy(taken), minlength=items + 1)
    batch = SequenceBatch(torch.tensor([last + 1, last + 2]), torch.tensor([[0, 2], [2, 3]]), torch.tensor([1, 1]))
    return context._replace(interactions=interactions, popularity=popularity), batch


@contextmanager
def _left_alone(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> Iterator[None]:
    """Refuse a change of global random state, of the context or of the batch."""
    name = type(sampler).__name__
    states = _random_states()
    tables = {"popularity": context.popularity, "vectors": context.vectors, "semantic_ids": context.semantic_ids.codes}
    tensors = {f"context.{key}": table for key, table in tables.items()} | {f"batch.{key}": t for key, t in batch._asdict().items()}
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    interactions = context.interactions.copy()
    yield
    for (library, state), now in zip(states.items(), _random_states().values(), strict=True):
        if state != now:
            raise ContractError(f"{name}: {library} was drawn from or seeded; draw from the generator that is passed")
    changed = [key for key, tensor in tensors.items() if not torch.equal(tensor, before[key])]
    if not context.interactions.equals(interactions):
        changed.append("context.interactions")
    if changed:
        raise ContractError(f"{name}: {changed[0]} was modified, which others read too; work on a copy")


def _random_states() -> dict[str, str]:
    """Global random state, by owner."""
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes().hex(),
        "NumPy's global generator": repr([np.asarray(part).tolist() for part in np.random.get_state()]),  # noqa: NPY002
        "Python's global generator": repr(random.getstate()),
    }


def check_loss(loss: PreferenceLoss) -> None:
    """Refuse a loss that breaks `genrec.types.PreferenceLoss`; one that raises `UsageError` for 3 negatives is checked with 1.

    Checked: a frozen dataclass; one loss an example; finite values and gradients, at log-ratios of 10,000 too; detached rewards; a
    masked negative counts as none; the order of negatives does not matter; at the start the positive is pushed up and no negative is;
    inputs left alone; no state.
    """
    _check_specification(loss, PreferenceLoss, "__call__(policy, reference)")
    try:
        loss(*_log_probs(3))
        counts: tuple[int, ...] = (1, 3)
    except UsageError:
        counts = (1,)
    for count in counts:
        policy, reference = _log_probs(count)
        _check_terms(loss, policy, reference)
        _check_terms(loss, *_extreme(count))
        _check_masked(loss, policy, reference)
        _check_start(loss, policy)
        _check_pure(loss, policy, reference)


def _log_probs(count: int) -> tuple[LogProbs, LogProbs]:
    """Of policy and reference, 3 codes long."""
    source = torch.Generator().manual_seed(count)
    draws = [-0.1 - 10 * torch.rand(ROWS, 1 + count, generator=source) for _ in range(2)]
    ours, theirs = (LogProbs(draw[:, 0], draw[:, 1:], 3) for draw in draws)
    return ours, theirs


def _extreme(count: int) -> tuple[LogProbs, LogProbs]:
    """Log-ratios of about +10,000 and -10,000 for positive and negatives, in all four combinations."""
    high = torch.arange(ROWS)
    chosen, rejected = (torch.where(high // half % 2 == 0, -0.01, -1e4) for half in (1, 2))
    ours = LogProbs(chosen, rejected.unsqueeze(1).repeat(1, count), 3)
    return ours, LogProbs(-1e4 - chosen, -1e4 - ours.rejected, 3)


def _gradients(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> tuple[PreferenceTerms, Tensor, Tensor]:
    """The terms, and the gradients of the losses' sum by the policy's chosen [B] and rejected [B, K]."""
    chosen, rejected = policy.chosen.clone().requires_grad_(), policy.rejected.clone().requires_grad_()
    terms = loss(LogProbs(chosen, rejected, policy.length), reference)
    if not isinstance(terms, PreferenceTerms) or tuple(terms.loss.shape) != tuple(chosen.shape):
        got = f"loss {list(terms.loss.shape)}" if isinstance(terms, PreferenceTerms) else type(terms).__name__
        raise ContractError(
            f"{type(loss).__name__}: must return PreferenceTerms with loss [{ROWS}], one an example, not reduced; got {got}"
        )
    if not terms.loss.requires_grad:
        raise ContractError(f"{type(loss).__name__}: the loss has no gradient; do not detach the policy's log-probabilities")
    found = torch.autograd.grad(terms.loss.sum(), (chosen, rejected), allow_unused=True, materialize_grads=True)
    return terms, found[0], found[1]


def _check_terms(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """Shapes, finite numbers, detached rewards."""
    name = type(loss).__name__
    terms, chosen, rejected = _gradients(loss, policy, reference)
    for part, tensor, shape in (
        ("chosen_reward", terms.chosen_reward, policy.chosen.shape),
        ("rejected_reward", terms.rejected_reward, policy.rejected.shape),
    ):
        if tensor.shape != shape:
            raise ContractError(f"{name}: {part} must have shape {list(shape)}, got {list(tensor.shape)}")
        if tensor.requires_grad:
            raise ContractError(f"{name}: {part} must be detached, since it is only shown; call .detach()")
    for part, tensor in (("loss", terms.loss), ("gradient of chosen", chosen), ("gradient of rejected", rejected)):
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
    ours, theirs = (part._replace(rejected=part.rejected.masked_fill(mask, -torch.inf)) for part in (policy, reference))
    _check_terms(loss, ours, theirs)
    terms, _, rejected = _gradients(loss, ours, theirs)
    if bool((rejected[mask] != 0).any()):
        raise ContractError(f"{name}: a masked negative (-inf under policy and reference) must have a gradient of 0")
    if not bool(terms.rejected_reward[mask].isneginf().all()):
        raise ContractError(f"{name}: rejected_reward must be -inf where the negative is masked")
    if count > 1:
        ours, theirs = (part._replace(rejected=part.rejected[:, 1:]) for part in (policy, reference))
        _require_equal(terms.loss, loss(ours, theirs).loss, f"{name}: a masked negative must count as if it were not there")


def _check_start(loss: PreferenceLoss, policy: LogProbs) -> None:
    """Where policy and reference are one, descent raises the positive and raises no negative."""
    _, chosen, rejected = _gradients(loss, policy, policy)
    if bool((chosen >= 0).any()) or bool((rejected < 0).any()):
        raise ContractError(
            f"{type(loss).__name__}: at the start a step must push the positive up and no negative; got gradients "
            f"{chosen[0]:g} (chosen) and {rejected[0].tolist()} (rejected): is a sign the wrong way round?"
        )


def _check_pure(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """The same from the same, in any order of negatives, with inputs left alone."""
    name = type(loss).__name__
    kept = [tensor.clone() for tensor in (*policy[:2], *reference[:2])]
    first = loss(policy, reference).loss
    if not all(torch.equal(old, new) for old, new in zip(kept, (*policy[:2], *reference[:2]), strict=True)):
        raise ContractError(f"{name}: the log-probabilities were modified; use no in-place operation on them")
    loss(*_extreme(policy.rejected.shape[1]))
    _require_equal(first, loss(policy, reference).loss, f"{name}: the same input gives another loss the second time; keep no state")
    ours, theirs = (part._replace(rejected=part.rejected.flip(1)) for part in (policy, reference))
    _require_equal(first, loss(ours, theirs).loss, f"{name}: the order of the negatives must not matter")


def _require_equal(first: Tensor, second: Tensor, message: str) -> None:
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        row = int((first - second).abs().argmax())
        raise ContractError(f"{message}; got {float(first[row]):g} and {float(second[row]):g} in example {row + 1} of {len(first)}")
