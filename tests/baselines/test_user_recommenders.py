"""Recommenders that know the user, and baselines that choose their parts: evaluation, stages, keys, tables and the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas import DataFrame
from torch import Tensor
from worlds import cyclic

from genrec import pipeline, run_experiments, run_files
from genrec.__main__ import main
from genrec.baselines import BPR, EASE, ItemKNN, Popularity
from genrec.baselines.fitted_parts import fitted_parts
from genrec.data.corpus import Corpus
from genrec.data.examples import examples
from genrec.errors import InputError
from genrec.evaluation.compare import compare
from genrec.evaluation.evaluate import Evaluate, evaluate
from genrec.experiment import Experiment
from genrec.overrides import override
from genrec.testing import ContractError, check_baseline
from genrec.training.validation import batches
from genrec.types import Baseline, Ranking, SequenceBatch


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    return tmp_path


class OwnItem:
    """Recommends to user u the item 100 + u, and to anybody else item 1; fails with more than `fits` users at once."""

    def __init__(self, fits: int) -> None:
        self.fits = fits

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        return self._lists(torch.ones(len(history), dtype=torch.int64))

    def recommend_to(self, user: Tensor, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        if len(user) > self.fits:
            raise MemoryError
        return self._lists(100 + user)

    def _lists(self, items: Tensor) -> Ranking:
        return Ranking(items.unsqueeze(1), torch.zeros(len(items), 1))


@pytest.mark.parametrize("fits", [8, 3, 1])
def test_evaluation_gives_every_list_the_user_of_its_history(fits: int) -> None:
    """Each user finds the own target in the first place, whatever the order of the users and the size of the batches."""
    user = torch.tensor([4, 9, 2, 7, 1, 3, 8, 6])
    batch = SequenceBatch(user, torch.ones(8, 2, dtype=torch.int64), 100 + user)
    result = evaluate(OwnItem(fits), [batch], Evaluate(cutoffs=(1,), batch_size=8))
    assert result.ranks["user"].tolist() == sorted(user.tolist())
    assert result.ranks["rank"].tolist() == [1] * 8


def world(baseline: Baseline, **fields: Any) -> Experiment:
    return replace(cyclic(), name="row", policy=baseline, **fields)


def ranks(experiment: Experiment) -> DataFrame:
    return pd.read_parquet(pipeline.run(experiment)["evaluate"].folder / "ranks.parquet")


@pytest.mark.parametrize("baseline", [EASE(l2=5.0), BPR(dim=4, epochs=3)], ids=["ease", "bpr"])
def test_lists_use_all_training_items_whatever_the_history_length(home: Path, baseline: Baseline) -> None:
    """A history of one item holds the validation item; the training items come from the training interactions."""
    assert ranks(world(baseline, history_length=1)).equals(ranks(world(baseline, history_length=9)))
    assert not ranks(world(ItemKNN(), history_length=1)).equals(ranks(world(ItemKNN(), history_length=9)))


def test_ease_scores_the_sum_of_the_weights_of_all_items_before_the_target(home: Path) -> None:
    """Validation: the training items alone. Test: these and the validation item, which B does not know."""
    folder = pipeline.run(world(EASE(l2=5.0)), last="data")["data"].folder
    corpus = Corpus.load(folder)
    fitted = EASE(l2=5.0).fit(corpus.part("train"), corpus.item_count)
    events = corpus.interactions
    for part, before in (("validation", ["train"]), ("test", ["train", "validation"])):
        users = batches(examples(corpus, part, 2), 64, torch.device("cpu"))  # type: ignore[arg-type]
        lists = evaluate(fitted, users, Evaluate(cutoffs=(5,))).recommendations
        for user in (1, 50, 100):
            items = events[(events["user"] == user) & events["part"].isin(before)]["item"].unique()
            scores = torch.from_numpy(fitted.weights[items - 1].sum(0)).float()
            found = lists[lists["user"] == user]
            assert found["score"].tolist() == pytest.approx(scores.sort(descending=True).values[:5].tolist(), abs=1e-6)


def test_popularity_counts_the_validation_interactions_on_request(home: Path) -> None:
    experiments = {name: world(Popularity(count_validation=name == "both")) for name in ("train", "both")}
    corpus = Corpus.load(pipeline.run(experiments["train"])["data"].folder)
    expected = {"train": corpus.popularity("train"), "both": corpus.popularity("train") + corpus.popularity("validation")}
    for name, experiment in experiments.items():
        folder = pipeline.run(experiment)["evaluate"].folder
        best = pd.read_parquet(folder / "recommendations.parquet").query("user == 1 and position == 1")
        assert best["score"].item() == expected[name].max()
        assert best["item"].item() == expected[name].argmax()
    keys = [[step.key for step in pipeline.plan(experiment)] for experiment in experiments.values()]
    assert keys[0][0] == keys[1][0]  # one corpus
    assert keys[0][1] != keys[1][1]


def test_a_table_shows_what_popularity_counts(home: Path) -> None:
    rows = [replace(world(Popularity(count_validation=both)), name=f"popularity-{both}") for both in (False, True)]
    run_experiments.run(rows)
    comparison = compare(run_files.outcomes([row.name for row in rows]))
    assert comparison.differences == {"policy.count_validation": {"popularity-False": False, "popularity-True": True}}


@dataclass(frozen=True)
class Leaking:
    """A baseline that asks for the test."""

    wanted: Any = ("train", "validation", "test")

    def parts(self) -> Any:
        return self.wanted

    def fit(self, interactions: DataFrame, item_count: int) -> Any:
        return Popularity().fit(interactions, item_count)


@pytest.mark.parametrize("wanted", [("train", "validation", "test"), ("test",), (), ("validation",), "train", None])
def test_no_baseline_is_fitted_on_the_test(home: Path, wanted: object) -> None:
    message = r"Leaking.* parts\(\) must return \('train',\) or \('train', 'validation'\), got .*; no baseline is fitted on the test"
    with pytest.raises(InputError, match=message):
        pipeline.run(world(Leaking(wanted)))
    with pytest.raises(ContractError, match=message):
        check_baseline(Leaking(wanted))


def test_parts_by_default() -> None:
    assert [fitted_parts(each) for each in (Popularity(), ItemKNN(), EASE(), BPR())] == [("train",)] * 4
    assert fitted_parts(Popularity(count_validation=True)) == fitted_parts(Leaking(("train", "validation"))) == ("train", "validation")


@pytest.mark.parametrize(
    ("flags", "policy"),
    [
        (["--policy", "EASE", "--policy.l2", "100"], EASE(l2=100.0)),
        (["--policy", "BPR", "--policy.dim", "8", "--policy.seed", "3"], BPR(dim=8, seed=3)),
        (["--policy", "Popularity", "--policy.count-validation", "True"], Popularity(count_validation=True)),
    ],
)
def test_the_command_line_chooses_a_baseline(flags: list[str], policy: Baseline) -> None:
    assert override([cyclic()], flags)[0].policy == policy


@pytest.mark.parametrize("name", ["EASE", "BPR", "Popularity"])
def test_genrec_check_accepts_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"genrec.baselines:{name}"]) == 0
    assert "keeps its contract" in capsys.readouterr().out


FILE = """
from dataclasses import replace
from worlds import cyclic
from genrec.baselines import EASE

def row():
    return replace(cyclic(), name="ease", policy=EASE(l2=5.0))
"""


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--policy.l2", "0"], 2, "policy.l2 must be above 0 and finite, got 0"),
        (["--policy.max-items", "39"], 5, "EASE needs 8 N^2 bytes, 0.0 GB for 40 items, but policy.max_items is 39; filter the items"),
        (["--policy.max-items", "40"], 0, ""),
    ],
)
def test_exit_codes(home: Path, flags: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "row.py").write_text(FILE)
    assert main(["run", f"{home / 'row.py'}:row", *flags]) == code
    assert said in capsys.readouterr().err
