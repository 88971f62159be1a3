"""DislikedItems: the user's dislikes as negatives, wherever they stand in training, and the contract that allows them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from pandas import DataFrame
from torch import Generator, Tensor
from worlds import cyclic

from genrec.data.splits import HoldOutLast, LeaveOneOut
from genrec.errors import InputError, UsageError
from genrec.experiment import Align, Optimization
from genrec.objectives import Preference
from genrec.preference.candidates import Sampled
from genrec.preference.draw_contract import check_draw
from genrec.preference.negatives import AlreadySeen, Curriculum, DislikedItems, Filtered, Mix, Uniform
from genrec.preference.negatives.capabilities import build_draw
from genrec.semantic_ids import SemanticIds
from genrec.testing import Shop, check_sampler
from genrec.types import Draw, SamplerContext, SequenceBatch

# user 1: likes 1, dislikes 2 (before the history), 3 and 6 (after the target); 4 is disliked first and liked later, 5 the reverse
# user 2: no dislikes; user 3: dislikes 7, which has the Semantic ID of 8, which the user likes
EVENTS = [
    (1, 1, 0, 1), (1, 2, 1, -1), (1, 4, 2, -1), (1, 5, 3, 1), (1, 4, 4, 1), (1, 9, 5, 0), (1, 3, 6, -1), (1, 6, 7, -1), (1, 5, 8, -1),
    (2, 1, 0, 1), (2, 2, 1, 0), (3, 7, 0, -1), (3, 8, 1, 1), (3, 9, 2, -1),
]  # fmt: skip


def context(events: list[tuple[int, int, int, int]] = EVENTS, label: bool = True) -> SamplerContext:
    table = DataFrame(events, columns=["user", "item", "time", "label"]).astype({"label": "int8"})
    codes = torch.tensor([[item, 0] for item in range(10)])
    codes[7] = codes[6]  # items 7 and 8
    popularity = torch.bincount(torch.tensor(table["item"].to_numpy()), minlength=11)
    return SamplerContext(
        10, table if label else table.drop(columns="label"), popularity, torch.zeros(11, 4), SemanticIds(codes, (10, 1))
    )


def batch(user: int, history: list[int], target: int, size: int = 1) -> SequenceBatch:
    return SequenceBatch(torch.full((size,), user), torch.tensor([history] * size), torch.full((size,), target))


def draw(rows: SequenceBatch, count: int, seed: int = 0, data: SamplerContext | None = None) -> Tensor:
    built = DislikedItems().build(context() if data is None else data)
    assert (built.by_example, built.offers_disliked, built.offers_history) == (True, True, False)
    return built.draw(rows, count, torch.Generator().manual_seed(seed))


def test_dislikes_are_drawn_wherever_they_stand() -> None:
    """User 1 dislikes 2, 3, 5 and 6: 5 by the last event, 4 no more. The target is never drawn."""
    assert sorted(draw(batch(1, [4, 5], 9), 5)[0].tolist()) == [0, 2, 3, 5, 6]
    assert sorted(draw(batch(1, [4, 9], 3), 4)[0].tolist()) == [0, 2, 5, 6]
    assert draw(batch(2, [1], 2), 3).tolist() == [[0, 0, 0]]
    assert draw(batch(3, [7], 1), 3).tolist() == [[9, 0, 0]]  # 7 cannot be told from 8, which the user likes
    assert draw(batch(4, [1], 2), 2).tolist() == [[0, 0]]  # a user without training events


def test_the_draw_is_uniform_without_replacement() -> None:
    """Of 4,000 draws of two, each ordered pair of 2, 3, 5 and 6 has 1/12: 333, with a standard deviation of 17.5."""
    built = DislikedItems().build(context())
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(4000):
        counts[tuple(built.draw(batch(1, [4], 9), 2, torch.Generator().manual_seed(seed))[0].tolist())] += 1
    assert len(counts) == 12
    assert all(250 < count < 420 for count in counts.values())


def test_the_contract_allows_dislikes_only_on_request() -> None:
    rows = batch(1, [2, 4], 9)
    for item, message in ((2, "is in the history"), (6, "is a training item of the user, before or after the target")):
        negatives = torch.tensor([[item]])
        check_draw(rows, negatives, 1, context(), offers_disliked=True)
        with pytest.raises(InputError, match=message):
            check_draw(rows, negatives, 1, context())
    for item in (1, 4):  # liked, and liked in the last event
        with pytest.raises(InputError, match=r"is (a training item that the user does not dislike|in the history)"):
            check_draw(rows, torch.tensor([[item]]), 1, context(), offers_disliked=True)
    with pytest.raises(InputError, match="is the target itself"):
        check_draw(batch(1, [4], 2), torch.tensor([[2]]), 1, context(), offers_disliked=True)
    with pytest.raises(InputError, match="has the Semantic ID of a training item that the user takes outside the history"):
        check_draw(rows, torch.tensor([[1]]), 1, context(), offers_history=True, offers_disliked=True)
    check_draw(rows, torch.tensor([[6, 4]]), 2, context([*EVENTS[:4], *EVENTS[7:]]), offers_history=True, offers_disliked=True)
    with pytest.raises(InputError, match="is a training item"):  # without labels nothing is disliked
        check_draw(batch(1, [4], 9), torch.tensor([[6]]), 1, context(label=False), offers_disliked=True)


@pytest.mark.parametrize(
    "sampler",
    [
        DislikedItems(),
        Mix((DislikedItems(), Uniform()), (1.0, 1.0)),
        Mix((DislikedItems(), AlreadySeen()), (1.0, 2.0)),
        Curriculum((Uniform(), DislikedItems())),
    ],
    ids=["alone", "with uniform", "with seen", "curriculum"],
)
def test_the_sampler_and_its_compositions_keep_the_contract(sampler: Any) -> None:
    check_sampler(sampler)
    assert build_draw(sampler, context()).offers_disliked


def test_filters_apply() -> None:
    class NoTwos:
        def refuse(self, data: SamplerContext) -> Any:
            return lambda rows, candidates: candidates == 2

    built = Filtered(DislikedItems(), (NoTwos(),)).build(context())
    assert built.offers_disliked
    assert sorted(built.draw(batch(1, [4], 9), 4, torch.Generator().manual_seed(0))[0].tolist()) == [0, 3, 5, 6]


def test_offers_disliked_must_be_a_bool() -> None:
    class Wrong:
        def build(self, data: SamplerContext) -> Draw:
            return Draw(draw=nothing, offers_disliked=1)  # type: ignore[arg-type]

    def nothing(rows: SequenceBatch, count: int, generator: Generator) -> Tensor:
        return torch.zeros(len(rows.user), count, dtype=torch.int64)

    with pytest.raises(InputError, match=r"Draw.offers_disliked must be True or False, got 1"):
        build_draw(Wrong(), context())


def test_data_without_dislikes_are_refused() -> None:
    with pytest.raises(InputError, match="DislikedItems needs interactions with a label, got the columns user, item, time; set split"):
        DislikedItems().check_context(context(label=False))
    liked = [(user, item, time, 1) for user, item, time, _ in EVENTS]
    with pytest.raises(InputError, match="no user dislikes a training item"):
        DislikedItems().build(context(liked))


@pytest.mark.parametrize("split", [LeaveOneOut(), LeaveOneOut(liked=4), HoldOutLast(n=4)])
def test_a_split_without_dislikes_is_refused_before_any_stage(split: Any) -> None:
    recipe = Align(
        Preference(candidates=Sampled(DislikedItems(), 2)), optimization=Optimization(max_steps=5, batch_size=4, learning_rate=1e-3)
    )
    experiment = replace(cyclic(), source=Shop(num_items=60, num_users=80))
    with pytest.raises(UsageError, match=r"DislikedItems needs events that are labeled as disliked, and \w+ has no bound"):
        replace(experiment, split=split, align=recipe)
    assert replace(experiment, split=LeaveOneOut(liked=4, disliked=2), align=recipe).stages[-2] == "align"
