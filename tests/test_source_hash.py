"""The hash of a plug-in's code: it changes with everything that the class uses of its file, and with nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from genrec.source_hash import source_hash

FILE = '''
from dataclasses import dataclass
from torch import nn

SCALE = 2
LOW, HIGH = 0, 5

if HIGH > LOW:
    STEP = 3
else:
    STEP = 4

NAMES = ["a"]
NAMES += ["b"]
SQUARES = [unused * unused for unused in range(3)]

def twice(x):
    unused = STEP
    return SCALE * x.clamp(LOW, HIGH) + len(NAMES)

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
        ("LOW, HIGH = 0, 5", "LOW, HIGH = 0, 6", True),  # one of several constants in a line
        ("STEP = 3", "STEP = 7", True),  # a constant under a condition
        ('NAMES += ["b"]', 'NAMES += ["c"]', True),  # a constant that is made in two statements
        ("unused in range(3)", "unused in range(4)", False),  # a name within a comprehension is not one of the file
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
    assert source_hash(namespace["Typed"]) is None


def test_a_class_that_was_typed_into_an_interpreter_has_no_hash() -> None:
    """Its module is the started program, such as pytest, whose file does not define it."""
    space: dict[str, type] = {}
    exec("class Typed:\n    width: int = 3", {"__name__": "__main__"}, space)
    assert space["Typed"].__module__ == "__main__"
    assert source_hash(space["Typed"]) is None
