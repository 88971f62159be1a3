"""Published codes: every format, the join by item id, error messages and a real file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.errors import InputError, UsageError
from genrec.store import describe
from genrec.tokenizer import Imported
from genrec.tokenizer.listed_codes import FittedListedCodes
from genrec.types import CatalogQuantizer, ListedCodes

VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


def written(folder: Path, content: Any, name: str = "codes.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def fit(specification: Imported, items: list[str], vectors: np.ndarray = VECTORS) -> FittedListedCodes:
    return specification.fit_catalog(items, vectors, torch.Generator())


FORMATS: dict[str, list[Any]] = {
    "tokens": [["<a_6>", "<b_15>", "<c_2>"], ["<a_0>", "<b_3>", "<c_9>"]],
    "digits in the prefix": [["<C1_6>", "<C2_15>", "<C3_2>"], ["<C1_0>", "<C2_3>", "<C3_9>"]],
    "no brackets": [["a_6", "b_15", "c_2"], ["a_0", "b_3", "c_9"]],
    "pipes": [["<|a_6|>", "<|b_15|>", "<|c_2|>"], ["<|a_0|>", "<|b_3|>", "<|c_9|>"]],
    "numbers": [[6, 15, 2], [0, 3, 9]],
    "numbers as text": [["6", "15", "2"], ["0", "3", "09"]],
    "tuple": ["(6, 15, 2)", "(0, 3, 9)"],
    "list in text": ["[6, 15, 2]", "[0, 3, 9]"],
    "commas": ["6,15,2", "0,3,9"],
    "spaces": ["6 15 2", "0 3 9"],
    "dashes": ["6-15-2", "0-3-9"],
    "joined": ["<a_6><b_15><c_2>", "<a_0><b_3><c_9>"],
    "tokens with commas": ["<a_6>,<b_15>, <c_2>", "['<a_0>', '<b_3>', '<c_9>']"],
    "markers": ["<|sid_begin|><s_a_6><s_b_15><s_c_2><|sid_end|>", "<|sid_begin|><s_a_0><s_b_3><s_c_9><|sid_end|>"],
    "words of markers in tokens": [["<gender_6>", "<b_15>", "<restart_2>"], ["<gender_0>", "<b_3>", "<restart_9>"]],
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_codes(name: str, tmp_path: Path) -> None:
    specification = Imported(written(tmp_path, dict(zip("xy", FORMATS[name], strict=True))))
    assert specification.level_sizes() == (7, 16, 10)  # the largest codes plus 1
    assert fit(specification, ["y", "x"], VECTORS[:2]).listed_codes().tolist() == [[0, 3, 9], [6, 15, 2]]


def test_satisfies_the_protocols(tmp_path: Path) -> None:
    specification = Imported(written(tmp_path, {"x": [1]}))
    assert isinstance(specification, CatalogQuantizer)
    assert isinstance(fit(specification, ["x"], VECTORS[:1]), ListedCodes)
    with pytest.raises(UsageError, match="joins published codes by item id"):
        specification.fit(VECTORS, torch.Generator())


INVALID: dict[str, tuple[Any, str]] = {
    "unequal": ({"x": [1, 2], "y": [1]}, r"item 'y' has 1 codes, item 'x' has 2"),
    "empty": ({"x": []}, r"item 'x' has no codes, expected at least one: '\[\]'"),
    "empty, not the first": ({"x": [1], "y": ""}, r"item 'y' has no codes, expected at least one: ''"),
    "bad token": ({"x": ["<a_1>"], "y": ["<a_z>"]}, r"item 'y' has the token '<a_z>'; expected an integer"),
    "negative": ({"x": [-1]}, r"item 'x' has the token -1"),
    "negative text": ({"x": "1,-1"}, r"item 'x' has the token '-1'"),
    "negative token": ({"x": ["<a_-1>"]}, r"item 'x' has the token '<a_-1>'"),
    "fraction": ({"x": [1.5]}, r"item 'x' has the token 1.5"),
    "fraction in text": ({"x": "1.5 2"}, r"item 'x' has the token '1.5'"),
    "boolean": ({"x": [True]}, r"item 'x' has the token True"),
    "null": ({"x": None}, r"item 'x' must have a list of codes or text, got 'None'"),
    "nested": ({"x": [[1, 2]]}, r"item 'x' has the token \[1, 2\]"),
    "huge": ({"x": [10**30]}, r"item 'x' has the token 1000"),
    "two kinds": ({"x": ["<a_1>", "<b_2>"], "y": ["<b_1>", "<a_2>"]}, r"'y' on level 1 begins with '<b_', that of item 'x' with '<a"),
    "between tokens": ({"x": "<a_1> and <b_2>"}, r"item 'x' .*' and ' is not a token"),
    "no keys": ([[1, 2], [3, 4]], r"is a list of 2 entries without keys, so entries can't be matched to items"),
    "nothing": ({}, r"must be a JSON object from items to codes"),
    "a number": ("3", r"must be a JSON object from items to codes"),
    "not JSON": ("{'x': 1}", r"is not valid JSON"),
    "repeated key": ('{"x": [1], "x": [2]}', r"has the key 'x' twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_invalid_files_raise(name: str, tmp_path: Path) -> None:
    content, message = INVALID[name]
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=message) as error:
        Imported(path).level_sizes()
    assert str(path) in str(error.value)


def test_compressed_damaged_and_missing_files(tmp_path: Path) -> None:
    packed = tmp_path / "codes.json.gz"
    packed.write_bytes(gzip.compress(json.dumps({"x": [4, 2]}).encode()))
    assert Imported(packed).level_sizes() == (5, 3)
    packed.write_bytes(packed.read_bytes()[:-6])
    with pytest.raises(InputError, match=r"is damaged: it can't be unpacked \(EOFError"):
        Imported(packed).level_sizes()
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        Imported(tmp_path / "none.json").level_sizes()
    with pytest.raises(InputError, match="is not UTF-8"):
        (tmp_path / "latin.json").write_bytes(b'{"\xe9": [1]}')
        Imported(tmp_path / "latin.json").level_sizes()


def test_missing_and_surplus_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specification = Imported(written(tmp_path, {str(row): [row] for row in range(9)}))
    assert fit(specification, ["8", "3", "5"]).listed_codes().tolist() == [[8], [3], [5]]
    assert "ignored 6 of 9 published items that are not in the catalog" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"2 of 3 items of the catalog have no codes .*: 'B01', '9'; the keys .*'0', .*Imported\.ids"):
        fit(specification, ["B01", "3", "9"])
    with pytest.raises(UsageError, match="an item id for each of 3 vectors, got 2"):
        fit(specification, ["1", "2"])
    with pytest.raises(UsageError, match="got 3 item ids, of which only 2 are distinct"):
        fit(Imported(specification.path), ["1", "2", "1"])


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("x.item2id", "B01\t2\nB02\t0\nB,3\t1\n", (0, 1)),
        ("ids.csv", 'asin,id\nB01,2\nB02,0\n"B,3",1\n', (0, 1)),
        ("ids.csv", 'n,id,asin\r\n1,2,B01\r\n2,0,B02\r\n3,1,"B,3"\r\n', (2, 1)),
        ("ids.json", {"B01": 2, "B02": "0", "B,3": 1}, (0, 1)),
        ("ids.json", {"2": "B01", "0": "B02", "1": "B,3"}, (1, 0)),
    ],
)
def test_ids_of_the_catalog(name: str, content: Any, columns: tuple[int, int], tmp_path: Path) -> None:
    specification = Imported(
        written(tmp_path, {"0": [10], "1": [11], "2": [12]}), ids=written(tmp_path, content, name), columns=columns
    )
    assert fit(specification, ["B01", "B02", "B,3"]).listed_codes().tolist() == [[12], [10], [11]]


def test_ids_that_do_not_match_raise(tmp_path: Path) -> None:
    codes = written(tmp_path, {"0": [10], "1": [11], "2": [12]})
    ids = written(tmp_path, "B01\t0\nB02\t1\nB03\t9\nB04\t0\n", "x.item2id")
    for items, message in (
        (["B01", "B02", "B07"], r"1 of 3 items .*'B07'.*1 of them are not in"),
        (["B01", "B02", "B03"], r"1 of 3 items .*'B03'.*Apply the publisher's filters"),
        (["B01", "B02", "B04"], r"items 'B01' and 'B04' have the same key, '0'"),
    ):
        with pytest.raises(InputError, match=message):
            fit(Imported(codes, ids), items)
    with pytest.raises(InputError, match=r"with swapped columns: set columns=\(0, 1\)"):
        fit(Imported(codes, written(tmp_path, "B01\t0\nB02\t1\n", "two.tsv"), columns=(1, 0)), ["B01", "B02"], VECTORS[:2])
    with pytest.raises(InputError, match=r"row 1: expected columns \(0, 2\) .*got 2 columns"):
        fit(Imported(codes, ids, columns=(0, 2)), ["B01"], VECTORS[:1])
    repeated = written(tmp_path, "B01\t0\nB01\t1\n", "repeated.tsv")
    with pytest.raises(InputError, match="row 2: item 'B01' has the keys '0' and '1'"):
        fit(Imported(codes, repeated), ["B01"], VECTORS[:1])
    with pytest.raises(UsageError, match="two different columns"):
        Imported(codes, ids, columns=(1, 1))


def test_the_artifact_key_depends_on_the_content(tmp_path: Path) -> None:
    first, moved = written(tmp_path, {"x": [1]}), written(tmp_path, {"x": [1]}, "elsewhere.json")
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(first.read_bytes()))
    keys = [describe(Imported(path), tmp_path) for path in (first, moved, packed)]
    assert keys[0] == keys[1] == keys[2]
    assert describe(Imported(first, ids=moved), tmp_path) != keys[0]
    assert describe(Imported(first, columns=(1, 0)), tmp_path) != keys[0]
    written(tmp_path, {"x": [2]})
    assert describe(Imported(first), tmp_path) != keys[0]
    assert Imported(first).level_sizes() == (3,)  # the old content is not cached


def test_restored_without_the_file(tmp_path: Path) -> None:
    specification = Imported(written(tmp_path, {"x": [1, 4], "y": [0, 2]}))
    fitted = fit(specification, ["y", "x"], VECTORS[:2])
    specification.path.unlink()
    restored = specification.restore({name: array.copy() for name, array in fitted.state().items()})
    np.testing.assert_array_equal(restored.listed_codes(), fitted.listed_codes())
    np.testing.assert_array_equal(restored.encode(VECTORS), [[0, 2], [1, 4], [1, 4]])


@pytest.mark.realdata
def test_published_office_products(real_data: Path) -> None:
    """MiniOneRec's file has 3,459 items, of which 30 share their Semantic ID; the keys are consecutive numbers."""
    path = real_data / "published-sids" / "Office_Products.index.json.gz"
    specification = Imported(path)
    items = [str(row) for row in range(3459)]
    fitted = fit(specification, items, np.random.default_rng(0).standard_normal((3459, 8)).astype(np.float32))
    codes = fitted.listed_codes()
    assert codes.shape == (3459, 3)
    assert codes[0].tolist() == [60, 159, 203]
    assert all(size <= 256 for size in specification.level_sizes())
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    assert len(counts) == 3444
    assert (counts[inverse] > 1).sum() == 30
    with pytest.raises(InputError, match=r"catalog's 1 items.*numbers of another repository.*'B00'"):
        fit(specification, ["B00"], VECTORS[:1])


