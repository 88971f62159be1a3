"""Vectors from files: every format, the join by id, and errors that name the file."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from stable_ids import stable_id

from genrec.embeddings import Precomputed, check_vectors
from genrec.errors import InputError, UsageError
from genrec.store import describe, hash_of
from genrec.types import ItemEncoder

NO_INTERACTIONS = pd.DataFrame({"user": [], "item": []})
IDS = ["00123", "123", "NA", 'item, with "comma"', "🧴"]
VECTORS = np.arange(10, dtype=np.float32).reshape(5, 2) + 1
CATALOG = ["🧴", "NA", "00123"]
EXPECTED = VECTORS[[4, 2, 0]]


def items(ids: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"item_id": ids, "text": "x"})


def npy(folder: Path, vectors: np.ndarray = VECTORS) -> Path:
    np.save(folder / "vectors.npy", vectors)
    return folder / "vectors.npy"


def ids_file(folder: Path, suffix: str = ".json", ids: list[str] = IDS) -> Path:
    path = folder / f"ids{suffix}"
    if suffix == ".txt":
        path.write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
    elif suffix == ".json":
        path.write_text(json.dumps(ids), encoding="utf-8")
    elif suffix == ".npy":
        np.save(path, np.array(ids))
    elif suffix == ".parquet":
        pq.write_table(pa.table({"other": range(len(ids)), "item_id": ids}), path)
    else:
        pd.DataFrame({"other": range(len(ids)), "item_id": ids}).to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)
    return path


def parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "vectors.parquet")
    return folder / "vectors.parquet"


def as_lists(folder: Path) -> Precomputed:
    return Precomputed(parquet(folder, title=["t"] * 5, item_id=IDS, price=[1.0] * 5, vector=VECTORS.tolist()))


def as_fixed_lists(folder: Path) -> Precomputed:
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), 2)
    return Precomputed(parquet(folder, asin=pa.array(IDS).dictionary_encode(), vector=fixed), id_column="asin")


def as_columns(folder: Path) -> Precomputed:
    return Precomputed(parquet(folder, item_id=IDS, a=VECTORS[:, 0].astype(np.int64), b=VECTORS[:, 1].astype(np.float16)))


def as_named_columns(folder: Path) -> Precomputed:
    path = parquet(folder, item_id=IDS, title=["t"] * 5, a=VECTORS[:, 0], price=[9.0] * 5, b=VECTORS[:, 1])
    return Precomputed(path, columns=("a", "b"))


def as_tensor(folder: Path) -> Precomputed:
    save_file({"vectors": VECTORS}, folder / "v.safetensors")
    return Precomputed(folder / "v.safetensors", ids=ids_file(folder))


def as_tensor_with_metadata(folder: Path) -> Precomputed:
    save_tensors({"v": torch.from_numpy(VECTORS).bfloat16()}, folder / "v.safetensors", metadata={"item_ids": json.dumps(IDS)})
    return Precomputed(folder / "v.safetensors")


def as_tensors(folder: Path) -> Precomputed:
    save_file(dict(zip(IDS, VECTORS.astype(np.float64), strict=True)), folder / "v.safetensors")
    return Precomputed(folder / "v.safetensors")


FORMATS = [as_lists, as_fixed_lists, as_columns, as_named_columns, as_tensor, as_tensor_with_metadata, as_tensors]


@pytest.mark.parametrize("make", FORMATS)
def test_every_format_is_joined_by_id(tmp_path: Path, make: Callable[[Path], Precomputed], capsys: pytest.CaptureFixture[str]) -> None:
    encoder = make(tmp_path)
    assert isinstance(encoder, ItemEncoder)
    vectors = encoder.encode(items(CATALOG), NO_INTERACTIONS)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, EXPECTED)
    assert "2 of its 5 vectors are of items outside the catalog" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".txt", ".json", ".csv", ".tsv", ".parquet", ".npy"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_npy_with_every_file_of_ids(tmp_path: Path, suffix: str, dtype: Any) -> None:
    encoder = Precomputed(npy(tmp_path, np.asfortranarray(VECTORS.astype(dtype))), ids=ids_file(tmp_path, suffix))
    vectors = encoder.encode(items(CATALOG), NO_INTERACTIONS)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, EXPECTED)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(order=st.permutations(range(5)), kept=st.sets(st.integers(0, 4), min_size=1))
def test_the_order_of_the_file_does_not_matter(tmp_path: Path, order: list[int], kept: set[int]) -> None:
    encoder = Precomputed(npy(tmp_path, VECTORS[order]), ids=ids_file(tmp_path, ids=[IDS[row] for row in order]))
    chosen = sorted(kept)
    np.testing.assert_array_equal(encoder.encode(items([IDS[row] for row in chosen]), NO_INTERACTIONS), VECTORS[chosen])


def test_vectors_without_ids_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"vectors\.npy needs ids.*never by position alone, since .* filters"):
        Precomputed(npy(tmp_path))
    save_file({"vectors": VECTORS}, tmp_path / "v.safetensors")
    with pytest.raises(UsageError, match=r"never by position alone.*metadata key item_ids"):
        Precomputed(tmp_path / "v.safetensors").encode(items(CATALOG), NO_INTERACTIONS)


@pytest.mark.parametrize("missing", ["refuse", "mean"])
def test_ids_that_never_match_name_the_likely_cause(tmp_path: Path, missing: Literal["refuse", "mean"]) -> None:
    encoder = Precomputed(
        npy(tmp_path), ids=ids_file(tmp_path, ids=[f"{name}.0" for name in ("37", "38", "39", "40", "41")]), missing=missing
    )
    with pytest.raises(InputError, match=r"the items have '37', the vectors have '37\.0': write the ids as text or integers"):
        encoder.encode(items(["37", "99"]), NO_INTERACTIONS)


def test_few_matching_vectors_are_a_warning_with_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Precomputed(npy(tmp_path), ids=ids_file(tmp_path, ids=["37", "38.0", "39.0", "x", "y"]), missing="mean")
    with pytest.warns(UserWarning, match="2 of 3 items are without a vector"):
        encoder.encode(items(["37", "38", "39"]), NO_INTERACTIONS)
    warning = (
        f"warning: only 1 of 3 items (33.3%) have a vector in {tmp_path / 'vectors.npy'}; without a match: the items have '38', the"
    )
    assert warning in capsys.readouterr().err
    with pytest.warns(UserWarning, match="1 of 2 items is"):
        encoder.encode(items(["37", "38"]), NO_INTERACTIONS)
    assert "warning" not in capsys.readouterr().err


def test_missing_items_are_named_or_get_the_mean(tmp_path: Path) -> None:
    path, ids = npy(tmp_path), ids_file(tmp_path)
    wanted = items(["NA", "lost", "123", "gone"])
    with pytest.raises(InputError, match=r"no vector of 2 of 4 items: 'lost', 'gone'; .*missing=\"mean\""):
        Precomputed(path, ids=ids).encode(wanted, NO_INTERACTIONS)
    with pytest.warns(UserWarning, match=r"2 of 4 items are without a vector in .*vectors\.npy"):
        vectors = Precomputed(path, ids=ids, missing="mean").encode(wanted, NO_INTERACTIONS)
    np.testing.assert_array_equal(vectors, [[5, 6], [4, 5], [3, 4], [4, 5]])  # the mean of (5, 6) and (3, 4) is (4, 5)
    for missing in ("refuse", "mean"):
        with pytest.raises(
            InputError, match=r"no vector of any of the catalog's 1 items: the items have '0', the vectors have '00123'"
        ):
            Precomputed(path, ids=ids, missing=missing).encode(items(["0"]), NO_INTERACTIONS)  # type: ignore[arg-type]


def test_non_finite_numbers_are_left_to_check_vectors(tmp_path: Path) -> None:
    encoder = Precomputed(parquet(tmp_path, item_id=["a", "b"], v=[[1.0, None], [1e300, 2.0]]))
    vectors = encoder.encode(items(["a", "b"]), NO_INTERACTIONS)
    with pytest.raises(InputError, match="NaN: items 'a'"):
        check_vectors(vectors, ["a", "b"])
    with pytest.raises(InputError, match="infinite: items 'b'"):
        check_vectors(vectors[1:], ["b"])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.array([[{}, 1]], dtype=object), "holds Python objects, which are never unpickled"),
        (np.ones(5, np.float32), r"holds float32 \[5\]; expected floating-point numbers \[M, D\]"),
        (np.ones((5, 2), np.int64), r"holds int64 \[5, 2\]"),
        (np.ones((4, 2), np.float32), r"holds 4 vectors, .*ids\.json 5 ids; expected one id for each vector"),
        (np.ones((0, 2), np.float32), r"vectors\.npy"),
        (np.ones((5, 0), np.float32), r"vectors\.npy"),
    ],
)
def test_other_arrays_are_an_error(tmp_path: Path, vectors: np.ndarray, message: str) -> None:
    encoder = Precomputed(npy(tmp_path, vectors), ids=ids_file(tmp_path))
    with pytest.raises(InputError, match=message):
        encoder.encode(items(CATALOG), NO_INTERACTIONS)


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".json", '["a", "b", "a", "b", "c"]', "2 ids occur more than once: 'a', 'b'"),
        (".json", '{"a": 1}', "JSON dict; expected a list"),
        (".json", '["a", 1.5, "b", "c", "d"]', "id 2 is 1.5; expected text"),
        (".json", '["a", null, "b", "c", "d"]', "id 2 is None"),
        (".json", '["a", ', "can't be read"),
        (".txt", "a\nb\n\nc\nd\n", "id 3 is ''"),
        (".txt", b"a\xff\nb\nc\nd\ne\n", "can't be read .*UTF-8"),
        (".csv", "asin,x\na,1\n", r"no column 'item_id' for the ids; it has \['asin', 'x'\]; .*id_column"),
        (".csv", 'item_id\na\n"b\n', r"ids\.csv"),
        (".csv", "", r"ids\.csv"),
        (".parquet", b"PAR1 no", "can't be read"),
        (".npy", b"\x80\x04pickle", "is no .npy file"),
    ],
)
def test_invalid_ids_are_an_error(tmp_path: Path, suffix: str, content: str | bytes, message: str) -> None:
    path = tmp_path / f"ids{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        Precomputed(npy(tmp_path), ids=path).encode(items(CATALOG), NO_INTERACTIONS)
    assert error.value.exit_code == 3
    assert str(path) in str(error.value)


def test_integer_ids_become_decimal_text(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(5))
    vectors = Precomputed(npy(tmp_path), ids=tmp_path / "ids.npy").encode(items(["3", "0"]), NO_INTERACTIONS)
    np.testing.assert_array_equal(vectors, VECTORS[[3, 0]])


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"asin": IDS, "v": VECTORS.tolist()}, {}, r"no column 'item_id' for the ids; it has \['asin', 'v'\]"),
        ({"item_id": IDS, "v": VECTORS.tolist(), "w": VECTORS.tolist()}, {}, r"not clear; .*'v': 'list<.*Precomputed\(columns"),
        ({"item_id": IDS, "a": VECTORS[:, 0], "title": ["t"] * 5}, {}, "not clear"),
        ({"item_id": IDS}, {}, "not clear"),
        ({"item_id": IDS, "v": VECTORS.tolist()}, {"columns": ("w",)}, r"no columns \['w'\] .*it has \['v'\]"),
        ({"item_id": IDS, "v": [[1.0, 2.0]] * 4 + [[1.0]]}, {}, r"lengths \[2, 1\]; expected one length"),
        ({"item_id": IDS, "v": [[1.0, 2.0]] * 4 + [None]}, {}, r"lengths \[2, None\]"),
        ({"item_id": IDS, "v": [["a"]] * 5}, {}, "lists of string; expected lists of numbers"),
        ({"item_id": ["a", "a", "b", "c", "d"], "v": VECTORS.tolist()}, {}, "1 ids occur more than once: 'a'"),
        ({"item_id": [0.5, 1, 2, 3, 4], "v": VECTORS.tolist()}, {}, "id 1 is 0.5"),
    ],
)
def test_other_tables_are_an_error(tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Precomputed(parquet(tmp_path, **columns), **options).encode(items(CATALOG), NO_INTERACTIONS)


def test_lists_of_another_length_in_a_later_block_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec.embeddings.vector_files.BLOCK", 2)
    path = parquet(tmp_path, item_id=IDS[:4], v=[[1.0, 2.0]] * 2 + [[1.0]] * 2)
    with pytest.raises(InputError, match=r"lengths \[2, 1\]; expected one length"):
        Precomputed(path).encode(items(CATALOG[1:]), NO_INTERACTIONS)


@pytest.mark.parametrize("make", FORMATS)
def test_the_block_size_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Precomputed]) -> None:
    monkeypatch.setattr("genrec.embeddings.vector_files.BLOCK", 2)
    np.testing.assert_array_equal(make(tmp_path).encode(items(CATALOG), NO_INTERACTIONS), EXPECTED)


def test_other_tensors_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    for tensors, message in (
        ({"a": VECTORS, "b": VECTORS}, r"holds 2 tensors, .*expected one \[M, D\] with ids"),
        ({"a": VECTORS[0], "b": VECTORS[0, :1]}, r"items 'b' have another width than 2"),
        ({"a": VECTORS.astype(np.int32)}, r"holds I32 \[5, 2\]"),
    ):
        save_file(tensors, path, metadata={"item_ids": json.dumps(IDS)})
        with pytest.raises(InputError, match=message):
            Precomputed(path).encode(items(CATALOG), NO_INTERACTIONS)
    save_file({"a": VECTORS}, path, metadata={"item_ids": json.dumps(IDS[:4])})
    with pytest.raises(InputError, match="holds 5 vectors, its metadata's item_ids 4 ids"):
        Precomputed(path).encode(items(CATALOG), NO_INTERACTIONS)


@pytest.mark.parametrize("make", [as_lists, as_tensor, as_tensors, lambda folder: Precomputed(npy(folder), ids=ids_file(folder))])
@pytest.mark.parametrize("damage", ["cut", "pickle", "empty", "gone"])
def test_a_damaged_file_is_named(tmp_path: Path, make: Callable[[Path], Precomputed], damage: str) -> None:
    encoder = make(tmp_path)
    content = {"cut": encoder.path.read_bytes()[:-9], "pickle": pickle.dumps(VECTORS), "empty": b"", "gone": b""}[damage]
    encoder.path.write_bytes(content)
    if damage == "gone":
        encoder.path.unlink()
        with pytest.raises(InputError, match=r"can't be read"):
            encoder.fingerprint(tmp_path)
    with pytest.raises(InputError, match=rf"{encoder.path.name} can't be read"):
        encoder.encode(items(CATALOG), NO_INTERACTIONS)


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    """A pickle with the suffix .npy would create a file if it were loaded."""

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("vectors.npy", "ids.npy"):
        npy(tmp_path)
        ids_file(tmp_path, ".npy")
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(InputError):
            Precomputed(tmp_path / "vectors.npy", ids=tmp_path / "ids.npy").encode(items(CATALOG), NO_INTERACTIONS)
        np.save(tmp_path / name, np.array([Trap()] * 5, dtype=object), allow_pickle=True)
        with pytest.raises(InputError):
            Precomputed(tmp_path / "vectors.npy", ids=tmp_path / "ids.npy").encode(items(CATALOG), NO_INTERACTIONS)
    assert not (tmp_path / "sprung").exists()


def test_the_key_depends_on_contents_and_not_on_paths(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        npy(tmp_path / name)
        ids_file(tmp_path / name)

    def key(folder: str, **options: Any) -> str:
        return hash_of(describe(Precomputed(tmp_path / folder / "vectors.npy", tmp_path / folder / "ids.json", **options), tmp_path))

    assert key("one") == key("two")
    assert key("one") != key("one", missing="mean")
    ids_file(tmp_path / "two", ids=IDS[::-1])
    assert key("one") != key("two")


def test_paths_may_be_text_and_columns_a_list(tmp_path: Path) -> None:
    specification = Precomputed(str(npy(tmp_path)), ids=stable_id(ids_file(tmp_path)), columns=["a"])  # type: ignore[arg-type]
    assert specification == Precomputed(tmp_path / "vectors.npy", ids=tmp_path / "ids.json", columns=("a",))
    assert hash(specification)


def test_invalid_fields_and_tables_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Precomputed\.path must end in \.npy, \.parquet, \.safetensors, got v\.pt"):
        Precomputed(Path("v.pt"))
    with pytest.raises(UsageError, match=r"Precomputed\.ids must end in .*, got ids\.pkl"):
        Precomputed(Path("v.npy"), ids=Path("ids.pkl"))
    with pytest.raises(UsageError, match=r"Precomputed\.missing must be"):
        Precomputed(Path("v.parquet"), missing="zero")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has its ids in a column"):
        Precomputed(as_lists(tmp_path).path, ids=ids_file(tmp_path)).encode(items(CATALOG), NO_INTERACTIONS)
    with pytest.raises(InputError, match="joins by the items' column 'item_id'"):
        as_lists(tmp_path).encode(pd.DataFrame({"item": ["a"]}), NO_INTERACTIONS)


def test_memory_is_at_most_two_and_a_half_times_the_file(tmp_path: Path) -> None:
    """200,000 x 128 float32 are 102 MB; the growth of the process includes mapped pages of the file."""
    count = 200_000
    np.save(tmp_path / "v.npy", np.random.default_rng(0).random((count, 128), np.float32))
    (tmp_path / "ids.txt").write_text("".join(f"{row}\n" for row in range(count)))
    code = f"""
