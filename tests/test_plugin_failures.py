"""A plug-in that fails in any stage is named with its file and line; nothing looks as if genrec itself had failed."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pandas import DataFrame
from preference_stages import stage
from torch import nn
from worlds import cyclic

from genrec import loading, pipeline
from genrec.__main__ import main
from genrec.data.splits import LeaveOneOut
from genrec.errors import GenrecError, InputError
from genrec.evaluation.evaluate import Evaluate
from genrec.experiment import SFT, Experiment, Optimization, Tokenize, Validation
from genrec.plugin_errors import attribute_to
from genrec.plugin_source import Place, check_command, components, find_failure, name_with_place, own_line, place_of, plugins_in
from genrec.preference.negatives import FaissNeighbors, Uniform
from genrec.testing import Cyclic
from genrec.types import Draw, Ranking, RawStream, RawTables

HERE = Path(__file__).name
ONE_STEP = {"optimization": Optimization(max_steps=1, batch_size=8, learning_rate=1e-3), "validation": Validation(every=1)}


def line_of(text: str) -> int:
    """Return the line of this file that holds a text."""
    return 1 + next(number for number, line in enumerate(Path(__file__).read_text(encoding="utf-8").splitlines()) if text in line)


def broken_helper(where: str) -> None:
    """Fail outside the class, as a function beside it does."""
    raise KeyError(where)


@dataclass(frozen=True)
class OwnSource:
    """A source that fails in the method `where`."""

    where: str = "load"

    def fingerprint(self, root: Path) -> str:
        if self.where == "fingerprint":
            broken_helper("fingerprint")
        return "1"

    def load(self, root: Path) -> RawTables:
        if self.where == "load":
            raise KeyError("reviewerID")  # the line of the source
        return Cyclic(num_items=40, num_users=60, length=10).load(root)


@dataclass(frozen=True)
class OwnStream:
    """A source that fails while its tables are read."""

    def load(self, root: Path) -> RawTables:
        raise NotImplementedError

    def stream(self, root: Path) -> RawStream:
        tables = Cyclic(num_items=40, num_users=60, length=10).load(root)

        def interactions() -> Iterator[DataFrame]:
            yield tables.interactions
            raise ZeroDivisionError("in the second table")  # the line of the stream

        return RawStream(interactions(), iter([tables.items]), lambda: DataFrame({"file": [], "line": [], "reason": []}))


@dataclass(frozen=True)
class OwnSplit:
    """A split that fails in the method `where`."""

    where: str = "assign"

    def filters(self) -> object:
        return "everything" if self.where == "filters" else LeaveOneOut(core=0).filters()

    def keep(self, interactions: DataFrame) -> DataFrame:
        return None if self.where == "keep" else interactions  # type: ignore[return-value]

    def assign(self, interactions: DataFrame) -> np.ndarray:
        if self.where == "exit":
            sys.exit("no users")  # the line of the exit
        return np.array([{"nobody": "train"}[user] for user in interactions["user"]])  # the line of the split


@dataclass(frozen=True)
class OwnEncoder:
    """An encoder that fails."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> np.ndarray:
        return items["description"].to_numpy()  # the line of the encoder


@dataclass(frozen=True)
class OwnQuantizer:
    """A quantizer that fails in `fit`, or returns something without `encode`."""

    where: str = "fit"

    def fit(self, vectors: np.ndarray, generator: torch.Generator) -> object:
        if self.where == "fit":
            raise IndexError("codebook")  # the line of the quantizer
        return object()

    def level_sizes(self) -> tuple[int, ...]:
        return (8, 8)

    def restore(self, state: object) -> object:
        raise NotImplementedError


