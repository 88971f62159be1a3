"""The checks of negative samplers. In: a sampler's specification, and the context to draw in. Out: nothing, or a `ContractError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pandas import concat
from torch import Tensor, nn

from genrec.errors import GenrecError, InputError
from genrec.preference.contract import DrawContract
from genrec.preference.forbidden import rows_of
from genrec.testing.specification import ContractError, check_specification, random_states
from genrec.testing.worlds import batches_of, sampler_context
from genrec.types import DrawNegatives, NegativeSampler, SamplerContext, SequenceBatch

COUNTS = (1, 5)  # negatives asked for
EXAMPLES = 256  # looked at, at most
ALONE = 8  # examples drawn for by themselves
PROGRESS = (0.0, 0.5, 0.99)  # of a training


def check_sampler(sampler: NegativeSampler, context: SamplerContext | None = None) -> None:
    """Refuse a sampler that breaks `genrec.types.DrawNegatives`, on a synthetic world or on your own `context`.

    Checked: a frozen dataclass; shape and type; real, distinct items; never the target, an item with its Semantic ID, an item of
    the history (but from a draw with `offers_history`) or of the user's training, past or future; equal draws from equal generators
    and others from other seeds; global random state and inputs left alone; a shortfall of zeros for users who have taken (nearly)
    everything; one example or many. Of `by_example`, that a row alone is given what it is given in a batch; of `at`, that what it
    returns keeps the contract too and leaves the draw as it was; of `refresh_every`, that it counts and that there is a policy.
    """
    check_specification(sampler, NegativeSampler, "build(context)")
    context = context if context is not None else sampler_context()
    batch = next(batches_of(context, EXAMPLES), None)
    if batch is None or context.item_count < 4:
        raise InputError(f"the context is too small to check a sampler: {context.item_count} items (4 needed), users of 1 item only")
    one = SequenceBatch(*(tensor[:1] for tensor in batch))
    crowded, full = _crowded(context)
    for world, batches in ((context, (batch, one)), (crowded, (full,))):
        for each in batches:
            with _left_alone(sampler, world, each):
                _check_draws(sampler, world, each)
    _check_attributes(sampler, context)
    _check_randomness(sampler, context, batch)
    _check_by_example(sampler, context, batch)
    _check_progress(sampler, context, batch)


def _check_draws(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """Draw for the batch and hold the result against the contract."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    contract = DrawContract(context, getattr(draw, "offers_history", False))
    for count in COUNTS:
        _check_draw(name, contract, draw, batch, count)


def _check_draw(name: str, contract: DrawContract, draw: DrawNegatives, batch: SequenceBatch, count: int) -> None:
    negatives = _draw(name, draw, batch, count, seed=0)
    try:
        contract.check(batch, negatives, count)
    except InputError as error:
        raise ContractError(f"{name}: {error}") from None


def _check_attributes(sampler: NegativeSampler, context: SamplerContext) -> None:
    """What a draw says of itself has the right type, and a draw that reads the policy has one."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    for attribute in ("by_example", "offers_history"):
        if not isinstance(getattr(draw, attribute, False), bool):
            raise ContractError(f"{name}: {attribute} of what draws must be True or False, got {getattr(draw, attribute)!r}")
    if not hasattr(draw, "refresh_every"):
        return
    every, unit = draw.refresh_every, getattr(draw, "refresh_unit", "steps")
    if not isinstance(every, int) or every < 0 or unit not in ("steps", "epochs"):
        raise ContractError(
            f"{name}: refresh_every of what draws must count steps or epochs, 0 or more (0 = always the reference), and "
            f'refresh_unit be "steps" or "epochs"; got {every!r} and {unit!r}'
        )
    if context.policy is None:
        raise InputError(f"{name} says by refresh_every that it reads context.policy, but this context has none; give it one")


def _check_by_example(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """A row alone, and rows in another order, are given what they are given in the batch."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    if not getattr(draw, "by_example", False):
        return
    whole = _draw(name, draw, batch, max(COUNTS), seed=1)
    order = torch.arange(len(whole)).flip(0)
    for rows in (*torch.split(order[:ALONE], 1), order):
        if not torch.equal(_draw(name, draw, rows_of(batch, rows), max(COUNTS), seed=1), whole[rows]):
            row = int(rows[0])
            raise ContractError(
                f"{name}: says by_example, but what user {int(batch.user[row])}, target {int(batch.target[row])} is given depends on "
                "the batch; take numbers from genrec.preference.streams.Streams(batch, generator), and nothing from other rows"
            )


def _check_progress(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """What draws at a time of the training keeps the contract, and the draw that was asked stays as it was."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    if not hasattr(draw, "at"):
        return
    first = _draw(name, draw, batch, max(COUNTS), seed=1)
    contract = DrawContract(context, getattr(draw, "offers_history", False))
    for progress in PROGRESS:
        then = draw.at(progress)
        if not callable(then):
            raise ContractError(f"{name}: at({progress}) must return what draws then, called as the draw itself; got {then!r}")
        _check_draw(f"{name} at {progress} of the training", contract, then, batch, max(COUNTS))
    if not torch.equal(first, _draw(name, draw, batch, max(COUNTS), seed=1)):
        raise ContractError(
            f"{name}: at(progress) changes what it is asked of; return another draw, since a resumed run asks only once"
        )


def _check_randomness(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """Something is drawn: the same from equal generators, something else from another seed unless every row is short of items."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    first = _draw(name, draw, batch, max(COUNTS), seed=1)
    if not bool(first.any()):
        raise ContractError(f"{name}: no negative was drawn for any of {len(first)} examples; 0 means that no item is left to draw")
    for again in (draw, _build(sampler, context)):
        if not torch.equal(first, _draw(name, again, batch, max(COUNTS), seed=1)):
            raise ContractError(
                f"{name}: two draws from generators of one seed differ; take all randomness from the generator that is passed, and "
                "keep no state between draws"
            )
    other = _draw(name, draw, batch, max(COUNTS), seed=2)
    if torch.equal(first, other) and bool(first[:, -1].any()):
        raise ContractError(f"{name}: generators of different seeds give the same {len(first)} rows; use the generator that is passed")


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
    """The context with two users more, who have taken all items but two, and all; and a batch of the two.

    The two items left are the last that share their Semantic ID with no other, if there are such.
    """
    items, last = context.item_count, int(context.interactions["user"].max())
    alone = context.semantic_ids.shared(torch.arange(items + 1)) == 1
    left = (torch.arange(items + 1) * (alone.long() * items + 1)).topk(2).indices.numpy()
    taken = np.concatenate([np.setdiff1d(np.arange(1, items + 1), left), np.arange(1, items + 1)])
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
    states = random_states()
    tables = {"popularity": context.popularity, "vectors": context.vectors, "semantic_ids": context.semantic_ids.codes}
    tensors = {f"context.{key}": table for key, table in tables.items()} | {f"batch.{key}": t for key, t in batch._asdict().items()}
    if isinstance(context.policy, nn.Module):
        tensors |= {f"context.policy's {key}": tensor for key, tensor in context.policy.state_dict().items()}
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    interactions = context.interactions.copy()
    yield
    for (library, state), now in zip(states.items(), random_states().values(), strict=True):
        if state != now:
            raise ContractError(f"{name}: {library} was drawn from or seeded; draw from the generator that is passed")
    changed = [key for key, tensor in tensors.items() if not torch.equal(tensor, before[key])]
    if not context.interactions.equals(interactions):
        changed.append("context.interactions")
    if changed:
        raise ContractError(f"{name}: {changed[0]} was modified, which others read too; work on a copy")
