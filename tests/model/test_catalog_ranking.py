"""The best items of a catalog that is scored in blocks are those of the whole catalog, whatever the blocks."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.item_rows import best_items
from genrec.model.catalog_ranking import best_of_blocks
from genrec.types import Ranking


def in_blocks(scores: Tensor, size: int, n: int, exclude: Tensor | None) -> Ranking:
    return best_of_blocks(((first, scores[:, first : first + size]) for first in range(0, scores.shape[1], size)), n, exclude)


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 12), st.integers(1, 9), st.integers(0, 6))
def test_blocks_of_any_size_give_the_list_of_the_whole_catalog(seed: int, items: int, size: int, n: int, excluded: int) -> None:
    """Scores take few values, so that many are equal; a list may be longer than a block or the catalog."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 3, (4, items), generator=generator).float()
    exclude = torch.randint(0, items + 1, (4, excluded), generator=generator)
    found, expected = in_blocks(scores, size, n, exclude), best_items(scores, n, exclude)
    assert torch.equal(found.items, expected.items)
    assert torch.equal(found.scores, expected.scores)


def test_a_list_by_hand() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0, 0.0]])
    assert in_blocks(scores, 2, 3, None).items.tolist() == [[2, 4, 3]]
    found = in_blocks(scores, 2, 5, torch.tensor([[4, 0, 1]]))
    assert found.items.tolist() == [[2, 3, 5, 0, 0]]
    assert found.scores.tolist() == [[3.0, 2.0, 0.0, -torch.inf, -torch.inf]]


def test_a_nan_in_any_block_is_seen() -> None:
    for place in range(5):
        scores = torch.zeros(2, 5)
        scores[1, place] = torch.nan
        found = in_blocks(scores, 2, 2, None)
        assert found.scores.isnan().tolist() == [[False, False], [True, True]]
