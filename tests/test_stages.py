"""What stands between the stages: contexts, seen items, the filter of the protocol, and where alignment starts from."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from worlds import cyclic

from genrec import loading, pipeline, run_files
from genrec.__main__ import main
from genrec.baselines import ItemKNN, Popularity
from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.examples import examples
from genrec.data.sources import Frames
from genrec.data.splits import GlobalTemporal, LeaveOneOut
from genrec.environment import environment, versions
from genrec.errors import ArtifactError, InputError, UsageError
from genrec.evaluation.evaluate import evaluate, metrics_of
from genrec.experiment import Evaluate, Experiment
from genrec.overrides import override
from genrec.semantic_ids import SemanticIds
from genrec.stage_inputs import load_policy, load_semantic_ids, sampler_context
from genrec.testing import Cyclic
from genrec.training.validation import batches, seen_items, validation_score


@pytest.fixture
def corpus() -> Corpus:
    """User a takes x y z w, user b takes y x y (the last but one held out for validation, the last for the test)."""
    events = [("a", item) for item in "xyzw"] + [("b", item) for item in "yxy"]
    frame = pd.DataFrame(events, columns=["user", "item"]).assign(time=range(len(events)))
    items = pd.DataFrame({"item": list("xyzw"), "text": ["one", "two", "three", "four"]})
    return prepare(Frames(frame, items).load(Path()), LeaveOneOut(core=0))


def test_context_rows_are_items(corpus: Corpus) -> None:
    """Training events: x y of a, y of b. Item ids are in order of first appearance: x 1, y 2, z 3, w 4."""
    vectors = torch.arange(8.0).view(4, 2)
    context = sampler_context(corpus, vectors, SemanticIds(torch.arange(4).unsqueeze(1)))
    assert context.item_count == 4
    assert context.popularity.tolist() == [0, 1, 2, 0, 0]
    assert context.vectors[0].tolist() == [0, 0]
    assert torch.equal(context.vectors[1:], vectors)
    assert context.interactions[["user", "item"]].to_numpy().tolist() == [[1, 1], [1, 2], [2, 2]]


def test_seen_items_are_all_before_the_test(corpus: Corpus) -> None:
    """a had x y z, b had y x; the batch is padded with 0."""
    seen = seen_items(corpus)(torch.tensor([2, 1]))
    assert [sorted(set(row)) for row in seen.tolist()] == [[0, 1, 2], [1, 2, 3]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    return tmp_path


def test_draws_of_held_out_items_are_counted_by_evaluation(home: Path) -> None:
    """The stored draws are all negatives, each user's held-out items are looked up in the corpus, and SFT alone has no share."""
    rows = [replace(cyclic(steps=20), name="sft"), replace(cyclic(steps=20, align_steps=10), name="sdpo")]
    sft, aligned = ({stage: made.folder for stage, made in pipeline.run(row).items()} for row in rows)
    drawn = pd.read_parquet(aligned["align"] / "drawn_negatives.parquet")
    assert drawn["count"].sum() == json.loads((aligned["align"] / "negatives.json").read_text())["negatives"] == 10 * 32 * 3
    events = Corpus.load(aligned["data"]).interactions
    part_of = {(user, item): part for user, item, part in events[["user", "item", "part"]].itertuples(index=False)}
    hits = dict.fromkeys(("train", "validation", "test"), 0)
    for user, item, count in drawn.itertuples(index=False):
        if (user, item) in part_of:
            hits[part_of[user, item]] += count
    assert hits["train"] == 0
    assert hits["validation"] > 0
    metrics = json.loads((aligned["evaluate"] / "metrics.json").read_text())
    shares = {name: metrics[name] for name in metrics if name.startswith("negatives_")}
    assert 0 < shares.pop("negatives_uniform_share") < 1
    assert shares == pytest.approx(
        {
            "negatives_counted": 960,
            "negatives_test_share": hits["test"] / 960,
            "negatives_validation_share": hits["validation"] / 960,
            "negatives_heldout_share": (hits["test"] + hits["validation"]) / 960,
            "negatives_missing_share": 0,
        }
    )
    assert "negatives_heldout_share" not in json.loads((sft["evaluate"] / "metrics.json").read_text())


