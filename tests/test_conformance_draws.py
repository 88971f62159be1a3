"""check_sampler: the fields of a `Draw` are checked, and what a composition tells about its samplers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from test_conformance import Break, Broken, DrawFunction, after, around, later, past, put_first
from torch import Generator, Tensor

from genrec.errors import InputError
from genrec.preference.negatives import InBatch, ModelBeams, Uniform
from genrec.testing import ContractError, batches_of, check_sampler, sampler_context
from genrec.types import Draw, NegativeSampler, Policy, Refresh, SamplerContext, SequenceBatch
from genrec.types.policy import PrefixPolicy, VectorPolicy


def valid(draw: DrawFunction, _: SamplerContext) -> DrawFunction:
    return draw


def by_batch_size(draw: DrawFunction, _: SamplerContext) -> DrawFunction:
    """Seed the draw with the batch size."""

    def broken(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        return draw(batch, num_negatives, torch.Generator().manual_seed(generator.initial_seed() + len(batch.user)))

    return broken


def touches_the_policy(_: SequenceBatch, context: SamplerContext) -> None:
    next(context.policy.parameters()).data.add_(1)  # type: ignore[union-attr]


def uniform() -> Draw:
    return Uniform().build(sampler_context())


def in_batch() -> Draw:
    return InBatch().build(sampler_context())


def outside_catalog_later(progress: float) -> Draw:
    """Draw items outside the catalog in the second half of the training."""
    draw = uniform()
    return draw if progress < 0.5 else Draw(draw=lambda *arguments: draw.draw(*arguments) + 60)


BROKEN: dict[str, tuple[Break, dict[str, Any], str]] = {
    "by example": (
        by_batch_size,
        {"by_example": True},
        r": the draw has by_example = True, but the negatives of user 'user-\d+' .*, target 'item-\d+' .* depend on the rest of the",
    ),
    "by example at first": (
        valid,
        {"by_example": True, "at": lambda progress: in_batch() if progress > 0.5 else uniform()},
        r"\.at\(0\.99\): the draw has by_example = True, but the negatives of user .* depend on the rest of the batch",
    ),
    "by example as a string": (valid, {"by_example": "yes"}, r": build\(context\): Draw.by_example must be True or False, got 'yes'"),
    "history as a number": (valid, {"offers_history": 1}, r": build\(context\): Draw.offers_history must be True or False, got 1"),
    "history and the future": (
        after(later),
        {"offers_history": True},
        r"has the Semantic ID of a training item that the user takes outside",
    ),
    "history and the target": (
        after(lambda negatives, batch, _: put_first(negatives, batch.target)),
        {"offers_history": True},
        r"is the target itself",
    ),
    "refresh as a number": (valid, {"refresh": 5}, r"Draw.refresh must be None, .* or Refresh\(every, unit\).*got 5"),
    "refresh as a tuple": (valid, {"refresh": (5, "steps")}, r"Draw.refresh must be .*got \(5, 'steps'\)"),
    "refresh below 0": (valid, {"refresh": Refresh(-1)}, r"Draw.refresh must be .*an int of 0 or more.*got Refresh\(every=-1"),
    "refresh as a bool": (valid, {"refresh": Refresh(True)}, r"Draw.refresh must be .*got Refresh\(every=True"),
    "refresh as a float": (valid, {"refresh": Refresh(0.5)}, r"Draw.refresh must be .*got Refresh\(every=0.5"),  # type: ignore[arg-type]
    "refresh each hour": (
        valid,
        {"refresh": Refresh(1, "hours")},  # type: ignore[arg-type]
        r"Draw.refresh must be .*'steps' or 'epochs', got Refresh\(every=1, unit='hours'\)",
    ),
    "at as a number": (valid, {"at": 0.5}, r": build\(context\): Draw.at must be a callable at\(progress\) or None, got 0.5"),
    "at returns None": (valid, {"at": lambda progress: None}, r": at\(0.0\) must return a genrec.types.Draw, got None"),
    "at returns a callable": (
        valid,
        {"at": lambda progress: uniform().draw},
        r": at\(0.0\) must return a genrec.types.Draw, got <.*; return Draw\(draw=\.\.\.\)",
    ),
    "at raises": (valid, {"at": lambda progress: [][0]}, r": at\(0.0\) raised IndexError"),
    "at without argument": (valid, {"at": lambda: valid}, r": at\(0.0\) raised TypeError"),
    "at breaks the rules": (valid, {"at": outside_catalog_later}, r"\.at\(0\.5\): .*is not in the catalog"),
    "policy": (around(touches_the_policy), {}, r"context.policy's vectors was modified"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_field_raises_its_message(name: str) -> None:
    breaks, fields, message = BROKEN[name]
    with pytest.raises(ContractError, match=rf"^Broken.*{message}"):
        check_sampler(Broken(breaks, fields))


def test_a_misspelt_field_is_named() -> None:
    """Python refuses it where the draw is made."""
    with pytest.raises(ContractError, match=r"^Broken: build\(context\) raised TypeError.*unexpected keyword argument 'by_examples'"):
        check_sampler(Broken(valid, {"by_examples": True}))


def test_valid_fields_pass() -> None:
    """Items of the history with `offers_history`, and true values of `by_example`, `at` and `refresh`."""
    check_sampler(Broken(after(past), {"offers_history": True}))
    check_sampler(Broken(valid, {"by_example": True, "refresh": Refresh(0), "at": lambda _: uniform()}))
    check_sampler(Broken(valid, {"refresh": Refresh(3, "epochs")}))


@dataclass(frozen=True)
class Changing:
    """A sampler whose `at` changes the draw that it is called on."""

    def build(self, context: SamplerContext) -> Draw:
        draw, offset = Uniform().build(context).draw, [0]

        def drifting(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
            return draw(batch, num_negatives, torch.Generator().manual_seed(generator.initial_seed() + offset[0]))

        def at(progress: float) -> Draw:
            offset[0] += 1
            return Draw(draw=drifting)

        return Draw(draw=drifting, at=at)


def test_at_must_not_change_the_draw() -> None:
    with pytest.raises(ContractError, match=r"^Changing: at\(progress\) changes the draw that it is called on"):
        check_sampler(Changing())


@dataclass(frozen=True)
class Former:
    """A sampler as for former versions: `build` returns a callable with optional attributes."""

    attributes: Mapping[str, object] = field(default_factory=dict)

    def build(self, context: SamplerContext) -> Draw:
        def draw(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
            raise AssertionError("nothing is drawn")

        draw.__dict__.update(self.attributes)
        return draw  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("attributes", "hint"),
    [
        ({}, r"return Draw\(draw=\.\.\.\)$"),
        ({"by_example": True}, r"the attribute 'by_example' of a Draw is no longer read; it is now a field: .*by_example=True\)"),
        ({"offers_history": True}, r"'offers_history' .* it is now a field: Draw\(draw=\.\.\., offers_history=True\)"),
        ({"refresh_every": 5, "refresh_unit": "steps"}, r"'refresh_every' .*refresh=Refresh\(every, unit\)\)"),
        ({"at": lambda progress: None}, r"'at' .*at=\.\.\.\), which returns a Draw"),
    ],
)
def test_a_callable_with_former_attributes_gets_a_hint(attributes: dict[str, object], hint: str) -> None:
    with pytest.raises(ContractError, match=rf"^Former: build\(context\) must return a genrec.types.Draw, got <function .*{hint}"):
        check_sampler(Former(attributes))


def test_a_draw_with_a_refresh_needs_a_policy() -> None:
    without = sampler_context()._replace(policy=None)
    check_sampler(Broken(valid), without)
    with pytest.raises(
        InputError, match=r"Broken: its draw has a refresh, so it reads context.policy, but this context has no policy"
    ):
        check_sampler(Broken(valid, {"refresh": Refresh(0)}), without)


FIRST = Uniform()


@dataclass(frozen=True)
class Either:
    """A composition: the first of its samplers. `inside` is what `inner_samplers` returns, None for the right one."""

    samplers: tuple[NegativeSampler, ...] = (FIRST, ModelBeams())
    inside: Any = None
    known: Refresh | None = None  # what `policy_refresh` returns

    def inner_samplers(self) -> tuple[NegativeSampler, ...]:
        inside: tuple[NegativeSampler, ...] = self.samplers if self.inside is None else self.inside
        return inside

    def policy_refresh(self) -> Refresh | None:
        return self.known

    def build(self, context: SamplerContext) -> Draw:
        return self.samplers[0].build(context)


@dataclass(frozen=True)
class Silent:
    """A composition without `inner_samplers`."""

    sampler: NegativeSampler = FIRST

    def build(self, context: SamplerContext) -> Draw:
        return self.sampler.build(context)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            Silent(),
            r"^Silent: the field sampler holds the sampler Uniform\(\), which inner_samplers\(\) does not return; add a method",
        ),
        (
            Either((FIRST, ModelBeams()), inside=(FIRST,)),
            r"^Either: the field samplers holds the sampler ModelBeams\(.*\), which inner_samplers\(\)",
        ),
        (Either(inside=[Uniform()]), r"^Either: inner_samplers\(\) must return a tuple of samplers, got \[Uniform\(\)\]"),
        (Either(inside=(Uniform,)), r"^Either: inner_samplers\(\) must return a tuple of samplers, got \(<class"),
        (
            Either((Uniform(),), known=Refresh(3)),
            r"^Either: policy_refresh\(\) .* returns Refresh\(every=3.*its draw has the refresh None",
        ),
        (Either(), r"^Either: policy_refresh\(\) of the sampler, or of one inside it, returns Refresh\(every=0.*the refresh None"),
    ],
)
def test_a_composition_names_its_samplers_and_keeps_its_refresh(sampler: NegativeSampler, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_sampler(sampler)
    check_sampler(Either((Uniform(),)))
    check_sampler(Either((ModelBeams(),), known=Refresh(0)))


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
