"""Overrides: each field is read by itself and once, which must give what tyro gives of every whole experiment."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from preference_stages import stage

from genrec import command_parser, loading, overrides
from genrec.baselines import Popularity, SASRec
from genrec.component_choices import MODULES, NAMES_IN_PAPERS, classes_of, kinds_of
from genrec.data.sources import Frames
from genrec.embeddings import Collaborative, Precomputed
from genrec.errors import InputError, UsageError
from genrec.experiment import Align, Experiment, Tokenize, baselines, seeds
from genrec.field_paths import plain_value, value_at, walk
from genrec.objectives import PolicyGradient, Preference, Rounds, Supervised
from genrec.preference.candidates import Pairs, Sampled, TopItems
from genrec.preference.filters import NearDuplicates
from genrec.preference.losses import DPO, Anchored, Smoothed, SoftmaxDPO
from genrec.preference.negatives import BestOf, FaissNeighbors, Filtered, Mix, Uniform
from genrec.preference.rewards import Popular
from genrec.preference.schedules import Linear, constant
from genrec.preference.vectors import LearnedVectors
from genrec.testing import Shop
from genrec.tokenizer import RQVAE, RQKMeans
from genrec.types import LogProbs, LossNeeds, NegativeSampler, NumberOrSchedule, Objective, PreferenceLoss, PreferenceTerms

FILES = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))
BASE = Experiment(name="shop-sft", source=Shop())
MIXED = Mix(samplers=(Uniform(), FaissNeighbors()), weights=(1.0, 1.0))
ROWS = [
    *baselines(BASE)[:1],
    *seeds([replace(BASE, name="shop-dpo", align=stage(loss=Anchored(DPO()), num_negatives=1))], (0, 1)),
    replace(BASE, name="shop-mixed", align=stage(negatives=MIXED)),
    replace(BASE, name="shop-atomic", tokenize=None),
]


FULL = {  # short names, which tyro does not know
    "--sft.targets": "--sft.objective.targets",
    "--align.loss": "--align.objective.loss",
    "--align.negatives": "--align.objective.candidates.negatives",
    "--align.num-negatives": "--align.objective.candidates.num-negatives",
}


def full(flag: str) -> str:
    """The flag with the full path of its field."""
    short = next((name for name in FULL if flag == name or flag.startswith(f"{name}.")), None)
    return flag if short is None else FULL[short] + flag.removeprefix(short)


def whole(experiment: Experiment, flags: Sequence[Sequence[str]]) -> Experiment | None:
    """What tyro makes of the experiment as a whole; None where it refuses. It reads no source: the comments are for --help alone."""
    unread = patch.object(inspect, "getsource", side_effect=OSError)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()), unread:
            arguments = [token for flag in flags for token in flag]
            return overrides._cli(Experiment, experiment, arguments)
    except SystemExit:
        return None


@functools.cache
def attempted(experiment: Experiment, flags: tuple[tuple[str, ...], ...]) -> Experiment | str | None:
    """The same, or what a component says against it."""
    try:
        return whole(experiment, flags)
    except UsageError as error:
        return str(error)


def attempt(experiment: Experiment, flags: Sequence[Sequence[str]]) -> Experiment | str | None:
    return attempted(experiment, tuple((full(flag[0]), *flag[1:]) for flag in flags))


def slow(experiments: Sequence[Experiment], flags: Sequence[Sequence[str]]) -> list[Experiment] | str:
    """The overrides by their definition: every flag and all together, for every whole experiment; or the message."""
    result: list[Experiment] = []
    for flag in flags:
        if all(attempt(experiment, [flag]) is None for experiment in experiments):
            return f"the override {' '.join(flag)} fits no experiment"
    several = len({experiment.name for experiment in experiments}) > 1
    for experiment in experiments:
        own = [["--name", f"{flag[1]}-{experiment.name}"] if several and flag[0] == "--name" else flag for flag in flags]
        fitting = [flag for flag in own if attempt(experiment, [flag]) is not None]
        changed = attempt(experiment, fitting)
        if isinstance(changed, str):
            others = [[other for other in fitting if other is not flag] for flag in fitting]
            right = [flag for flag, rest in zip(fitting, others, strict=True) if isinstance(attempt(experiment, rest), Experiment)]
            return f"{' '.join(token for flag in right[:1] or fitting for token in flag)}: {changed}"
        assert changed is not None
        if changed not in result:
            result.append(changed)
    return result


def fast(experiments: Sequence[Experiment], flags: Sequence[Sequence[str]]) -> list[Experiment] | str:
    try:
        return overrides.override(experiments, [token for flag in flags for token in flag])
    except UsageError as error:
        return str(error)


def check_same(experiments: Sequence[Experiment], flags: Sequence[Sequence[str]]) -> None:
    """The same experiments to the type of every value, or the same message (what fits none is explained at more length)."""
    expected, found = slow(experiments, flags), fast(experiments, flags)
    if isinstance(expected, str) and expected.endswith("fits no experiment"):
        assert isinstance(found, str)
        flag = expected.removeprefix("the override ").removesuffix(" fits no experiment")
        assert found.startswith((expected, f"{flag}: expected "))  # the field is missing, or the value has the wrong type
    else:
        assert repr(found) == repr(expected)


def another(value: object) -> list[str]:
    """Tokens for a value of the same type, another one where that is easily said; many are refused by the component."""
    if isinstance(value, bool):
        return [str(not value)]
    if isinstance(value, int | float):
        return [str(value + type(value)(1))]
    if isinstance(value, tuple):
        return [token for each in value for token in another(each)]
    return [str(value)]


def leaves(value: Any, path: str = "-") -> Iterator[tuple[Any, str, object]]:
    """Every field that holds no dataclass: its owner, its flag, its value; what tuples hold is followed."""
    places = (
        enumerate(value)
        if isinstance(value, tuple)
        else ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    )
    for name, inner in places:
        flag = f"{path}-{name}" if path == "-" else f"{path}.{name}"
        if dataclasses.is_dataclass(inner) or (isinstance(inner, tuple) and any(map(dataclasses.is_dataclass, inner))):
            yield from leaves(inner, flag)
        else:
            yield value, flag, inner


def every_field() -> list[tuple[Experiment, str, object]]:
    """Every field of every experiment in experiments/ and of ROWS; a field of the same component only once, wherever it is."""
    found: dict[tuple[object, ...], tuple[Experiment, str, object]] = {}
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_" and not node.args.args]
        for experiment in [*ROWS, *(each for name in names for each in loading.load(f"{path}:{name}"))]:
            for owner, flag, value in leaves(experiment):
                key = (flag.rpartition(".")[2], type(owner), type(value))
                if key in found:
                    continue
                assert owner is value_at(experiment, walk(experiment, flag, {}).path[:-1], {})
                if dataclasses.is_dataclass(owner) and kinds_of(owner, flag.rpartition(".")[2].lstrip("-")):
                    continue  # chosen by class name, not parsed by tyro
                found[key] = (experiment, flag, value)
    return list(found.values())


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 5))])
def test_every_field_of_every_experiment_is_set_as_tyro_sets_it(part: int) -> None:
    """One flag each, its name with hyphens where tyro writes them; and it is not the value there was, unless that cannot be said.

    The fast tests set every fifth field, the slow ones the others.
    """
    cases = every_field()
    assert len(cases) > 140
    changed = 0
    for experiment, flag, value in cases[part::5]:
        tokens = [flag.replace("_", "-"), *another(value)]
        if flag.startswith("--policy.loss."):  # a value of the protocol ItemLoss: tyro sees no fields
            found = fast([experiment], [tokens])
            assert "policy.loss." in found if isinstance(found, str) else plain_value(found[0], flag) != value
            continue
        check_same([experiment], [tokens])
        changed += slow([experiment], [tokens]) != [experiment]
    assert changed > 18


FLAGS = [
    ["--seed", "1"],
    ["--seed", "-1"],
    ["--seed", "one"],
    ["--name", "other"],
    ["--sft.optimization.max-steps", "7"],
    ["--sft.optimization.max-steps", "7", "8"],
    ["--sft.optimization.learning-rate", "1"],
    ["--sft.targets", "all"],
    ["--policy.encoder", "causal"],
    ["--policy.d-model", "32"],
    ["--tokenize.collisions", "keep"],
    ["--align.num-negatives", "1"],
    ["--align.num-negatives", "0"],
    ["--align.loss.loss.beta", "0.5"],
    ["--align.loss.loss.beta", "nan"],
    ["--align.negatives.samplers.1.pool-size", "9"],
    ["--align.negatives.samplers.1.skip", "-1"],
    ["--align.negatives.samplers.0.pool-size", "9"],
    ["--align.negatives.weights", "2", "3"],
    ["--align.negatives.weights", "2"],
    ["--evaluate.cutoffs", "1", "5"],
    ["--evaluate.filter-seen", "True"],
    ["--no-such-field", "1"],
]


@settings(max_examples=5, deadline=None)
@given(st.lists(st.sampled_from(FLAGS), min_size=1, max_size=3, unique_by=lambda flag: flag[0]))
@example([["--sft.targets", "all"], ["--policy.encoder", "causal"]])
@example([["--seed", "5"], ["--align.negatives.samplers.1.pool-size", "9"], ["--align.negatives.samplers.1.skip", "9"]])
@example([["--seed", "5"], ["--align.num-negatives", "0"]])
def test_overrides_of_a_list_are_those_of_its_whole_experiments(flags: list[list[str]]) -> None:
    """Which rows have the field, which become one, what is refused and whose fault it is."""
    check_same(ROWS, flags)


@pytest.mark.parametrize("flag", FLAGS, ids=" ".join)
def test_one_override_of_a_list(flag: list[str]) -> None:
    check_same(ROWS, [flag])


def test_the_last_of_two_values_of_one_field_counts() -> None:
    """As tyro has it, whichever of them by itself is refused."""
    (found,) = overrides.override([BASE], ["--sft.optimization.max-steps", "0", "--sft.optimization.max-steps", "9"])
    assert found.sft.optimization.max_steps == 9
    (found,) = overrides.override([BASE], ["--embed", "Item2Vec", "--embed", "Collaborative"])
    assert found.embed == Collaborative()
    (found,) = overrides.override([BASE], ["--sft.validation.patience", "None", "--sft.validation.patience", "9"])
    assert found.sft.validation.patience == 9
    (found,) = overrides.override([BASE], ["--sft.validation.patience", "9", "--sft.validation.patience", "None"])
    assert found.sft.validation.patience is None


def test_a_value_is_read_once_for_a_list_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """464 rows take a parse for each default that the field has in them (1, 3, 15), and one for the rows without alignment."""
    read: list[list[str]] = []
    parse = overrides._parse

    def counted(kind: Any, default: Any, arguments: list[str]) -> Any:
        read.append(arguments)
        return parse(kind, default, arguments)

    monkeypatch.setattr(overrides, "_parse", counted)
    grid = loading.load(f"{FILES[0].parent / 'movielens.py'}:grid")
    assert len(grid) > 400
    assert fast(grid, [["--align.num-negatives", "0"]]) == "--align.num-negatives 0: Sampled.num_negatives must be at least 1, got 0"
    assert sorted(read) == [["--align.num-negatives", "0"], *[["--num_negatives", "0"]] * 3]
    assert str(fast(grid, [["--align.cuont", "1"]])).startswith("the override --align.cuont 1 fits no experiment: Align has no field")
    assert len(read) == 5


def test_each_row_is_built_once_however_many_flags_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a flag fits a row is seen from the value alone. Five rows are built 5 times with three flags, not 20 times."""
    built: list[Experiment] = []
    build = Experiment.__post_init__

    def counted(experiment: Experiment) -> None:
        built.append(experiment)
        build(experiment)

    monkeypatch.setattr(Experiment, "__post_init__", counted)
    overrides.override(ROWS, ["--seed", "7", "--sft.optimization.max-steps", "9", "--evaluate.cutoffs", "1", "5"])
    assert len(built) == len(ROWS)


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Another's item encoder, which refuses with Python's own error."""

    width: int = 4

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError("too narrow")

    def encode(self, items: Any, interactions: Any) -> Any:
        raise NotImplementedError


def test_what_another_component_refuses_is_named() -> None:
    rows = [replace(BASE, embed=Foreign()), BASE]
    with pytest.raises(UsageError, match=r"^--embed.width 0: too narrow$"):
        overrides.override(rows, ["--embed.width", "0"])


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--align.negatives.samplers.0.alpha", "Uniform has no field 'alpha'; it has none"),
        ("--align.negatives.samplers.1.pol", "has no field 'pol'; the nearest: --align.negatives.samplers.1.pool-size"),
        ("--align.negatives.samplers.2.pool-size", "align.negatives.samplers has no position '2'; it has 2 entries, counted from 0"),
        ("--align.negatives.final-weights.0", "align.negatives.final-weights is None in all of them"),
        ("--align.stpes", "Align has no field 'stpes'; the nearest: --align.optimization.max-steps, --align.optimization.warm"),
        ("--source.color", "Shop has no field 'color'; it has num-items, num-users, seed"),
        ("--seed.x", "seed is 0, which has no fields"),
        (
            "--pool-size",
            "Experiment has no field 'pool-size'; the nearest: --align.objective.candidates.negatives.samplers.1.pool-size",
        ),
    ],
)
def test_what_is_said_of_a_field_that_is_not_there(flag: str, said: str) -> None:
    """By the row that has most of the path: the third of four has the mixture."""
    with pytest.raises(UsageError) as refused:
        overrides.override(ROWS, [flag, "one"])
    assert str(refused.value).startswith(f"the override {flag} one fits no experiment")
    assert said in str(refused.value)


def dpo(**fields: object) -> Align:
    """An alignment by DPO with one negative."""
    return stage(**{"loss": Anchored(DPO()), "num_negatives": 1} | fields)


ALIGNED = replace(BASE, name="shop-dpo", align=dpo())


def preference(experiment: Experiment) -> Any:
    """The objective of the one alignment of an experiment."""
    return experiment.alignments[0].objective


def sampler_of(experiment: Experiment) -> Any:
    """The sampler of the one alignment of an experiment."""
    return preference(experiment).candidates.negatives


def one(experiment: Experiment, *arguments: str) -> Experiment:
    (found,) = overrides.override([experiment], arguments)
    return found


def refused(experiments: Sequence[Experiment], *arguments: str) -> str:
    with pytest.raises(UsageError) as error:
        overrides.override(experiments, arguments, "mine.py:rows")
    return str(error.value)


def test_a_component_is_replaced_by_the_defaults_of_a_class() -> None:
    assert one(ALIGNED, "--align.negatives", "FaissNeighbors") == replace(ALIGNED, align=dpo(negatives=FaissNeighbors()))
    assert one(BASE, "--embed", "Collaborative").embed == Collaborative()
    assert one(BASE, "--tokenize.quantizer", "RQVAE").tokenize == replace(BASE.tokenize, quantizer=RQVAE())
    assert one(BASE, "--policy", "Popularity").policy == Popularity()
    assert one(BASE, "--policy", "SASRec", "--tokenize", "None") == replace(BASE, policy=SASRec(), tokenize=None)
    judged = replace(ALIGNED, align=dpo(reward=Popular(), chosen="best"))
    assert one(ALIGNED, "--align.reward", "Popular", "--align.chosen", "best") == judged
    assert one(judged, "--align.reward", "None", "--align.chosen", "first") == ALIGNED


@pytest.mark.parametrize("order", [1, -1])
def test_further_flags_apply_to_the_chosen_component(order: int) -> None:
    """In any order on the command line, and also below another chosen component."""
    flags = [
        ["--align.negatives", "FaissNeighbors"],
        ["--align.negatives.pool-size", "7"],
        ["--align.negatives.vectors", "LearnedVectors"],
    ]
    changed = one(ALIGNED, *(token for flag in flags[::order] for token in flag))
    assert sampler_of(changed) == FaissNeighbors(pool_size=7, vectors=LearnedVectors())


def test_align_is_added_to_an_experiment_without_one() -> None:
    changed = one(BASE, "--align.loss", "DPO", "--align", "Align", "--align.num-negatives", "1")
    assert changed.align == stage(loss=DPO(), num_negatives=1)
    assert one(ALIGNED, "--align", "None").align is None


def test_a_choice_changes_the_rows_that_have_the_field() -> None:
    found = overrides.override(ROWS, ["--align.negatives", "Uniform"])
    assert [None if each.align is None else sampler_of(each) for each in found] == [None, Uniform(), Uniform(), Uniform(), None]


def test_a_component_of_the_users_file_is_chosen(tmp_path: Path) -> None:
    file = tmp_path / "chosen_plugin.py"
    file.write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    width: int = 3\n"
        "    def build(self, context):\n        raise NotImplementedError\n"
        "@dataclass(frozen=True)\nclass Other:\n    width: int = 3\n"
    )
    sampler = sampler_of(one(ALIGNED, "--align.negatives", f"{file}:Mine", "--align.negatives.width", "5"))
    assert (type(sampler).__module__, repr(sampler)) == ("chosen_plugin", "Mine(width=5)")
    rows = overrides.override(ROWS, ["--align.negatives", f"{file}:Mine"])
    assert len({type(sampler_of(row)) for row in rows if row.align is not None}) == 1  # the file is imported once
    assert "Other is no NegativeSampler: NegativeSampler has build" in refused([ALIGNED], "--align.negatives", f"{file}:Other")
    assert "did you mean 'Mine'?" in refused([ALIGNED], "--align.negatives", f"{file}:Mime")


def test_a_field_of_a_wrapped_component_is_reached() -> None:
    """Of the loss in Anchored and Smoothed, and of the sampler in Filtered; a field of the wrapper comes first."""
    assert preference(one(ALIGNED, "--align.loss.beta", "0.3")).loss == Anchored(DPO(beta=0.3))
    nested = replace(ALIGNED, align=stage(loss=Anchored(Smoothed(SoftmaxDPO()))))
    assert preference(one(nested, "--align.loss.beta", "0.3")).loss == Anchored(Smoothed(SoftmaxDPO(beta=0.3)))
    filtered = replace(ALIGNED, align=stage(negatives=Filtered(FaissNeighbors(), (NearDuplicates(),))))
    assert sampler_of(one(filtered, "--align.negatives.pool-size", "9")).sampler == FaissNeighbors(pool_size=9)
    assert preference(one(ALIGNED, "--align.loss.alpha", "2")).loss == Anchored(DPO(), alpha=2.0)


def test_a_field_of_two_inner_components_is_not_guessed() -> None:
    """Neither of samplers in a tuple, nor of components of another kind: `max_steps` is a field of two recipes."""
    assert "Mix has no field 'pool-size'" in refused(ROWS[3:4], "--align.negatives.pool-size", "9")
    said = refused([ALIGNED], "--max-steps", "9")
    assert "the nearest: --sft.optimization.max-steps, --align.optimization.max-steps" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--align.negatives", "Unifrom"], "there is no NegativeSampler 'Unifrom'; the choices: AlreadySeen, "),
        (["--align.negatives", "Unifrom"], "or FILE.py:CLASS; did you mean 'Uniform'?"),
        (["--align.negatives", "FaissNeighbours"], "FaissNeighbours is now FaissNeighbors"),
        (["--align.negatives"], "expected one class name, AlreadySeen, "),
        (
            ["--align.loss", "Anchored"],
            "Anchored has fields without a default: loss (PreferenceLoss); give them too: --align.objective.loss.loss CLASS; or "
            "write in the experiment's file, after 'from dataclasses import replace' and 'from genrec.preference.losses import "
            "Anchored': replace(experiment, align=replace(experiment.align, objective=replace(experiment.align.objective, "
            "loss=Anchored(loss=...))))",
        ),
        (
            ["--align.negatives", "Mix"],
            "which the command line cannot give: samplers (tuple[NegativeSampler, ...]), weights (tuple[float, ...]); write in the",
        ),
        (
            ["--align.negatives", "BestOf"],
            "--align.objective.candidates.negatives.sampler CLASS --align.objective.candidates.negatives.reward CLASS; or write",
        ),
        (["--tokenize", "RQVAE"], "RQVAE is no Tokenize but a component of one; did you mean --tokenize.quantizer RQVAE?"),
        (["--align", "DPO"], "did you mean --align.loss DPO?"),
        (["--align.negatives", "BestOf"], "'from genrec.preference.negatives import BestOf'"),
        (["--align.loss", "Anchored", "--align.loss.loss", "DOP"], "--align.loss.loss DOP: there is no PreferenceLoss 'DOP'"),
        (["--embed", "Precomputed", "--embed.path"], "--embed.path: expected a path or a text, got nothing"),
        (
            ["--source", "Frames", "--source.interactions", "a.csv", "--source.columns", "a=user"],
            "expected names and values in turns or None, got 'a=user'; for example --source.columns user_id user movie_id item",
        ),
        (
            ["--align.negatives", "FaissNeighbors", "--align.negatives.pol", "3"],
            "has no field 'pol'; the nearest: --align.negatives.pool-size",
        ),
        (
            ["--align.optimization", "x"],
            "align.optimization is a component, Optimization; set one of its fields: --align.opt",
        ),
        (["--seed", "one"], "--seed one: expected an integer, got 'one'"),
        (["--align.loss.beta", "x"], "--align.loss.beta x: expected a number, got 'x'"),
        (["--align.keep", "x"], "--align.keep x: expected one of 'best', 'last', got 'x'"),
        (["--evaluate.filter-seen", "x"], "expected True or False, got 'x'"),
        (["--evaluate.filter-seen"], "expected True or False, got nothing"),
        (["--evaluate.cutoffs", "x"], "expected values separated by spaces, each an integer, got 'x'"),
        (["--sft.validation.patience", "x"], "expected an integer or None, got 'x'"),
        (["--align.loss.loss.beta", "x"], "expected a number, got 'x'"),
        (["--sed", "3"], "Experiment has no field 'sed'; the nearest: --seed"),
    ],
)
def test_a_refusal_names_what_is_expected_and_how_to_list_the_fields(arguments: list[str], said: str) -> None:
    message = refused([ALIGNED], *arguments)
    assert said in message
    assert message.endswith("\nlist all fields: genrec run mine.py:rows --fields")


def test_a_field_of_an_absent_alignment_is_explained_by_what_to_write() -> None:
    message = refused([BASE], "--align.negatives", "Uniform")
    assert "align is None in all of them" in message
    assert "add --align Align for its defaults" in message
    sampled = "replace(experiment, align=Align(objective=Preference(candidates=Sampled("
    assert f"{sampled}negatives=Uniform()))))" in message
    assert f"{sampled}num_negatives=3))))" in refused([BASE], "--align.num-negatives", "3")
    assert "replace(experiment, align=Align(keep='last'))" in refused([BASE], "--align.keep", "last")


def test_the_flags_that_are_named_for_a_field_of_an_absent_alignment_are_valid() -> None:
    """A field below a component with settings of its own; fields below components of default settings are also named as code."""
    for path, value in (("loss.beta", "0.3"), ("beta", "0.3"), ("optimization.max-steps", "7"), ("max-steps", "7")):
        message = refused([BASE], f"--align.{path}", value)
        assert f"; add --align Align: --align Align --align.{path} {value}\n" in message
        assert one(BASE, "--align", "Align", f"--align.{path}", value).align not in (None, Align())
    assert "add --align Align for its defaults, but Align has no field 'stpes'; the nearest" in refused([BASE], "--align.stpes", "3")
    assert "but Anchored has no field 'beat'" in refused([BASE], "--align.loss.beat", "3")


@pytest.mark.parametrize("order", [1, -1])
def test_a_class_with_required_fields_is_chosen_with_flags_for_them(order: int) -> None:
    """In any order, one within the other, and with fields that are valid only beside them."""

    def chosen(*flags: str) -> Experiment:
        return one(ALIGNED, *(token for flag in flags[::order] for token in flag.split()))

    losses = ("--align.loss Anchored", "--align.loss.loss Smoothed", "--align.loss.loss.loss DPO", "--align.loss.loss.loss.beta 0.7")
    assert chosen(*losses).align == dpo(loss=Anchored(Smoothed(DPO(beta=0.7))))
    best = ("--align.negatives BestOf", "--align.negatives.sampler Uniform", "--align.negatives.reward Popular")
    assert sampler_of(chosen(*best)) == BestOf(Uniform(), Popular())
    assert chosen("--embed Precomputed", "--embed.path v.npy", "--embed.ids v.txt").embed == Precomputed("v.npy", ids="v.txt")
    frames = ("--source Frames", "--source.interactions a.csv", "--source.columns who user what item")
    assert chosen(*frames).source == Frames(Path("a.csv"), columns={"who": "user", "what": "item"})


CHAIN = replace(BASE, name="shop-chain", align=(dpo(), Align(Supervised())))
ROUNDS = replace(BASE, name="shop-rounds", align=Align(Rounds(objectives=(Supervised(), Preference()), steps=(5, 5))))


def test_a_flag_may_name_the_full_path_or_a_short_one() -> None:
    for path in ("objective.loss.loss.beta", "objective.loss.beta", "objective.beta", "loss.loss.beta", "loss.beta", "beta"):
        assert one(ALIGNED, f"--align.{path}", "0.3").align == dpo(loss=Anchored(DPO(beta=0.3)))
    assert one(ALIGNED, "--align.negatives", "FaissNeighbors", "--align.pool-size", "9").align == dpo(
        negatives=FaissNeighbors(pool_size=9)
    )
    assert one(ALIGNED, "--align.max-steps", "100").alignments[0].steps == 100
    assert one(ALIGNED, "--sft.targets", "all", "--policy", "SASRec", "--tokenize", "None").sft.objective == Supervised(targets="all")
    assert one(BASE, "--tokenize.num-levels", "3").tokenize == Tokenize(quantizer=RQKMeans(num_levels=3))


def test_an_outer_component_is_chosen_before_a_short_name_is_looked_up() -> None:
    """`negatives` is a field of the proposer that another flag chooses, whichever comes first."""
    rounds = replace(BASE, align=Align(Supervised()))
    flags = (["--align.negatives", "FaissNeighbors"], ["--align.objective", "Preference"], ["--align.beta", "0.3"])
    for ordered in (flags, flags[::-1]):
        changed = one(rounds, *(token for flag in ordered for token in flag))
        assert changed.align == stage(loss=Anchored(SoftmaxDPO(beta=0.3)), negatives=FaissNeighbors())


def test_the_stages_of_a_chain_and_the_objectives_of_rounds_are_named_by_place() -> None:
    assert one(CHAIN, "--align.0.beta", "0.3").align == (dpo(loss=Anchored(DPO(beta=0.3))), Align(Supervised()))
    second = one(CHAIN, "--align.1.max-steps", "9", "--align.1.objective", "Preference", "--align.1.num-negatives", "5").align
    assert second == (dpo(), replace(stage(num_negatives=5), optimization=replace(Align().optimization, max_steps=9)))
    assert one(CHAIN, "--align", "None").align is None
    changed = one(ROUNDS, "--align.objectives.1.num-negatives", "5", "--align.steps", "9", "1")
    objectives = (Supervised(), Preference(candidates=Sampled(num_negatives=5)))
    assert changed.align == Align(Rounds(objectives=objectives, steps=(9, 1)))


@dataclasses.dataclass(frozen=True)
class TwoLosses:
    """An objective of the user's with two losses."""

    first: Any = dataclasses.field(default_factory=SoftmaxDPO)
    second: Any = dataclasses.field(default_factory=SoftmaxDPO)

    def build_step(self, context: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("row", "flag", "said"),
    [
        (
            replace(BASE, align=Align(TwoLosses())),
            "--align.beta",
            "'beta' is short for several fields; name one: --align.objective.first.beta or --align.objective.second.beta\n",
        ),
        (
            CHAIN,
            "--align.max-steps",
            "align has 2 entries; name one by its place, from 0: --align.0.max-steps, --align.1.max-steps\n",
        ),
        (CHAIN, "--align-2.max-steps", "align-2 is a stage of a chain; write --align.1.max-steps\n"),
        (CHAIN, "--align.beta", "align has 2 entries; name one by its place, from 0: --align.0.beta\n"),
        (CHAIN, "--align.bta", "align has 2 entries; name one by its place, from 0: --align.0.FIELD\n"),
        (CHAIN, "--align.2.beta", "align has no position '2'; it has 2 entries, counted from 0\n"),
        (CHAIN, "--align.1.beta", "Align has no field 'beta'"),
        (CHAIN, "--align.0.bta", "Align has no field 'bta'; the nearest: --align.0.objective.loss.loss.beta"),
        (CHAIN, "--align.1", "a component within a tuple cannot be replaced on the command line; write the tuple align in"),
        (
            CHAIN,
            "--align.0.negatives",
            "there is no NegativeSampler 'x'",
        ),
        (ROUNDS, "--align.num-negatives", "the nearest: --align.objective.objectives.1.candidates.num-negatives"),
    ],
)
def test_a_short_name_that_is_not_unique_or_is_inside_a_tuple_is_explained(row: Experiment, flag: str, said: str) -> None:
    assert said in refused([row], flag, "x")


