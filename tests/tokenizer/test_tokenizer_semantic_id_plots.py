"""The picture of `genrec tokenize`: drawn without warnings for unusual input; choice of the example groups."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from pandas import DataFrame

from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.collisions import prefix_groups
from genrec.tokenizer.health import health
from genrec.tokenizer.prefix_examples import Example, examples
from genrec.tokenizer.semantic_id_plots import draw

TEXTS = [
    "$\\nosuch{x}$ costs",
    "\\frac{1}{0} \\textbf{",
    "日本語のタイトル 🎧🔥",
    "عنوان",
    "a\nb\x00\tc",
    "word " * 5_000,
    "w" * 9_000,
    "",
    "<b>&amp;",
]


def picture(
    path: Path, codes: torch.Tensor, items: DataFrame | None = None, events: DataFrame | None = None, title: str = "t"
) -> bytes:
    sizes = tuple((codes.amax(0) + 1).tolist())
    vectors = np.random.default_rng(0).standard_normal((len(codes), 3)).astype(np.float32)
    ids = SemanticIds(codes, sizes)
    figures = health(ids, vectors, vectors, codes, sizes, items, events)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(ids, figures, items, title, path)
    return path.read_bytes()


def random_codes(items: int, levels: int, codes: int = 8) -> torch.Tensor:
    return torch.randint(0, codes, (items, levels), generator=torch.Generator().manual_seed(0))


def table(items: int, **columns: Any) -> DataFrame:
    return DataFrame({"item_id": map(str, range(items)), "text": [f"text {item}" for item in range(items)], **columns})


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_of_each_kind(tmp_path: Path, suffix: str, start: bytes) -> None:
    events = DataFrame({"user": np.arange(2_000) // 10, "item": np.random.default_rng(0).integers(1, 301, 2_000)})
    items = table(300, title=[f"title {item}" for item in range(300)], genres=["Drama", "Comedy", "Crime|Drama"] * 100)
    content = picture(tmp_path / "reports" / f"picture.{suffix}", random_codes(300, 3), items, events)
    assert content.startswith(start)
    assert len(content) > 15_000


def test_titles_of_any_kind(tmp_path: Path) -> None:
    items = table(len(TEXTS) * 10, title=TEXTS * 10, categories=TEXTS * 10)
    content = picture(
        tmp_path / "picture.svg", random_codes(len(items), 2, codes=2), items, title="$\\nosuch{x}$ " + TEXTS[2] + "x" * 1_000
    )
    assert len(content) > 50_000
    assert ElementTree.fromstring(content).tag.endswith("svg")  # complete and valid XML


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(1, 1, dtype=torch.int64),  # one item
        torch.zeros(40, 2, dtype=torch.int64),  # all on one code
        torch.arange(300)[:, None],  # one level, no shared codes
        torch.arange(2)[:, None].expand(2, 64),  # many levels
        random_codes(500, 12),
        torch.tensor([[0], [999_999]]),  # a million codes, two used
    ],
)
def test_codes_of_any_shape_without_a_catalog(tmp_path: Path, codes: torch.Tensor) -> None:
    assert len(picture(tmp_path / "picture.png", codes)) > 20_000
    assert len(picture(tmp_path / "picture.png", codes, table(len(codes)))) > 20_000


def chosen(codes: list[list[int]], items: DataFrame | None, count: int = 3) -> list[Example]:
    table = torch.tensor(codes)
    return examples(SemanticIds(table), [each.group.numpy() for each in prefix_groups(table)], items, count)


def test_which_groups_are_shown() -> None:
    """Groups of one code: 60 items of three kinds, above medium size; 10 items of one kind; 4 of 6 items of one; 7 of 8."""
    codes = [[0]] * 60 + [[1]] * 10 + [[2]] * 6 + [[3]] * 8
    kinds = ["a", "b", "c"] * 20 + ["d"] * 10 + ["d"] * 4 + ["e"] * 2 + ["f"] * 7 + ["g"]
    shown = chosen(codes, table(84, categories=kinds))
    assert [(each.reason, each.prefix, each.size, each.label, each.share) for each in shown] == [
        ("Largest group with one code", (0,), 60, "a", pytest.approx(1 / 3)),
        ("Purest medium group with one code", (1,), 10, "d", 1),
        ("Most mixed medium group with one code", (2,), 6, "d", pytest.approx(2 / 3)),
        ("Median medium group with one code", (3,), 8, "f", 7 / 8),
    ]


def test_without_categories_groups_are_chosen_by_size() -> None:
    shown = chosen([[0]] * 9 + [[1]] * 6 + [[2]] * 7 + [[3]] * 5 + [[4]] * 2, None)
    assert [(each.reason.split()[0], each.size, each.label) for each in shown] == [
        ("Largest", 9, None),
        ("Largest", 7, None),
        ("Smallest", 5, None),
        ("Median", 6, None),
    ]


def test_groups_have_the_longest_prefix_with_enough_medium_groups() -> None:
    """Five items share each pair of codes; no items share three codes."""
    codes = [[first, second, item] for first in range(3) for second in range(4) for item in range(5)]
    assert [len(each.prefix) for each in chosen(codes, None)] == [1, 2, 2, 2]


def test_titles_are_sorted_by_code_and_default_to_the_text() -> None:
    codes = [[0, 4], [0, 2], [0, 0], [0, 1], [0, 3]]
    items = table(5, title=["four", "two", "", "one", "three"])
    assert chosen(codes, items)[0].titles == [((0,), "text 2"), ((2,), "two"), ((4,), "four")]
    assert chosen(codes, None)[0].titles[0] == ((0,), "item 3")


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_the_picture_of_many_items_is_small(count: int, tmp_path: Path) -> None:
    items = table(count, title="a title", categories=[f"top|kind {item % 500}" for item in range(count)])
    codes = random_codes(count, 3, codes=100)
    assert len(picture(tmp_path / "picture.svg", codes, items)) < 3_000_000
