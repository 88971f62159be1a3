"""Every function in experiments/ builds, plans and states its cost; wrong experiments are refused."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from preference_stages import stage

from genrec import endpoints, loading, pipeline
from genrec.baselines import Popularity
from genrec.errors import UsageError
from genrec.experiment import Align, Experiment, Optimization
from genrec.model import Tiger
from genrec.objectives import Supervised
from genrec.overrides import override
from genrec.preference.filters import NearDuplicates
from genrec.preference.losses import DPO
from genrec.preference.negatives import BestOf, Filtered, Mix, ModelBeams, PrefixNeighbors, Uniform
from genrec.preference.rewards import Popular
from genrec.testing import Shop
from genrec.tokenizer import RQKMeans

FILES = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))


def functions() -> list[str]:
    """Every public function without parameters, as `FILE.py:FUNCTION`."""
    found = []
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not node.args.args:
                found.append(f"{path}:{node.name}")
    return found


@pytest.mark.parametrize("where", functions(), ids=lambda where: where.rpartition("/")[2])
def test_every_experiment_is_built_and_planned(where: str) -> None:
    """Planned on the built-in shop, because the real data may not be here; every stage gets a key."""
    listed = loading.load(where)
    endpoints.named(loading.member(where), listed, where)  # raises if an endpoint names a row that the list lacks
    for experiment in listed:
        assert isinstance(experiment, Experiment)
        steps = pipeline.plan(replace(experiment, source=Shop()))
        assert steps[0].stage == "data"
        assert steps[-1].stage == "evaluate"
        assert len({step.key for step in steps}) == len(steps)


@pytest.mark.parametrize("where", functions(), ids=lambda where: where.rpartition("/")[2])
def test_every_field_can_be_named_on_the_command_line(where: str) -> None:
    """An override of the seed and of the protocol reaches every experiment of the list."""
    for experiment in override(loading.load(where), ["--seed", "7", "--history-length", "9"]):
        assert (experiment.seed, experiment.history_length) == (7, 9)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_says_how_to_run_it_and_what_it_costs(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert f"genrec run experiments/{path.name}:" in text
    assert "Cost" in text
    assert "experiments/results.md" in text or "experiments/results/" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "a b"}, "name must be letters"),
        ({"source": "ml-100k.zip"}, r"source must be an instance of a genrec\.types\.Source, got 'ml-100k\.zip'"),
        ({"policy": None}, r"policy must be an instance of a genrec\.types\.PolicySpecification or Baseline"),
        ({"policy": Popularity(), "align": Align()}, "a baseline cannot be aligned"),
        ({"policy": Tiger(num_beams=20)}, r"policy\.num_beams must be at least 50, the number of items to rank"),
        (
            {"align": stage(negatives=Mix((Uniform(), ModelBeams(num_beams=60)), (1, 1)))},
            r"ModelBeams\.num_beams must be at most policy\.num_beams = 50",
        ),
        ({"align": stage(negatives=ModelBeams(locked_levels=4))}, r"must share fewer codes than the 4 of a Semantic ID"),
        ({"align": stage(negatives=PrefixNeighbors(9))}, r"must share fewer codes than the 4 of a Semantic ID"),
        ({"seed": -1}, "seed must be an integer of 0 or more"),
        ({"history_length": "20"}, "history_length must be an integer of 1 or more, got '20'"),
        ({"policy": Tiger}, r"policy must be an instance of a genrec\.types\.PolicySpecification"),
        ({"tokenize": RQKMeans()}, r"tokenize must be Tokenize\(\.\.\.\), got RQKMeans"),
        ({"sft": Optimization(max_steps=1, batch_size=1, learning_rate=1)}, r"sft must be SFT\(\.\.\.\), got Optimization"),
        ({"align": DPO()}, r"align must be Align\(\.\.\.\), got DPO"),
        ({"evaluate": None}, r"evaluate must be Evaluate\(\.\.\.\), got None"),
    ],
)
def test_what_is_no_experiment(change: dict[str, object], said: str) -> None:
    """Refused when it is built, long before a stage starts."""
    with pytest.raises(UsageError, match=said):
        Experiment(**({"name": "shop", "source": Shop()} | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negatives": "faiss"}, r"Sampled\.negatives must be a sampler, such as Uniform\(\), got 'faiss'"),
        ({"negatives": Uniform}, r"Sampled\.negatives must be a sampler"),
        ({"loss": DPO}, r"Preference\.loss must be a loss, such as DPO\(\), .* got the class "),
        ({"loss": 0.5}, r"Preference\.loss must be a loss"),
    ],
)
def test_an_alignment_refuses_components_of_another_type(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stage(**change)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Align(normalize="code"), r"align\.normalize must be one of 'codes', 'children', got 'code'"),  # type: ignore[arg-type]
        (lambda: Align(keep="first"), r"align\.keep must be one of 'best', 'last'"),  # type: ignore[arg-type]
        (lambda: Supervised(targets="every"), r"Supervised\.targets must be one of 'one', 'all'"),  # type: ignore[arg-type]
        (lambda: Supervised(padding="repeated"), r"Supervised\.padding must be one of 'zero', 'repeat'"),  # type: ignore[arg-type]
        (lambda: Tiger(encoder="casual"), r"policy\.encoder must be one of 'bidirectional', 'causal'"),  # type: ignore[arg-type]
        (lambda: Tiger(history="item"), r"policy\.history must be one of 'codes', 'items'"),  # type: ignore[arg-type]
        (
            lambda: Optimization(max_steps=1, batch_size=1, learning_rate=1, precision="bf16"),  # type: ignore[arg-type]
            r"optimization\.precision must be one of 'auto', '32-true', 'bf16-mixed', got 'bf16'",
        ),
        (
            lambda: Optimization(max_steps="20", batch_size=1, learning_rate=1),  # type: ignore[arg-type]
            r"optimization\.max_steps must be an integer or None, got '20' \(str\)",
        ),
    ],
)
def test_a_typo_in_a_closed_choice_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


@dataclass(frozen=True)
class Picky:
    """A sampler with a check of its own."""

    error: type[Exception] = UsageError

    def build(self, context: object) -> object:
        raise NotImplementedError

    def check(self, experiment: Experiment) -> None:
        raise self.error(f"{experiment.name} is not for me")


def test_a_plug_in_refuses_an_experiment_before_any_stage() -> None:
    """However deep it is in the experiment; an error that is no UsageError is reported as the plug-in's own."""
    nested = stage(negatives=Filtered(Picky(), (NearDuplicates(),)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^shop is not for me$"):
        Experiment(name="shop", source=Shop(), align=nested)
    bug = stage(negatives=Picky(ZeroDivisionError))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"Picky \(.*:\d+\): check\(experiment\) failed; its own error:\n(?s:.)*ZeroDivisionError"):
        Experiment(name="shop", source=Shop(), align=bug)


def test_candidates_are_at_least_the_negatives_asked_for() -> None:
    """In compositions too: the outer one asks the inner one for as many as it chooses from."""
    stage(negatives=BestOf(Uniform(), Popular(), num_candidates=3), num_negatives=3)
    with pytest.raises(UsageError, match=r"BestOf\.num_candidates must be at least Sampled\.num_negatives = 3"):
        stage(negatives=Filtered(BestOf(Uniform(), Popular(), num_candidates=2), (NearDuplicates(),)), num_negatives=3)
    with pytest.raises(UsageError, match=r"must be at least num_candidates = 9"):
        stage(negatives=BestOf(BestOf(Uniform(), Popular(), num_candidates=8), Popular(), num_candidates=9), num_negatives=3)


def test_the_stages_are_fields() -> None:
    assert [field.name for field in fields(Experiment)] == [
        "name", "source", "split", "embed", "tokenize", "policy", "history_length", "sft", "align", "evaluate", "selection", "seed",
    ]  # fmt: skip


def test_overrides_are_checked_together() -> None:
    """Either of the first two alone is refused, or asks for the other; a value that is wrong by itself is named by itself."""
    shop = loading.load(str(FILES[0].parent / "shop.py:sft"))
    (found,) = override(shop, ["--sft.targets", "all", "--policy.encoder", "causal"])
    assert (found.sft.objective, found.policy.encoder) == (Supervised(targets="all"), "causal")
    with pytest.raises(UsageError, match=r"^--sft.targets all: .*needs a causal policy"):
        override(shop, ["--seed", "3", "--sft.targets", "all"])
    with pytest.raises(UsageError, match=r"^--sft.optimization.max-steps -1: "):
        override(shop, ["--sft.targets", "all", "--policy.encoder", "causal", "--sft.optimization.max-steps", "-1"])
