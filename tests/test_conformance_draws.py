"""What a draw says of itself is held against it: by example, with the history, as training goes on, with the policy."""

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


def saying(**attributes: object) -> Callable[[Break], Break]:
    """The draw says so of itself."""

    def with_attributes(spoil: Break) -> Break:
        def build(draw: Draw, context: SamplerContext) -> Draw:
            spoilt = spoil(draw, context)

            def function(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
                return spoilt(batch, num_negatives, generator)

            function.__dict__.update(attributes)
            return function

        return build

    return with_attributes


def right(draw: Draw, _: SamplerContext) -> Draw:
    return draw


def by_rows(draw: Draw, _: SamplerContext) -> Draw:
    """The seed is of the batch's size."""

    def spoilt(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        return draw(batch, num_negatives, torch.Generator().manual_seed(generator.initial_seed() + len(batch.user)))

    return spoilt


def restless(draw: Draw, _: SamplerContext) -> Draw:
    """`at` changes the draw itself."""
    offset = [0]

    def spoilt(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        return draw(batch, num_negatives, torch.Generator().manual_seed(generator.initial_seed() + offset[0]))

    def at(progress: float) -> Draw:
        offset[0] += 1
        return spoilt

    spoilt.at = at  # type: ignore[attr-defined]
    return spoilt


def touches_the_policy(_: SequenceBatch, context: SamplerContext) -> None:
    next(context.policy.parameters()).data.add_(1)  # type: ignore[union-attr]


def late(progress: float) -> Draw:
    """Out of the catalog in the second half of the training."""
    draw = Uniform().build(sampler_context())
    return draw if progress < 0.5 else lambda *given: draw(*given) + 60


SAYING: dict[str, tuple[Break, str]] = {
    "by example": (saying(by_example=True)(by_rows), r"the draw has by_example = True, but the negatives of user \d+, target \d+ depend on the rest of the batch"),
    "by example as a word": (saying(by_example="yes")(right), r"the draw's by_example must be True or False, got 'yes'"),
    "history as a number": (saying(offers_history=1)(right), r"the draw's offers_history must be True or False, got 1"),
    "history and the future": (saying(offers_history=True)(after(later)), r"has the Semantic ID of a training item that the user takes outside"),
    "history and the target": (
        saying(offers_history=True)(after(lambda negatives, batch, _: put_first(negatives, batch.target))), r"is the target itself"),
    "refresh below 0": (saying(refresh_every=-1)(right), r"the draw's refresh_every must be an int.*got -1 and 'steps'"),
    "refresh as a truth": (saying(refresh_every=True)(right), r"the draw's refresh_every must be an int.*got True"),
    "refresh as a share": (saying(refresh_every=0.5)(right), r"the draw's refresh_every must be an int.*got 0.5"),
    "refresh each hour": (saying(refresh_every=1, refresh_unit="hours")(right), r'refresh_unit "steps" or "epochs"; got 1 and \'hours'),
    "at gives nothing": (saying(at=lambda progress: None)(right), r"at\(0.0\) must return a callable draw\(batch, num_negatives, generator\), got None"),
    "at raises": (saying(at=lambda progress: [][0])(right), r"at\(0.0\) raised IndexError"),
    "at is wrong": (saying(at=lambda: right)(right), r"at\(0.0\) raised TypeError"),
    "at breaks the rules": (saying(at=late)(right), r"at\(0\.5\): .*is not in the catalog"),
    "at moves the draw": (restless, r"at\(progress\) changes the draw that it is called on"),
    "policy": (around(touches_the_policy), r"context.policy's vectors was modified"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAYING)
def test_a_draw_is_held_to_what_it_says_of_itself(name: str) -> None:
    spoil, message = SAYING[name]
    with pytest.raises(ContractError, match=rf"^Broken.*{message}"):
        check_sampler(Broken(spoil))


def test_what_a_draw_may_say_of_itself() -> None:
    """The past may be offered by one who says so; by example, moving and refreshed is fine where it is true."""
    check_sampler(Broken(saying(offers_history=True)(after(past))))
    check_sampler(Broken(saying(by_example=True, refresh_every=0, at=lambda _: Uniform().build(sampler_context()))(right)))
    check_sampler(Broken(saying(refresh_every=3, refresh_unit="epochs")(right)))


def test_who_reads_the_policy_needs_one() -> None:
    with pytest.raises(InputError, match=r"Broken has refresh_every, so it reads context.policy, but this context has no policy"):
        check_sampler(Broken(saying(refresh_every=0)(right)), sampler_context()._replace(policy=None))


def test_the_policy_of_the_world_is_one() -> None:
    """A policy, whose lists are those of its log-probabilities: all items, none of the excluded, and those below a prefix alone."""
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
