"""Loading experiment files: names of libraries, exits, and messages for missing files and functions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genrec import loading
from genrec.errors import UsageError
from genrec.store import describe

PROJECT = Path(__file__).parents[1]
ROW = """
from genrec.experiment import Experiment
from genrec.testing import Shop

def row():
    return Experiment(name="row", source=Shop())
"""


@pytest.fixture(autouse=True)
def clean_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the folder and what was imported from it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def refused(where: str) -> str:
    with pytest.raises(UsageError) as error:
        loading.load(where)
    return str(error.value)


def test_an_experiment_file_named_like_a_library_takes_no_place_of_it(tmp_path: Path) -> None:
    """In a process of its own, since a library may not be imported yet: `queue` is, and `colorsys` is not."""
    names = ["torch", "pandas", "genrec", "json", "random", "queue"]
    for name in names:
        (tmp_path / f"{name}.py").write_text(ROW)
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('taken for the library')")
    code = (
        "import importlib\nfrom genrec import loading\n"
        f"for name in {names!r}:\n"
        f"    assert loading.load({str(tmp_path)!r} + f'/{{name}}.py:row')[0].name == 'row'\n"
        "    import colorsys\n    library = importlib.import_module(name)\n"
        f"    assert {str(tmp_path)!r} not in str(library.__file__), library.__file__\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr


def test_the_current_folder_takes_no_place_of_a_library(tmp_path: Path) -> None:
    """`python -m genrec` has the current folder on the import path."""
    for name in ("json", "random", "queue", "torch"):
        (tmp_path / f"{name}.py").write_text(ROW)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "GENREC_HOME": str(tmp_path / "data")}
    command = [sys.executable, "-m", "genrec", "run", "json.py:row", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("row (seed 0)")


def test_a_quick_edit_of_the_same_size_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's cache of compiled files compares sizes and whole seconds, which such an edit leaves as they are."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "quick.py"
    for name in ("one", "two"):
        file.write_text(ROW.replace('name="row"', f'name="{name}"'))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        assert [each.name for each in loading.load(f"{file}:row")] == [name]


def test_a_plug_in_beside_the_experiment_is_imported(tmp_path: Path) -> None:
    (tmp_path / "plugin_beside.py").write_text("NAME = 'beside'")
    (tmp_path / "uses_plugin.py").write_text(ROW.replace('"row"', "NAME") + "\nfrom plugin_beside import NAME\n")
    assert loading.load(f"{tmp_path / 'uses_plugin.py'}:row")[0].name == "beside"


def test_a_plug_in_named_like_a_library_is_explained(tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("class Sampler: pass")
    (tmp_path / "uses_colorsys.py").write_text("from colorsys import Sampler")
    said = refused(f"{tmp_path / 'uses_colorsys.py'}:row")
    assert "colorsys is the name of a library, which comes before your colorsys.py; rename your file" in said


PLUGIN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Sampler:
    width: int = 1

def build():
    return Sampler()
"""


