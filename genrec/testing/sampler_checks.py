"""The checks of negative samplers. In: a sampler's specification, and the context to draw in. Out: nothing, or a `ContractError`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch
from pandas import concat
from torch import Generator, Tensor

from genrec.errors import InputError
from genrec.preference.draw_contract import DrawContract
from genrec.preference.exclusions import rows_of
from genrec.testing.check_worlds import batches_of, sampler_context
from genrec.testing.plugin_watch import call_plugin, change_weights, check_unchanged, copied
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import DrawNegatives, NegativeSampler, SamplerContext, SequenceBatch

COUNTS = (1, 5)  # negatives asked for
SEEDS = 8  # of the draws for users with hardly an item left, who are given nothing by some
EXAMPLES = 256  # looked at, at most
ALONE = 8  # examples drawn for by themselves
PROGRESS = (0.0, 0.5, 0.99)  # of a training


def check_sampler(sampler: NegativeSampler, context: SamplerContext | None = None) -> None:
    """Refuse a sampler that breaks `genrec.types.DrawNegatives`, on a synthetic world or on your own `context`.

    Checked: a frozen dataclass; shape and type; real, distinct items; never the target, an item with its Semantic ID, an item of
    the history (but from a draw with `offers_history`) or of the user's training, past or future; equal draws from equal generators;
    global random state, context (the policy's mode too) and batch left alone; a shortfall of zeros for users who have taken (nearly)
    everything; one example or many, in any order. Of `by_example`, that a row alone is given what it is given in a batch; of `at`,
    that what it returns keeps the contract too and leaves the draw as it was; of `refresh_every`, that it counts, that there is a
    policy, and that a draw which changes with the policy's weights says it. What the sampler raises is told with the call.

    Generators of other seeds must give something else, but for a draw without randomness, which the contract allows: one that does
    not touch the generator and gives a row the same wherever in the batch it stands. (A seed of the sampler's own that is spread over
    examples, as by `ExampleRandomness`, can't be told from that.) How many negatives a row must be given is not
    checked: a pool may be small, and what is in it only the sampler knows.
    """
    check_specification(sampler, NegativeSampler, "build(context)")
    context = context if context is not None else sampler_context()
    batch = next(batches_of(context, EXAMPLES), None)
    if batch is None or context.item_count < 4:
        raise InputError(f"the context is too small to check a sampler: {context.item_count} items (4 needed), users of 1 item only")
    one = SequenceBatch(*(tensor[:1] for tensor in batch))
    crowded, full = _crowded(context)
    for world, each, seeds in ((context, batch, 1), (context, one, 1), (crowded, full, SEEDS)):
        with _left_alone(sampler, world, each):
            _check_draws(sampler, world, each, seeds)
    with _left_alone(sampler, context, batch):
        _check_attributes(sampler, context)
        _check_randomness(sampler, context, batch)
        _check_place(sampler, context, batch)
        _check_by_example(sampler, context, batch)
        _check_progress(sampler, context, batch)
        _check_policy(sampler, context, batch)


def _check_draws(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch, seeds: int) -> None:
    """Draw for the batch and hold the results against the contract."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    contract = DrawContract(context, getattr(draw, "offers_history", False))
    for count in COUNTS:
        for seed in range(seeds):
            _check_draw(name, contract, draw, batch, count, seed)


def _check_draw(name: str, contract: DrawContract, draw: DrawNegatives, batch: SequenceBatch, count: int, seed: int) -> None:
    negatives = _draw(name, draw, batch, count, seed)
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
    if not isinstance(every, int) or isinstance(every, bool) or every < 0 or unit not in ("steps", "epochs"):
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
                "the batch; take numbers from genrec.preference.example_randomness.ExampleRandomness(batch, generator), and nothing from other rows"
            )


def _check_progress(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """What draws at a time of the training keeps the contract, and the draw that was asked stays as it was."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    if not hasattr(draw, "at"):
        return
    first = _draw(name, draw, batch, max(COUNTS), seed=1)
    contract = DrawContract(context, getattr(draw, "offers_history", False))
    for progress in PROGRESS:
        then = call_plugin(name, f"at({progress})", partial(draw.at, progress))
        if not callable(then):
            raise ContractError(f"{name}: at({progress}) must return what draws then, called as the draw itself; got {then!r}")
        _check_draw(f"{name} at {progress} of the training", contract, then, batch, max(COUNTS), seed=0)
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
    generator = torch.Generator().manual_seed(2)
    before = generator.get_state()
    other = _draw_from(name, draw, batch, max(COUNTS), generator)
    if not torch.equal(first, other) or not bool(first[:, -1].any()):
        return
    if not torch.equal(before, generator.get_state()) or not torch.equal(first, _turned(name, draw, batch, seed=1, by=0)):
        raise ContractError(
            f"{name}: generators of different seeds give the same {len(first)} rows, but something is drawn, since the generator was "
            "used or rows in another order get others; draw from the generator that is passed, and from no other"
        )


def _check_place(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """Which rows get nothing does not depend on where in the batch they stand; luck may decide for a few, not for a quarter."""
    name, draw = type(sampler).__name__, _build(sampler, context)
    got = (_draw(name, draw, batch, max(COUNTS), seed=1) > 0).sum(1)
    for by in (0, 1):
        turned = (_turned(name, draw, batch, seed=1, by=by) > 0).sum(1)
        wrong = (torch.minimum(got, turned) == 0) & (torch.maximum(got, turned) == max(COUNTS))
        if 4 * int(wrong.sum()) >= len(got) > 1:
            row = int(wrong.nonzero()[0])
            raise ContractError(
                f"{name}: user {int(batch.user[row])}, target {int(batch.target[row])} is given {int(got[row])} negatives, and "
                f"{int(turned[row])} elsewhere in the same batch, as are {int(wrong.sum())} of {len(got)} rows; 0 means that no item "
                "is left for the user"
            )


def _turned(name: str, draw: DrawNegatives, batch: SequenceBatch, seed: int, by: int) -> Tensor:
    """Drawn with the rows moved on `by` places, or with 0 the last first, and put back: int64 [B, 5]."""
    order = torch.arange(len(batch.target))
    order = order.roll(by) if by else order.flip(0)
    return _draw(name, draw, rows_of(batch, order), max(COUNTS), seed)[order.argsort()]


def _check_policy(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> None:
    """One that draws otherwise when the policy's weights change reads it, and must say how often it is to be refreshed."""
    other = copied(context)
    if other is None:
        return
    name, draw = type(sampler).__name__, _build(sampler, other)
    if hasattr(draw, "refresh_every"):
        return
    first = _draw(name, draw, batch, max(COUNTS), seed=1)
    change_weights(other)
    if not torch.equal(first, _draw(name, draw, batch, max(COUNTS), seed=1)):
        raise ContractError(
            f"{name}: it draws by context.policy and does not say so: give what draws an attribute refresh_every, the steps after "
            "which the policy becomes the one in training (0: it stays the reference)"
        )


def _build(sampler: NegativeSampler, context: SamplerContext) -> DrawNegatives:
    draw = call_plugin(type(sampler).__name__, "build(context)", lambda: sampler.build(context))
    if not callable(draw):
        raise ContractError(
            f"{type(sampler).__name__}: build must return what draws, called with (batch, count, generator); got {draw!r}"
        )
    return draw


def _draw(name: str, draw: DrawNegatives, batch: SequenceBatch, count: int, seed: int) -> Tensor:
    return _draw_from(name, draw, batch, count, torch.Generator().manual_seed(seed))


def _draw_from(name: str, draw: DrawNegatives, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
    """One draw, whose failure is told with its circumstances."""
    what = f"a draw of {count} for {len(batch.target)} examples (the first of user {int(batch.user[0])})"
    return call_plugin(name, what, lambda: draw(batch, count, generator))


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


def _left_alone(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch) -> AbstractContextManager[None]:
    given = {f"batch.{key}": tensor for key, tensor in batch._asdict().items()}
    return check_unchanged(type(sampler).__name__, context, given, "draw from the generator that is passed")