@pytest.mark.parametrize(
    ("objective", "flag", "lacks"),
    [
        (
            Preference(candidates=TopItems(size=8)),
            "--align.negatives",
            "align.objective.candidates is TopItems, which has no field 'negatives'; add --align.objective.candidates Sampled\n",
        ),
        (
            PolicyGradient(),
            "--align.loss",
            "align.objective is PolicyGradient, which has no field 'loss'; add --align.objective Preference\n",
        ),
        (
            Supervised(),
            "--align.negatives",
            "align.objective is Supervised, which has no field 'candidates'; "
            "add --align.objective PolicyGradient or Preference or PrefixContrast\n",
        ),
    ],
)
def test_a_field_of_another_class_is_not_called_renamed(objective: Any, flag: str, lacks: str) -> None:
    message = refused([replace(BASE, align=Align(objective))], flag, "Uniform")
    assert lacks in message
    assert "is now" not in message


def test_a_class_of_a_file_for_an_experiment_without_alignment_needs_an_alignment_first() -> None:
    """`mine.py:Focal()` is no Python that one could write."""
    message = refused([BASE], "--align.objective", "mine.py:Focal")
    assert "add --align Align: --align Align --align.objective mine.py:Focal\n" in message
    assert "replace(" not in message


@pytest.mark.parametrize("order", [1, -1])
def test_a_pair_file_and_its_format_are_read_together(tmp_path: Path, order: int) -> None:
    """A file of TRL is refused without its format, and a file of genrec with the format of TRL."""
    own, trl = tmp_path / "own.jsonl", tmp_path / "trl.jsonl"
    own.write_text('{"history": [1, 2], "chosen": 3, "rejected": 4}\n')
    trl.write_text('{"prompt": "[1, 2]", "chosen": "3", "rejected": "4"}\n')
    row = replace(BASE, align=Align(Preference(SoftmaxDPO(beta=1.0), Pairs(own))))
    flags = [["--align.path", str(trl)], ["--align.format", "trl"]][::order]
    (changed,) = overrides.override([row], [token for flag in flags for token in flag])
    assert changed == replace(row, align=Align(Preference(SoftmaxDPO(beta=1.0), Pairs(trl, format="trl"))))
    with pytest.raises(InputError, match=r"^--align.path \S+trl.jsonl: \S+trl.jsonl has the column 'prompt'"):
        overrides.override([row], ["--align.path", str(trl)])


