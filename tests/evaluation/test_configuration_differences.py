"""Differences of settings: a field that is not recorded with its default is shown with it."""

from __future__ import annotations

import pandas as pd
import pytest

from genrec.evaluation.compare import ABSENT, Comparison, Run, compare
from genrec.evaluation.comparison.comparison_report import markdown
from genrec.evaluation.comparison.configuration_differences import unrecorded_defaults

SASREC = {"policy.class": "genrec.baselines.sasrec:SASRec"}
EVALUATE = {"evaluate.class": "genrec.evaluation.evaluate:Evaluate"}
SPLIT = {"split.class": "genrec.data.splits:LeaveOneOut"}
GBCE = {"policy.loss.class": "genrec.baselines.item_losses:GBCE", "policy.loss.t": 0.75}
METRICS = [{"class": "genrec.evaluation.list_metrics:ListOverlap", "name": "overlap"}]


def compared(**rows: dict[str, object]) -> Comparison:
    ranks = pd.DataFrame({"user": [1, 2], "target": [11, 12], "rank": [1, 0]})
    metrics = {"ndcg@10": 0.5, "recall@10": 0.5}
    return compare([Run(name, 0, ranks, metrics, {}, {"sft.seed": 0, **values}) for name, values in rows.items()])


def test_a_loss_that_one_row_has_stands_beside_the_default() -> None:
    comparison = compared(full={**SASREC}, gbce={**SASREC, **GBCE})
    assert comparison.differences == {"policy.loss.class": {"full": None, "gbce": GBCE["policy.loss.class"]}}
    assert "| policy.loss | None | GBCE |" in markdown(comparison)


@pytest.mark.parametrize(
    ("holder", "key", "value", "default", "cells"),
    [
        (SPLIT, "split.ties", "random", "file", "file | random"),
        (SPLIT, "split.ties_seed", 3, 0, "0 | 3"),
        (EVALUATE, "evaluate.metrics", METRICS, [], r"() | ListOverlap(name=overlap)"),
    ],
)
def test_values_stand_beside_the_default(
    holder: dict[str, object], key: str, value: object, default: object, cells: str
) -> None:  # fmt: skip
    comparison = compared(old={**holder}, new={**holder, key: value}, other={**holder, key: value})
    assert comparison.differences == {key: {"old": default, "new": value, "other": value}}
    assert f"| {key} | {cells} |" in markdown(comparison).replace("\\", "")


def test_a_default_that_is_recorded_is_no_difference() -> None:
    assert compared(old={**SPLIT}, new={**SPLIT, "split.ties": "file"}).differences == {}


def test_a_row_without_the_component_has_no_default() -> None:
    comparison = compared(a={**SASREC, **GBCE}, b={"policy.class": "genrec.baselines.popularity:Popularity"}, c={**SASREC})
    assert comparison.differences["policy.loss.class"] == {"a": GBCE["policy.loss.class"], "b": ABSENT, "c": None}


@pytest.mark.parametrize(
    "name", ["mine:Policy", "genrec.gone:Policy", "genrec.baselines.sasrec:Gone", "genrec.baselines.sasrec:encode", "genrec", 3]
)
def test_other_classes_have_no_defaults(name: object) -> None:
    assert unrecorded_defaults({"policy.class": name}) == {}
