"""`genrec check` knows every kind of plug-in, tries its check of an experiment, and names former attributes and the class's line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pandas import DataFrame
from torch import Tensor

from genrec import check_command, renamed
from genrec.__main__ import main
from genrec.data.sources import Frames
from genrec.errors import UsageError
from genrec.experiment import Experiment
from genrec.model import Tiger
from genrec.plugin_source import components
from genrec.preference.negatives import Uniform
from genrec.preference.vectors import Content
from genrec.testing import ContractError, Shop
from genrec.testing.component_checks import KINDS, check_component, kind_of, misspelt_method
from genrec.tokenizer import RandomCodes
from genrec.types import Draw, Evaluated, LogProbs, LossNeeds, ObjectiveContext, PreferenceTerms, Proposals, Rating, SamplerContext

FILE = """
from dataclasses import dataclass

import numpy as np
import torch

from genrec.errors import UsageError
from genrec.item_rows import contains, keys, ranking
from genrec.preference.exclusions import Exclusions
from genrec.types import Draw


@dataclass(frozen=True)
class LastTested:
    def assign(self, interactions):
        from_end = interactions.groupby("user_id").cumcount(ascending=False).to_numpy()
        return np.select([from_end == 0, from_end == 1], ["test", "validation"], "train")


@dataclass(frozen=True)
class Names:
    def assign(self, interactions):
        return np.full(len(interactions), "training")


@dataclass(frozen=True)
class First:
    def fit(self, interactions, item_count):
        self_ = self
        class Fitted:
            def recommend(self, history, n, exclude=None):
                catalog = torch.arange(1, item_count + 1).expand(len(history), -1)
                scores = -catalog.float()
                if exclude is not None:
                    scores = scores.masked_fill(contains(exclude, catalog), -torch.inf)
                return ranking(keys(scores, catalog), n, scores.isnan().any(1))
        return Fitted()


@dataclass(frozen=True)
class Whole:
    def vectors(self, context):
        return context.vectors


@dataclass(frozen=True)
class Former:
    def build(self, context):
        exclusions = Exclusions(context)
        def draw(batch, num_negatives, generator):
            return exclusions.take(batch, torch.ones(len(batch.target), 3, dtype=torch.int64), num_negatives)
        return Draw(draw=draw)
"""


@pytest.mark.parametrize("name", ["LastTested", "First", "Whole"])
def test_splits_baselines_and_item_vectors_are_checked_from_a_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    (tmp_path / "own_parts.py").write_text(FILE, encoding="utf-8")
    assert main(["check", f"{tmp_path / 'own_parts.py'}:{name}"]) == 0
    assert f"{name}() keeps its contract" in capsys.readouterr().out


SEVERAL = (
    FILE
    + """

class Undecorated:
    def vectors(self, context):
        return context.vectors


@dataclass(frozen=True)
class Misspelt:
    def vector(self, context):
        return context.vectors


@dataclass(frozen=True)
class Settings:
    width: int = 3


class _Helper(Whole):
    pass
