"""Item2Vec: pairs and loss by hand, data with known neighbors, determinism, errors."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from genrec.embeddings import Collaborative, Item2Vec
from genrec.embeddings.item2vec import _context, _draw, _events, _loss
from genrec.errors import InputError, UsageError
from genrec.types import ItemEncoder

QUICK = Item2Vec(dim=8, window=2, epochs=5)


def items(count: int) -> pd.DataFrame:
    return pd.DataFrame({"item_id": [str(place) for place in range(count)], "text": ""})


def histories(*rows: list[int]) -> pd.DataFrame:
    pairs = [(user, item, place) for user, row in enumerate(rows) for place, item in enumerate(row)]
    return pd.DataFrame(pairs, columns=["user", "item", "time"])


def clusters(seed: int = 0, size: int = 10) -> pd.DataFrame:
    """Return histories of users who each stay in one of three groups of items."""
    source = np.random.default_rng(seed)
    return histories(*[list(source.choice(size, 6, replace=False) + 1 + size * (user % 3)) for user in range(150)])


def within_and_across(vectors: np.ndarray, size: int = 10) -> tuple[float, float]:
    cosines = vectors @ vectors.T
    same = np.equal.outer(np.arange(3 * size) // size, np.arange(3 * size) // size)
    return float(cosines[same & ~np.eye(3 * size, dtype=bool)].min()), float(cosines[~same].max())


def test_pairs_by_hand() -> None:
    """Users (5, 6, 5) and (7, 5), window 2: the first event has the context 6 (a repeat of 5 is no pair), the last one has 7."""
    events = _events(histories([5, 6, 5], [7, 5]), 7)
    item, pair = _context(events, torch.tensor([0, 1, 2, 3, 4]), 2)
    found = [sorted((row[mask] + 1).tolist()) for row, mask in zip(item, pair, strict=True)]
    assert found == [[6], [5, 5], [6], [5], [7]]


def test_loss_by_hand() -> None:
    """One event of item 1 next to item 2, negatives 3 and 2: 2 is the context, so that only 3 counts."""
    inner, outer = torch.tensor([[1.0, 2.0], [0, 0], [0, 0]]), torch.tensor([[0.0, 0.0], [0.5, 1.0], [-1.0, 1.0]])
    events = _events(histories([1, 2]), 3)
    loss = _loss(inner, outer, events, torch.tensor([0]), torch.tensor([[2, 1]]), window=1)
    by_hand = -math.log(1 / (1 + math.exp(-2.5))) - math.log(1 / (1 + math.exp(1.0)))
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_negatives_are_weighted_by_the_number_of_pairs() -> None:
    """Two contexts, all vectors zero: 2 ln 2 for the pairs, 2 ln 2 for the one negative."""
    zeros = torch.zeros(4, 2)
    loss = _loss(zeros, zeros, _events(histories([2, 1, 3]), 4), torch.tensor([1]), torch.tensor([[3]]), window=1)
    assert loss.item() == pytest.approx(4 * math.log(2), rel=1e-6)


def test_draws_follow_the_weights() -> None:
    cumulative = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0], dtype=torch.float64).cumsum(0)
    counts = torch.bincount(_draw(cumulative, (100, 100), torch.Generator().manual_seed(0)).flatten(), minlength=5)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    assert 0.23 < counts[1] / 10_000 < 0.27


def test_learns_which_items_belong_together() -> None:
    vectors = Item2Vec(dim=16).encode(items(30), clusters())
    assert isinstance(Item2Vec(), ItemEncoder)
    assert vectors.shape == (30, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    nearest, furthest = within_and_across(vectors)
    assert nearest > furthest + 0.2


def test_no_warning_for_good_data(recwarn: pytest.WarningsRecorder) -> None:
    QUICK.encode(items(30), clusters())
    assert not list(recwarn)


def test_order_counts_within_the_window_only() -> None:
    """All users go through items 1..20 in a circle: an item is nearer to the next one than to the opposite one."""
    table = histories(*[[(start + step) % 20 + 1 for step in range(10)] for start in range(20) for _ in range(10)])
    vectors = Item2Vec(dim=16, window=2).encode(items(20), table)
    cosines = vectors @ vectors.T
    adjacent, opposite = (np.mean([cosines[item, (item + step) % 20] for item in range(20)]) for step in (1, 10))
    assert adjacent > opposite + 0.3


def test_the_seed_is_all_the_randomness() -> None:
    before, first = torch.get_rng_state(), QUICK.encode(items(30), clusters())
    torch.manual_seed(7)
    np.testing.assert_array_equal(QUICK.encode(items(30), clusters()), first)
    torch.set_rng_state(before)
    QUICK.encode(items(30), clusters())
    assert torch.equal(torch.get_rng_state(), before)
    assert not np.array_equal(Item2Vec(dim=8, window=2, epochs=5, seed=1).encode(items(30), clusters()), first)


def test_same_bits_in_another_process() -> None:
    code = (
        "import sys, pandas as pd; from genrec.embeddings import Item2Vec;"
        "t = pd.DataFrame({'user': [0, 0, 1, 1, 1], 'item': [1, 2, 3, 1, 2]});"
        "v = Item2Vec(dim=4, epochs=3).encode(pd.DataFrame(index=range(3)), t); sys.stdout.write(v.tobytes().hex())"
    )
    table = pd.DataFrame({"user": [0, 0, 1, 1, 1], "item": [1, 2, 3, 1, 2]})
    here = Item2Vec(dim=4, epochs=3).encode(pd.DataFrame(index=range(3)), table)
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert there == here.tobytes().hex()
    assert len(there) == 3 * 4 * 4 * 2


def test_items_without_a_pair_get_the_mean() -> None:
    """Item 31 has no event, item 32 only one of a user with one event."""
    table = pd.concat([clusters(), histories([32]).assign(user=999)], ignore_index=True)
    with pytest.warns(UserWarning, match="2 of 32 items are without a pair of training interactions"):
        vectors = QUICK.encode(items(32), table)
    mean = vectors[:30].mean(0)
    np.testing.assert_allclose(vectors[30:], np.tile(mean / np.linalg.norm(mean), (2, 1)), atol=1e-5)


def test_user_ids_may_be_text() -> None:
    table = clusters()
    named = table.assign(user="u" + table["user"].astype(str))
    np.testing.assert_array_equal(QUICK.encode(items(30), named), QUICK.encode(items(30), table))


def test_data_without_pairs_are_an_error() -> None:
    with pytest.raises(InputError, match="got none"):
        QUICK.encode(items(3), histories())
    with pytest.raises(InputError, match="two different items"):
        QUICK.encode(items(3), histories([1, 1], [2]))
    with pytest.raises(InputError, match=r"items 1\.\.3, got 1\.\.4"):
        QUICK.encode(items(3), histories([1, 4]))


@pytest.mark.parametrize(
    "field",
    [
        {"dim": 0},
        {"window": 0},
        {"epochs": 0},
        {"num_negatives": 0},
        {"exponent": math.nan},
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"seed": -1},
    ],
)
def test_fields_out_of_range_are_an_error(field: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=rf"Item2Vec\.{next(iter(field))} must"):
        Item2Vec(**field)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.realdata
def test_beauty_compared_with_svd(real_data: Path) -> None:
    """The next item is among the 20 nearest of the last one nearly as often as with the vectors of `Collaborative`."""
    import gzip

    with gzip.open(real_data / "amazon-2014" / "Beauty.txt.gz", "rt") as file:
        rows = [[int(word) for word in line.split()][1:] for line in file]
    count, table = max(map(max, rows)), histories(*[row[:-2] for row in rows])
    vectors = Item2Vec().encode(items(count), table)
    last, following = (np.array([row[place] for row in rows]) - 1 for place in (-3, -2))

    def hit_rate(vectors: np.ndarray) -> float:
        hits = 0
        for part in np.array_split(np.arange(len(rows)), 20):
            scores = vectors[last[part]] @ vectors.T
            scores[np.arange(len(part)), last[part]] = -9
            hits += (np.argpartition(-scores, 20, axis=1)[:, :20] == following[part, None]).any(1).sum()
        return hits / len(rows)

    assert hit_rate(vectors) > 0.8 * hit_rate(Collaborative().encode(items(count), table)) > 0.05
