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


def test_the_second_stage_of_a_chain_shows_its_objective_and_no_settings_without_alternative() -> None:
    """Only the chain has `align-2`: its objective and proposer are named, `Optimization` is no difference."""
    alone = {"align.class": "genrec.experiment:Align", "align.objective.class": "genrec.objectives.preferences:Preference"}
    second = {
        "align-2.class": "genrec.experiment:Align",
        "align-2.optimization.class": "genrec.training.recipes:Optimization",
        "align-2.objective.class": "genrec.objectives.policy_gradient:PolicyGradient",
        "align-2.objective.candidates.class": "genrec.preference.candidates.rollouts:Rollouts",
    }
    comparison = compared(alone=alone, chain={**alone, **second})
    shown = {key: value["alone"] for key, value in comparison.differences.items()}
    assert shown == dict.fromkeys(["align-2.class", "align-2.objective.class", "align-2.objective.candidates.class"], ABSENT)
    assert "| align-2.objective.candidates | - | Rollouts |" in markdown(comparison)


def test_the_fingerprint_of_a_file_is_short_unless_that_hides_the_difference() -> None:
    key = "align.objective.candidates.fingerprint"
    assert f"| {key} | 0123456a | 0123456b |" in markdown(compared(a={key: "0123456a" + "0" * 56}, b={key: "0123456b" + "0" * 56}))
    same = "0" * 63
    assert f"| {key} | {same}1 | {same}2 |" in markdown(compared(a={key: f"{same}1"}, b={key: f"{same}2"}))
