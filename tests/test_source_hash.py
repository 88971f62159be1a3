"""The hash of a plug-in's code: it changes with everything that the class uses of its file, and with nothing else."""

from __future__ import annotations

import importlib.util
import linecache
import sys
from pathlib import Path
from types import ModuleType

import pytest

from genrec.source_hash import source_hash

FILE = '''
import math
from dataclasses import dataclass
from torch import nn

SCALE = 2

def twice(x):
    return SCALE * x

class Base(nn.Module):
    width = 3

class Model(Base):
    def forward(self, x):
        return twice(x)

@dataclass(frozen=True)
class Policy:
    """A policy."""

    size: int = 1

    def build(self, semantic_ids):
        return Model()

LOW, HIGH = 1, 2
TABLE = {}
TABLE["size"] = 3
STEPS = 1
STEPS += 4

if HIGH > 1:
    def rounded(x):
        return x + 5

def wrapped(x):
    return x + 6

wrapped = str(wrapped)

GROUPS = []
GROUPS.append(11)

WEIGHTS = {}

def fill(table, value):
    table["weight"] = value

fill(WEIGHTS, 12)

REGISTERED = {}

def register(function):
    REGISTERED[function.__name__] = function
    return function

@register
def score(x):
    return x + 13

RATE = 0

def set_rate(value):
    global RATE
    RATE = value

set_rate(14)
print(WIDTH := 15)

match HIGH:
    case 2:
        KIND = 16

print(math.sqrt(17))

class Detailed:
    def build(self, semantic_ids):
        return LOW, TABLE, STEPS, rounded, wrapped, GROUPS, WEIGHTS, REGISTERED, RATE, WIDTH, KIND, math.pi

class Other:
    value = 1

def experiment():
    return Policy(size=3)
'''


def loaded(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path.write_text(text)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, path.stem, module)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("return Model()", "return Model().eval()", True),  # the class itself
        ("return twice(x)", "return 0 * twice(x)", True),  # the module that it builds
        ("width = 3", "width = 4", True),  # the base class of the module
        ("return SCALE * x", "return SCALE + x", True),  # a function that the module calls
        ("SCALE = 2", "SCALE = 3", True),  # a constant of that function
        ("value = 1", "value = 2", False),  # a class that it does not use
        ("Policy(size=3)", "Policy(size=4)", False),  # an experiment of the file: its values are in the key anyway
        ("return twice(x)", "return twice(x)  # as in the paper", False),  # a comment
    ],
)
def test_an_edit_changes_the_hash_if_the_class_uses_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, changes: bool
) -> None:
    before = source_hash(loaded(tmp_path / "before_edit.py", FILE, monkeypatch).Policy)
    assert old in FILE
    after = source_hash(loaded(tmp_path / "after_edit.py", FILE.replace(old, new), monkeypatch).Policy)
    assert before is not None
    assert (before != after) is changes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LOW, HIGH = 1, 2", "LOW, HIGH = 7, 2"),  # one of several names
        ('TABLE["size"] = 3', 'TABLE["size"] = 7'),  # an entry
        ("STEPS += 4", "STEPS += 7"),
        ("return x + 5", "return x + 7"),  # a function below a condition
        ("return x + 6", "return x + 7"),  # a function that gets another value under its name
        ("GROUPS.append(11)", "GROUPS.append(7)"),  # a method
        ("fill(WEIGHTS, 12)", "fill(WEIGHTS, 7)"),  # an argument
        ("return x + 13", "return x + 7"),  # a function that a decorator stores
        ("set_rate(14)", "set_rate(7)"),  # a function that sets a global name
        ("WIDTH := 15", "WIDTH := 7"),
        ("KIND = 16", "KIND = 7"),
    ],
)
def test_every_statement_that_binds_or_changes_a_name_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    before = source_hash(loaded(tmp_path / "before_edit.py", FILE, monkeypatch).Detailed)
    assert old in FILE
    after = source_hash(loaded(tmp_path / "after_edit.py", FILE.replace(old, new), monkeypatch).Detailed)
    assert before is not None
    assert before != after


def test_calls_that_change_nothing_of_the_file_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_hash(loaded(tmp_path / "before_edit.py", FILE, monkeypatch).Detailed)
    edited = FILE.replace("math.sqrt(17)", "math.sqrt(7)")
    assert edited != FILE
    assert source_hash(loaded(tmp_path / "after_edit.py", edited, monkeypatch).Detailed) == before


