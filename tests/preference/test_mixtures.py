"""Samplers built from other samplers: Mix, Curriculum, BestOf and Filtered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from stable_ids import stable_id
from torch import Generator, Tensor

from genrec.errors import InputError, UsageError
from genrec.preference.draw_contract import check_draw
from genrec.preference.filters import NearDuplicates
from genrec.preference.negatives import AlreadySeen, BestOf, Curriculum, Filtered, InBatch, Mix, Popularity, PrefixNeighbors, Uniform
from genrec.semantic_ids import SemanticIds
from genrec.testing import batches_of, check_sampler, sampler_context
from genrec.types import DrawNegatives, NegativeSampler, Reward, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class Fixed:
    """A sampler that always draws these items in this order, with optional refresh attributes."""

    items: tuple[int, ...]
    refresh_every: int | None = None
    refresh_unit: str = "steps"

    def build(self, context: SamplerContext) -> DrawNegatives:
        return _Fixed(self)


class _Fixed:
    by_example = True

    def __init__(self, sampler: Fixed) -> None:
        self.items = sampler.items
        if sampler.refresh_every is not None:
            self.refresh_every, self.refresh_unit = sampler.refresh_every, sampler.refresh_unit

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        row = torch.tensor([*self.items, *[0] * num_negatives])[:num_negatives]
        return row.repeat(len(batch.target), 1)


@dataclass(frozen=True)
class ItemNumber:
    """A reward from a table, by default the item id."""

    table: tuple[float, ...] | None = None

    def rate(self, context: SamplerContext) -> Callable[[SequenceBatch, Tensor], Tensor]:
        table = torch.arange(float(context.item_count + 1)) if self.table is None else torch.tensor(self.table)
        return lambda _, items: table[items.cpu()]


@dataclass(frozen=True)
class PolicyScore:
    """The log-probability under the policy."""

    reads_policy: ClassVar[bool] = True

    def rate(self, context: SamplerContext) -> Callable[[SequenceBatch, Tensor], Tensor]:
        assert context.policy is not None
        return lambda batch, items: context.policy.log_prob(batch.history, items)  # type: ignore[union-attr]


def world(items: int) -> SamplerContext:
    nothing = pd.DataFrame({"user": [], "item": [], "time": []}, dtype="int64")
    codes = torch.stack([torch.arange(items) // 3, torch.arange(items) % 3], 1)
    return SamplerContext(items, nothing, torch.ones(items + 1, dtype=torch.int64), torch.eye(items + 1), SemanticIds(codes))


def rows(count: int, target: int = 1) -> SequenceBatch:
    return SequenceBatch(torch.arange(count), torch.zeros(count, 1, dtype=torch.int64), torch.full((count,), target))


def draw(drawing: DrawNegatives, batch: SequenceBatch, count: int, seed: int = 0) -> Tensor:
    return drawing(batch, count, torch.Generator().manual_seed(seed))


def counts_of(drawing: DrawNegatives) -> list[int]:
    """Count items 2, 3 and 4 in the first place of 20,000 rows."""
    return torch.bincount(draw(drawing, rows(20_000), 1)[:, 0], minlength=5)[2:].tolist()


def test_places_are_shared_by_weight() -> None:
    """Samplers that always draw 2, 3 and 4, with weights 1, 2, 5, get 1/8, 1/4 and 5/8 of the first places."""
    mix = Mix((Fixed((2,)), Fixed((3,)), Fixed((4,))), (1, 2, 5)).build(world(6))
    assert chisquare(counts_of(mix), [2500, 5000, 12500]).pvalue > 1e-3


def test_places_are_independent_and_keep_the_order_of_each_sampler() -> None:
    """Two samplers of equal weight draw 2, 3 and 4, 5: the pairs 2 3, 2 4, 4 2 and 4 5 each have probability 1/4."""
    drawn = draw(Mix((Fixed((2, 3)), Fixed((4, 5))), (1, 1)).build(world(6)), rows(20_000), 2)
    counts = [int((drawn == torch.tensor(pair)).all(1).sum()) for pair in ((2, 3), (2, 4), (4, 2), (4, 5))]
    assert sum(counts) == 20_000
    assert chisquare(counts).pvalue > 1e-3


def test_shares_change_with_progress() -> None:
    """From item 2 only to items 3 and 4: at progress 0.6 the shares are 0.4, 0.3, 0.3; the original draw does not change."""
    mix = Mix((Fixed((2,)), Fixed((3,)), Fixed((4,))), (7, 0, 0), final_weights=(0, 2, 2)).build(world(6))
    then = counts_of(mix.at(0.6))  # type: ignore[attr-defined]
    assert chisquare(then, [8000, 6000, 6000]).pvalue > 1e-3
    assert counts_of(mix) == [20_000, 0, 0]


def test_other_samplers_replace_one_without_candidates() -> None:
    """Items 2 and 3 from both, 4 from the second only: every row has all three, then zeros; nothing from the sampler of weight 0."""
    drawn = draw(Mix((Fixed((2, 3)), Fixed((3, 2, 4)), Fixed((5,))), (9, 1, 0)).build(world(6)), rows(500), 5)
    assert drawn.sort(1).values.tolist() == [[0, 0, 2, 3, 4]] * 500
    assert (drawn[:, :3] > 0).all()
    assert not draw(Mix((Fixed(()), Fixed(())), (1, 1)).build(world(6)), rows(3), 2).any()


def test_a_mixture_compares_items_by_semantic_id() -> None:
    context = world(6)._replace(semantic_ids=SemanticIds(torch.tensor([[0], [1], [1], [2], [3], [4]])))
    drawn = draw(Mix((Fixed((2,)), Fixed((3, 4))), (1, 1)).build(context), rows(200), 3)
    assert {tuple(sorted(row)) for row in drawn.tolist()} == {(0, 2, 4), (0, 3, 4)}


@given(st.integers(0, 2**16), st.integers(1, 12), st.floats(0, 0.99))
@settings(max_examples=30, deadline=None)
def test_a_mixture_is_short_only_if_all_samplers_are(seed: int, count: int, progress: float) -> None:
    """A mixture with `Uniform` draws as many negatives as `Uniform` alone."""
    context = sampler_context(seed)
    batch = next(batches_of(context, 24))
    mix = Mix((PrefixNeighbors(2), Uniform(), Popularity()), (3, 1, 1), (1, 1, 1)).build(context).at(progress)  # type: ignore[attr-defined]
    drawn = draw(mix, batch, count, seed)
    check_draw(batch, drawn, count, context)
    assert torch.equal((drawn > 0).sum(1), (draw(Uniform().build(context), batch, count, seed) > 0).sum(1))


def test_a_curriculum_uses_one_sampler_after_another() -> None:
    parts = (Fixed((2,)), Fixed((3,)), Fixed((4,)))
    equal, custom = Curriculum(parts).build(world(6)), Curriculum(parts, until=(0.1, 0.9)).build(world(6))
    for progress, in_thirds, in_custom in (
        (0.0, 2, 2),
        (0.1, 2, 3),
        (0.34, 3, 3),
        (0.5, 3, 3),
        (0.7, 4, 3),
        (0.9, 4, 4),
        (0.99, 4, 4),
    ):
        assert draw(equal.at(progress), rows(1), 1).item() == in_thirds  # type: ignore[attr-defined]
        assert draw(custom.at(progress), rows(1), 1).item() == in_custom  # type: ignore[attr-defined]
    assert draw(equal, rows(1), 1).item() == 2
    assert draw(Curriculum(parts[:1]).build(world(6)).at(0.99), rows(1), 1).item() == 2  # type: ignore[attr-defined]


def test_progress_within_a_part_goes_from_0_to_1() -> None:
    """The second half of the training is a mixture that goes from 2 to 3: at 0.75, its middle, both are equally likely."""
    mix = Mix((Fixed((2,)), Fixed((3,))), (1, 0), (0, 1))
    then = Curriculum((Fixed((4,)), mix)).build(world(6)).at(0.75)  # type: ignore[attr-defined]
    assert chisquare(counts_of(then)[:2]).pvalue > 1e-3


def test_the_default_curriculum_gets_harder() -> None:
    context = sampler_context(items=200)
    batch, drawing = next(batches_of(context, 64)), Curriculum().build(context)
    for progress, depth_at_least in ((0.0, 0), (0.4, 1), (0.7, 2)):
        drawn = draw(drawing.at(progress), batch, 2)  # type: ignore[attr-defined]
        depth = context.semantic_ids.prefix_depth(batch.target.unsqueeze(1), drawn)
        assert int(depth[drawn > 0].min()) == depth_at_least


def test_best_of_keeps_the_highest_rewards() -> None:
    """Of 4, 9, 2, 7 and 5, ordered by id, the first two are 9 and 7. Ties keep the order of the draw; item 4 then has -inf."""
    context, five = world(9), Fixed((4, 9, 2, 7, 5))
    assert draw(BestOf(five, ItemNumber(), num_candidates=5).build(context), rows(2), 2).tolist() == [[9, 7]] * 2
    assert draw(BestOf(five, ItemNumber(), num_candidates=3).build(context), rows(1), 3).tolist() == [[9, 4, 2]]
    assert draw(BestOf(five, ItemNumber(), num_candidates=8).build(context), rows(1), 7).tolist() == [[9, 7, 5, 4, 2, 0, 0]]
    ties = (float("nan"), *[1.0] * 3, -float("inf"), *[1.0] * 5)
    assert draw(BestOf(five, ItemNumber(ties), num_candidates=7).build(context), rows(1), 6).tolist() == [[9, 2, 7, 5, 4, 0]]


def test_best_of_equals_brute_force() -> None:
    """All items are candidates, so the negatives are the allowed items with the highest log-probability."""
    context = sampler_context()
    batch = next(batches_of(context, 40))
    assert context.policy is not None
    everything = draw(Uniform().build(context), batch, 60)
    drawn = draw(BestOf(Uniform(), PolicyScore(), num_candidates=60, refresh_every=0).build(context), batch, 3)
    best = context.policy.log_prob(batch.history, everything).sort(1, descending=True).values[:, :3]
    torch.testing.assert_close(context.policy.log_prob(batch.history, drawn), best)


def test_best_of_raises_for_unusable_inputs() -> None:
    nan = ItemNumber((0.0, 1.0, float("nan"), 3.0, 4.0, 5.0, 6.0))
    with pytest.raises(InputError, match=r"BestOf.reward returned NaN"):
        draw(BestOf(Fixed((2,)), nan).build(world(6)), rows(1), 1)
    with pytest.raises(UsageError, match=r"BestOf.num_candidates must be at least the number of negatives, 5, got 4"):
        draw(BestOf(Uniform(), ItemNumber(), num_candidates=4).build(world(6)), rows(1), 5)
    with pytest.raises(InputError, match=r"BestOf.reward PolicyScore\(\) reads the policy, got a context without one"):
        BestOf(Uniform(), PolicyScore(), refresh_every=10).build(world(6))


def test_filters_apply_through_exclusions() -> None:
    """Items 1, 2, 3 differ only in the last code, so the filter leaves no prefix neighbor."""
    context = world(9)
    assert set(draw(PrefixNeighbors().build(context), rows(5), 2).flatten().tolist()) == {2, 3}
    filtered = Filtered(PrefixNeighbors(), (NearDuplicates(),)).build(context)
    assert not draw(filtered, rows(5), 2).any()
    assert set(draw(Filtered(Uniform(), (NearDuplicates(),)).build(context), rows(50), 6).flatten().tolist()) == set(range(4, 10))
    both = Filtered(Filtered(Uniform(), (Even(),)), (NearDuplicates(),)).build(context)
    assert set(draw(both, rows(50), 3).flatten().tolist()) == {5, 7, 9}
    past = SequenceBatch(torch.tensor([0]), torch.tensor([[3, 4, 5]]), torch.tensor([1]))
    assert set(draw(Filtered(AlreadySeen(), (Even(),)).build(context), past, 3).flatten().tolist()) == {0, 3, 5}


@dataclass(frozen=True)
class Even:
    """Rejects even items."""

    def refuse(self, context: SamplerContext) -> Callable[[SequenceBatch, Tensor], Tensor]:
        return lambda _, candidates: candidates % 2 == 0


def test_attributes_of_parts_are_combined() -> None:
    context = sampler_context()
    by_example = Mix((Uniform(), AlreadySeen()), (1, 1)).build(context)
    assert by_example.by_example is True  # type: ignore[attr-defined]
    assert by_example.offers_history is True  # type: ignore[attr-defined]
    assert not hasattr(by_example, "refresh_every")
    for sampler in (Mix((Uniform(), InBatch()), (1, 1)), Curriculum((Uniform(), InBatch())), BestOf(InBatch(), ItemNumber())):
        drawing = sampler.build(context)
        assert (drawing.by_example, drawing.offers_history) == (False, False)  # type: ignore[attr-defined]
    refreshed = Fixed((2,), 5, "epochs")
    for sampler in (Mix((Uniform(), refreshed), (1, 1)), Curriculum((refreshed, Uniform())), BestOf(refreshed, ItemNumber())):
        drawing = sampler.build(context)
        assert (drawing.refresh_every, drawing.refresh_unit) == (5, "epochs")  # type: ignore[attr-defined]
        assert (drawing.at(0.1).refresh_every, drawing.by_example) == (5, True)  # type: ignore[attr-defined]
    assert BestOf(Uniform(), PolicyScore(), refresh_every=7).build(context).refresh_every == 7  # type: ignore[attr-defined]
    assert BestOf(Uniform(), PolicyScore(), refresh_every=7).build(context).by_example is False  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"Mix: its samplers share one copy of the policy.*refreshed every 5 epochs and never"):
        Mix((refreshed, Fixed((3,), 0)), (1, 1)).build(context)
    with pytest.raises(UsageError, match=r"BestOf: .*every 5 epochs and every 5 steps"):
        BestOf(refreshed, PolicyScore(), refresh_every=5).build(context)


SAMPLERS: list[NegativeSampler] = [
    Mix((Uniform(), PrefixNeighbors(), AlreadySeen()), (1, 2, 1), (0, 0, 1)),
    Mix((Uniform(), InBatch()), (1, 1)),
    Curriculum(),
    Curriculum((Mix((Uniform(), Popularity()), (1, 0), (0, 1)), InBatch()), until=(0.8,)),
    BestOf(Uniform(), ItemNumber()),
    BestOf(Curriculum(), PolicyScore(), num_candidates=9, refresh_every=20, refresh_unit="epochs"),
    Filtered(Uniform(), (NearDuplicates(),)),
    Filtered(Mix((AlreadySeen(), Popularity()), (1, 1)), (Even(), NearDuplicates(2))),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=stable_id)
def test_compositions_keep_the_contract(sampler: NegativeSampler) -> None:
    check_sampler(sampler)
    check_sampler(sampler, sampler_context(seed=7, items=100, users=15))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=stable_id)
def test_an_empty_batch(sampler: NegativeSampler) -> None:
    assert draw(sampler.build(sampler_context()), rows(0), 3).shape == (0, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampler", SAMPLERS, ids=stable_id)
def test_negatives_are_on_the_batch_s_device(sampler: NegativeSampler) -> None:
    """Samplers that read the policy are left out: it would have to be on the device too. The reward here returns CPU tensors."""
    context = sampler_context()
    batch = next(batches_of(context, 64))
    on_gpu = SequenceBatch(*(tensor.cuda() for tensor in batch))
    drawing = sampler.build(context)
    if not hasattr(drawing, "refresh_every"):
        drawn = draw(drawing, on_gpu, 3)
        assert drawn.is_cuda
        assert torch.equal(drawn.cpu(), draw(drawing, batch, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mix((), ()), r"Mix.samplers must be a tuple of samplers, got \(\)"),
        (lambda: Mix((Uniform, Uniform()), (1, 1)), r"Mix.samplers\[0\] must be a sampler, such as Uniform\(\), got <class"),
        (lambda: Mix((Uniform(),), (1, 1)), r"Mix.weights must have one weight for each of the 1 samplers, got \(1, 1\)"),
        (lambda: Mix((Uniform(),), (0,)), r"Mix.weights must be 0 or more and finite, not all 0, got \(0,\)"),
        (lambda: Mix((Uniform(),), (1,), (-1,)), r"Mix.final_weights must be 0 or more"),
        (lambda: Mix((Uniform(),), (float("nan"),)), r"Mix.weights must be 0 or more"),
        (lambda: Curriculum([Uniform()]), r"Curriculum.samplers must be a tuple"),
        (lambda: Curriculum((Uniform(), 3)), r"Curriculum.samplers\[1\] must be a sampler"),
        (lambda: Curriculum(until=(0.5,)), r"Curriculum.until must have 2 increasing numbers between 0 and 1.*got \(0.5,\)"),
        (lambda: Curriculum(until=(0.5, 0.2)), r"Curriculum.until must have 2 increasing"),
        (lambda: Curriculum(until=(0.0, 0.2)), r"Curriculum.until must have 2 increasing"),
        (lambda: Curriculum(until=(0.5, 1.0)), r"Curriculum.until must have 2 increasing"),
        (lambda: BestOf(3, ItemNumber()), r"BestOf.sampler must be a sampler"),
        (
            lambda: BestOf(Uniform(), Uniform()),
            r"BestOf.reward must be a reward with rate\(context\), such as Popular\(\), got Uniform\(\)",
        ),
        (lambda: BestOf(Uniform(), ItemNumber(), num_candidates=0), r"BestOf.num_candidates must be at least 1, got 0"),
        (lambda: BestOf(Uniform(), ItemNumber(), refresh_every=-1), r"BestOf.refresh_every must be 0 \(the reference\) or more"),
        (lambda: BestOf(Uniform(), ItemNumber(), refresh_every=5), r"BestOf.refresh_every needs a reward that reads the policy"),
        (lambda: Filtered(None, (Even(),)), r"Filtered.sampler must be a sampler"),
        (lambda: Filtered(Uniform(), ()), r"Filtered.filters must be a tuple of filters, such as \(NearDuplicates\(\),\), got \(\)"),
        (lambda: Filtered(Uniform(), Even()), r"Filtered.filters must be a tuple of filters"),
    ],
)
def test_fields_are_checked(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_the_rewards_of_this_file_implement_the_protocol() -> None:
    assert isinstance(ItemNumber(), Reward)
    assert isinstance(PolicyScore(), Reward)
