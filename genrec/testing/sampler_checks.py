"""Contract checks for negative samplers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import fields
from functools import partial

import numpy as np
import torch
from pandas import concat
from torch import Generator, Tensor

from genrec.errors import InputError
from genrec.own_ids import name_item, name_user
from genrec.preference.draw_contract import DrawContract
from genrec.preference.exclusions import rows_of
from genrec.preference.negatives.capabilities import checked_draw, policy_refreshes
from genrec.testing.check_worlds import batches_of, context_or_small
from genrec.testing.plugin_watch import call_plugin, change_weights, check_unchanged, copied
from genrec.testing.specification_checks import ContractError, check_names, check_specification
from genrec.types import ComposedSampler, Draw, NegativeSampler, SamplerContext, SequenceBatch

COUNTS = (1, 5)  # numbers of negatives to draw
CROWDED_SEEDS = 8  # draws for users with at most two items left; a single seed may give them nothing
MAX_EXAMPLES = 256  # training examples to check
SINGLE_ROWS = 8  # examples drawn for one at a time
PROGRESS = (0.0, 0.5, 0.99)  # fractions of the training
METHODS = ("build", "inner_samplers", "most_negatives", "policy_refresh", "check", "check_context")  # that genrec calls
DRAW_FIELDS = ("by_example", "offers_history", "offers_disliked")  # flags of a `Draw`


def check_sampler(sampler: NegativeSampler, context: SamplerContext | None = None) -> None:
    """Raise ContractError if a sampler breaks the contract of `genrec.types.Draw`.

    The sampler runs on a small synthetic training set, or on your own `context`. Checked:

    - it is a frozen dataclass, and `build(context)` returns a `Draw` with fields of the right types;
    - no attribute of the sampler looks like a misspelled optional method;
    - a sampler that holds others in its fields returns them from `inner_samplers()`;
    - negatives are int64 [B, num_negatives], in the catalog and distinct, for one example or many, in any order;
    - they are never the target, an item with its Semantic ID, a training item of the user (past or future), or an item of the
      history unless the draw has `offers_history`; training items that the user dislikes are allowed with `offers_disliked`;
    - users who have taken all items, or all but two, get a shortfall of zeros;
    - equal generators give equal draws, and generators with different seeds different draws;
    - the batch, the context, the mode of the policy and global random state stay unchanged;
    - with `by_example`, a row gets the same negatives alone and in a batch;
    - with `at`, the draw that `at` returns keeps the contract, and the original draw does not change;
    - with `refresh`, the context has a policy; a draw that changes with the policy's weights has a `refresh`.

    A draw without randomness is valid if it does not touch the generator and gives a row the same negatives everywhere in a batch. A
    fixed seed spread over examples, as with `ExampleRandomness`, cannot be told from it. The size of the shortfall is not checked,
    because only the sampler knows its pool.
    """
    check_specification(sampler, NegativeSampler, "build(context)")
    check_names(sampler, METHODS, {}, DRAW_FIELDS)
    with context_or_small(context, "check_sampler") as known:
        _check_on(known, sampler)


def _check_on(context: SamplerContext, sampler: NegativeSampler) -> None:
    batch = next(batches_of(context, MAX_EXAMPLES), None)
    if batch is None or context.item_count < 4:
        raise InputError(
            f"the context is too small to check a sampler: it has {context.item_count} items; at least 4 are needed, and a user with "
            "2 training items"
        )
    one = SequenceBatch(*(tensor[:1] for tensor in batch))
    crowded, crowded_batch = _crowded(context)
    for world, part, seeds in ((context, batch, 1), (context, one, 1), (crowded, crowded_batch, CROWDED_SEEDS)):
        with _watch(sampler, world, part):
            _check_draws(sampler, world, part, seeds)
    with _watch(sampler, context, batch):
        _check_inner_samplers(sampler)
        _check_refresh(sampler, context)
        _check_randomness(sampler, context, batch)
        _check_order(sampler, context, batch)
        _check_by_example(sampler, context, batch)
        _check_progress(sampler, context, batch)
        _check_policy(sampler, context, batch)


def _check_draws(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch, seeds: int) -> None:
    """Draw for the batch with several counts and seeds, and check the negatives."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    contract = DrawContract(context, draw.offers_history, offers_disliked=draw.offers_disliked)
    for count in COUNTS:
        for seed in range(seeds):
            _check_draw(name, contract, draw, batch, count, seed)


def _check_draw(name: str, contract: DrawContract, draw: Draw, batch: SequenceBatch, count: int, seed: int) -> None:
    negatives = _draw(name, draw, batch, count, seed)
    try:
        contract.check(batch, negatives, count)
    except InputError as error:
        raise ContractError(f"{name}: {error}") from None


