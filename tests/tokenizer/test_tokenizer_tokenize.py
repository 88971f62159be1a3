"""From vectors to Semantic IDs: collisions, health by hand, the collapse guard, plug-ins, published codes."""

from __future__ import annotations

import gzip
import json
import math
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import InputError, NumericsError, UsageError
from genrec.semantic_ids import SemanticIds
from genrec.tokenizer import RQVAE, RQKMeans, Tokenize, tokenize
from genrec.tokenizer.collisions import prefix_groups, separate_collisions
from genrec.tokenizer.health import health


@dataclass(frozen=True)
class Given:
    """A quantizer that somebody else wrote: the codes are given, and every reconstruction is the mean of the vectors."""

    codes: tuple[tuple[float, ...], ...]
    sizes: tuple[int, ...]

    def level_sizes(self) -> tuple[int, ...]:
        return self.sizes

    def fit(self, vectors: np.ndarray, generator: torch.Generator) -> FittedGiven:
        return FittedGiven(np.array(self.codes), vectors.mean(0))

    def restore(self, state: dict[str, np.ndarray]) -> FittedGiven:
        return FittedGiven(state["codes"], state["mean"])


@dataclass
class FittedGiven:
    codes: np.ndarray
    mean: np.ndarray

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        return self.codes

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        return np.tile(self.mean, (len(codes), 1))

    def state(self) -> dict[str, np.ndarray]:
        return {"codes": self.codes, "mean": self.mean}


FOUR = np.array([[0, 0], [2, 0], [0, 2], [2, 2]], dtype=np.float32)


