"""The store: keys, atomicity, damage, and what it refuses to describe."""

from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.errors import ArtifactError, ResourceError, UsageError
from genrec.store import NOT_IN_KEY, Store, describe, file_hash, hash_of, write_json


@dataclass(frozen=True)
class Inner:
    beta: float = 0.1


@dataclass(frozen=True)
class Specification:
    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1, 2)
    device: str = field(default="cpu", metadata=NOT_IN_KEY)


@dataclass(frozen=True)
class File:
    path: Path
    variant: str = "100k"

    def fingerprint(self, root: Path) -> str:
        return self.path.name


class Versioned:
    VERSION = 2


def make(store: Store, key: str = "k1", text: str = "payload") -> None:
    with store.create("stage", key, {"versions": {"genrec": "9.9"}}) as folder:
        assert folder is not None
        (folder / "a.txt").write_text(text)


def test_description_names_classes_and_leaves_out_what_changes_nothing(tmp_path: Path) -> None:
    described = describe(Specification(), tmp_path)
    assert described["class"] == f"{__name__}:Specification"
    assert described["inner"]["beta"] == 0.1
    assert described["sizes"] == [1, 2]
    assert "device" not in described
    assert hash_of(described) == hash_of(describe(Specification(device="cuda"), tmp_path))
    assert hash_of(described) != hash_of(describe(Specification(inner=Inner(0.2)), tmp_path))


def test_moving_a_file_changes_no_key(tmp_path: Path) -> None:
    here, there = File(tmp_path / "a.zip"), File(tmp_path / "elsewhere" / "a.zip")
    assert describe(here, tmp_path) == describe(there, tmp_path)
    assert describe(here, tmp_path) != describe(File(tmp_path / "b.zip"), tmp_path)
    assert describe(here, tmp_path)["variant"] == "100k"


def test_editing_an_outside_class_changes_its_key(tmp_path: Path) -> None:
    """Two classes of one name whose bodies differ."""
    keys = set()
    for number in (1, 2):
        file = tmp_path / f"plugin{number}" / "plugin.py"
        file.parent.mkdir()
        file.write_text(
            f"from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Mine:\n    def f(self):\n        return {number}\n"
        )
        import importlib.util
        import sys

        specification = importlib.util.spec_from_file_location("plugin", file)
        module = importlib.util.module_from_spec(specification)
        sys.modules["plugin"] = module
        specification.loader.exec_module(module)
        keys.add(hash_of(describe(module.Mine(), tmp_path)))
        del sys.modules["plugin"]
    assert len(keys) == 2


@pytest.mark.parametrize("value", [object(), Versioned(), lambda: 0, {1, 2}])
def test_what_has_no_stable_description_is_refused_by_name(value: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"align\.negatives is a .*frozen dataclass"):
        describe(value, tmp_path, "align.negatives")


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False) | st.text()))
def test_the_hash_ignores_order(values: dict[str, object]) -> None:
    assert hash_of(values) == hash_of(dict(reversed(values.items())))


def test_an_artifact_is_whole_or_absent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.create("stage", "k1", {}) as folder:
        assert folder is not None
        (folder / "a.txt").write_text("half")
        raise RuntimeError
    assert not store.has("stage", "k1")
    make(store)
    artifact = store.get("stage", "k1")
    assert (artifact.folder / "a.txt").read_text() == "payload"
    assert list(artifact.manifest["files"]) == ["a.txt"]


def test_a_killed_stage_keeps_its_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.create("stage", "k1", {}) as folder:
        assert folder is not None
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "step").write_text("7")
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    with store.create("stage", "k1", {}) as folder:
        assert folder is not None
        assert (folder / "checkpoint" / "step").read_text() == "7"
        assert not (folder / "half").exists()
        (folder / "a.txt").write_text("whole")
    assert sorted(path.name for path in store.get("stage", "k1").folder.iterdir()) == ["a.txt", "manifest.json"]


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    path = store.folder("stage", "k1") / "a.txt"
    path.write_text("PAYLOAD")  # the same size
    with pytest.raises(ArtifactError, match=r"a\.txt is missing or has changed.*--refresh stage"):
        store.get("stage", "k1")
    path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        store.get("stage", "k1")
    (store.folder("stage", "k1") / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        store.get("stage", "k1")
    for content in ("[]", "{}", '{"format": 1, "files": []}'):
        (store.folder("stage", "k1") / "manifest.json").write_text(content)
        with pytest.raises(ArtifactError, match=r"manifest\.json is damaged \(it is not a manifest\)"):
            store.get("stage", "k1")
    with pytest.raises(ArtifactError, match="there is no artifact stage/k2"):
        store.get("stage", "k2")


def test_a_large_file_is_hashed_again_only_when_it_was_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gigabytes must open at once; a change that sets its date back is found all the same."""
    monkeypatch.setattr("genrec.store.LARGE", 5)
    store, hashed = Store(tmp_path), []
    make(store)
    path = store.folder("stage", "k1") / "a.txt"
    monkeypatch.setattr("genrec.store.file_hash", lambda path: hashed.append(path) or file_hash(path))
    store.get("stage", "k1")
    assert hashed == []
    status = path.stat()
    path.write_text("PAYLOAD")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ArtifactError, match=r"a\.txt is missing or has changed"):
        store.get("stage", "k1")
    path.write_text("payload")  # touched, but the same
    store.get("stage", "k1")
    assert hashed == [path, path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("I/O error: No space left on device (os error 28)")])
def test_a_full_disk_leaves_no_litter(tmp_path: Path, error: Exception) -> None:
    store = Store(tmp_path)
    make(store)
    with pytest.raises(ResourceError, match="the disk is full") as caught, store.create("stage", "k2", {}) as folder:
        assert folder is not None
        (folder / "half").write_text("x")
        (folder / "checkpoint").mkdir()
        raise error
    assert caught.value.exit_code == 5
    assert [path.name for path in (tmp_path / "stage" / ".k2.partial").iterdir()] == ["checkpoint"]
    assert (store.get("stage", "k1").folder / "a.txt").read_text() == "payload"


def test_an_artifact_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    path = store.folder("stage", "k1") / "manifest.json"
    write_json(path, json.loads(path.read_text()) | {"format": 99})
    with pytest.raises(ArtifactError, match=r"genrec 9\.9 in format 99"):
        store.get("stage", "k1")


def test_two_makers_make_one(tmp_path: Path) -> None:
    """The second waits, then finds the artifact made."""
    store, entered, results = Store(tmp_path), threading.Event(), []

    def second() -> None:
        entered.wait()
        with Store(tmp_path).create("stage", "k1", {}) as folder:
            results.append(folder)

    thread = threading.Thread(target=second)
    thread.start()
    with store.create("stage", "k1", {}) as folder:
        assert folder is not None
        entered.set()
        (folder / "a.txt").write_text("first")
    thread.join()
    assert results == [None]


def test_remove(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    store.remove("stage", "k1")
    assert not store.has("stage", "k1")
    make(store, text="again")
    assert (store.get("stage", "k1").folder / "a.txt").read_text() == "again"


@dataclass(frozen=True)
class Reserved:
    source: str = "a"


def test_a_field_with_a_name_of_the_key_is_refused(tmp_path: Path) -> None:
    """It would replace the hash of the plug-in's code, so that an edit would go unnoticed."""
    with pytest.raises(UsageError, match=r"align\.negatives: Reserved has a field 'source'.*rename the field"):
        describe(Reserved(), tmp_path, "align.negatives")