def test_the_fields_of_losses_and_of_all_stages_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    overrides.print_fields(CHAIN)
    listed = capsys.readouterr().out
    for flag in ("--align.0.objective.loss.loss.beta", "--align.0.objective.candidates.num-negatives", "--align.1.objective.targets"):
        assert flag in listed
    assert "\n  stage align (flags: --align.0.FIELD)\n  stage align-2 (flags: --align.1.FIELD)\n" in listed
    overrides.print_fields(BASE)
    assert "flags: --align" not in capsys.readouterr().out


def test_the_components_are_listed_with_their_choices(capsys: pytest.CaptureFixture[str]) -> None:
    """Also one without fields, Uniform, and one that is None, the reward, which is not "fixed"."""
    row = replace(BASE, align=dpo(negatives=Uniform()))
    overrides.print_fields(row)
    listed = capsys.readouterr().out
    assert "fixed" not in listed
    components = dict(line.strip().split(": ") for line in listed.partition("\ncomponents, ")[2].splitlines()[1:])
    assert "FaissNeighbors" in components["--align.objective.candidates.negatives Uniform"].split(", ")
    assert components["--align.objective.reward None"].endswith("WeightedSum, None")
    assert components["--split LeaveOneOut"] == "GlobalTemporal, HoldOutLast, LeaveOneOut"
    for line, choices in components.items():
        now = line.partition(" ")[2]
        assert now in choices.split(", ") or (choices == "Cosine, Linear, a number" and float(now) >= 0)