"""
)


def test_all_plug_ins_of_a_file_are_checked_with_a_line_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own_several.py"
    file.write_text(SEVERAL, encoding="utf-8")
    assert main(["check", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    begins = [
        "LastTested() keeps its contract",
        f"FAILED Names ({file}:",
        "First() keeps its contract",
        "Whole() keeps its contract",
        "FAILED Former: ",
        "FAILED Undecorated is not a frozen dataclass",
        f"FAILED Misspelt ({file}:",
        f"{file}:Settings: not checked, because it has the methods of no protocol",
        "3 of 7 plug-ins keep their contract; failed: Names, Former, Undecorated, Misspelt",
    ]
    assert len(lines) == len(begins)
    assert all(line.startswith(begin) for line, begin in zip(lines, begins, strict=True))
    assert "Did you mean vectors of ItemVectors, in place of vector?" in lines[6]


@dataclass(frozen=True)
class MisspeltSampler:
    """A sampler; `build` is a method of policies too."""

    def built(self, context: object) -> None: ...


@dataclass(frozen=True)
class MisspeltPolicy:
    """A policy."""

    def built(self, semantic_ids: object) -> None: ...


@dataclass(frozen=True)
class MisspeltBaseline:
    """A baseline; `fit` is a method of quantizers too."""

    def fits(self, interactions: object, item_count: int) -> None: ...


@pytest.mark.parametrize(
    ("kind", "meant"),
    [
        (MisspeltSampler, ("built", "build", "NegativeSampler")),
        (MisspeltPolicy, ("built", "build", "PolicySpecification")),
        (MisspeltBaseline, ("fits", "fit", "Baseline")),
    ],
)
def test_the_arguments_of_a_misspelt_method_tell_its_protocol(kind: type, meant: tuple[str, str, str]) -> None:
    assert misspelt_method(kind) == meant


def test_several_named_plug_ins_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own_named.py"
    file.write_text(SEVERAL, encoding="utf-8")
    assert main(["check", f"{file}:First", f"{file}:Whole"]) == 0
    assert capsys.readouterr().out.endswith("Whole() keeps its contract\n2 of 2 plug-ins keep their contract\n")
    assert main(["check", f"{file}:First", f"{file}:Absent"]) == 1
    out = capsys.readouterr().out
    assert "FAILED " in out
    assert "has no 'Absent'" in out
    assert "1 of 2 plug-ins keep their contract; failed: Absent" in out


def test_a_file_without_plug_ins_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own_nothing.py"
    file.write_text("VALUE = 3\n", encoding="utf-8")
    assert main(["check", str(file)]) == 2
    assert "no class has the methods of a protocol of plug-ins" in capsys.readouterr().err


def test_a_violation_names_the_line_of_the_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own_names.py"
    file.write_text(FILE, encoding="utf-8")
    assert main(["check", f"{file}:Names"]) == 3
    error = capsys.readouterr().err
    assert "assign must return only train, validation, test, got 'training'" in error
    assert error.count(f"{file}:{FILE.splitlines().index('class Names:')}") == 1  # the decorator's line, once


def test_a_former_method_that_the_plug_in_calls_is_reported_with_the_present_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    file = tmp_path / "own_former.py"
    file.write_text(FILE, encoding="utf-8")
    assert main(["check", f"{file}:Former"]) == 3
    error = capsys.readouterr().err
    line = 1 + next(number for number, text in enumerate(FILE.splitlines()) if "exclusions.take(" in text)
    assert f"at {file}:{line}; Exclusions.take is now Exclusions.take_allowed" in error


@dataclass(frozen=True)
class Checked:
    """A sampler with a check of the experiment."""

    check_experiment: Callable[[Experiment], object] = lambda experiment: None

    def build(self, context: SamplerContext) -> Draw:
        return Uniform().build(context)

    def check(self, experiment: Experiment) -> None:
        assert experiment.align is not None
        assert self in components(experiment.align)  # the experiment holds the component
        self.check_experiment(experiment)


def refuse(experiment: Experiment) -> None:
    raise UsageError("Checked needs align.refresh_reference of 2 or more, got 0")


def test_the_check_of_an_experiment_is_tried(tmp_path: Path) -> None:
    seen: list[str] = []
    assert len(check_command.check(Checked(lambda experiment: seen.append(experiment.name)), tmp_path)) == 1
    assert seen == ["check"]
    with pytest.raises(ContractError, match=r"Checked \(.*:\d+\): check\(experiment\) failed; its own error:\n(?s:.*)AttributeError"):
        check_command.check(Checked(lambda experiment: experiment.alignment), tmp_path)  # type: ignore[attr-defined]


def test_a_refusal_is_printed_and_is_no_violation(tmp_path: Path) -> None:
    kept, refused = check_command.check(Checked(refuse), tmp_path)
    assert kept.endswith("keeps its contract")
    assert refused.endswith("and default settings is refused: Checked needs align.refresh_reference of 2 or more, got 0")


@dataclass(frozen=True)
class FormerBeams:
    """A policy with the former name of `num_beams`."""

    beams: int = 20

    def build(self, semantic_ids: object) -> object:
        raise AssertionError("the former attribute is found first")


@dataclass(frozen=True)
class FormerItems(FormerBeams):
    items_are_codes: bool = True
    num_beams: int = 20


class FormerQuantizer:
    """A quantizer with the former name of `fit_catalog`."""

    def fit(self, vectors: object, generator: object) -> object:
        raise AssertionError("the former attribute is found first")

    def fit_catalogue(self, item_ids: object, vectors: object, generator: object) -> object:
        raise NotImplementedError

    def level_sizes(self) -> tuple[int, ...]:
        return (4,)

    def restore(self, state: object) -> object:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            FormerBeams(),
            r"the attribute 'beams' of a PolicySpecification is no longer read; it is now num_beams \(FormerBeams",
        ),
        (FormerItems(), r"the attribute 'items_are_codes' .* it is now a method check\(experiment\)"),
        (FormerQuantizer(), r"the attribute 'fit_catalogue' of a Quantizer is no longer read; it is now fit_catalog"),
    ],
)
def test_a_former_attribute_is_reported_with_the_present_name(plugin: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=message):
        check_component(plugin, tmp_path)


def test_built_in_components_have_no_former_attribute() -> None:
    for protocol, plugin in (("PolicySpecification", Tiger()), ("Quantizer", RandomCodes())):
        assert renamed.former_attribute(protocol, plugin) is None


@dataclass(frozen=True)
class Crashing:
    """A source and a split that fail in the method `where`."""

    where: str = "load"

    def fingerprint(self, root: Path) -> str:
        return str({}["fingerprint"]) if self.where == "fingerprint" else "1"

    def load(self, root: Path) -> object:
        if self.where == "exit":
            raise SystemExit(1)
        return {}["load"]


@dataclass(frozen=True)
class CrashingSizes:
    def fit(self, vectors: object, generator: object) -> object:
        raise NotImplementedError

    def level_sizes(self) -> tuple[int, ...]:
        return {}["sizes"]  # type: ignore[return-value]

    def restore(self, state: object) -> object:
        raise NotImplementedError


@dataclass(frozen=True)
class CrashingLoss:
    """A loss with a property that fails outside of its call."""

    @property
    def needs(self) -> LossNeeds:
        raise OSError("no weights")

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Crashing(), r"Crashing: load\(root\) raised KeyError\('load'\) at .*test_check_command\.py:\d+"),
        (Crashing("exit"), r"load\(root\) raised SystemExit\(1\) at "),
        (Crashing("fingerprint"), r"fingerprint\(root\) raised KeyError\('fingerprint'\) at "),
        (CrashingSizes(), r"CrashingSizes: level_sizes\(\) raised KeyError\('sizes'\) at "),
        (CrashingLoss(), r"CrashingLoss \(.*\) raised OSError\('no weights'\) at .*; its own error:"),
    ],
)
def test_a_plug_in_that_raises_in_a_check_is_no_traceback(plugin: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=message):
        check_component(plugin, tmp_path)


def test_every_kind_of_plug_in_has_an_experiment_that_holds_it() -> None:
    assert {kind.protocol.__name__ for kind in KINDS} == set(check_command.HOLDERS)
    assert kind_of(Content()).protocol.__name__ == "ItemVectors"


def test_an_experiment_is_no_plug_in(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^x is an Experiment, not a plug-in; run it with 'genrec run FILE\.py:FUNCTION'$"):
        check_command.check(Experiment(name="x", source=Shop()), tmp_path)


def test_what_is_checked_is_shown_at_a_bounded_length(tmp_path: Path) -> None:
    events = DataFrame({"user": list("aaabbbccc") * 3, "item": list("xyzxyzxyz") * 3})
    (line,) = check_command.check(Frames(events), tmp_path)[:1]
    assert len(line) < 400
    assert line.endswith("keeps its contract")
    assert "\n" not in line


@dataclass(frozen=True)
class MisspeltFlag(Checked):
    def offers_histroy(self) -> bool:
        return True


@dataclass(frozen=True)
class MisspeltReward:
    read_policy = True

    def rate(self, context: SamplerContext) -> Rating:
        popularity = context.popularity.float()
        return Rating(rate=lambda batch, items: popularity[items])


@dataclass(frozen=True)
class MisspeltSize:
    """A proposer with a misspelt `most_candidates`, and with a field that only resembles `check`."""

    checks: int = 3

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        raise AssertionError("the method is found first")

    def most_candidate(self) -> int:
        return 2


@dataclass(frozen=True)
class Counts:
    """A metric with the name `name`."""

    name: str = "found"

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        return {self.name: (evaluated.rank > 0).double()}


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            MisspeltFlag(),
            r"offers_histroy has no effect; did you mean 'offers_history'\? Then give offers_history",
        ),
        (
            MisspeltReward(),
            r"read_policy has no effect; did you mean 'reads_policy'\? Then return Rating\(",
        ),
        (MisspeltSize(), r"the method most_candidate has no effect; did you mean 'most_candidates' of a Proposer\?"),
        (Counts("ndcg@10"), r"measure returned 'ndcg@10', the name of a metric of every evaluation"),
        (Counts("recall@7"), r"measure returned 'recall@7', the name of a metric of every evaluation"),
    ],
)
def test_names_that_have_no_effect_or_are_taken_are_reported(plugin: object, message: str, tmp_path: Path) -> None:
    check_component(Counts(), tmp_path)
    check_component(Checked(), tmp_path)
    with pytest.raises(ContractError, match=message):
        check_component(plugin, tmp_path)
