"""The runtime check of draws names the user, the target, the negative and the broken rule."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.own_ids import OwnIds
from genrec.preference.draw_contract import DrawContract, check_draw
from genrec.semantic_ids import SemanticIds
from genrec.types import SamplerContext, SequenceBatch

# Items 1..8; 1 and 5 share a Semantic ID. User 70 takes 2, 1, 3 and user 71 takes 4, 6.
CONTEXT = SamplerContext(
    item_count=8,
    interactions=pd.DataFrame({"user": [70, 70, 70, 71, 71], "item": [2, 1, 3, 4, 6], "time": [0, 1, 2, 0, 1]}),
    popularity=torch.ones(9, dtype=torch.int64),
    vectors=torch.eye(9),
    semantic_ids=SemanticIds(torch.tensor([[0], [1], [2], [3], [0], [4], [5], [6]])),
)
BATCH = SequenceBatch(torch.tensor([71, 70]), torch.tensor([[4], [2]]), torch.tensor([6, 1]))


@pytest.mark.parametrize(
    ("second", "rule"),
    [
        ([7, 9], r"negative 9 \(place 2 of 2\) is not in the catalog; draw items 1\.\.8"),
        ([-1, 7], r"negative -1 \(place 1 of 2\) is not in the catalog"),
        ([0, 7], r"negative 7 \(place 2 of 2\) comes after a 0"),
        ([7, 7], r"negative 7 \(place 2 of 2\) is repeated"),
        ([7, 1], r"negative 1 \(place 2 of 2\) is the target itself"),
        ([1, 1], r"negative 1 \(place 1 of 2\) is the target itself"),  # named before the repetition
        ([5, 7], r"negative 5 \(place 1 of 2\) has the target's Semantic ID"),
        ([7, 2], r"negative 2 \(place 2 of 2\) is in the history"),
        ([3, 7], r"negative 3 \(place 1 of 2\) is a training item of the user, before or after the target"),
    ],
)
def test_each_rule(second: list[int], rule: str) -> None:
    with pytest.raises(InputError, match=rf"^user 70, target 1: {rule}"):
        check_draw(BATCH, torch.tensor([[1, 2], second]), 2, CONTEXT)


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        (torch.tensor([[1, 2]]), r"negatives of user 71 to user 70 must have shape \[2, 2\], got \[1, 2\]"),
        (torch.tensor([[1], [7]]), r"must have shape \[2, 2\], got \[2, 1\]"),
        (torch.tensor([[1.0, 2.0], [7.0, 8.0]]), r"must be int64, got torch.float32"),
        (torch.zeros(2, 2, dtype=torch.int64, device="meta"), r"must be on the batch's device cpu, got meta"),
        ([[1, 2], [7, 8]], r"must be a tensor int64 \[2, 2\], got list"),
    ],
)
def test_shape_dtype_and_device(negatives: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_draw(BATCH, negatives, 2, CONTEXT)


def test_users_and_items_are_named_by_their_own_ids_and_the_sampler_by_its_line() -> None:
    """Number 9 is no item, so that it has no id."""
    ids = OwnIds(lambda user: f"A{user}", lambda item: f"B0{item}")
    contract = DrawContract(CONTEXT._replace(own_ids=ids), sampler="Rare (mine.py:12)")
    expected = (
        r"^Rare \(mine\.py:12\): user 'A70' \(number 70\), target 'B01' \(number 1\): negative 'B02' \(number 2\) \(place 2 of 2\)"
    )
    with pytest.raises(InputError, match=expected):
        contract.check(BATCH, torch.tensor([[1, 2], [7, 2]]), 2)
    with pytest.raises(InputError, match=r"negative 9 \(place 2 of 2\) is not in the catalog"):
        contract.check(BATCH, torch.tensor([[1, 2], [7, 9]]), 2)
    with pytest.raises(
        InputError, match=r"^Rare \(.*\): negatives of user 'A71' \(number 71\) to user 'A70' \(number 70\) must have shape"
    ):
        contract.check(BATCH, torch.tensor([[1, 2]]), 2)


def test_valid_negatives_pass() -> None:
    contract = DrawContract(CONTEXT)
    contract.check(BATCH, torch.tensor([[1, 2], [7, 8]]), 2)
    contract.check(BATCH, torch.tensor([[3, 0], [0, 0]]), 2)
    contract.check(SequenceBatch(*(tensor[:0] for tensor in BATCH)), torch.zeros(0, 3, dtype=torch.int64), 3)
