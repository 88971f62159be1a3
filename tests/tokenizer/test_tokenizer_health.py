"""Diagnostics of Semantic IDs: each figure by hand, against loops and on published codes; equal vectors; collapse."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.errors import InputError
from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.health import collapse, equal_rows, health
from genrec.tokenizer.purity import Labels, category_purity, co_occurrence, dominant, labels_of

FOUR = np.array([[0, 0], [2, 0], [0, 2], [2, 2]], dtype=np.float32)


def normal(items: int, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((items, width)).astype(np.float32)


def figures_of(codes: list[list[int]], sizes: tuple[int, ...], vectors: np.ndarray, **more: Any) -> dict[str, Any]:
    """Return the diagnostics of codes with collisions kept."""
    encoded = torch.tensor(codes)
    return health(SemanticIds(encoded, sizes), vectors, vectors, encoded, sizes, **more)


def test_health_by_hand() -> None:
    """Level 1: codes 0, 0, 1, 1 of 4, two used equally, perplexity 2. Level 2: 0, 0, 0, 1 of 2: p = 3/4, 1/4.

    The reconstructions (1, 0), (1, 0), (1, 2), (1, 2) have a squared error of 1 per item, 4 in all; the spread around the mean (1, 1)
    is 8. Level 1 could use 4 codes, one per vector; level 2 could use both codes, because every vector shares its first code.
    """
    encoded = torch.tensor([[0, 0], [0, 0], [1, 0], [1, 1]])
    separated = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0]])
    figures = health(SemanticIds(separated, (4, 2, 2)), FOUR, np.array([[1, 0], [1, 0], [1, 2], [1, 2]]), encoded, (4, 2))
    uneven = pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    levels = [
        {"level": 1, "size": 4, "used": 2, "dead": 2, "dead_share": 0.5, "perplexity": pytest.approx(2)},
        {"level": 2, "size": 2, "used": 2, "dead": 0, "dead_share": 0.0, "perplexity": uneven},
        {"level": 3, "size": 2, "used": 2, "dead": 0, "dead_share": 0.0, "perplexity": uneven},
    ]
    assert figures["levels"] == levels
    assert figures["encoded_levels"] == [levels[0] | {"could_use": 4}, levels[1] | {"could_use": 2}]
    assert figures["prefixes"] == [
        {"length": 1, "distinct": 2, "collided_items": 4, "largest_group": 2},
        {"length": 2, "distinct": 3, "collided_items": 2, "largest_group": 2},
        {"length": 3, "distinct": 4, "collided_items": 0, "largest_group": 1},
    ]
    assert (figures["items"], figures["quantized_levels"], figures["moved"], figures["collided"]) == (4, 2, 0, 0)
    assert (figures["collided_before_separation"], figures["largest_group_before_separation"]) == (2, 2)
    assert (figures["distinct_before_separation"], figures["collided_before_separation_unequal"]) == (3, 2)
    assert figures["reconstruction"] == 0.5
    assert json.loads(json.dumps(figures)) == figures


def test_items_that_got_another_code_are_counted() -> None:
    encoded = torch.tensor([[0, 0], [0, 0], [1, 0], [1, 0]])
    moved = torch.tensor([[0, 0], [0, 2], [1, 0], [1, 1]])
    figures = health(SemanticIds(moved, (2, 3)), FOUR, FOUR, encoded, (2, 3))
    assert (figures["moved"], figures["collided"], figures["collided_before_separation"]) == (2, 0, 4)
    assert [level["used"] for level in figures["levels"]] == [2, 3]
    assert [level["used"] for level in figures["encoded_levels"]] == [2, 1]


@pytest.mark.parametrize("codes", [1, 7, 256])
def test_perplexity_of_uniform_usage_is_the_number_of_codes(codes: int) -> None:
    level = figures_of([[code] for code in list(range(codes)) * 3], (codes,), normal(3 * codes))["levels"][0]
    assert level["perplexity"] == pytest.approx(codes)
    assert level["dead_share"] == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40))
def test_figures_are_in_their_bounds(rows: list[tuple[int, int]]) -> None:
    figures = figures_of([list(row) for row in rows], (4, 5), normal(len(rows)))
    for level in figures["levels"]:
        assert 1 - 1e-9 <= level["perplexity"] <= level["used"] + 1e-9
        assert level["used"] + level["dead"] == level["size"]
    shared = Counter(rows)
    assert figures["collided"] == sum(count for count in shared.values() if count > 1)
    assert figures["collided_before_separation_unequal"] == figures["collided"]  # all vectors are distinct
    assert figures["distinct_vectors"] == len(rows)


def test_reconstruction_is_undefined_for_equal_vectors() -> None:
    vectors = np.full((7, 3), 0.1, dtype=np.float32)  # the float32 mean is not exactly 0.1
    assert figures_of([[0]] * 7, (1,), vectors)["reconstruction"] is None


def test_collisions_of_equal_and_nearly_equal_vectors_are_counted_separately() -> None:
    """Items 1, 2 and 7 are equal, but 7 has other codes; 3 and 4 differ by 1e-5 of the spread; 5 and 6 differ; 8 is alone."""
    vectors = np.array([[1, 0], [1, 0], [0, 1], [1e-5, 1], [-1, 0], [0, -1], [1, 0], [2, 2]], dtype=np.float32)
    figures = figures_of([[0], [0], [1], [1], [2], [2], [3], [4]], (5,), vectors)
    assert figures["distinct_vectors"] == 6
    assert figures["equal_vectors"] == {"items": 3, "groups": 1, "largest": 3, "collided_before_separation": 2}
    assert figures["collided_before_separation"] == 6
    assert figures["collided_before_separation_unequal"] == 4
    assert figures["collided_before_separation_near_equal"] == 2


def test_an_equal_pair_that_shares_its_codes_with_another_vector_collides_with_it() -> None:
    figures = figures_of([[0], [0], [0]], (1,), np.array([[1], [1], [2]], dtype=np.float32))
    assert (figures["collided_before_separation"], figures["collided_before_separation_unequal"]) == (3, 3)
    assert figures["collided_before_separation_near_equal"] == 0


@given(st.lists(st.tuples(*[st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30, 0.1])] * 3), min_size=1, max_size=40))
def test_equal_rows_against_a_dictionary(rows: list[tuple[float, ...]]) -> None:
    numbers = equal_rows(np.array(rows, dtype=np.float32)).tolist()
    assert len(set(numbers)) == len(set(rows)) == max(numbers) + 1  # 0.0 equals -0.0 in Python too
    assert len(set(zip(numbers, rows, strict=True))) == len(set(rows))


def test_vectors_that_differ_in_signs_only_are_different() -> None:
    """All differences of the bits are multiples of 2^31, on which a plain multiplicative hash collides."""
    signs = (np.arange(1 << 16)[:, None] >> np.arange(16) & 1) * 2.0 - 1
    assert len(np.unique(equal_rows(signs.astype(np.float32)))) == 1 << 16


def test_shapes_that_do_not_match_raise() -> None:
    codes = torch.tensor([[0], [1], [2], [3]])
    with pytest.raises(InputError, match=r"4 items need a vector and a reconstructed vector each.*got \[4, 2\] and \[3, 2\]"):
        health(SemanticIds(codes), FOUR, FOUR[:3], codes, (4,))
    with pytest.raises(InputError, match=r"4 items and 1 levels do not match codes \[4, 1\] with 2 level sizes"):
        health(SemanticIds(codes), FOUR, FOUR, codes, (4, 4))


def categories(*texts: str, column: str = "categories") -> DataFrame:
    return DataFrame({"item_id": [str(place) for place in range(len(texts))], "text": "x", column: list(texts)})


SIX = ("all|a|x", "all|a", "all|b", "all|b", "all|c", "c", "", "")


def test_purity_by_hand() -> None:
    """`all` is a label of 5 of 8 items and ignored; six items keep a label.

    Code 0 has a, a, b: 2 of 3; code 1 has b, c: 1 of 2; code 2 has a single labeled item and is not counted.
    """
    figures = category_purity([np.array([0, 0, 0, 1, 1, 2, 2, 0]), np.arange(8)], categories(*SIX))
    assert (figures["column"], figures["labels"], figures["labeled_items"], figures["left_out"]) == ("categories", 4, 6, ["all"])
    first, second = figures["prefixes"]
    assert (first["length"], first["groups"], first["items"], first["purity"]) == (1, 2, 5, 0.6)
    assert second == {"length": 2, "groups": 0, "items": 0, "purity": None, "chance": None}
    labels = [{"a", "x"}, {"a"}, {"b"}, {"b"}, {"c"}, {"c"}]

    def largest(*items: set[str]) -> int:
        return max(Counter(label for item in items for label in item).values())

    shuffles = permutations(range(6))
    purities = [(largest(*(labels[i] for i in order[:3])) + largest(*(labels[i] for i in order[3:5]))) / 5 for order in shuffles]
    assert first["chance"] == pytest.approx(np.mean(purities), abs=4 * np.std(purities) / math.sqrt(20))
    assert figures == category_purity([np.array([0, 0, 0, 1, 1, 2, 2, 0]), np.arange(8)], categories(*SIX))  # the shuffles are seeded


def test_the_label_of_a_group_is_the_rarest_of_the_most_frequent() -> None:
    labels = labels_of(categories("hair|comb", "hair|comb", "hair", "nails", "nails", "skin"))
    assert isinstance(labels, Labels)
    found = dominant(np.array([0, 0, 1, 1, 1, 2]), labels)
    assert [labels.names[label] for label in found.label] == ["comb", "nails", "skin"]
    assert (found.items.tolist(), found.having.tolist()) == ([2, 3, 1], [2, 2, 1])


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcdefg")), st.integers(0, 4)), min_size=1, max_size=30))
def test_purity_against_loops(rows: list[tuple[set[str], int]]) -> None:
    counts = Counter(label for labels, _ in rows for label in labels)
    kept = {label for label, count in counts.items() if 2 * count <= len(rows)}
    groups: dict[int, list[set[str]]] = {}
    for labels, group in rows:
        if labels & kept:
            groups.setdefault(group, []).append(labels & kept)
    shared = [each for each in groups.values() if len(each) > 1]
    hits = sum(max(Counter(label for labels in each for label in labels).values()) for each in shared)
    figures = category_purity([np.array([group for _, group in rows])], categories(*("|".join(sorted(labels)) for labels, _ in rows)))
    if not groups:
        assert figures["prefixes"] is None
        assert figures["reason"]
        return
    (figure,) = figures["prefixes"]
    assert figure["items"] == sum(map(len, shared))
    assert figure["purity"] == (pytest.approx(hits / figure["items"]) if shared else None)
    assert sorted(figures["left_out"]) == sorted(set(counts) - kept)


def test_purity_of_random_codes_is_chance_and_of_perfect_codes_is_one() -> None:
    random = np.random.default_rng(0)
    kinds = random.integers(0, 20, 20_000)
    items = categories(*(f"kind {kind}" for kind in kinds))
    first, second = category_purity([random.integers(0, 500, 20_000), kinds], items)["prefixes"]
    assert first["purity"] == pytest.approx(first["chance"], abs=0.01)
    assert second["purity"] == 1
    assert second["chance"] < 0.1


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("a, b|c", "d"), [{"a, b", "c"}, {"d"}]),  # a comma inside a label, as in Amazon's data
        (("a > b", "b, c > d"), [{"a", "b"}, {"b, c", "d"}]),
        (("a, b", "c"), [{"a", "b"}, {"c"}]),
        (('[["Beauty", "Hair"], ["Beauty"]]', "['x', ['y']]"), [{"Beauty", "Hair"}, {"x", "y"}]),  # JSON, Python
        (("[Classic] | b", "[[["), [{"[Classic]", "b"}, {"[[["}]),  # neither
        ((" a | a |", "|"), [{"a"}, set()]),
    ],
)
def test_labels_are_read(texts: tuple[str, ...], expected: list[set[str]]) -> None:
    more = [f"other {place}" for place in range(20)]  # so that no label is on more than half of the items
    labels = labels_of(categories(*texts, *more))
    assert isinstance(labels, Labels)
    found: list[set[str]] = [set() for _ in range(len(texts) + len(more))]
    for item, label in zip(labels.rows[labels.item], labels.label, strict=True):
        found[item].add(labels.names[label])
    assert found[: len(texts)] == expected


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (None, "no table of items"),
        (DataFrame({"item_id": ["a", "b"], "text": ["x", "y"]}), "the catalog has no text in a column categories"),
        (categories("", " "), "the catalog has no text in a column categories"),
        (categories("a", "a|b", "a|b", "a|b"), "every label in column categories belongs to more than half of the items"),
        (categories("|", "|"), "no item has a label in column categories"),
    ],
)
def test_without_categories_the_reason_is_given(items: DataFrame | None, reason: str) -> None:
    figures = category_purity([np.zeros(2 if items is None else len(items), dtype=np.int64)], items)
    assert figures["prefixes"] is None
    assert figures["reason"].startswith(reason)


def test_genres_are_used_if_categories_are_empty() -> None:
    labels = labels_of(categories("", "", "").assign(genres=["Drama", "Comedy", None]))
    assert isinstance(labels, Labels)
    assert (labels.column, labels.names, labels.rows.tolist()) == ("genres", ["Comedy", "Drama"], [0, 1])


EVENTS = DataFrame({"user": [1, 1, 1, 1, 2, 2], "item": [1, 2, 2, 3, 1, 3], "time": range(6)})


def test_co_occurrence_by_hand() -> None:
    """The pairs are (1, 2), (2, 3), (1, 3): repeats and items of different users are no pairs. Items 1 and 2 share a first code.

    1 of 3 pairs has equal codes. The first items are 1, 2, 1 and the second items 2, 3, 3. One of the 9 combinations is an item with
    itself, (2, 2); 2 of the other 8 have equal codes, (1, 2) twice. The expected share is 2/8, the lift 4/3.
    """
    figures = co_occurrence([np.array([0, 0, 1]), np.arange(3)], EVENTS)
    assert figures["pairs"] == 3
    assert figures["prefixes"][0] == {"length": 1, "share": pytest.approx(1 / 3), "expected": 0.25, "lift": pytest.approx(4 / 3)}
    assert figures["prefixes"][1] == {"length": 2, "share": 0, "expected": 0, "lift": None}


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), max_size=30), st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_co_occurrence_against_loops(events: list[tuple[int, int]], codes: list[int]) -> None:
    events = sorted(events, key=lambda event: event[0])
    pairs = [(a, b) for (u, a), (v, b) in pairwise(events) if u == v and a != b]
    figures = co_occurrence([np.array(codes)], DataFrame(events, columns=["user", "item"], dtype=np.int64))
    assert figures["pairs"] == len(pairs)
    if not pairs:
        assert (figures["prefixes"], figures["reason"]) == (None, "no user has two different items in training")
        return
    drawn = [(a, b) for a, _ in pairs for _, b in pairs if a != b]
    share, expected = (float(np.mean([codes[a - 1] == codes[b - 1] for a, b in each])) for each in (pairs, drawn))
    figure = figures["prefixes"][0]
    assert (figure["share"], figure["expected"]) == (pytest.approx(share), pytest.approx(expected))
    assert figure["lift"] == (pytest.approx(share / expected) if expected else None)


def test_random_codes_have_a_lift_of_one() -> None:
    """Even if a few items have most of the interactions."""
    random = np.random.default_rng(1)
    items = np.minimum(random.zipf(1.5, 200_000), 5_000)
    events = DataFrame({"user": np.arange(200_000) // 20, "item": items})
    lifts = [co_occurrence([random.integers(0, 8, 5_000)], events)["prefixes"][0]["lift"] for _ in range(10)]
    assert np.mean(lifts) == pytest.approx(1, abs=0.1)


def test_interactions_with_unknown_items_raise() -> None:
    with pytest.raises(InputError, match=r"must have items 1\.\.2, got 1\.\.3"):
        co_occurrence([np.array([0, 1])], EVENTS)


def test_a_first_level_of_few_codes_is_a_collapse() -> None:
    figures = figures_of([[0, 0], [0, 1], [1, 0], [0, 2]], (8, 3), FOUR)
    found = collapse(figures, 0.6)
    assert found.error is not None
    assert found.error.startswith("level 1 uses 2 of 4 codes (50.0%), less than the 60.0% of Tokenize.min_usage")
    assert found.warning is None
    assert collapse(figures, 0.5) == (None, None)


def test_equal_vectors_are_no_collapse_unless_all_are_equal() -> None:
    """300 items with three different vectors can use three of 256 codes."""
    vectors = np.repeat(normal(3), 100, axis=0)
    assert collapse(figures_of([[place // 100, 0] for place in range(300)], (256, 256), vectors), 1.0) == (None, None)
    found = collapse(figures_of([[0]] * 50, (16,), np.ones((50, 4), dtype=np.float32)), 0.5)
    assert found.error is not None
    assert "level 1 uses 1 of 16 codes (6.2%)" in found.error
    assert "All 50 vectors are equal" in found.error
    assert collapse(figures_of([[0]], (16,), FOUR[:1]), 1.0) == (None, None)  # one item can use one code


def test_later_levels_need_codes_for_ambiguous_items_only() -> None:
    """Ten items with different first codes need one second code. Twenty items in pairs need twenty."""
    assert collapse(figures_of([[item, 0] for item in range(10)], (16, 16), normal(10)), 1.0) == (None, None)
    found = collapse(figures_of([[item // 2, 0] for item in range(20)], (10, 256), normal(20)), 0.5)
    assert found.error is None
    assert found.warning is not None
    assert found.warning.startswith("level 2 uses 1 of 20 codes (5.0%)")


def test_a_few_codes_with_most_of_the_items_give_a_warning() -> None:
    """All 64 codes are used, but 1,000 of 1,063 items have the first: perplexity 1.4, far below a quarter of 64."""
    codes = [[0]] * 1_000 + [[code] for code in range(1, 64)]
    found = collapse(figures_of(codes, (64,), normal(1_063)), 0.5)
    assert found.error is None
    assert found.warning is not None
    assert found.warning.startswith("a few codes of level 1 have most of the items (perplexity 1.")
    even = [[item % 64] for item in range(1_063)]
    assert collapse(figures_of(even, (64,), normal(1_063)), 0.5) == (None, None)


@pytest.mark.parametrize("items", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_many_items_and_ten_times_as_many_events(items: int) -> None:
    random = np.random.default_rng(0)
    events = 10 * items
    vectors = random.standard_normal((items, 32), dtype=np.float32)
    vectors[-1_000:] = vectors[0]
    encoded = torch.from_numpy(random.integers(0, 60, (items, 3)))
    table = categories(*[f"top|middle {kind % 40}|low {kind}" for kind in random.integers(0, 4_000, items)])
    log = DataFrame({"user": np.sort(random.integers(1, items + 1, events)), "item": random.integers(1, items + 1, events)})
    ids = SemanticIds(encoded, (60, 60, 60))
    figures = health(ids, vectors, vectors, encoded, (60, 60, 60), table, log)
    assert figures["equal_vectors"]["items"] == 1_001
    assert figures["category_purity"]["labels"] == 4_040
    assert figures["co_occurrence"]["prefixes"][0]["lift"] == pytest.approx(1, abs=0.01)


@pytest.mark.realdata
def test_published_semantic_ids_of_office(real_data: Path) -> None:
    with gzip.open(real_data / "published-sids" / "Office_Products.index.json.gz", "rt") as file:
        index = json.load(file)
    codes = [[int(token[3:-1]) for token in index[str(item)]] for item in range(len(index))]
    figures = figures_of(codes, (256, 256, 256), normal(len(codes)))
    assert (figures["items"], figures["prefixes"][2]["distinct"], figures["collided"]) == (3_459, 3_444, 30)
    for place, level in enumerate(figures["levels"]):
        used = Counter(row[place] for row in codes)
        assert level["used"] == len(used)
        entropy = -sum(count / 3_459 * math.log(count / 3_459) for count in used.values())
        assert level["perplexity"] == pytest.approx(math.exp(entropy))
    assert figures["levels"][0]["used"] == 88  # the published first level uses a third of its codes


@pytest.mark.realdata
def test_categories_of_beauty(real_data: Path) -> None:
    """Groups by an item's second category (Makeup, Hair Care, ...) are pure; the first category, Beauty, is ignored."""
    from genrec.data.sources import AmazonReviews2014

    raw = AmazonReviews2014("Beauty", path=real_data / "amazon-2014").load(real_data)
    second = pd.factorize(raw.items["categories"].str.split("|").str[1].fillna(""))[0]
    figures = category_purity([np.asarray(second)], raw.items)
    assert figures["left_out"] == ["Beauty"]
    assert figures["prefixes"][0]["purity"] > 0.999
    assert figures["prefixes"][0]["chance"] < 0.5
