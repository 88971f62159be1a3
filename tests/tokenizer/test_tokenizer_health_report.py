"""The report of `genrec tokenize`: its lines and figures, and missing figures."""

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


def test_lines_of_the_report() -> None:
    """Purity of the first code: p, p, q, p of 4 and r, q of 2, so (3 + 1) / 6. Pairs: two of (1, 2), (2, 5), (3, 4) share a code.

    Of the nine combinations of a first and a second item one is (2, 2); five of the other eight share a code: lift (2/3) / (5/8).
    """
    report = lines(figures(SEPARATED, (2, 4, 2), items=ITEMS, interactions=EVENTS))
    text = "\n".join(report)
    assert report[0] == "6 items, Semantic IDs of 3 levels (2 x 4 x 2)"
    assert "level 1: 2 of 2 codes used, perplexity 1.9" in report
    assert "level 2: 2 of 4 codes used, perplexity 2.0" in report
    assert "level 3: 2 of 2 codes used, perplexity 1.9 (added to separate collisions)" in report
    collisions = "4 items (66.7%) got the same codes as another item, up to 2 at once; 2 of them only with items of equal vectors"
    assert f"collisions: {collisions}" in report
    assert "  after separation: no item shares a Semantic ID (a level was added)" in report
    assert "equal vectors: 2 items in 1 group of up to 2; no quantizer can distinguish them" in report
    assert "reconstruction error: 0.0% of the variance of the vectors" in report
    table = report[report.index("groups of items that share their first codes:") + 1 :]
    assert table[0].split("  ")[1:3] == ["first codes", "groups"]
    assert [row.split()[:4] for row in table[1:3]] == [["1", "2", "4", "100.0%"], ["2", "4", "2", "66.7%"]]
    assert "66.7% (" in table[1]
    assert table[1].split()[-1] == "1.1"
    assert table[3].strip().startswith("purity: ")  # no items share three codes, so that length has no row
    assert "labels ignored because most items have them: 't'" in text
    assert "pairs together: share of 3 pairs of consecutive training items that are in the same group" in text
    assert all(len(line) < 140 for line in report)


def test_columns_without_figures_are_omitted_with_a_reason() -> None:
    report = lines(figures(SEPARATED, (2, 4, 2)))
    assert report[-2:] == ["no category purity: no table of items was given", "no co-occurrence: no training interactions were given"]
    assert not any("purity (shuffled)" in line or "lift" in line for line in report)


def test_collisions_that_were_changed_or_kept() -> None:
    moved = ENCODED.clone()
    moved[1, 1], moved[3, 1] = 2, 3
    report = lines(figures(moved, (2, 4)))
    assert "  after separation: no item shares a Semantic ID (2 items got another code)" in report
    assert "  level 2 after separation: 4 of 4 codes used, perplexity 3.8" in report
    assert "  after separation: 4 items (66.7%) share a Semantic ID (collisions were kept)" in lines(figures(ENCODED, (2, 4)))


def test_a_report_without_collisions() -> None:
    codes = torch.arange(6)[:, None]
    vectors = np.arange(6, dtype=np.float32)[:, None]
    results = health(SemanticIds(codes), vectors, vectors, codes, (6,))
    assert "collisions: none, the quantizer gave every item different codes" in lines(results)
    assert not any(line.startswith(("  after separation", "groups of")) for line in lines(results))
    assert len(summary(results)) == 2


def test_an_added_level_without_collisions_says_so() -> None:
    codes = torch.arange(6)[:, None]
    vectors = np.arange(6, dtype=np.float32)[:, None]
    added = torch.cat([codes, torch.zeros_like(codes)], 1)
    report = lines(health(SemanticIds(added, (6, 1)), vectors, vectors, codes, (6,)))
    assert "level 2: 1 of 1 codes used, perplexity 1.0 (added for collisions, of which there are none)" in report


def test_usable_codes_and_new_items() -> None:
    codes = torch.arange(3)[:, None]
    vectors = np.arange(3, dtype=np.float32)[:, None]
    results = health(SemanticIds(codes, (1_024,)), vectors, vectors, codes, (1_024,)) | {"items_fitted": 2}
    assert lines(results)[0] == "3 items, Semantic IDs of 1 level (1,024); the quantizer was fitted without 1 of them"
    assert lines(results)[1] == "level 1: 3 of 1,024 codes used (at most 3 possible with these vectors), perplexity 3.0"


def test_codes_of_items_with_a_unique_prefix_do_not_exceed_what_is_possible() -> None:
    """Items 0 and 1 share a first code and need two second codes; items 2 and 3 do not, and use two more."""
    codes = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3]])
    vectors = np.arange(4, dtype=np.float32)[:, None]
    report = lines(health(SemanticIds(codes, (4, 4)), vectors, vectors, codes, (4, 4)))
    assert report[2].startswith("level 2: 4 of 4 codes used (at most 2 needed to distinguish these vectors), perplexity 4.0")


def test_the_summary_has_at_most_three_lines() -> None:
    short = summary(figures(SEPARATED, (2, 4, 2)))
    assert [line.split(":")[0] for line in short[1:]] == ["collisions", "equal vectors"]
    assert short[0].endswith("; reconstruction error 0.0%")


def test_many_levels_are_shortened() -> None:
    codes = torch.zeros(2, 32, dtype=torch.int64)
    codes[1] = 1
    results = health(SemanticIds(codes), VECTORS[3:5], VECTORS[3:5], codes, (2,) * 32)
    assert lines(results)[0] == "2 items, Semantic IDs of 32 levels (2 x 2 x 2 x 2 x ... x 2)"