def test_the_hashes_of_earlier_versions_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with one plain definition: the hash is a part of the keys of stored artifacts."""
    assert source_hash(loaded(tmp_path / "earlier.py", FILE, monkeypatch).Policy) == "0ff6eff1efa24daa"


def test_a_loaded_class_keeps_its_hash_when_its_file_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of several hours goes on with the code that it was started with."""
    kind = loaded(tmp_path / "edited.py", FILE, monkeypatch).Policy
    before = source_hash(kind)
    edited = FILE.replace("SCALE = 2", "SCALE = 3")
    (tmp_path / "edited.py").write_text(edited)
    assert source_hash(kind) == before
    again = loaded(tmp_path / "edited.py", edited, monkeypatch).Policy
    assert source_hash(again) != before
    assert source_hash(kind) == before


def test_a_class_with_new_code_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`%autoreload` puts the code of an edited file into the functions of the present class."""
    kind = loaded(tmp_path / "reloaded.py", FILE, monkeypatch).Policy
    before = source_hash(kind)
    edited = FILE.replace("return Model()", "return Model().eval()")
    again = loaded(tmp_path / "reloaded.py", edited, monkeypatch).Policy
    kind.build.__code__ = again.build.__code__
    assert source_hash(kind) == source_hash(again) != before


CELLS = {
    "constants": "SCALE = 2\nLOW, HIGH = 1, 2",
    "functions": "def twice(x):\n    return SCALE * x",
    "policy": "class Policy:\n    size = 1\n\n    def build(self, semantic_ids):\n        return twice(LOW)",
    "other": "class Other:\n    value = 1\n\n    def read(self):\n        return HIGH",
}


def run_cells(cells: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module in which cells were run as IPython does: their lines are kept under a name of their own."""
    module = ModuleType("notebook_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, text in cells.items():
        file = f"<cell {name} {hash(text)}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec"), vars(module))
    return module


@pytest.mark.parametrize(
    ("cell", "old", "new", "changes"),
    [
        ("policy", "twice(LOW)", "-twice(LOW)", True),  # the class itself
        ("functions", "SCALE * x", "SCALE + x", True),  # a function of another cell
        ("constants", "SCALE = 2", "SCALE = 3", True),  # a constant of that function
        ("constants", "LOW, HIGH = 1, 2", "LOW, HIGH = 3, 2", True),
        ("constants", "LOW, HIGH = 1, 2", "LOW, HIGH = 1, 3", False),  # a constant that it does not use
        ("other", "value = 1", "value = 2", False),  # a class that it does not use
        ("policy", "size = 1", "size = 1  # as in the paper", False),
    ],
)
def test_an_edited_cell_changes_the_hash_of_a_class_of_a_notebook(
    monkeypatch: pytest.MonkeyPatch, cell: str, old: str, new: str, changes: bool
) -> None:
    before = source_hash(run_cells(CELLS, monkeypatch).Policy)
    assert old in CELLS[cell]
    after = source_hash(run_cells(CELLS | {cell: CELLS[cell].replace(old, new)}, monkeypatch).Policy)
    assert before is not None
    assert (before != after) is changes


def test_a_cell_that_is_run_again_changes_the_hash_of_a_class_that_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = run_cells(CELLS, monkeypatch)
    before = source_hash(module.Policy)
    exec("SCALE = 3", vars(module))
    assert source_hash(module.Policy) != before


def test_a_class_within_a_function_has_a_hash_of_its_own_code() -> None:
    class First:
        value = 1

    class Second:
        value = 2

    assert source_hash(First) is not None
    assert source_hash(First) != source_hash(Second)


def test_a_class_without_source_has_no_hash() -> None:
    namespace: dict[str, type] = {}
    exec("class Typed:\n    pass", namespace)
    with pytest.warns(UserWarning, match="no source was found of the class Typed"):
        assert source_hash(namespace["Typed"]) is None


def test_a_class_that_was_typed_into_an_interpreter_has_no_hash() -> None:
    """Its module is the started program, such as pytest, whose file does not define it."""
    space: dict[str, type] = {}
    exec("class Typed:\n    width: int = 3", {"__name__": "__main__"}, space)
    assert space["Typed"].__module__ == "__main__"
    with pytest.warns(UserWarning, match="no source"):
        assert source_hash(space["Typed"]) is None