class OwnModule(nn.Module):
    """A policy that fails in training."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(items + 1))

    def level_log_prob(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*items.shape, 2)

    def log_prob(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.level_log_prob(history, items)

    def recommend(self, history: torch.Tensor, n: int, exclude: torch.Tensor | None = None) -> Ranking:
        return self.scores[history] @ self.scores[:n]  # the line of the policy


@dataclass(frozen=True)
class OwnPolicy:
    """The specification of that policy."""

    def build(self, semantic_ids: object) -> OwnModule:
        return OwnModule(semantic_ids.items)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class OwnBaseline:
    """A baseline that fails in `fit`, or recommends seen items."""

    where: str = "fit"

    def fit(self, interactions: DataFrame, item_count: int) -> object:
        if self.where == "fit":
            raise AttributeError("counts")  # the line of the baseline
        return OwnRecommender(self.where)


class OwnRecommender:
    """A recommender whose lists break the contract."""

    def __init__(self, where: str) -> None:
        self.where = where

    def recommend(self, history: torch.Tensor, n: int, exclude: torch.Tensor | None = None) -> object:
        items = torch.zeros(len(history), n, dtype=torch.int64)
        if self.where == "tuple":
            return items, items.float()
        items[:, 0] = history[:, -1]  # an item that the user has taken
        return Ranking(items, torch.full(items.shape, float("nan") if self.where == "nan" else 0.0))


@dataclass(frozen=True)
class OwnVectors:
    """Item vectors that fail."""

    rows: int | None = None

    def vectors(self, context: object) -> torch.Tensor:
        if self.rows is None:
            raise OverflowError("vectors")  # the line of the vectors
        return torch.ones(self.rows, 4)


@dataclass(frozen=True)
class OwnSampler:
    """A sampler that returns the targets themselves."""

    def build(self, context: object) -> Draw:
        return Draw(draw=lambda batch, num_negatives, generator: batch.target.unsqueeze(1).repeat(1, num_negatives))


def aligned(**change: object) -> Experiment:
    return replace(cyclic(), sft=SFT(**ONE_STEP), align=stage(**ONE_STEP, **change))  # type: ignore[arg-type]


CASES: dict[str, tuple[Experiment, str, str]] = {  # experiment, what the message has, the line that it names
    "source": (
        replace(cyclic(), source=OwnSource()),
        r"OwnSource \(.*\) raised KeyError\('reviewerID'\) .* in stage data",
        "of the source",
    ),
    "fingerprint": (replace(cyclic(), source=OwnSource("fingerprint")), r"OwnSource \(.*\) raised KeyError", "raise KeyError(where)"),
    "stream": (replace(cyclic(), source=OwnStream()), r"OwnStream \(.*\) raised ZeroDivisionError.* in stage data", "of the stream"),
    "split": (replace(cyclic(), split=OwnSplit()), r"OwnSplit \(.*\) raised KeyError\(1\) .* in stage data", "of the split"),
    "split exits": (replace(cyclic(), split=OwnSplit("exit")), r"OwnSplit \(.*\) raised SystemExit\('no users'\)", "of the exit"),
    "split filters": (replace(cyclic(), split=OwnSplit("filters")), r"OwnSplit \(.*\): filters must return .*Filters, got str", ""),
    "split keep": (replace(cyclic(), split=OwnSplit("keep")), r"OwnSplit \(.*\): keep must return a DataFrame .*, got NoneType", ""),
    "encoder": (replace(cyclic(), embed=OwnEncoder()), r"OwnEncoder \(.*\) raised KeyError.* in stage embed", "of the encoder"),
    "quantizer": (
        replace(cyclic(), tokenize=Tokenize(quantizer=OwnQuantizer())),  # type: ignore[arg-type]
        r"OwnQuantizer \(.*\) raised IndexError\('codebook'\) .* in stage tokenize",
        "of the quantizer",
    ),
    "fitted quantizer": (
        replace(cyclic(), tokenize=Tokenize(quantizer=OwnQuantizer("encode"))),  # type: ignore[arg-type]
        r"AttributeError.* was raised in stage tokenize by code that uses the result of OwnQuantizer \(",
        "",
    ),
    "policy": (
        replace(cyclic(), policy=OwnPolicy(), sft=SFT(**ONE_STEP)),  # type: ignore[arg-type]
        r"OwnPolicy \(.*\) raised RuntimeError.* in stage sft",
        "of the policy",
    ),
    "baseline": (
        replace(cyclic(), policy=OwnBaseline()),
        r"OwnBaseline \(.*\) raised AttributeError.* in stage evaluate",
        "of the baseline",
    ),
    "item vectors": (
        aligned(negatives=FaissNeighbors(vectors=OwnVectors())),
        r"OwnVectors \(.*\) raised OverflowError\('vectors'\) .* while it was built",
        "of the vectors",
    ),
    "item vectors' shape": (
        aligned(negatives=FaissNeighbors(vectors=OwnVectors(7))),
        r"OwnVectors \(.*\) must return 41 rows, one for padding and one per item, got \[7, 4\]",
        "",
    ),
    "negatives": (
        aligned(negatives=OwnSampler()),
        r"OwnSampler \(.*:\d+\): user 'user-\d+' \(number \d+\), target 'item-\d+' \(number \d+\): negative 'item-\d+' .*target|"
        r"OwnSampler \(.*:\d+\): .*is repeated",
        "",
    ),
    "list": (
        replace(cyclic(), policy=OwnBaseline("list"), evaluate=Evaluate(cutoffs=(1,), filter_seen=True)),
        r"OwnRecommender \(.*:\d+\): recommend returned item 'item-\d+' \(number \d+\) to user 'user-\d+' \(number \d+\) although",
        "",
    ),
    "list type": (
        replace(cyclic(), policy=OwnBaseline("tuple")),
        r"OwnRecommender \(.*:\d+\): recommend must return a genrec\.types\.Ranking, got tuple",
        "",
    ),
    "NaN": (
        replace(cyclic(), policy=OwnBaseline("nan")),
        r"OwnRecommender \(.*\): .* NaN scores for user 'user-\d+'",
        "",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_plug_in_that_fails_is_named_with_its_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    experiment, message, line = CASES[name]
    with pytest.raises(GenrecError, match=message) as caught:
        pipeline.run(experiment)
    first, _, below = str(caught.value).partition("\n")
    assert caught.value.exit_code == (6 if name == "NaN" else 3)
    if line:
        assert f"{HERE}:{line_of(line)}" in first
        assert "genrec check" in first
        assert below.startswith("Traceback")
        assert "/genrec/pipeline.py" not in below  # their own traceback begins in their file
        assert f"line {line_of(line)}" in below


FAULTY = '''
from dataclasses import dataclass

import numpy as np

from genrec.experiment import Experiment
from genrec.testing import Shop


@dataclass(frozen=True)
class Published:
    """Test users of a paper."""

    def assign(self, interactions):
        listed = {"A1": "test"}
        return np.array([listed[user] for user in interactions["user"]])


def row():
    return Experiment(name="published", source=Shop(num_items=100, num_users=60), split=Published())
'''


def test_the_command_line_shows_one_line_and_the_file_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    file = tmp_path / "published_split.py"
    file.write_text(FAULTY, encoding="utf-8")
    assert main(["data", f"{file}:row"]) == 3
    error = capsys.readouterr().err
    line = 1 + FAULTY.splitlines().index('        return np.array([listed[user] for user in interactions["user"]])')
    assert f"genrec: Published ({file}:" in error
    assert f"raised KeyError(1) at {file}:{line} in stage data; test the plug-in alone with 'genrec check {file}:Published'" in error
    assert error.rstrip().endswith("KeyError: 1")


def test_a_published_split_gets_the_ids_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    file = tmp_path / "listed_users.py"
    file.write_text(
        FAULTY.replace(
            '        listed = {"A1": "test"}\n        return np.array([listed[user] for user in interactions["user"]])',
            '        last = interactions.groupby("user_id").cumcount(ascending=False).to_numpy()\n'
            '        listed = interactions["user_id"].isin(["user-3", "user-7"]).to_numpy()\n'
            '        return np.select([listed & (last == 0), listed & (last == 1)], ["test", "validation"], "train")',
        ),
        encoding="utf-8",
    )
    (experiment,) = loading.load(f"{file}:row")
    from genrec.data.corpus import Corpus

    corpus = Corpus.load(pipeline.run(experiment, last="data")["data"].folder)
    assert {corpus.own_ids.user(user) for user in corpus.part("test")["user"]} == {"user-3", "user-7"}
    assert corpus.own_ids.item(1) == corpus.items["item_id"][0]


def test_full_disks_and_memory_pass_through_a_plug_in() -> None:
    """The command line reports them by their own exit codes."""
    with pytest.raises(OSError, match="no space"), attribute_to(OwnSource(), "in stage data"):
        raise OSError(errno.ENOSPC, "no space")
    with pytest.raises(RuntimeError, match="out of memory"), attribute_to(OwnSource(), "in stage data"):
        raise RuntimeError("CUDA out of memory")
    with pytest.raises(MemoryError), attribute_to(OwnSource(), "in stage data"):
        raise MemoryError
    code = compile("with attribute_to(plugin, 'in stage data'): raise error", "<genrec>", "exec")  # no line of the plug-in's file
    with pytest.raises(PermissionError):  # of genrec's own folders
        exec(code, {"attribute_to": attribute_to, "plugin": OwnSource(), "error": PermissionError("data/artifacts")})


@dataclass(frozen=True)
class Outer:
    inner: object = field(default_factory=Uniform)
    others: tuple[object, ...] = ()

    def run(self) -> None:
        for each in (self.inner, *self.others):
            if isinstance(each, Outer):
                each.run()
        raise ValueError("outer")


def test_the_innermost_plug_in_is_named() -> None:
    experiment = (None, Outer(others=(Uniform(), OwnSource())))
    assert plugins_in(experiment) == [experiment[1], OwnSource()]
    assert list(components(Outer(others=(1,)))) == [Uniform(), (1,), 1]
    with pytest.raises(InputError, match=r"^OwnSource \(") as caught, attribute_to(experiment, "here"):
        OwnSource().load(Path())
    assert "KeyError('reviewerID')" in str(caught.value)
    with pytest.raises(InputError, match=r"^Outer \(.*ValueError\('outer'\)"), attribute_to(experiment, "here"):
        experiment[1].run()


def test_places_are_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(OwnSource)
    assert place is not None
    assert place.line == line_of("class OwnSource") - 1  # the decorator
    monkeypatch.chdir(Path(__file__).parent)
    assert name_with_place(OwnSource) == f"OwnSource ({HERE}:{place.line})"
    assert check_command(OwnSource) == f"genrec check {HERE}:OwnSource"
    monkeypatch.chdir(tmp_path)
    assert str(Path(__file__).resolve()) in name_with_place(OwnSource)
    assert name_with_place(Uniform) == "Uniform"


def test_a_class_without_a_file_has_no_place() -> None:
    space: dict[str, type] = {}
    exec("class Typed:\n    pass", space)
    space["Typed"].__module__ = "typed_in"
    assert place_of(space["Typed"]) is None
    assert name_with_place(space["Typed"]) == "Typed"
    assert check_command(space["Typed"]) == "genrec check FILE.py:Typed"


def test_a_plug_in_of_a_notebook_is_named_without_a_file() -> None:
    code = "@dataclass(frozen=True)\nclass Cell:\n    def build(self, context):\n        return context['x']"
    space: dict[str, object] = {"dataclass": dataclass, "__name__": "__main__"}
    exec(compile(code, "<ipython-input-3>", "exec"), space)
    cell = space["Cell"]()  # type: ignore[operator]
    message = r"^Cell raised KeyError\(.x.\) at .*<ipython-input-3>:4 in stage align"
    with pytest.raises(InputError, match=message), attribute_to(cell, "in stage align"):
        cell.build({})


def test_the_own_line_skips_libraries() -> None:
    try:
        DataFrame({"a": [1]})["b"]
    except KeyError as error:
        found, failure = own_line(error), find_failure(error, [OwnSource()])
    assert found == Place(str(Path(__file__)), line_of('DataFrame({"a": [1]})["b"]'))
    assert failure is not None
    assert failure.place == found