def test_ids_that_never_match_name_the_likely_cause(tmp_path: Path) -> None:
    codes = written(tmp_path, {"37.0": [1, 2], "38.0": [3, 4]})
    with pytest.raises(
        InputError, match=r"no codes of any of the catalog's 3 items.*the items have '37', its keys have '37\.0': write the ids"
    ):
        fit(Imported(codes), ["37", "38", "39"])
    table = written(tmp_path, "i37,37.0\ni38,38.0\n", "ids.csv")
    with pytest.raises(InputError, match=r"the items have '37', the ids of .*ids\.csv have 'i37': use the same prefix"):
        fit(Imported(codes, table), ["37", "38", "39"])


@pytest.mark.parametrize("token", ["<a_" + "1" * 5_000 + ">", "1" * 5_000, "<a_" + "1" * 1_000_000 + "x>"])
def test_a_token_of_any_length_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(InputError, match=r"item 'x' has the token '.{70,90}\.\.\. \([\d,]+ characters\); expected an integer from 0"):
        fit(Imported(written(tmp_path, {"x": [token]})), ["x"], VECTORS[:1])


def test_invalid_columns_are_refused(tmp_path: Path) -> None:
    for columns in ((0,), "01", (0, 1, 2)):
        with pytest.raises(UsageError, match="columns must be two"):
            Imported(tmp_path / "codes.json", columns=columns)  # type: ignore[arg-type]
