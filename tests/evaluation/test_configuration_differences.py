"""Differences of settings: a field that is not recorded with its default is shown with it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from genrec.evaluation.compare import ABSENT, Comparison, Run, compare
from genrec.evaluation.comparison.comparison_report import markdown
from genrec.evaluation.comparison.configuration_differences import unrecorded_defaults
from genrec.row_settings import file_names
from genrec.store import Store, key_of

SASREC = {"policy.class": "genrec.baselines.sasrec:SASRec"}
EVALUATE = {"evaluate.class": "genrec.evaluation.evaluate:Evaluate"}
SPLIT = {"split.class": "genrec.data.splits:LeaveOneOut"}
GBCE = {"policy.loss.class": "genrec.baselines.item_losses:GBCE", "policy.loss.t": 0.75}
METRICS_OF_A_RUN = {"ndcg@10": 0.5, "recall@10": 0.5}
METRICS = [{"class": "genrec.evaluation.list_metrics:ListOverlap", "name": "overlap"}]


def compared(**rows: dict[str, object]) -> Comparison:
    ranks = pd.DataFrame({"user": [1, 2], "target": [11, 12], "rank": [1, 0]})
    metrics = {"ndcg@10": 0.5, "recall@10": 0.5}
    return compare([Run(name, 0, ranks, metrics, {}, {"sft.seed": 0, **values}) for name, values in rows.items()])


def test_a_loss_that_one_row_has_stands_beside_the_default() -> None:
    comparison = compared(full={**SASREC}, gbce={**SASREC, **GBCE})
    assert comparison.differences == {
        "policy.loss.class": {"full": None, "gbce": GBCE["policy.loss.class"]},
        "policy.loss.t": {"full": ABSENT, "gbce": 0.75},
    }
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


def test_fields_of_a_component_that_one_row_has_are_shown() -> None:
    """TopItems and Rollouts: the size of one, how the other draws. None is nothing, and the version of a class is no setting."""
    objective = {"align.class": "genrec.experiment:Align", "align.objective.class": "genrec.objectives.preferences:Preference"}
    holder = "align.objective.candidates"
    top = {**objective, f"{holder}.class": "mine:TopItems", f"{holder}.size": 8, f"{holder}.limit": None}
    drawn = {**objective, f"{holder}.class": "mine:Rollouts", f"{holder}.version": 2, f"{holder}.by": "beams"}
    optimization = {"align.optimization.class": "genrec.training.recipes:Optimization", "align.optimization.max_steps": 500}
    comparison = compared(sft={"align": None}, gated=top | optimization, grpo=drawn)
    shown = {key: list(values.values()) for key, values in comparison.differences.items() if key.startswith(f"{holder}.")}
    assert shown == {
        f"{holder}.class": [ABSENT, "mine:TopItems", "mine:Rollouts"],
        f"{holder}.size": [ABSENT, 8, ABSENT],
        f"{holder}.by": [ABSENT, ABSENT, "beams"],
    }
    assert "align.optimization.max_steps" not in comparison.differences  # one row has it, and Optimization is no choice


def test_a_weight_with_a_schedule_in_one_row_is_listed_once() -> None:
    """A number stands beside the class of a schedule, whichever row comes first; the fields of the schedule are those of one row."""
    objective = {"align.class": "genrec.experiment:Align", "align.objective.class": "genrec.objectives.preferences:Preference"}
    weight = "align.objective.likelihood"
    schedule = {f"{weight}.class": "genrec.preference.schedules:Linear", f"{weight}.start": 1.0, f"{weight}.end": 0.1}
    rows = {"one": {**objective, weight: 1.0}, "half": {**objective, weight: 0.5}, "scheduled": {**objective, **schedule}}
    for order in (list(rows), list(rows)[::-1]):
        shown = markdown(compared(sft={"align": None}, **{name: rows[name] for name in order}))
        cells = {"one": "1.0", "half": "0.5", "scheduled": "Linear"}
        assert f"| {weight} | - | {' | '.join(cells[name] for name in order)} |" in shown
        assert shown.count(f"| {weight} |") == 1
        assert f"| {weight}.start | - |" in shown


def test_fields_of_a_trained_policy_are_not_compared_with_a_baseline() -> None:
    ranks = pd.DataFrame({"user": [1, 2], "target": [11, 12], "rank": [1, 0]})
    popularity = {"policy.class": "genrec.baselines.popularity:Popularity", "policy.count_validation": True}
    tiger = {"sft.seed": 0, "policy.class": "genrec.model.tiger:Tiger", "policy.d_model": 64}
    runs = [Run(name, 0, ranks, METRICS_OF_A_RUN, {}, found) for name, found in (("popularity", popularity), ("tiger", tiger))]
    assert list(compare(runs).differences) == ["policy.class"]


def test_a_pair_file_is_shown_by_name() -> None:
    """The name stands before the fingerprint; a row without a file has none."""
    ranks, key = pd.DataFrame({"user": [1, 2], "target": [11, 12], "rank": [1, 0]}), "align-2.objective.candidates"
    runs = [
        Run(name, 0, ranks, METRICS_OF_A_RUN, {}, {f"{key}.class": "mine:Pairs", f"{key}.fingerprint": digit * 64}, file_names=names)
        for name, digit, names in (("a", "1", {"align-2": ("liked.csv",)}), ("b", "2", {"align": ("other.csv",)}))
    ]
    other = Run("c", 0, ranks, METRICS_OF_A_RUN, {}, {f"{key}.class": "mine:Top", f"{key}.size": 8})
    shown = markdown(compare([*runs, other]))
    assert f"| {key}.fingerprint | liked.csv (11111111) | 22222222 | - |" in shown


def test_names_of_files_are_read_from_stored_trainings(tmp_path: Path) -> None:
    """By stage, also of a chain; an alignment without files has none, and a training that is gone is left out."""
    store, keys = Store(tmp_path), {}
    about = {"version": 1, "parents": {}, "created": "", "versions": {}, "git": "", "environment": {"threads": "1"}}
    for stage, names in (("embed", {"embed": ["v.npy"]}), ("align", {}), ("align-2", {"align": ["liked.csv", "more.csv"]})):
        keys[stage] = key_of(stage, 1, {"stage": stage}, {})
        with store.create(stage, keys[stage], {**about, "specification": {"stage": stage}, "file_names": names}) as folder:
            assert folder is not None
            (folder / "weights.txt").write_text("1")
    assert file_names({**keys, "sft": "0123456789abcdef"}, store) == {"align": (), "align-2": ("liked.csv", "more.csv")}