def normal(items: int = 500, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((items, width)).astype(np.float32)


def test_separate_collisions_by_hand() -> None:
    codes = torch.tensor([[1, 1], [0, 2], [1, 1], [0, 1], [1, 1], [0, 2]])
    expected = [[1, 1, 0], [0, 2, 0], [1, 1, 1], [0, 1, 0], [1, 1, 2], [0, 2, 1]]
    assert separate_collisions(codes).tolist() == expected


@settings(deadline=None)
@given(st.integers(1, 4).flatmap(lambda levels: st.lists(st.tuples(*[st.integers(0, 2)] * levels), min_size=1, max_size=40)))
def test_separate_collisions_against_a_loop(rows: list[tuple[int, ...]]) -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    expected = []
    for row in rows:
        expected.append([*row, seen[row]])
        seen[row] += 1
    separated = separate_collisions(torch.tensor(rows))
    assert separated.tolist() == expected
    assert SemanticIds(separated).collided == 0
    groups = list(prefix_groups(torch.tensor(rows)))
    for length, (group, sizes) in enumerate(groups, start=1):
        counts = Counter(row[:length] for row in rows)
        assert [sizes[each] for each in group.tolist()] == [counts[row[:length]] for row in rows]


def test_a_million_items_are_separated_in_seconds() -> None:
    codes = torch.randint(0, 60, (1_000_000, 3), generator=torch.Generator().manual_seed(0))
    assert SemanticIds(separate_collisions(codes)).collided == 0


def test_health_by_hand() -> None:
    """Level 1: codes 0, 0, 1, 1 of 4, two used equally, perplexity 2. Level 2: 0, 0, 0, 1 of 2: p = 3/4, 1/4.

    Reconstructed (1, 0), (1, 0), (1, 2), (1, 2): each item is 1 off, 4 in all; around the mean (1, 1) the spread is 8.
    """
    ids = SemanticIds(torch.tensor([[0, 0], [0, 0], [1, 0], [1, 1]]), (4, 2))
    figures = health(ids, FOUR, np.array([[1, 0], [1, 0], [1, 2], [1, 2]]), quantised_levels=2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert figures["levels"] == [
        {"level": 1, "size": 4, "used": 2, "dead_share": 0.5, "perplexity": pytest.approx(2)},
        {"level": 2, "size": 2, "used": 2, "dead_share": 0.0, "perplexity": pytest.approx(math.exp(entropy))},
    ]
    assert figures["prefixes"] == [
        {"length": 1, "distinct": 2, "collided_items": 4, "largest_group": 2},
        {"length": 2, "distinct": 3, "collided_items": 2, "largest_group": 2},
    ]
    assert (figures["collided_before_separation"], figures["largest_group_before_separation"], figures["collided"]) == (2, 2, 2)
    assert figures["reconstruction"] == 0.5
    assert json.loads(json.dumps(figures)) == figures


@pytest.mark.parametrize("codes", [1, 7, 256])
def test_perplexity_of_uniform_usage_is_the_number_of_codes(codes: int) -> None:
    ids = SemanticIds(torch.arange(codes).repeat(3)[:, None])
    vectors = normal(3 * codes)
    level = health(ids, vectors, vectors, quantised_levels=1)["levels"][0]
    assert level["perplexity"] == pytest.approx(codes)
    assert level["dead_share"] == 0


def test_reconstruction_is_not_defined_where_all_vectors_are_equal() -> None:
    ids = SemanticIds(torch.zeros(4, 1, dtype=torch.int64))
    vectors = np.ones((4, 2), dtype=np.float32)
    assert health(ids, vectors, vectors, quantised_levels=1)["reconstruction"] is None


def test_tokenize_separates_what_the_quantizer_cannot() -> None:
    """Two codes and twelve different items: groups of six at least, told apart by a last level as large as the largest."""
    vectors = normal(12)
    ids, quantizer, figures = tokenize(vectors, Tokenize(RQKMeans(levels=1, codes=2)))
    assert ids.levels == 2
    assert ids.collided == 0
    assert ids.level_sizes == (2, figures["largest_group_before_separation"])
    np.testing.assert_array_equal(quantizer.encode(vectors), ids.codes[:, :1].numpy())
    assert figures["collided_before_separation"] == 12
    assert figures["collided"] == 0
    assert figures["quantised_levels"] == 1


def test_equal_vectors_collide_and_are_separated_in_item_order() -> None:
    vectors = normal(300)
    vectors[[20, 150, 299]] = vectors[7]
    ids = tokenize(vectors, Tokenize(RQKMeans(levels=3, codes=32))).semantic_ids
    assert (ids.codes[[7, 20, 150, 299], :3] == ids.codes[7, :3]).all()
    last = ids.codes[[7, 20, 150, 299], 3].tolist()
    assert last == sorted(last)
    assert ids.collided == 0


def test_without_separation_collisions_are_said() -> None:
    with pytest.warns(UserWarning, match="12 of 12 items share their Semantic ID"):
        ids = tokenize(normal(12), Tokenize(RQKMeans(levels=1, codes=2), separate=False)).semantic_ids
    assert (ids.levels, ids.level_sizes) == (1, (2,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenize(normal(12), Tokenize(RQKMeans(levels=1, codes=12), separate=False)).semantic_ids.collided == 0


def test_level_sizes_are_the_quantizers_even_where_the_largest_code_is_unused() -> None:
    ids = tokenize(FOUR, Tokenize(Given(((0, 0), (1, 0), (2, 0), (3, 0)), (5, 9)))).semantic_ids
    assert ids.level_sizes == (5, 9, 1)


def test_the_seed_decides() -> None:
    specifications = [Tokenize(RQKMeans(codes=16), seed=seed) for seed in (3, 3, 4)]
    first, same, other = (tokenize(normal(), each).semantic_ids.fingerprint for each in specifications)
    assert first == same != other


def test_rqvae_in_the_same_place() -> None:
    quantizer = RQVAE(levels=2, codes=8, hidden=(16,), latent=4, epochs=3, batch=64)
    ids, fitted, figures = tokenize(normal(), Tokenize(quantizer))
    assert ids.collided == 0
    assert len(figures["levels"]) == 3
    np.testing.assert_array_equal(quantizer.restore(fitted.state()).encode(normal()), ids.codes[:, :2].numpy())


def test_collapse_is_refused_unless_allowed() -> None:
    collapsed = Given(((0,), (0,), (1,), (0,)), (8,))
    with pytest.raises(NumericsError, match=r"level 1 uses 2 of 4 codes \(50\.0%\), less than the 60\.0%.*minimum_usage") as error:
        tokenize(FOUR, Tokenize(collapsed, minimum_usage=0.6))
    assert error.value.exit_code == 6
    assert tokenize(FOUR, Tokenize(collapsed, minimum_usage=0.5)).health["levels"][0]["used"] == 2
    assert tokenize(FOUR, Tokenize(collapsed, minimum_usage=0)).semantic_ids.collided == 0


def test_equal_vectors_alone_are_a_collapse() -> None:
    with pytest.raises(NumericsError, match=r"level 1 uses 1 of 16 codes \(6\.2%\)"):
        tokenize(np.ones((50, 4), dtype=np.float32), Tokenize(RQKMeans(codes=16)))


def test_fewer_items_than_codes_are_no_collapse_where_shrinking_was_asked_for() -> None:
    ids = tokenize(normal(10), Tokenize(RQKMeans(codes=256, shrink=True))).semantic_ids
    assert ids.level_sizes == (256, 256, 256, 1)


@pytest.mark.parametrize("codes", [((0,), (1,), (2,)), ((0, 0), (1, 0), (2, 0), (3, 0)), ((0.0,), (1.0,), (2.0,), (3.0,))])
def test_refuses_a_quantizer_that_breaks_its_contract(codes: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(InputError, match=r"Given must encode 4 vectors to codes int64 \[4, 1\], got"):
        tokenize(FOUR, Tokenize(Given(codes, (4,))))


def test_refuses_codes_outside_their_level() -> None:
    with pytest.raises(InputError, match=r"level 1 must lie in 0\.\.2, got 0\.\.3"):
        tokenize(FOUR, Tokenize(Given(((0,), (1,), (2,), (3,)), (3,))))


@pytest.mark.parametrize(
    ("name", "value"),
    [("quantizer", "rqvae"), ("minimum_usage", -0.1), ("minimum_usage", math.nan), ("minimum_usage", 2), ("seed", -1)],
)
def test_refuses_fields_out_of_range(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"Tokenize\.{name} must .*, got"):
        Tokenize(**{name: value})  # type: ignore[arg-type]


@pytest.mark.realdata
def test_published_semantic_ids_of_office(real_data: Path) -> None:
    with gzip.open(real_data / "published-sids" / "Office_Products.index.json.gz", "rt") as file:
        index = json.load(file)
    codes = torch.tensor([[int(token[3:-1]) for token in index[str(item)]] for item in range(len(index))])
    ids = SemanticIds(codes, (256, 256, 256))
    assert (ids.items, ids.levels, ids.distinct) == (3459, 3, 3444)
    shared = Counter(map(tuple, codes.tolist()))
    assert ids.collided == sum(size for size in shared.values() if size > 1) > 3459 - 3444
    separated = SemanticIds(separate_collisions(codes))
    assert (separated.collided, separated.distinct) == (0, 3459)
    assert separated.level_sizes[3] == max(shared.values())
    assert torch.equal(separated.lookup(separated.codes), torch.arange(1, 3460))
