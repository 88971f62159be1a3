"""The store: keys, atomicity, damage, and what it refuses to describe."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec import hashed_json
from genrec.errors import ArtifactError, InputError, NumericsError, ResourceError, UsageError
from genrec.store import NEW_IN_KEY, NOT_IN_KEY, Store, describe, file_hash, hash_of, key_of, write_json


@dataclass(frozen=True)
class Inner:
    beta: float = 0.1


@dataclass(frozen=True)
class Specification:
    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1, 2)
    device: str = field(default="cpu", metadata=NOT_IN_KEY)


@dataclass(frozen=True)
class Extended:
    beta: float = 0.1
    order: str = field(default="file", metadata=NEW_IN_KEY)
    order_seed: int = field(default=0, metadata=NEW_IN_KEY)


@dataclass(frozen=True)
class File:
    path: Path
    variant: str = "100k"

    def fingerprint(self, root: Path) -> str:
        return self.path.name


class Versioned:
    VERSION = 2


ABOUT = {
    "version": 1,
    "specification": {"beta": 0.1},
    "file_names": {},
    "parents": {"data": "0123456789abcdef"},
    "created": "2026-01-02T03:04:05Z",
    "versions": {"genrec": "9.9"},
    "git": "unknown",
    "environment": {"threads": "1"},
}


K1 = key_of("stage", ABOUT["version"], ABOUT["specification"], ABOUT["parents"])


def make(store: Store, key: str = K1, text: str = "payload") -> None:
    with store.create("stage", key, ABOUT) as folder:
        assert folder is not None
        (folder / "a.txt").write_text(text)


def test_seconds_of_interrupted_runs_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    about = {**ABOUT, "earlier_seconds": 1000.0}
    with store.create("stage", K1, about) as folder:
        assert folder is not None
        (folder / "a.txt").write_text("payload")
    assert 1000 <= store.get("stage", K1).manifest["seconds"] < 2000
    assert "earlier_seconds" not in store.get("stage", K1).manifest


def test_description_names_classes_and_leaves_out_what_changes_nothing(tmp_path: Path) -> None:
    described = describe(Specification(), tmp_path)
    assert described["class"] == f"{__name__}:Specification"
    assert described["inner"]["beta"] == 0.1
    assert described["sizes"] == [1, 2]
    assert "device" not in described
    assert hash_of(described) == hash_of(describe(Specification(device="cuda"), tmp_path))
    assert hash_of(described) != hash_of(describe(Specification(inner=Inner(0.2)), tmp_path))


def test_a_new_field_with_its_default_is_not_in_the_key(tmp_path: Path) -> None:
    """So a key of a version without the field stays. Any other value is in the key."""
    plain = {"class": f"{__name__}:Extended", "source": describe(Extended(), tmp_path)["source"], "beta": 0.1}
    assert describe(Extended(), tmp_path) == plain
    assert describe(Extended(order="random"), tmp_path) == plain | {"order": "random"}
    assert describe(Extended(order="random", order_seed=3), tmp_path) == plain | {"order": "random", "order_seed": 3}


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
    with pytest.raises(RuntimeError), store.create("stage", K1, ABOUT) as folder:
        assert folder is not None
        (folder / "a.txt").write_text("half")
        raise RuntimeError
    assert not store.has("stage", K1)
    make(store)
    artifact = store.get("stage", K1)
    assert (artifact.folder / "a.txt").read_text() == "payload"
    assert list(artifact.manifest["files"]) == ["a.txt"]


def test_a_killed_stage_keeps_its_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.create("stage", K1, ABOUT) as folder:
        assert folder is not None
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "step").write_text("7")
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    with store.create("stage", K1, ABOUT) as folder:
        assert folder is not None
        assert (folder / "checkpoint" / "step").read_text() == "7"
        assert not (folder / "half").exists()
        (folder / "a.txt").write_text("whole")
    assert sorted(path.name for path in store.get("stage", K1).folder.iterdir()) == ["a.txt", "manifest.json"]


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    path = store.folder("stage", K1) / "a.txt"
    path.write_text("PAYLOAD")  # the same size
    with pytest.raises(ArtifactError, match=r"a\.txt is missing or has changed.*--refresh stage"):
        store.get("stage", K1)
    path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        store.get("stage", K1)
    (store.folder("stage", K1) / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        store.get("stage", K1)
    with pytest.raises(ArtifactError, match="there is no artifact stage/k2"):
        store.get("stage", "k2")


def test_a_large_file_is_hashed_again_only_when_it_was_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gigabytes must open at once; a change that sets its date back is found all the same."""
    monkeypatch.setattr("genrec.store.LARGE", 5)
    store, hashed = Store(tmp_path), []
    make(store)
    path = store.folder("stage", K1) / "a.txt"
    monkeypatch.setattr("genrec.store.file_hash", lambda path: hashed.append(path) or file_hash(path))
    store.get("stage", K1)
    assert hashed == []
    status = path.stat()
    path.write_text("PAYLOAD")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ArtifactError, match=r"a\.txt is missing or has changed"):
        store.get("stage", K1)
    path.write_text("payload")  # touched, but the same
    store.get("stage", K1)
    assert hashed == [path, path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("I/O error: No space left on device (os error 28)")])