@pytest.mark.parametrize("policy", ["tiger", "itemknn"])
def test_filter_seen_leaves_seen_items_out_of_every_list(home: Path, policy: str) -> None:
    """Seen means the whole history, also what is further back than the three items that the recommender is shown."""
    experiment = replace(cyclic(steps=20), history_length=3, evaluate=Evaluate(cutoffs=(1, 20), filter_seen=True))
    if policy == "itemknn":
        experiment = replace(experiment, policy=ItemKNN())
    artifacts = pipeline.run(experiment)
    loaded = Corpus.load(artifacts["data"].folder)
    recommended = pd.read_parquet(artifacts["evaluate"].folder / "recommendations.parquet")
    before = loaded.interactions[loaded.interactions["part"] != "test"][["user", "item"]]
    assert len(recommended.merge(before, on=["user", "item"])) == 0
    assert len(recommended) == 100 * 20


def test_an_aligned_policy_starts_as_the_sft_policy_and_keeps_its_best(home: Path) -> None:
    """With a step of nothing, the aligned weights are the SFT policy's; the control is the same architecture."""
    experiment = cyclic(steps=20, align_steps=20)
    assert experiment.align is not None
    frozen = replace(
        experiment, align=replace(experiment.align, optimization=replace(experiment.align.optimization, learning_rate=1e-12))
    )
    artifacts = pipeline.run(frozen)
    before, after = (load_file(artifacts[stage].folder / "policy.safetensors") for stage in ("sft", "align"))
    for name, value in before.items():
        torch.testing.assert_close(value, after[name], atol=1e-6, rtol=0)
    curves = pd.read_parquet(artifacts["align"].folder / "curves.parquet")
    assert np.isclose(curves["margin"].dropna(), 0, atol=1e-4).all()


def test_a_training_records_its_resolved_recipe(home: Path) -> None:
    """700 training examples in batches of 64 are 11 steps per epoch."""
    artifacts = pipeline.run(cyclic(steps=22, align_steps=20))
    recipes = {stage: json.loads((artifacts[stage].folder / "recipe.json").read_text()) for stage in ("sft", "align")}
    assert {name: recipes["sft"][name] for name in ("max_steps", "warmup_steps", "every", "examples", "epochs", "precision")} == {
        "max_steps": 22, "warmup_steps": 20, "every": 40, "examples": 700, "epochs": 2.0, "precision": "32-true",
    }  # fmt: skip
    assert recipes["sft"]["parameters"] == recipes["align"]["parameters"] > 1_000
    assert recipes["align"]["learning_rate"] == 1e-4


@pytest.mark.parametrize(("beams", "widest"), [(10, 10), (20, 20), (60, 40), (None, 40)])
def test_validation_reaches_as_far_as_beams_and_catalog(home: Path, beams: int | None, widest: int) -> None:
    """Of 40 items at most 40 are recommended, by 20 beams 20. Each metric is what `metrics_of` says of the same users' lists.

    Metrics with the suffix _filter_seen are those of lists without the items that a user had taken before the validation item.
    """
    experiment = cyclic(steps=2)
    artifacts = pipeline.run(experiment, last="sft")
    corpus, ids = Corpus.load(artifacts["data"].folder), SemanticIds.load(artifacts["tokenize"].folder / "codes.safetensors")
    policy = load_policy(experiment, ids, artifacts["sft"].folder, beams or 60)
    without = Popularity() if beams is None else replace(experiment.policy, num_beams=beams)  # of which only the beams are asked for
    found = validation_score(policy, corpus, replace(experiment, policy=without), experiment.sft, ids)()
    cutoffs = tuple(sorted({1, 10, widest}))
    names = ["ndcg@10", *(f"recall@{n}" for n in cutoffs)]
    for name in ("ndcg@10_standard_error", "ndcg@10_filter_seen_standard_error"):
        assert 0 < found.pop(name) < 1
    assert list(found) == [*names, *(f"{name}_filter_seen" for name in names)]
    users = batches(examples(corpus, "validation", experiment.history_length), 64, torch.device("cpu"))
    taken = [corpus.item[begin:validation].tolist() for begin, validation, _, _ in corpus.bounds]

    def before_validation(numbers: torch.Tensor) -> torch.Tensor:
        return torch.tensor([taken[number - 1] for number in numbers.tolist()])

    for suffix, spec in (("", Evaluate(cutoffs=cutoffs)), ("_filter_seen", Evaluate(cutoffs=cutoffs, filter_seen=True))):
        result = evaluate(policy, users, spec, before_validation)
        expected = metrics_of(result.ranks, result.recommendations, cutoffs, 40)
        assert {name: found[f"{name}{suffix}"] for name in names} == pytest.approx({name: expected[name] for name in names})
    assert found["ndcg@10_filter_seen"] != found["ndcg@10"]