def test_the_code_for_a_stage_of_a_chain_is_python() -> None:
    """What the message tells to write is evaluated."""
    message = refused([CHAIN], "--align.1.objective", "Rounds", "--align.0.negatives", "Mix")
    code = message.partition("Mix': ")[2].partition("\n")[0].replace("samplers=..., weights=...", "(Uniform(),), (1.0,)")
    written = eval(code, {"replace": replace, "experiment": CHAIN, "Mix": Mix, "Uniform": Uniform})
    assert written.align == (dpo(negatives=Mix((Uniform(),), (1.0,))), CHAIN.align[1])  # type: ignore[index]


def test_the_name_of_a_list_of_rows_is_a_prefix() -> None:
    assert [each.name for each in overrides.override(ROWS, ["--name", "x"])] == [f"x-{row.name}" for row in ROWS]
    row = seeds([BASE], (0, 1))
    assert [(each.name, each.seed) for each in overrides.override(row, ["--name", "x"])] == [("x", 0), ("x", 1)]


def test_every_public_class_of_a_field_can_be_chosen_or_says_what_it_needs() -> None:
    for kind in MODULES:
        classes = classes_of((kind,))
        assert classes, kind
        assert all(name[0].isupper() for name in classes)
    assert "Popularity" in classes_of((NegativeSampler,))
    assert classes_of((NegativeSampler,))["Popularity"] is not Popularity