def test_a_full_disk_leaves_no_litter(tmp_path: Path, error: Exception) -> None:
    store = Store(tmp_path)
    make(store)
    with pytest.raises(ResourceError, match="the disk is full") as caught, store.create("stage", "k2", ABOUT) as folder:
        assert folder is not None
        (folder / "half").write_text("x")
        (folder / "checkpoint").mkdir()
        raise error
    assert caught.value.exit_code == 5
    assert [path.name for path in (tmp_path / "stage" / ".k2.partial").iterdir()] == ["checkpoint"]
    assert (store.get("stage", K1).folder / "a.txt").read_text() == "payload"


@pytest.mark.parametrize(
    ("format", "said"), [(99, "upgrade genrec"), (2, "no hash of its own content"), (1, "the names of settings have changed")]
)
def test_an_artifact_of_another_format_is_refused(tmp_path: Path, format: int, said: str) -> None:
    store = Store(tmp_path)
    make(store)
    path = store.folder("stage", K1) / "manifest.json"
    write_json(path, json.loads(path.read_text()) | {"format": format})
    with pytest.raises(ArtifactError, match=rf"genrec 9\.9 in format {format}, this version reads format 3 .*{said}.*--refresh stage"):
        store.get("stage", K1)


def test_two_makers_make_one(tmp_path: Path) -> None:
    """The second waits, then finds the artifact made."""
    store, entered, results = Store(tmp_path), threading.Event(), []

    def second() -> None:
        entered.wait()
        with Store(tmp_path).create("stage", K1, ABOUT) as folder:
            results.append(folder)

    thread = threading.Thread(target=second)
    thread.start()
    with store.create("stage", K1, ABOUT) as folder:
        assert folder is not None
        entered.set()
        (folder / "a.txt").write_text("first")
    thread.join()
    assert results == [None]


@pytest.mark.parametrize("error", [OSError(errno.EFBIG, "File too large"), KeyboardInterrupt(), NumericsError("the loss is nan")])
def test_an_artifact_that_is_built_again_stays_until_the_new_one_is_complete(tmp_path: Path, error: BaseException) -> None:
    store = Store(tmp_path)
    make(store)
    with pytest.raises((ResourceError, type(error))), store.create("stage", K1, ABOUT, replace=True) as folder:
        assert folder is not None
        (folder / "a.txt").write_text("half")
        raise error
    assert (store.get("stage", K1).folder / "a.txt").read_text() == "payload"
    assert store.is_done("stage", K1)
    with store.create("stage", K1, ABOUT, replace=True) as folder:
        assert folder is not None
        (folder / "a.txt").write_text("again")
        assert (store.get("stage", K1).folder / "a.txt").read_text() == "payload"
    assert (store.get("stage", K1).folder / "a.txt").read_text() == "again"
    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == sorted([f".{K1}.lock", K1])


