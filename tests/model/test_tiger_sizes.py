"""The sizes of a TIGER policy that its specification leaves open."""

from __future__ import annotations

import pytest
import torch

from genrec.model import Tiger
from genrec.model.tiger_sizes import PAPER, SMALL, Sizes, sizes_for
from genrec.semantic_ids import SemanticIds


@pytest.mark.parametrize(("items", "expected"), [(1, SMALL), (2_047, SMALL), (2_048, PAPER), (12_101, PAPER)])
def test_open_sizes_follow_from_the_number_of_items(items: int, expected: Sizes) -> None:
    assert sizes_for(Tiger(), items) == expected


def test_sizes_that_are_set_are_kept() -> None:
    assert sizes_for(Tiger(d_model=32, num_decoder_layers=1), 100) == SMALL._replace(d_model=32, num_decoder_layers=1)
    assert sizes_for(Tiger(d_ff=7), 5_000) == PAPER._replace(d_ff=7)


def test_a_policy_is_built_with_these_sizes_and_keeps_them_for_a_larger_catalog() -> None:
    small = SemanticIds(torch.stack([torch.arange(2_000) // 50, torch.arange(2_000) % 50], 1), (64, 64))
    large = SemanticIds(torch.stack([torch.arange(2_100) // 50, torch.arange(2_100) % 50], 1), (64, 64))
    policy = Tiger().build(small)
    assert (policy.embedding.weight.shape[1], len(policy.encoder), len(policy.decoder)) == (64, 2, 2)
    assert Tiger().build(large).embedding.weight.shape[1] == 128
    extended = policy.extended(large)
    assert extended.embedding.weight.shape[1] == 64
    assert len(extended.encoder) == 2