def test_a_number_is_replaced_by_a_schedule_and_back() -> None:
    """A field of a number takes the class of a schedule, with its values, and a number again; messages name both."""
    row = replace(BASE, name="shop-dpo", align=stage(loss=SoftmaxDPO()))
    given = ["--align.beta", "Linear", "--align.beta.start", "0.5", "--align.beta.end", "2", "--align.beta.steps", "300"]
    (scheduled,) = overrides.override([row], [*given, "--align.weight", "2"])
    assert scheduled.alignments[0].objective.loss == SoftmaxDPO(beta=Linear(start=0.5, end=2.0, steps=300))
    assert scheduled.alignments[0].objective.weight == 2.0
    (longer,) = overrides.override([scheduled], ["--align.objective.loss.beta.steps", "400"])
    assert longer.alignments[0].objective.loss == SoftmaxDPO(beta=Linear(start=0.5, end=2.0, steps=400))
    (constant,) = overrides.override([scheduled], ["--align.beta", "0.7"])
    assert constant.alignments[0].objective.loss == SoftmaxDPO(beta=0.7)
    assert "expected a number, got 'Line'; a schedule is given by its class: Cosine, Linear" in refused([row], "--align.beta", "Line")
    assert "did you mean 'Linear'?" in refused([row], "--align.beta", "Line")
    wrong = refused([row], *given[:4], "--align.beta.end", "-1", "--align.beta.steps", "300")
    assert "SoftmaxDPO.beta must be above 0 and finite, got -1.0 at one end of Linear(start=0.5, end=-1.0, steps=300)" in wrong


