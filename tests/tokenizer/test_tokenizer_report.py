"""Health of Semantic IDs in words: what is said, with which figures, and what is left out where there is nothing to say."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pandas import DataFrame

from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.health import health
from genrec.tokenizer.health_report import lines, summary

VECTORS = np.array([[0, 0], [0, 0], [2, 0], [0, 2], [2, 2], [3, 3]], dtype=np.float32)
ENCODED = torch.tensor([[0, 0], [0, 0], [0, 1], [0, 1], [1, 0], [1, 1]])
SEPARATED = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 1, 0]])
ITEMS = DataFrame({"item_id": list("abcdef"), "text": "x", "categories": ["t|p", "t|p", "t|q", "t|p", "t|r", "t|q"]})
EVENTS = DataFrame({"user": [1, 1, 1, 2, 2], "item": [1, 2, 5, 3, 4], "time": range(5)})


def figures(codes: torch.Tensor, sizes: tuple[int, ...], **more: Any) -> dict[str, Any]:
    return health(SemanticIds(codes, sizes), VECTORS, VECTORS, ENCODED, (2, 4), **more)


def test_what_is_said() -> None:
    """Purity of the first code: p, p, q, p of 4 and r, q of 2, so (3 + 1) / 6. Pairs: (1, 2), (2, 5), (3, 4): two of three agree.

    Of the nine combinations of a first and a second item one is (2, 2); five of the other eight share a code: lift (2/3) / (5/8).
    """
    said = lines(figures(SEPARATED, (2, 4, 2), items=ITEMS, interactions=EVENTS))
    text = "\n".join(said)
    assert said[0] == "6 items, Semantic IDs of 3 levels (2 x 4 x 2)"
    assert "level 1: 2 of 2 codes used, perplexity 1.9" in said
    assert "level 2: 2 of 4 codes used, perplexity 2.0" in said
    assert "level 3: 2 of 2 codes used, perplexity 1.9 (tells apart what collided)" in said
    assert "collisions: 4 items (66.7%) shared all codes of the quantizer, up to 2 at once; 2 of them with equal vectors only" in said
    assert "  now no item shares a Semantic ID (a level was added)" in said
    assert "equal vectors: 2 items in 1 group of up to 2; no quantizer tells them apart" in said
    assert "reconstruction error: 0.0% of the vectors' spread" in said
    table = said[said.index("items by their first codes:") + 1 :]
    assert table[0].split("  ")[1:3] == ["codes", "groups"]
    assert [row.split()[:4] for row in table[1:3]] == [["1", "2", "4", "100.0%"], ["2", "4", "2", "66.7%"]]
    assert "66.7% (" in table[1]
    assert table[1].split()[-1] == "1.1"
    assert table[3].strip().startswith("purity: ")  # the third length is shared by no items, and has no row
    assert "left out, since most items have it: 't'" in text
    assert "pairs: 3, consecutive different items of users in training" in text
    assert all(len(line) < 140 for line in said)


def test_columns_without_figures_are_left_out_and_the_reason_is_said() -> None:
    said = lines(figures(SEPARATED, (2, 4, 2)))
    assert said[-2:] == ["no category purity: no table of items was given", "no co-occurrence: no training interactions were given"]
    assert not any("purity (shuffled)" in line or "lift" in line for line in said)


def test_codes_that_were_changed_or_left() -> None:
    moved = ENCODED.clone()
    moved[1, 1], moved[3, 1] = 2, 3
    said = lines(figures(moved, (2, 4)))
    assert "  now no item shares a Semantic ID (2 items got another code)" in said
    assert "  level 2 after items got another code: 4 of 4 codes used, perplexity 3.8" in said
    assert "  now 4 items (66.7%) share a Semantic ID (left as it is)" in lines(figures(ENCODED, (2, 4)))


def test_no_collision_is_said() -> None:
    codes = torch.arange(6)[:, None]
    vectors = np.arange(6, dtype=np.float32)[:, None]
    told = health(SemanticIds(codes), vectors, vectors, codes, (6,))
    assert "collisions: the quantizer gave every item codes of its own" in lines(told)
    assert not any(line.startswith(("  now", "items by")) for line in lines(told))
    assert len(summary(told)) == 2


def test_what_the_vectors_could_use_and_items_that_came_later() -> None:
    codes = torch.arange(3)[:, None]
    vectors = np.arange(3, dtype=np.float32)[:, None]
    told = health(SemanticIds(codes, (1_024,)), vectors, vectors, codes, (1_024,)) | {"items_fitted": 2}
    assert lines(told)[0] == "3 items, Semantic IDs of 1 level (1,024); 1 of them came after the quantizer was fitted"
    assert lines(told)[1] == "level 1: 3 of 1,024 codes used (the vectors could use 3), perplexity 3.0"


def test_the_summary_is_what_a_picture_has_room_for() -> None:
    short = summary(figures(SEPARATED, (2, 4, 2)))
    assert [line.split(":")[0] for line in short[1:]] == ["collisions", "equal vectors"]
    assert short[0].endswith("; reconstruction error 0.0%")


def test_many_levels_are_shortened() -> None:
    codes = torch.zeros(2, 32, dtype=torch.int64)
    codes[1] = 1
    told = health(SemanticIds(codes), VECTORS[3:5], VECTORS[3:5], codes, (2,) * 32)
    assert lines(told)[0] == "2 items, Semantic IDs of 32 levels (2 x 2 x 2 x 2 x ... x 2)"
