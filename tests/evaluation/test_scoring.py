"""Beam search and exact scoring, all or sampled test users, batches, and how the results table shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor
from worlds import TINY, cyclic

from genrec import pipeline, run_files
from genrec.baselines import Popularity
from genrec.data.corpus_builder import prepare
from genrec.data.examples import examples
from genrec.data.splits import LeaveOneOut
from genrec.data.worlds import Shop
from genrec.errors import ArtifactError, UsageError
from genrec.evaluation.compare import compare
from genrec.evaluation.comparison.comparison_report import markdown
from genrec.evaluation.evaluate import Evaluate, evaluate
from genrec.experiment import Experiment
from genrec.model import Tiger
from genrec.semantic_ids import SemanticIds
from genrec.training.validation import batches, seen_items, select_users, shared_numbers
from genrec.types import ExactRecommender, Ranking, SequenceBatch


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    return tmp_path


class Both:
    """A beam search that misses the target and an exact ranking that does not, with memory for two users."""

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        return self.answer(history, n, 8)

    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        if len(history) > 2:
            raise MemoryError
        return self.answer(history, n, 7)

    def answer(self, history: Tensor, n: int, item: int) -> Ranking:
        return Ranking(torch.full((len(history), n), item), torch.zeros(len(history), n))


class Beam:
    """A recommender without exact scoring."""

    recommend = Both.recommend
    answer = Both.answer


def test_exact_scoring_uses_the_exact_ranking_and_halves_its_batches() -> None:
    users = SequenceBatch(torch.arange(1, 6), torch.ones(5, 1, dtype=torch.int64), torch.full((5,), 7))
    spec = Evaluate(cutoffs=(1,))
    assert evaluate(Both(), [users], spec).ranks["rank"].tolist() == [0] * 5
    assert evaluate(Both(), [users], replace(spec, scoring="exact")).ranks["rank"].tolist() == [1] * 5
    with pytest.raises(UsageError, match=r"needs a genrec\.types\.ExactRecommender, but Beam \(.*\) has no method recommend_exactly"):
        evaluate(Beam(), [users], replace(spec, scoring="exact"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scoring": "sampled"}, "evaluate.scoring must be one of 'beam', 'exact', got 'sampled'"),
        ({"num_beams": -1}, r"evaluate\.num_beams must be 0 \(the policy's own\) or more, got -1"),
        ({"max_users": -5}, r"evaluate\.max_users must be 0 \(all\) or more, got -5"),
        ({"scoring": "exact", "num_beams": 20}, "'exact' has no beams, got evaluate.num_beams = 20"),
    ],
)
def test_specification_is_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Evaluate(**arguments)  # type: ignore[arg-type]


def experiment(policy: object, evaluation: Evaluate) -> Experiment:
    return Experiment(name="shop", source=Shop(), policy=policy, evaluate=evaluation)  # type: ignore[arg-type]


def test_a_beam_search_needs_as_many_beams_as_items_to_rank() -> None:
    lists = Evaluate(cutoffs=(50,))
    experiment(Tiger(num_beams=20), replace(lists, scoring="exact"))
    experiment(Tiger(num_beams=20), replace(lists, num_beams=50))
    experiment(Popularity(), replace(lists, num_beams=50))
    for policy, evaluation, message in (
        (Tiger(num_beams=20), lists, r"policy\.num_beams must be at least 50"),
        (Tiger(num_beams=5), replace(lists, scoring="exact"), r"policy\.num_beams must be at least 10"),
        (Tiger(num_beams=50), replace(lists, num_beams=49), r"evaluate\.num_beams must be at least 50.*got 49"),
    ):
        with pytest.raises(UsageError, match=message):
            experiment(policy, evaluation)


def test_batches_hold_the_longest_histories_first_and_give_equal_results(tmp_path: Path) -> None:
    """Batches of 16 users sorted by history length give the results of one batch with all users in order."""
    corpus = prepare(Shop(num_items=60, num_users=150).load(tmp_path), LeaveOneOut())
    entries, cpu = examples(corpus, "test", 20), torch.device("cpu")
    codes = torch.randint(0, 4, (corpus.item_count, 3), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    ids = SemanticIds(codes, (4, 4, 4))
    policy = TINY.build(ids).eval()
    spec = Evaluate(cutoffs=(5, 20), filter_seen=True)
    parts = batches(entries, 16, cpu)
    widths = [part.history.shape[1] for part in parts]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]
    assert all((part.history[0] > 0).all() for part in parts)
    in_order = [entries.batch(torch.arange(len(entries)))]
    found = [evaluate(policy, each, spec, seen_items(corpus), shared_numbers(ids)) for each in (parts, in_order)]
    pd.testing.assert_frame_equal(found[0].ranks, found[1].ranks)
    pd.testing.assert_frame_equal(found[0].recommendations, found[1].recommendations, rtol=1e-4)


def test_users_are_sampled_once(tmp_path: Path) -> None:
    entries = examples(prepare(Shop(num_items=60, num_users=150).load(tmp_path), LeaveOneOut()), "test", 20)
    some = select_users(entries, 10, "test").batch(torch.arange(10)).user
    assert torch.equal(some, select_users(entries, 10, "test").batch(torch.arange(10)).user)
    assert len(set(some.tolist())) == 10
    assert some.tolist() != list(range(1, 11))
    assert select_users(entries, 0, "test") is select_users(entries, 150, "test") is entries


def test_beam_against_exact_in_one_table(home: Path) -> None:
    """The policy is trained once. Rows with other users are refused; a baseline can be compared with exactly scored rows."""
    base = replace(cyclic(steps=20), evaluate=Evaluate(cutoffs=(1, 10), max_users=30))
    rows = [
        replace(base, name="exact", evaluate=replace(base.evaluate, scoring="exact")),
        replace(base, name="narrow", evaluate=replace(base.evaluate, num_beams=10)),
        base,
    ]
    rows.append(replace(rows[0], name="popularity", policy=Popularity()))
    rows.append(replace(base, name="all", evaluate=replace(base.evaluate, max_users=0)))
    made = {}
    for row in rows:
        made[row.name] = pipeline.run(row)
        run_files.record(row, made[row.name])
    assert len({made[name]["sft"].key for name in ("exact", "narrow", "cyclic", "all")}) == 1
    names = ["exact", "narrow", "cyclic", "popularity"]
    outcomes = run_files.outcomes(names)
    assert {len(run.ranks) for run in outcomes} == {30}
    text = markdown(compare(outcomes, metric="ndcg@10"))
    assert "users tested: 30, sampled from 100" in text
    assert "beams of exact none (exact scoring); beams of narrow 10; beams of cyclic 20" in text
    with pytest.raises(ArtifactError, match="users tested is '30, sampled from 100' and 100"):
        compare(run_files.outcomes(["exact", "all"]), metric="ndcg@10")
    scores = {
        name: pd.read_parquet(made[name]["evaluate"].folder / "recommendations.parquet").groupby("user")["score"].sum()
        for name in ("exact", "narrow")
    }
    assert (scores["exact"] >= scores["narrow"] - 1e-4).all()  # no list has a higher total log-probability than the exact one
    assert json.loads((made["exact"]["evaluate"].folder / "metrics.json").read_text())["users"] == 30


def test_a_policy_is_an_exact_recommender() -> None:
    assert isinstance(TINY.build(SemanticIds(torch.arange(6).view(3, 2))), ExactRecommender)
