"""Samplers built from other samplers: Mix, Curriculum, BestOf and Filtered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from stable_ids import stable_id
from torch import Generator, Tensor

from genrec.errors import InputError, NumericsError, UsageError
from genrec.preference.draw_contract import check_draw
from genrec.preference.filters import NearDuplicates
from genrec.preference.negatives import (
    AlreadySeen,
    BestOf,
    Curriculum,
    DislikedItems,
    Filtered,
    InBatch,
    Mix,
    ModelBeams,
    Popularity,
    PrefixNeighbors,
    Uniform,
)
from genrec.preference.negatives.capabilities import inner_samplers, most_negatives, policy_refreshes
from genrec.preference.rewards import LogProbability
from genrec.semantic_ids import SemanticIds
from genrec.testing import ContractError, batches_of, check_reward, check_sampler, sampler_context
from genrec.types import (
    Draw,
    NegativeSampler,
    PolicyReward,
    Rating,
    Refresh,
    Reward,
    SamplerContext,
    SequenceBatch,
)  # fmt: skip


@dataclass(frozen=True)
class Fixed:
    """A sampler that always draws these items in this order, with an optional refresh."""

    items: tuple[int, ...]
    refresh: Refresh | None = None

    def build(self, context: SamplerContext) -> Draw:
        def draw(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
            row = torch.tensor([*self.items, *[0] * num_negatives])[:num_negatives]
            return row.repeat(len(batch.target), 1)

        return Draw(draw=draw, by_example=True, refresh=self.refresh)


@dataclass(frozen=True)
class ItemNumber:
    """A reward from a table, by default the item id."""

    table: tuple[float, ...] | None = None

    def rate(self, context: SamplerContext) -> Rating:
        table = torch.arange(float(context.item_count + 1)) if self.table is None else torch.tensor(self.table)
        return Rating(rate=lambda _, items: table[items.cpu()])


@dataclass(frozen=True)
class PolicyScore:
    """The log-probability under the policy."""

    def rate(self, context: SamplerContext) -> Rating:
        def rate(batch: SequenceBatch, items: Tensor) -> Tensor:
            assert context.policy is not None
            return context.policy.log_prob(batch.history, items)

        return Rating(rate=rate, reads_policy=True)


def world(items: int) -> SamplerContext:
    nothing = pd.DataFrame({"user": [], "item": [], "time": []}, dtype="int64")
    codes = torch.stack([torch.arange(items) // 3, torch.arange(items) % 3], 1)
    return SamplerContext(items, nothing, torch.ones(items + 1, dtype=torch.int64), torch.eye(items + 1), SemanticIds(codes))


def rows(count: int, target: int = 1) -> SequenceBatch:
    return SequenceBatch(torch.arange(count), torch.zeros(count, 1, dtype=torch.int64), torch.full((count,), target))


def draw(drawing: Draw, batch: SequenceBatch, count: int, seed: int = 0) -> Tensor:
    return drawing.draw(batch, count, torch.Generator().manual_seed(seed))


def at(drawing: Draw, progress: float) -> Draw:
    """Return the draw at a fraction of the training. It changes over the training."""
    assert drawing.at is not None
    return drawing.at(progress)


def counts_of(drawing: Draw) -> list[int]:
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
    then = counts_of(at(mix, 0.6))
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
    mix = at(Mix((PrefixNeighbors(2), Uniform(), Popularity()), (3, 1, 1), (1, 1, 1)).build(context), progress)
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
        assert draw(at(equal, progress), rows(1), 1).item() == in_thirds
        assert draw(at(custom, progress), rows(1), 1).item() == in_custom
    assert draw(equal, rows(1), 1).item() == 2
    assert draw(at(Curriculum(parts[:1]).build(world(6)), 0.99), rows(1), 1).item() == 2


def test_progress_within_a_part_goes_from_0_to_1() -> None:
    """The second half of the training is a mixture that goes from 2 to 3: at 0.75, its middle, both are equally likely."""
    mix = Mix((Fixed((2,)), Fixed((3,))), (1, 0), (0, 1))
    then = at(Curriculum((Fixed((4,)), mix)).build(world(6)), 0.75)
    assert chisquare(counts_of(then)[:2]).pvalue > 1e-3


def test_the_default_curriculum_gets_harder() -> None:
    context = sampler_context(items=200)
    batch, drawing = next(batches_of(context, 64)), Curriculum().build(context)
    for progress, depth_at_least in ((0.0, 0), (0.4, 1), (0.7, 2)):
        drawn = draw(at(drawing, progress), batch, 2)
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
    with pytest.raises(NumericsError, match=r"BestOf.reward returned NaN"):
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


def test_fields_of_parts_are_combined() -> None:
    context = sampler_context()
    both = Mix((Uniform(), AlreadySeen()), (1, 1)).build(context)
    assert (both.by_example, both.offers_history, both.offers_disliked, both.refresh) == (True, True, False, None)
    disliked = BestOf(Mix((Uniform(), DislikedItems()), (1, 1)), ItemNumber()).build(context)
    assert (disliked.offers_history, disliked.offers_disliked) == (False, True)
    for sampler in (Mix((Uniform(), InBatch()), (1, 1)), Curriculum((Uniform(), InBatch())), BestOf(InBatch(), ItemNumber())):
        drawing = sampler.build(context)
        assert (drawing.by_example, drawing.offers_history) == (False, False)
    refreshed = Fixed((2,), Refresh(5, "epochs"))
    for sampler in (Mix((Uniform(), refreshed), (1, 1)), Curriculum((refreshed, Uniform())), BestOf(refreshed, ItemNumber())):
        drawing = sampler.build(context)
        assert (drawing.refresh, drawing.by_example) == (Refresh(5, "epochs"), True)
    hardest = BestOf(Uniform(), PolicyScore(), refresh_every=7).build(context)
    assert (hardest.refresh, hardest.by_example, hardest.at) == (Refresh(7), False, None)
    assert BestOf(Uniform(), PolicyScore()).build(context).refresh == Refresh(0)  # it reads the reference
    seen = BestOf(Curriculum((AlreadySeen(), InBatch())), ItemNumber()).build(context)
    assert (seen.offers_history, seen.by_example) == (True, False)
    assert (at(seen, 0.1).offers_history, at(seen, 0.9).offers_history) == (True, False)  # each part by itself
    with pytest.raises(UsageError, match=r"Mix: its samplers share one copy of the policy.*refreshed every 5 epochs and never"):
        Mix((refreshed, Fixed((3,), Refresh(0))), (1, 1)).build(context)
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
    if drawing.refresh is None:
        drawn = draw(drawing, on_gpu, 3)
        assert drawn.is_cuda
        assert torch.equal(drawn.cpu(), draw(drawing, batch, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mix((), ()), r"Mix.samplers must be a tuple of samplers, got \(\)"),
        (lambda: Mix((Uniform, Uniform()), (1, 1)), r"Mix.samplers\[0\] must be a sampler, such as Uniform\(\), got the class "),
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
        (lambda: Filtered(None, (Even(),)), r"Filtered.sampler must be a sampler"),
        (lambda: Filtered(Uniform(), ()), r"Filtered.filters must be a tuple of filters, such as \(NearDuplicates\(\),\), got \(\)"),
        (lambda: Filtered(Uniform(), Even()), r"Filtered.filters must be a tuple of filters"),
    ],
)
def test_fields_are_checked(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@dataclass(frozen=True)
class KnownItemNumber:
    """The item id, known to read no policy before it is built, unless `needs` is wrong."""

    needs: bool = False

    def needs_policy(self) -> bool:
        return self.needs

    def rate(self, context: SamplerContext) -> Rating:
        return ItemNumber().rate(context)


def test_a_refresh_needs_a_reward_that_reads_the_policy() -> None:
    """What a `PolicyReward` knows is checked when the sampler is made; another reward's rating is read before SFT and in `build`."""
    message = r"BestOf.refresh_every needs a reward that reads the policy.*got (Known)?ItemNumber\(.*\); use refresh_every = 0"
    with pytest.raises(UsageError, match=message):
        BestOf(Uniform(), KnownItemNumber(), refresh_every=5)
    later = BestOf(Uniform(), ItemNumber(), refresh_every=5)
    for late in (later.check_context, later.build):
        with pytest.raises(UsageError, match=message):
            late(world(6))
    for valid in (BestOf(Uniform(), PolicyScore(), refresh_every=5), BestOf(Uniform(), LogProbability(), refresh_every=5)):
        valid.check_context(sampler_context())
        assert valid.policy_refresh() == Refresh(5)
    assert BestOf(Uniform(), LogProbability()).policy_refresh() == Refresh(0)
    assert BestOf(Uniform(), PolicyScore()).policy_refresh() is None  # not known yet
    with pytest.raises(UsageError, match=r"Mix: its samplers share one copy of the policy.*never and every 5 steps"):
        Mix((BestOf(Uniform(), LogProbability()), BestOf(Uniform(), PolicyScore(), refresh_every=5)), (1, 1))