def test_a_name_that_papers_use_is_explained() -> None:
    """`SDPO` is spelled more like `DPO`, another loss, than like `SoftmaxDPO`."""
    assert "did you mean 'SoftmaxDPO'?" in refused([ALIGNED], "--align.loss", "SDPO")
    assert "did you mean 'ConservativeDPO'?" in refused([ALIGNED], "--align.loss", "cDPO")
    assert "did you mean 'PolicyGradient'?" in refused([ALIGNED], "--align.objective", "GRPO")
    assert set(NAMES_IN_PAPERS.values()) <= {*classes_of((PreferenceLoss,)), *classes_of((Objective,))}


def test_the_name_of_a_field_alone_is_answered_with_its_flag() -> None:
    """Of a list the row that has the field answers, and the option --track is not meant though it is spelled like --beta."""
    rows = [replace(BASE, name="control", align=Align(Supervised())), replace(BASE, name="dpo", align=dpo(loss=SoftmaxDPO()))]
    assert "the nearest: --align.objective.loss.beta\n" in refused(rows, "--beta", "0.3")
    options, flags = command_parser.parse(command_parser.build(), ["run", "mine.py:rows", "--beta", "0.3"])
    assert (options.track, flags) == ([], ["--beta", "0.3"])


@dataclasses.dataclass(frozen=True)
class OwnLoss:
    """A loss of the user with two scales, one of which may be a schedule."""

    beta: NumberOrSchedule = 0.1
    alpha: float = 0.1

    needs = LossNeeds()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return SoftmaxDPO(beta=constant(self, "beta"))(policy, reference)


def test_a_field_of_a_plug_in_takes_a_schedule_by_its_type() -> None:
    row = replace(BASE, align=stage(loss=OwnLoss()))
    given = ("Linear", "--align.beta.start", "0.5", "--align.beta.end", "2", "--align.beta.steps", "300")
    assert one(row, "--align.beta", *given).alignments[0].objective.loss == OwnLoss(beta=Linear(start=0.5, end=2.0, steps=300))
    wrong = refused([row], "--align.alpha", "Linear")
    assert "expected a number, got 'Linear'; it takes a schedule if OwnLoss.alpha has the type genrec.types.NumberOrSchedule" in wrong
    assert "NumberOrSchedule" not in refused([row], "--align.alpha", "x")