def test_a_policy_of_other_semantic_ids_is_refused(home: Path) -> None:
    artifacts = pipeline.run(cyclic(steps=20))
    with pytest.raises(ArtifactError, match="does not fit the policy"):
        load_policy(cyclic(), SemanticIds(torch.arange(40).unsqueeze(1)), artifacts["sft"].folder)


def test_batches_give_every_example_once(corpus: Corpus) -> None:
    corpus = prepare(Cyclic(num_items=20, num_users=23, length=6).load(Path()), LeaveOneOut())
    users = torch.cat([batch.user for batch in batches(examples(corpus, "test", 3), 5, torch.device("cpu"))])
    assert sorted(users.tolist()) == list(range(1, 24))


@dataclass(frozen=True)
class Remembering:
    """An encoder that is killed in its first try, after it has written something."""

    def encode(self, items: pd.DataFrame, interactions: pd.DataFrame) -> np.ndarray:
        raise AssertionError("the pipeline takes encode_into where there is one")

    def encode_into(self, items: pd.DataFrame, interactions: pd.DataFrame, folder: Path) -> np.ndarray:
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "half").write_text("done")
            raise KeyboardInterrupt
        assert (folder / "half").read_text() == "done"
        return np.random.default_rng(0).standard_normal((len(items), 4)).astype(np.float32)


def test_a_resumable_encoder_goes_on_from_what_it_kept(home: Path) -> None:
    """After a kill its folder is still there; when the stage is done nothing of it is left."""
    experiment = replace(cyclic(), embed=Remembering())
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(experiment, last="embed")
    folder = pipeline.run(experiment, last="embed")["embed"].folder
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "vectors.safetensors"]


def test_items_without_training_events_are_extended_in_the_pipeline(home: Path) -> None:
    """Split by time, some of the cycle's items are new: they are encoded by a quantizer that never saw them."""
    experiment = replace(cyclic(steps=2), split=GlobalTemporal(core=0, validation_share=0.3, test_share=0.3))
    experiment = replace(experiment, tokenize=replace(experiment.tokenize, fit_on="trained"))
    artifacts = pipeline.run(experiment, last="tokenize")
    corpus = Corpus.load(artifacts["data"].folder)
    figures = json.loads((artifacts["tokenize"].folder / "health.json").read_text())
    trained = int((corpus.popularity("train")[1:] > 0).sum())
    assert figures["items_fitted"] == trained <= figures["items"] == corpus.item_count


def stages_of(experiment: Experiment) -> list[tuple[str, tuple[str, ...]]]:
    return [(step.stage, tuple(step.parents)) for step in pipeline.plan(experiment)]