def test_an_interrupted_rebuild_is_resumed_unless_it_begins_again(tmp_path: Path) -> None:
    """Its checkpoint lies beside the old artifact. Non-finite values could come back, so the message says how to use the artifact."""

    def rebuild(replace: bool, error: BaseException | None = None) -> list[str]:
        with contextlib.suppress(KeyboardInterrupt), store.create("stage", K1, ABOUT, replace) as folder:
            assert folder is not None
            found = [path.name for path in folder.iterdir()]
            (folder / "checkpoint").mkdir(exist_ok=True)
            (folder / "checkpoint" / "step").write_text("7")
            (folder / "a.txt").write_text("again")
            if error is not None:
                raise error
        return found

    store = Store(tmp_path)
    make(store)
    assert rebuild(True, KeyboardInterrupt()) == []
    assert store.has("stage", K1)
    assert not store.is_done("stage", K1)
    assert rebuild(True, KeyboardInterrupt()) == []
    with pytest.raises(NumericsError, match=rf"the loss is nan; the earlier artifact is intact.*remove .*\.{K1}\.partial to use"):
        rebuild(False, NumericsError("the loss is nan"))
    assert rebuild(False) == ["checkpoint"]
    assert (store.get("stage", K1).folder / "a.txt").read_text() == "again"
    with store.create("stage", K1, ABOUT) as folder:
        assert folder is None


def test_an_artifact_gets_its_name_back_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    store.folder("stage", K1).rename(tmp_path / "stage" / f".{K1}.old")
    with store.create("stage", K1, ABOUT) as folder:
        assert folder is None
    assert (store.get("stage", K1).folder / "a.txt").read_text() == "payload"


@pytest.mark.parametrize("entries", [{"version": 2}, {"specification": {"beta": 0.2}}, {"parents": {"data": "1" * 16}}])
def test_a_manifest_that_does_not_fit_its_key_is_refused(tmp_path: Path, entries: dict[str, object]) -> None:
    """Its hash was computed again, so only the key can tell."""
    store = Store(tmp_path)
    make(store)
    rewritten(store, **entries)
    with pytest.raises(
        ArtifactError, match=rf"manifest\.json describes an artifact with the key \w+, expected {K1}; .*--refresh stage"
    ):
        store.get("stage", K1)


@dataclass(frozen=True)
class Reserved:
    source: str = "a"


def test_a_field_with_a_name_of_the_key_is_refused(tmp_path: Path) -> None:
    """It would replace the hash of the plug-in's code, so that an edit would go unnoticed."""
    with pytest.raises(UsageError, match=r"align\.negatives: Reserved has a field 'source'.*rename the field"):
        describe(Reserved(), tmp_path, "align.negatives")


def rewritten(store: Store, **entries: object) -> None:
    """Replace entries of the manifest of stage/K1 (None removes one), with a hash that fits the new content."""
    path = store.folder("stage", K1) / "manifest.json"
    content = json.loads(path.read_text()) | entries
    del content["sha256"]
    path.write_text(json.dumps(hashed_json.add_hash({name: value for name, value in content.items() if value is not None})))