def _check_inner_samplers(sampler: NegativeSampler) -> None:
    """Check that `inner_samplers` returns the samplers that stand in the sampler's own fields."""
    name = type(sampler).__name__
    inner = call_plugin(name, "inner_samplers()", sampler.inner_samplers) if isinstance(sampler, ComposedSampler) else ()
    if not isinstance(inner, tuple) or not all(_is_sampler(each) for each in inner):
        raise ContractError(f"{name}: inner_samplers() must return a tuple of samplers, got {inner!r}")
    for field in fields(sampler):  # type: ignore[arg-type]  # `check_specification` has checked that it is a dataclass
        value = getattr(sampler, field.name)
        for held in value if isinstance(value, tuple) else (value,):
            if _is_sampler(held) and not any(held is each for each in inner):
                raise ContractError(
                    f"{name}: the field {field.name} holds the sampler {held!r}, which inner_samplers() does not return; add a method "
                    "inner_samplers() that returns a tuple of all samplers inside, so that what they need is checked too"
                )


def _is_sampler(value: object) -> bool:
    return isinstance(value, NegativeSampler) and not isinstance(value, type)


def _check_refresh(sampler: NegativeSampler, context: SamplerContext) -> None:
    """Check that a draw with `refresh` has a policy, and that it is the refresh which the sampler and those inside it know."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    for known in policy_refreshes(sampler) - {draw.refresh}:
        raise ContractError(
            f"{name}: policy_refresh() of the sampler, or of one inside it, returns {known!r}, but its draw has the refresh "
            f"{draw.refresh!r}; return the same from both"
        )
    if draw.refresh is not None and context.policy is None:
        raise InputError(
            f"{name}: its draw has a refresh, so it reads context.policy, but this context has no policy; pass one with a policy"
        )


def _check_by_example(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """Check that a draw with `by_example` gives a row the same negatives alone, in another order and in the batch, at any progress."""
    draw = _build(sampler, context)
    if not draw.by_example:
        return
    for name, current in _phases(sampler, draw):
        expected = _draw(name, current, batch, max(COUNTS), seed=1)
        order = torch.arange(len(expected)).flip(0)
        for rows in (*torch.split(order[:SINGLE_ROWS], 1), order):
            if not torch.equal(_draw(name, current, rows_of(batch, rows), max(COUNTS), seed=1), expected[rows]):
                raise ContractError(
                    f"{name}: the draw has by_example = True, but the negatives of {_example(context, batch, int(rows[0]))} depend on "
                    "the rest of the batch; take random numbers from "
                    "genrec.preference.example_randomness.ExampleRandomness(batch, generator), and read no other row"
                )


def _phases(sampler: NegativeSampler, draw: Draw) -> Iterator[tuple[str, Draw]]:
    """Yield a draw and those that its `at` returns, with their names."""
    name = type(sampler).__name__
    yield name, draw
    if draw.at is not None:
        for progress in PROGRESS:
            call = f"at({progress})"
            yield f"{name}.{call}", _checked(call_plugin(name, call, partial(draw.at, progress)), f"{name}: {call}")


def _check_progress(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """Check that the draws returned by `at` keep the contract, and that the original draw does not change."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    if draw.at is None:
        return
    first = _draw(name, draw, batch, max(COUNTS), seed=1)
    contract = DrawContract(context, draw.offers_history, offers_disliked=draw.offers_disliked)
    for label, current in _phases(sampler, draw):
        _check_draw(label, contract, current, batch, max(COUNTS), seed=0)
    if not torch.equal(first, _draw(name, draw, batch, max(COUNTS), seed=1)):
        raise ContractError(
            f"{name}: at(progress) changes the draw that it is called on; return a new draw, because a resumed run calls at only once"
        )


