"""check_sampler: the optional attributes of a draw, by_example, offers_history, at and refresh_every, are checked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_conformance import Break, Broken, Draw, after, around, later, past, put_first
from torch import Generator, Tensor

from genrec.errors import InputError
from genrec.preference.negatives import Uniform
from genrec.testing import ContractError, batches_of, check_sampler, sampler_context
from genrec.types import Policy, SamplerContext, SequenceBatch
from genrec.types.policy import PrefixPolicy, VectorPolicy


def with_attributes(**attributes: object) -> Callable[[Break], Break]:
    """Set attributes on the draw."""

    def decorate(breaks: Break) -> Break:
        def build(draw: Draw, context: SamplerContext) -> Draw:
            broken = breaks(draw, context)

            def function(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
                return broken(batch, num_negatives, generator)

            function.__dict__.update(attributes)
            return function

        return build

    return decorate


def valid(draw: Draw, _: SamplerContext) -> Draw:
    return draw


def by_batch_size(draw: Draw, _: SamplerContext) -> Draw:
    """Seed the draw with the batch size."""

    def broken(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        return draw(batch, num_negatives, torch.Generator().manual_seed(generator.initial_seed() + len(batch.user)))

    return broken


def changed_by_at(draw: Draw, _: SamplerContext) -> Draw:
    """`at` changes the draw that it is called on."""
    offset = [0]

    def broken(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        return draw(batch, num_negatives, torch.Generator().manual_seed(generator.initial_seed() + offset[0]))

    def at(progress: float) -> Draw:
        offset[0] += 1
        return broken

    broken.at = at  # type: ignore[attr-defined]
    return broken


def touches_the_policy(_: SequenceBatch, context: SamplerContext) -> None:
    next(context.policy.parameters()).data.add_(1)  # type: ignore[union-attr]


def outside_catalog_later(progress: float) -> Draw:
    """Draw items outside the catalog in the second half of the training."""
    draw = Uniform().build(sampler_context())
    return draw if progress < 0.5 else lambda *arguments: draw(*arguments) + 60


BROKEN: dict[str, tuple[Break, str]] = {
    "by example": (
        with_attributes(by_example=True)(by_batch_size),
        r"has by_example = True, but the negatives of user 'user-\d+' .*, target 'item-\d+' .* depend on the rest of the batch",
    ),
    "by example as a string": (with_attributes(by_example="yes")(valid), r"the draw's by_example must be True or False, got 'yes'"),
    "history as a number": (with_attributes(offers_history=1)(valid), r"the draw's offers_history must be True or False, got 1"),
    "history and the future": (
        with_attributes(offers_history=True)(after(later)),
        r"has the Semantic ID of a training item that the user takes outside",
    ),
    "history and the target": (
        with_attributes(offers_history=True)(after(lambda negatives, batch, _: put_first(negatives, batch.target))),
        r"is the target itself",
    ),
    "refresh below 0": (with_attributes(refresh_every=-1)(valid), r"the draw's refresh_every must be an int.*got -1 and 'steps'"),
    "refresh as a bool": (with_attributes(refresh_every=True)(valid), r"the draw's refresh_every must be an int.*got True"),
    "refresh as a float": (with_attributes(refresh_every=0.5)(valid), r"the draw's refresh_every must be an int.*got 0.5"),
    "refresh each hour": (
        with_attributes(refresh_every=1, refresh_unit="hours")(valid),
        r'refresh_unit "steps" or "epochs"; got 1 and \'hours',
    ),
    "at returns None": (
        with_attributes(at=lambda progress: None)(valid),
        r"at\(0.0\) must return a callable draw\(batch, num_negatives, generator\), got None",
    ),
    "at raises": (with_attributes(at=lambda progress: [][0])(valid), r"at\(0.0\) raised IndexError"),
    "at without argument": (with_attributes(at=lambda: valid)(valid), r"at\(0.0\) raised TypeError"),
    "at breaks the rules": (with_attributes(at=outside_catalog_later)(valid), r"at\(0\.5\): .*is not in the catalog"),
    "at changes the draw": (changed_by_at, r"at\(progress\) changes the draw that it is called on"),
    "policy": (around(touches_the_policy), r"context.policy's vectors was modified"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_attribute_raises_its_message(name: str) -> None:
    breaks, message = BROKEN[name]
    with pytest.raises(ContractError, match=rf"^Broken.*{message}"):
        check_sampler(Broken(breaks))


def test_valid_attributes_pass() -> None:
    """Items of the history with `offers_history`, and true values of `by_example`, `at` and `refresh_every`."""
    check_sampler(Broken(with_attributes(offers_history=True)(after(past))))
    check_sampler(Broken(with_attributes(by_example=True, refresh_every=0, at=lambda _: Uniform().build(sampler_context()))(valid)))
    check_sampler(Broken(with_attributes(refresh_every=3, refresh_unit="epochs")(valid)))


def test_refresh_every_needs_a_policy() -> None:
    with pytest.raises(InputError, match=r"Broken has refresh_every, so it reads context.policy, but this context has no policy"):
        check_sampler(Broken(with_attributes(refresh_every=0)(valid)), sampler_context()._replace(policy=None))


def test_the_policy_of_the_synthetic_context() -> None:
    """Its lists agree with its log-probabilities, leave out excluded items, and stay below a prefix."""
    context = sampler_context()
    policy, batch = context.policy, next(batches_of(context, 8))
    assert isinstance(policy, Policy)
    assert isinstance(policy, PrefixPolicy)
    assert isinstance(policy, VectorPolicy)
    everything = torch.arange(61).repeat(8, 1)
    total = policy.log_prob(batch.history, everything)
    assert (total[:, 0] == -torch.inf).all()
    levels = policy.level_log_prob(batch.history, everything[:, 1:])
    torch.testing.assert_close(levels.sum(-1), total[:, 1:])
    assert torch.isfinite(levels).all()
    found = policy.recommend(batch.history, 60, exclude=batch.history)
    torch.testing.assert_close(found.scores, total.gather(1, found.items).masked_fill(found.items == 0, -torch.inf))
    assert (found.items > 0).sum(1).tolist() == (60 - (batch.history > 0).sum(1)).tolist()
    below = policy.recommend_below(batch.history, batch.target, 1, 5)
    depth = context.semantic_ids.prefix_depth(below.items, batch.target[:, None])
    assert ((depth >= 1) | (below.items == 0)).all()
    assert (below.items[:, 0] > 0).all()
    assert policy.item_vectors().shape == (61, 16)
    padded = torch.cat([torch.zeros(8, 2, dtype=torch.int64), batch.history], 1)
    torch.testing.assert_close(policy.log_prob(padded, everything), total)