def test_what_a_reward_knows_must_agree_with_its_rating() -> None:
    check_reward(KnownItemNumber())
    check_reward(LogProbability())
    with pytest.raises(ContractError, match=r"^KnownItemNumber: needs_policy\(\) is True"):
        check_reward(KnownItemNumber(needs=True))
    wrong = BestOf(Uniform(), KnownItemNumber(needs=True), refresh_every=3)
    with pytest.raises(UsageError, match="needs a reward that reads the policy"):
        check_sampler(wrong)


@dataclass(frozen=True)
class Former:
    """A sampler that returns a callable with an attribute, as in former versions."""

    def build(self, context: SamplerContext) -> Draw:
        drawing = Uniform().build(context)

        def draw(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
            return drawing.draw(batch, num_negatives, generator)

        draw.refresh_every = 3  # type: ignore[attr-defined]
        return draw  # type: ignore[return-value]


@pytest.mark.parametrize(
    "outer",
    [Mix((Uniform(), Former()), (1, 1)), Curriculum((Former(),)), BestOf(Former(), ItemNumber()), Filtered(Former(), (Even(),))],
)
def test_a_sampler_inside_must_return_a_draw(outer: NegativeSampler) -> None:
    with pytest.raises(
        InputError,
        match=r"^Former \(.*test_mixtures.py:\d+\): build\(context\) must return a genrec.types.Draw, got <function .*; return "
        r"Draw\(draw=...\); the attribute 'refresh_every' of a Draw is no longer read; it is now a field: .*refresh=Refresh\(every",
    ):
        outer.build(sampler_context())


def test_the_samplers_inside_are_named() -> None:
    """Innermost limits and refreshes count: a list of 4 beams inside limits a filtered curriculum."""
    beams = ModelBeams(num_beams=4, refresh_every=2)
    outer = Filtered(Curriculum((Uniform(), BestOf(beams, ItemNumber()))), (Even(),))
    assert inner_samplers(outer) == (outer.sampler,)
    assert inner_samplers(Mix((Uniform(), beams), (1, 1))) == (Uniform(), beams)
    assert inner_samplers(Uniform()) == ()
    assert policy_refreshes(outer) == {Refresh(2)}
    assert most_negatives(outer, None) == 4


def test_the_rewards_of_this_file_implement_their_protocols() -> None:
    assert isinstance(ItemNumber(), Reward)
    assert isinstance(PolicyScore(), Reward)
    assert not isinstance(PolicyScore(), PolicyReward)
    assert isinstance(LogProbability(), PolicyReward)