ENTRY = {"size": 7, "sha256": hashlib.sha256(b"payload").hexdigest()}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"versions": None}, "the content has no entry versions"),
        ({"versions": {"genrec": 3}}, r"versions\.genrec is 3, expected a text"),
        ({"seconds": None}, "the content has no entry seconds"),
        ({"seconds": "1"}, "seconds is '1', expected a number"),
        ({"seconds": True}, "seconds is True, expected a number"),
        ({"format": "3"}, "format is '3', expected an integer"),
        ({"format": None}, "the content has no entry format"),
        ({"specification": []}, r"specification is \[\], expected an object"),
        ({"parents": {"data": "../../x"}}, r"parents\.data is '\.\./\.\./x', expected a text like"),
        ({"files": {}}, "files has no entry"),
        ({"files": [1]}, r"files is \[1\], expected an object"),
        ({"files": {"a.txt": 7}}, r"files\.a\.txt is 7, expected an object"),
        ({"files": {"a.txt": {"size": 7}}}, r"files\.a\.txt has no entry sha256"),
        ({"files": {"a.txt": ENTRY | {"sha256": "aa"}}}, r"files\.a\.txt\.sha256 is 'aa'"),
        ({"files": {"a.txt": ENTRY | {"signature": [1, 2]}}}, r"signature is \[1, 2\], expected a list of 4 values"),
        ({"files": {"../a.txt": ENTRY}}, r"files has an entry '\.\./a\.txt', which is not allowed"),
        ({"files": {"/etc/passwd": ENTRY}}, "files has an entry '/etc/passwd', which is not allowed"),
        ({"files": {"a/../a.txt": ENTRY}}, "which is not allowed"),
        ({"files": {"./a.txt": ENTRY}}, "which is not allowed"),
        ({"files": {"a\0.txt": ENTRY}}, "which is not allowed"),
        ({"files": {"": ENTRY}}, "which is not allowed"),
        ({"stage": "other"}, f"is that of other/{K1}, expected stage/{K1}"),
        ({"key": "k2"}, f"is that of stage/k2, expected stage/{K1}"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(tmp_path: Path, entries: dict[str, object], said: str) -> None:
    store = Store(tmp_path)
    make(store)
    rewritten(store)
    store.get("stage", K1)  # the hash fits
    rewritten(store, **entries)
    with pytest.raises(ArtifactError, match=rf"manifest\.json .*{said}.*--refresh stage"):
        store.get("stage", K1)


@pytest.mark.parametrize("content", ["[]", "null", "3", "{}", '{"format": []}', "[" * 100_000, '{"a":' * 100_000, "1" * 5000, "\xff"])
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    make(store)
    (store.folder("stage", K1) / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged .*--refresh stage"):
        store.get("stage", K1)


def test_an_edited_manifest_is_found_by_its_hash(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    path = store.folder("stage", K1) / "manifest.json"
    path.write_text(path.read_text().replace('"beta": 0.1', '"beta": 0.2'))
    with pytest.raises(ArtifactError, match=r"manifest\.json has changed since it was written .*--refresh stage"):
        store.get("stage", K1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, bytes]:
    """A store with one artifact, the path of its manifest, and the manifest's bytes."""
    store = Store(tmp_path_factory.mktemp("written"))
    make(store)
    path = store.folder("stage", K1) / "manifest.json"
    return store, path, path.read_bytes()


def assert_found_or_harmless(written: tuple[Store, Path, bytes], place: int, value: int) -> None:
    """A byte of the manifest is replaced: the store refuses the artifact, or the content is the same."""
    store, path, content = written
    path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
    try:
        found = store.get("stage", K1).manifest
    except ArtifactError as error:
        found = str(error)
    finally:
        path.write_bytes(content)
    assert found == json.loads(content) or (isinstance(found, str) and ("manifest.json" in found or "in format" in found))


def test_each_flipped_bit_of_a_manifest_is_found(written: tuple[Store, Path, bytes]) -> None:
    for place, byte in enumerate(written[2]):
        for bit in range(8):
            assert_found_or_harmless(written, place, byte ^ 1 << bit)


@given(data=st.data())
def test_any_replaced_byte_of_a_manifest_is_found(written: tuple[Store, Path, bytes], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(written[2]) - 1))
    assert_found_or_harmless(written, place, data.draw(st.integers(0, 255)))


def test_links_are_refused(tmp_path: Path) -> None:
    """The bytes are the same, but another artifact, or a file outside the store, could change them later."""
    store = Store(tmp_path / "store")
    with store.create("stage", K1, ABOUT) as folder:
        assert folder is not None
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("payload")
    artifact = store.get("stage", K1).folder
    (artifact / "sub").rename(tmp_path / "elsewhere")
    (artifact / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"sub/a\.txt is a link, expected a file"):
        store.get("stage", K1)


def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    """A stage would read an added cold.parquet. Files with a hidden name, such as those of a file manager, are ignored."""
    store = Store(tmp_path)
    make(store)
    folder = store.folder("stage", K1)
    (folder / ".DS_Store").write_text("x")
    store.get("stage", K1)
    (folder / "sub").mkdir()
    (folder / "sub" / "cold.parquet").write_text("x")
    with pytest.raises(ArtifactError, match=r"sub/cold\.parquet is not listed in manifest\.json; move it away"):
        store.get("stage", K1)
    (folder / "sub" / "cold.parquet").unlink()
    (folder / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"link is not listed"):
        store.get("stage", K1)


def test_a_manifest_that_cannot_be_written_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the stage has finished: the next run resumes from the checkpoint instead of starting again."""

    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    store = Store(tmp_path)
    monkeypatch.setattr("genrec.store.write_json", full)
    with pytest.raises(ResourceError, match=r"the disk is full .*manifest\.json"), store.create("stage", K1, ABOUT) as folder:
        assert folder is not None
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "step").write_text("7")
        (folder / "a.txt").write_text("payload")
    assert [path.name for path in (tmp_path / "stage" / f".{K1}.partial").iterdir()] == ["checkpoint"]
    monkeypatch.undo()
    with store.create("stage", K1, ABOUT) as folder:
        assert folder is not None
        (folder / "a.txt").write_text("payload")
    assert list(store.get("stage", K1).manifest["files"]) == ["a.txt"]  # not the checkpoint
    assert not (store.get("stage", K1).folder / "checkpoint").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EFBIG, "File too large"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        OSError("200 requested and 16 written"),  # NumPy
        RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),  # safetensors
    ],
)
def test_a_stage_that_cannot_write_ends_with_exit_code_5(tmp_path: Path, error: Exception) -> None:
    store = Store(tmp_path)
    said = r"in .*\.k2\.partial; finished artifacts are intact"
    with pytest.raises(ResourceError, match=said) as caught, store.create("stage", "k2", ABOUT) as folder:
        assert folder is not None
        (folder / "half").write_text("x")
        raise error
    assert caught.value.exit_code == 5
    assert not (tmp_path / "stage" / ".k2.partial").exists()


def test_other_errors_of_a_stage_pass_unchanged(tmp_path: Path) -> None:
    for error in (RuntimeError("shape mismatch"), FileNotFoundError(errno.ENOENT, "No such file", "mine.csv"), InputError("bad")):
        with pytest.raises(type(error)) as caught, Store(tmp_path).create("stage", K1, ABOUT):
            raise error
        assert caught.value is error


def test_something_in_the_place_of_an_unfinished_artifact_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / f".{K1}.partial").write_text("x")
    (tmp_path / "stage" / ".k2.lock").mkdir()
    for key, said in ((K1, rf"\.{K1}\.partial is not a folder"), ("k2", r"\.k2\.lock is not a file that can be written")):
        with pytest.raises(UsageError, match=said):
            store.check_writable("stage", key)
    with pytest.raises(UsageError, match=rf"\.{K1}\.partial is not a folder"), store.create("stage", K1, ABOUT):
        pass
    store.check_writable("stage", "k3")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [f".{K1}.lock", f".{K1}.partial", ".k2.lock", "stage"]


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: object) -> None:
        raise NotImplementedError("no flock")

    monkeypatch.setattr("genrec.store.FileLock.acquire", acquire)
    with (
        pytest.raises(ResourceError, match=rf"\.{K1}\.lock can't be locked .*GENREC_HOME"),
        Store(tmp_path).create("stage", K1, ABOUT),
    ):
        pass


def test_write_json_names_its_file_and_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(number: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    write_json(tmp_path / "a.json", [1])
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match=r"a\.json"):
        write_json(tmp_path / "a.json", [2])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "[\n 1\n]"