def test_items_as_their_own_codes_need_no_tokenizer(home: Path) -> None:
    """Nothing is tokenized, and nothing embedded but for alignment; the stages before keep their keys."""
    experiment = replace(cyclic(), tokenize=None)
    assert stages_of(experiment) == [("data", ()), ("sft", ("data",)), ("evaluate", ("data", "sft"))]
    aligned = replace(cyclic(align_steps=20), tokenize=None)
    assert stages_of(aligned) == [
        ("data", ()),
        ("embed", ("data",)),
        ("sft", ("data",)),
        ("align", ("data", "embed", "sft")),
        ("evaluate", ("data", "align")),
    ]
    keys, whole = ({step.stage: step.key for step in pipeline.plan(each)} for each in (aligned, cyclic(align_steps=20)))
    assert [stage for stage in keys if keys[stage] == whole[stage]] == ["data", "embed"]
    with pytest.raises(UsageError, match=r"cyclic has no stage 'tokenize', only data, sft, evaluate"):
        pipeline.run(experiment, last="tokenize")


def test_tiger_writes_items_as_their_own_codes(home: Path) -> None:
    """A softmax over the items: one level, item i has code i - 1. SFT, alignment and evaluation run, and the row is recorded."""
    experiment = replace(cyclic(steps=40, align_steps=20), name="atomic", tokenize=None)
    artifacts = pipeline.run(experiment)
    ids = load_semantic_ids(Corpus.load(artifacts["data"].folder), {})
    assert (ids.level_sizes, ids.codes.flatten().tolist()) == ((40,), list(range(40)))
    recommended = pd.read_parquet(artifacts["evaluate"].folder / "recommendations.parquet")
    assert set(recommended.groupby("user")["item"].nunique()) == {10}
    run_files.record(experiment, artifacts)
    content = run_files.read("atomic")
    assert content["configuration"]["tokenize"] is None
    assert len(run_files.outcomes(["atomic"])) == 1


def test_the_command_that_describes_semantic_ids_says_that_there_are_none(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "atomic.py").write_text(
        "from dataclasses import replace\nfrom genrec.experiment import Experiment\nfrom genrec.testing import Shop\n"
        "def row(): return Experiment(name='atomic', source=Shop(), tokenize=None)\n"
        "def both(): return [row(), replace(row(), name='ids', tokenize=Experiment(name='x', source=Shop()).tokenize)]\n"
    )
    assert main(["tokenize", f"{tmp_path}/atomic.py:row"]) == 2
    assert "tokenize=None uses items as codes" in capsys.readouterr().err
    one, other = override(loading.load(f"{tmp_path}/atomic.py:both"), ["--tokenize.collisions", "keep", "--seed", "3"])
    assert (one.tokenize, one.seed, other.seed) == (None, 3, 3)
    assert other.tokenize is not None
    assert other.tokenize.collisions == "keep"
    with pytest.raises(UsageError, match="fits no experiment: tokenize is None in all of them"):
        override(loading.load(f"{tmp_path}/atomic.py:row"), ["--tokenize.collisions", "keep"])


@dataclass(frozen=True)
class FailingPolicy:
    """A plug-in policy with a bug, and no method but the one that fails."""

    def build(self, semantic_ids: SemanticIds) -> nn.Module:
        module = nn.Linear(1, 1)
        module.recommend = lambda *arguments, **options: 1 / 0  # type: ignore[assignment]
        return module


def test_an_error_of_a_plug_in_policy_names_the_plug_in(home: Path) -> None:
    experiment = replace(cyclic(steps=2), policy=FailingPolicy())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"FailingPolicy \(.*\) raised ZeroDivisionError.* in stage sft; test .* 'genrec check"):
        pipeline.run(experiment)


def test_the_version_of_genrec_is_in_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version builds no stage again; a stage that gives other results has a version of its own (`pipeline.version_of`)."""
    row = Experiment(name="row", source=Cyclic())
    keys = [step.key for step in pipeline.plan(row)]
    holders = [module for name, module in sys.modules.items() if name.partition(".")[0] == "genrec" and hasattr(module, "__version__")]
    assert {"genrec", "genrec.environment"} <= {module.__name__ for module in holders}
    for module in holders:
        monkeypatch.setattr(module, "__version__", "9.9.9")
    versions.cache_clear()
    try:
        assert versions()["genrec"] == environment()["genrec"] == "9.9.9"
        assert [step.key for step in pipeline.plan(row)] == keys
    finally:
        versions.cache_clear()