def _check_randomness(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """Check that something is drawn, that equal seeds give equal draws, and other seeds other draws unless all rows are short."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    first = _draw(name, draw, batch, max(COUNTS), seed=1)
    if not bool(first.any()):
        raise ContractError(
            f"{name}: no negative was drawn for any of {len(first)} examples; return 0 only where no candidate remains for the user"
        )
    for again in (draw, _build(sampler, context)):
        if not torch.equal(first, _draw(name, again, batch, max(COUNTS), seed=1)):
            raise ContractError(
                f"{name}: two draws from generators with the same seed differ; take all randomness from the generator argument, and "
                "keep no state between draws"
            )
    generator = torch.Generator().manual_seed(2)
    before = generator.get_state()
    other = _draw_from(name, draw, batch, max(COUNTS), generator)
    if not torch.equal(first, other) or not bool(first[:, -1].any()):
        return
    if not torch.equal(before, generator.get_state()) or not torch.equal(first, _draw_reordered(name, draw, batch, seed=1, shift=0)):
        raise ContractError(
            f"{name}: generators with different seeds give the same {len(first)} rows, although the draw is random: it used the "
            "generator, or rows in another order get other negatives; take all randomness from the generator argument"
        )


def _check_order(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """Check that the place of a row in the batch does not decide whether it gets nothing.

    Chance may decide for a few rows, not for a quarter of them.
    """
    name, draw = type(sampler).__name__, _build(sampler, context)
    got = (_draw(name, draw, batch, max(COUNTS), seed=1) > 0).sum(1)
    for shift in (0, 1):
        reordered = (_draw_reordered(name, draw, batch, seed=1, shift=shift) > 0).sum(1)
        wrong = (torch.minimum(got, reordered) == 0) & (torch.maximum(got, reordered) == max(COUNTS))
        if 4 * int(wrong.sum()) >= len(got) > 1:
            row = int(wrong.nonzero()[0])
            raise ContractError(
                f"{name}: {_example(context, batch, row)} gets {int(got[row])} negatives, and {int(reordered[row])} in another place "
                f"of the same batch, like {int(wrong.sum())} of {len(got)} rows; return 0 only where no candidate remains for the user"
            )


def _example(context: SamplerContext, batch: SequenceBatch, row: int) -> str:
    """Return the name of an example: its user and its target."""
    ids = context.own_ids
    return f"{name_user(ids, int(batch.user[row]))}, target {name_item(ids, int(batch.target[row]))}"


def _draw_reordered(name: str, draw: Draw, batch: SequenceBatch, seed: int, shift: int) -> Tensor:
    """Draw for the rows shifted by `shift` places, or reversed if it is 0, and restore their order: int64 [B, 5]."""
    order = torch.arange(len(batch.target))
    order = order.roll(shift) if shift else order.flip(0)
    return _draw(name, draw, rows_of(batch, order), max(COUNTS), seed)[order.argsort()]


def _check_policy(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """Check that a draw that changes with the policy's weights, at any progress, has a `refresh`."""
    other = copied(context)
    if other is None:
        return
    draw = _build(sampler, other)
    if draw.refresh is not None:
        return
    phases = list(_phases(sampler, draw))
    first = [_draw(name, current, batch, max(COUNTS), seed=1) for name, current in phases]
    change_weights(other)
    for (name, current), before in zip(phases, first, strict=True):
        if not torch.equal(before, _draw(name, current, batch, max(COUNTS), seed=1)):
            raise ContractError(
                f"{name}: the negatives depend on context.policy; declare it in the Draw that build returns: refresh=Refresh(every, "
                "unit), the steps or epochs after which the policy in training replaces it; Refresh(0): it stays the reference"
            )


def _build(sampler: NegativeSampler, context: SamplerContext) -> Draw:
    name = type(sampler).__name__
    return _checked(call_plugin(name, "build(context)", lambda: sampler.build(context)), f"{name}: build(context)")


def _checked(draw: object, call: str) -> Draw:
    """Return the result of a call if it is a valid `Draw`."""
    try:
        return checked_draw(draw, call)
    except InputError as error:
        raise ContractError(str(error)) from None


def _draw(name: str, draw: Draw, batch: SequenceBatch, count: int, seed: int) -> Tensor:
    return _draw_from(name, draw, batch, count, torch.Generator().manual_seed(seed))


def _draw_from(name: str, draw: Draw, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
    """Draw once. The message of a failure names the size of the draw."""
    action = f"a draw with num_negatives = {count} for {len(batch.target)} examples"
    return call_plugin(name, action, lambda: draw.draw(batch, count, generator))


def _crowded(context: SamplerContext) -> tuple[SamplerContext, SequenceBatch]:
    """Return the context with two more users, who have taken all items but two, and all items, and a batch of these users.

    The two remaining items are the last ones with a unique Semantic ID, if there are such.
    """
    items, last = context.item_count, int(context.interactions["user"].max())
    unique = context.semantic_ids.shared(torch.arange(items + 1)) == 1
    left = (torch.arange(items + 1) * (unique.long() * items + 1)).topk(2).indices.numpy()
    taken = np.concatenate([np.setdiff1d(np.arange(1, items + 1), left), np.arange(1, items + 1)])
    users = np.repeat([last + 1, last + 2], [items - 2, items])
    more = context.interactions.iloc[np.zeros(len(taken), dtype=int)].assign(user=users, item=taken, time=taken)
    interactions = concat([context.interactions, more], ignore_index=True)
    popularity = context.popularity + torch.bincount(torch.from_numpy(taken), minlength=items + 1)
    batch = SequenceBatch(torch.tensor([last + 1, last + 2]), torch.tensor([[0, 2], [2, 3]]), torch.tensor([1, 1]))
    return context._replace(interactions=interactions, popularity=popularity), batch


def _watch(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> AbstractContextManager[None]:
    inputs = {f"batch.{key}": tensor for key, tensor in batch._asdict().items()}
    return check_unchanged(type(sampler).__name__, context, inputs, "draw from the generator argument")