import resource, warnings, pandas as pd
from genrec.embeddings import Precomputed
warnings.simplefilter("ignore")
import pyarrow.parquet, torch, safetensors.torch
table = pd.DataFrame({{"item_id": [str(row) for row in range(10, {count} + 10)], "text": ""}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Precomputed({str(tmp_path / "v.npy")!r}, ids={str(tmp_path / "ids.txt")!r}, missing="mean").encode(table, pd.DataFrame())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert grown * 1024 < 2.5 * count * 128 * 4


@pytest.mark.parametrize("metadata", ['{"a": 1, "b": 0}', "5", '"ab"', "[1,"])
def test_metadata_without_a_list_of_ids_is_an_error(tmp_path: Path, metadata: str) -> None:
    """A JSON object of ids does not define the order of the rows."""
    save_file({"vectors": VECTORS[:2]}, tmp_path / "v.safetensors", metadata={"item_ids": metadata})
    with pytest.raises(InputError, match="metadata's item_ids"):
        Precomputed(tmp_path / "v.safetensors").encode(items(["a", "b"]), NO_INTERACTIONS)


def test_the_index_column_of_pandas_is_ignored(tmp_path: Path) -> None:
    frame = pd.DataFrame({"item_id": list("abcd"), "x": [1.0, 2, 3, 4], "y": [5.0, 6, 7, 8]}).iloc[[2, 0, 3]]
    frame.to_parquet(tmp_path / "v.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "v.parquet").names
    assert Precomputed(tmp_path / "v.parquet").encode(items(["a", "c"]), NO_INTERACTIONS).tolist() == [[1, 5], [3, 7]]