def test_classes_of_a_file_are_keyed_by_its_stem(tmp_path: Path) -> None:
    """A key contains the module's name, so it stays the stem; only a library's name is replaced, and its code is hashed as well."""
    descriptions = []
    for name in ("my_own_sampler", "json"):
        (tmp_path / f"{name}.py").write_text(PLUGIN)
        descriptions.append(describe(loading.component(f"{tmp_path / name}.py:build"), tmp_path))
    assert [each["class"] for each in descriptions] == ["my_own_sampler:Sampler", "genrec_experiment_json:Sampler"]
    assert descriptions[0]["source"] == descriptions[1]["source"] is not None


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import sys\nsys.exit()\n", 2),
        ("def row():\n    import sys\n\n    sys.exit('enough')\n", 4),
        ("import argparse\n\nargparse.ArgumentParser().parse_args(['--unknown'])\n", 3),
        ("raise SystemExit(0)\n", 1),
    ],
)
def test_an_exit_in_an_experiment_file_is_an_error_with_its_line(code: str, line: int, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(code)
    said = refused(f"{tmp_path / 'leaves.py'}:row")
    assert said.startswith(f"{tmp_path / 'leaves.py'}, line {line}: sys.exit(")
    assert "leaves" not in sys.modules or "def row" in code


def test_an_interruption_passes(tmp_path: Path) -> None:
    (tmp_path / "interrupts.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        loading.load(f"{tmp_path / 'interrupts.py'}:row")


FUNCTIONS = '''
from genrec.experiment import Experiment
from genrec.quickstart import sft

def first():
    """Return the first row.

    More words.
    """

def second() -> list[Experiment]:
    """Return rows."""

def aligned(name, loss=None):
    """Not listed: a parameter is required."""

def helper() -> int:
    """Not listed: it returns a number."""

def _private():
    """Not listed."""

VALUE = 3
'''


def test_the_functions_of_a_file_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "several.py"
    file.write_text(FUNCTIONS)
    said = refused(str(file))
    assert said.startswith("expected FILE.py:FUNCTION")
    assert said.endswith(
        f"its functions are:\n  first   Return the first row.\n  second  Return rows.\nfor example: genrec run {file}:first"
    )
    assert "needs the arguments name; name a function without required parameters" in refused(f"{file}:aligned")
    assert ":VALUE is 3, not a function; its functions are:" in refused(f"{file}:VALUE")
    assert "it has: first, second, aligned, helper; did you mean 'second'?" in refused(f"{file}:secnod")
    assert "there is no file" in refused(f"{tmp_path / 'sveral.py'}:first")
    assert "did you mean 'several.py'?" in refused(f"{tmp_path / 'sveral.py'}:first")
    (tmp_path / "empty.py").write_text("")
    assert "has no public function without required parameters" in refused(str(tmp_path / "empty.py"))


PLUGINS = """
from dataclasses import dataclass
from genrec.preference.losses import DPO

@dataclass(frozen=True)
class Sampler:
    'Draw rare items.'
    width: int = 1

class Helper:
    pass

WIDE, LOSS, VALUE = Sampler(9), DPO(), 3

def none():
    return []
"""


def test_the_classes_of_a_file_are_listed_and_its_instances_are_components(tmp_path: Path) -> None:
    file = tmp_path / "several_plugins.py"
    file.write_text(PLUGINS)
    listed = f"its classes are:\n  Sampler  Draw rare items.\nfor example: genrec check {file}:Sampler"
    for where, said in ((str(file), "a file without a class; "), (f"{file}:VALUE", ":VALUE is 3, not a plug-in; ")):
        with pytest.raises(UsageError) as error:
            loading.component(where)
        assert str(error.value).endswith(said + listed)
    with pytest.raises(UsageError, match=r":none returned an empty list"):
        loading.component(f"{file}:none")
    assert repr(loading.component(f"{file}:WIDE")) == "Sampler(width=9)"
    assert repr(loading.component(f"{file}:LOSS")).startswith("DPO(")  # a loss is callable


@pytest.mark.parametrize(
    ("code", "start"),
    [
        ("1 / 0\n", 'Traceback (most recent call last):\n  File "{file}", line 1, in <module>\n'),
        ("def row():\n    return 1 / 0\n", 'Traceback (most recent call last):\n  File "{file}", line 2, in row\n'),
        ("def row(:\n", '  File "{file}", line 1\n'),
    ],
)
def test_a_traceback_starts_in_the_users_file(code: str, start: str, tmp_path: Path) -> None:
    file = tmp_path / "raises_here.py"
    file.write_text(code)
    assert refused(f"{file}:row").partition("its own error:\n")[2].startswith(start.format(file=file))


ROWS = """
from genrec.experiment import Align, Experiment
from genrec.objectives import Preference
from genrec.preference.losses import DPO, LevelWeighted
from genrec.testing import Shop

def rows():
    first = Experiment(name="first", source=Shop())
    return [first, Experiment(name="second", source=Shop(), align=Align(Preference(DPO)))]

def weighted():
    return Experiment(name="weighted", source=Shop(), align=Align(Preference(LevelWeighted)))

def unknown():
    return Experiment(name="un known", source=Shop())
"""


def test_a_class_in_place_of_a_value_is_refused_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "several.py"
    file.write_text(ROWS)
    assert refused(f"{file}:rows").endswith(f"got the class DPO; write DPO() (at {file}:9)")
    assert refused(f"{file}:weighted").endswith(f"got the class LevelWeighted; write LevelWeighted(...) (at {file}:12)")
    assert refused(f"{file}:unknown").endswith(f"got 'un known' (at {file}:15)")


@pytest.mark.parametrize(
    ("built", "fields"),
    [
        ("LossNeeds(ratings=True)", "LossNeeds has no field 'ratings'; its fields are mismatched, rewards, positive"),
        ("Draw(drew=None)", "Draw has no field 'drew'; its fields are draw, by_example, offers_history, offers_disliked, refresh, at"),
    ],
)
def test_an_unknown_field_of_a_value_is_answered_by_the_known_ones(built: str, fields: str, tmp_path: Path) -> None:
    file = tmp_path / "own_value.py"
    file.write_text(f"from genrec.types import Draw, LossNeeds\n\n\nclass Own:\n    needs = {built}\n", encoding="utf-8")
    message = refused(f"{file}:Own")
    assert message.startswith(f"{file} cannot be imported: {fields}")
    assert f'File "{file}", line 5, in Own' in message
