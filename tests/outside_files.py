"""Every parser of files from outside, with small valid files: what `test_parser_fuzz` and `tests/corpus` damage."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pandas import DataFrame
from safetensors.numpy import save_file

from genrec.data.download.file_records import read_record
from genrec.data.sources import AmazonReviews2014, AmazonReviews2018, AmazonReviews2023, Frames, MovieLens
from genrec.embeddings import Precomputed
from genrec.tokenizer import Imported

ITEMS = ["a", "7", "é"]
VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)
EVENTS = DataFrame({"user": ["u", "v", "w"], "item": ITEMS, "time": [5, 6, 7], "rating": [1.0, 2.5, 3.0]})
METADATA = DataFrame({"item": ITEMS, "text": ["x, y", "two", ""], "tags": [["p", "q"], ["r"], []]})


class Parser(NamedTuple):
    """A parser and the files that it reads."""

    write: Callable[[Path], None]  # writes valid files into a folder
    read: Callable[[Path], object]  # reads them as a whole
    target: str  # the file that is damaged


def _frames(form: str, **options: str) -> Parser:
    def write(folder: Path) -> None:
        for name, table in (("events", EVENTS), ("items", METADATA)):
            path = folder / f"{name}.{form}"
            if form == "parquet":
                table.to_parquet(path)
            elif form.startswith("jsonl"):
                table.to_json(path, orient="records", lines=True, force_ascii=False)
            elif form == "inter":
                header = {column: f"{column}:token" for column in table.columns}
                table.rename(columns=header).to_csv(path, index=False, sep="\t")
            else:
                table.to_csv(path, index=False, sep=options.get("separator", "\t" if "tsv" in form else ","))

    def read(folder: Path) -> object:
        source = Frames(folder / f"events.{form}", folder / f"items.{form}", max_bad_rows=1.0, **options)  # type: ignore[arg-type]
        return source.load(folder), source.fingerprint(folder)

    return Parser(write, read, f"events.{form}")


def _texts(files: dict[str, str | bytes], read: Callable[[Path], object], target: str) -> Parser:
    def write(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return Parser(write, read, target)


MOVIES_100K = {
    "u.data": "1\t7\t4\t881250949\n2\t7\t4\t5\n",
    "u.item": "7|Toy Story (1995)|01-Jan-1995|||1|0\n8|Casino (1995)||||0|1\n",
    "u.genre": "Action|0\nComedy|1\n",
}
MOVIES_CSV = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,7,4.5,881250949\n",
    "movies.csv": 'movieId,title,genres\n7,"Toy Story, The (1995)",Comedy|Drama\n',
    "tags.csv": "userId,movieId,tag,timestamp\n1,7,pixar,1\n",
}
AMAZON_2014 = {
    "reviews_Toys_5.json": '{"reviewerID": "A", "asin": "B", "overall": 4.0, "unixReviewTime": 5}\n' * 2,
    "meta_Toys.json": "{'asin': 'B', 'title': 'Ball', 'categories': [['Toys', 'Balls']]}\n",
}
AMAZON_2018 = {
    "Toys_5.json": '{"reviewerID": "A", "asin": "B", "unixReviewTime": 5}\n',
    "meta_Toys.json": '{"asin": "B", "title": "Ball", "feature": ["round", ["red"]]}\n',
}
AMAZON_2023 = {
    "Toys.csv": "user_id,parent_asin,rating,timestamp\nA,B,5.0,1588687728923\n",
    "meta_Toys.jsonl": '{"parent_asin": "B", "title": "Ball", "details": {"Color": "red", "Sizes": [1, 2.5]}}\n',
}


def _movielens_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "ml.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MOVIES_100K.items():
            archive.writestr(zipfile.ZipInfo(f"ml-100k/{name}"), content, zipfile.ZIP_DEFLATED)


def _vectors(form: str, ids: str | None) -> Parser:
    """Return a parser of vectors; the file of ids is the target if there is one."""

    def write(folder: Path) -> None:
        path = folder / f"vectors.{form}"
        if form == "npy":
            np.save(path, VECTORS)
        elif form == "parquet":
            pq.write_table(pa.table({"item_id": ITEMS, "vector": [row.tolist() for row in VECTORS]}), path)
        elif form == "wide.parquet":
            DataFrame(VECTORS, columns=["x", "y"], index=ITEMS).rename_axis("item_id").reset_index().to_parquet(path)
        elif form == "metadata.safetensors":
            save_file({"vectors": VECTORS}, path, metadata={"item_ids": json.dumps(ITEMS)})
        else:
            save_file(dict(zip(ITEMS, VECTORS, strict=True)), path)
        if ids is not None:
            _write_ids(folder / ids)

    def read(folder: Path) -> object:
        encoder = Precomputed(folder / f"vectors.{form}", ids=None if ids is None else folder / ids, missing="mean")
        return encoder.encode(DataFrame({"item_id": ITEMS}), DataFrame()), encoder.fingerprint(folder)

    return Parser(write, read, ids if ids not in (None, "ids.txt") else f"vectors.{form}")


def _write_ids(path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"item_id": ITEMS}), path)
    elif path.suffix == ".npy":
        np.save(path, np.array(ITEMS))
    elif path.suffix in (".csv", ".tsv"):
        separator = "," if path.suffix == ".csv" else "\t"
        path.write_text("".join(f"{separator.join(row)}\n" for row in [("item_id", "x"), *((name, "1") for name in ITEMS)]))
    else:
        path.write_text(json.dumps(ITEMS) if path.suffix == ".json" else "\n".join(ITEMS))


CODES = json.dumps({"a": ["<a_1>", "<b_2>"], "7": ["<a_0>", "<b_3>"], "é": ["<a_1>", "<b_0>"]})


def _imported(target: str, files: dict[str, str | bytes]) -> Parser:
    def read(folder: Path) -> object:
        codes, *ids = [folder / name for name in files]
        quantizer = Imported(codes, *ids)
        quantizer.fingerprint(folder)
        return quantizer.fit_catalog(ITEMS, VECTORS, torch.Generator()), quantizer.level_sizes()

    return _texts(files, read, target)


def _record(folder: Path) -> object:
    return read_record(folder / "a.zip")


PARSERS: dict[str, Parser] = {
    **{f"frames-{form}": _frames(form) for form in ("csv", "tsv", "csv.gz", "jsonl", "jsonl.gz", "parquet", "inter")},
    "frames-dat": _frames("dat", separator="|", encoding="latin-1"),
    **{
        f"frames-items-{form}": _frames(form)._replace(target=f"items.{form}")
        for form in ("csv", "jsonl", "parquet", "inter", "csv.gz")
    },
    **{
        f"movielens-100k-{name}": _texts(MOVIES_100K, lambda folder: MovieLens("100k", folder, 1.0).load(folder), name)
        for name in MOVIES_100K
    },
    **{
        f"movielens-32m-{name}": _texts(MOVIES_CSV, lambda folder: MovieLens("32m", folder, 1.0).load(folder), name)
        for name in MOVIES_CSV
    },
    "movielens-zip": Parser(
        _movielens_zip,
        lambda folder: (MovieLens("100k", folder / "ml.zip").load(folder), MovieLens("100k", folder / "ml.zip").fingerprint(folder)),
        "ml.zip",
    ),
    **{
        f"amazon-2014-{name}": _texts(
            AMAZON_2014, lambda folder: AmazonReviews2014("Toys", folder, max_bad_rows=1.0).load(folder), name
        )
        for name in AMAZON_2014
    },
    **{
        f"amazon-2018-{name}": _texts(
            AMAZON_2018, lambda folder: AmazonReviews2018("Toys", folder, max_bad_rows=1.0).load(folder), name
        )
        for name in AMAZON_2018
    },
    **{
        f"amazon-2023-{name}": _texts(
            AMAZON_2023, lambda folder: AmazonReviews2023("Toys", folder, "5-core", max_bad_rows=1.0).load(folder), name
        )
        for name in AMAZON_2023
    },
    **{
        f"vectors-{form}": _vectors(form, "ids.txt" if form == "npy" else None)
        for form in ("npy", "parquet", "wide.parquet", "safetensors")
    },
    "vectors-metadata.safetensors": _vectors("metadata.safetensors", None),
    **{f"vector-ids-{form}": _vectors("npy", f"ids.{form}") for form in ("json", "csv", "tsv", "parquet", "npy")},
    "codes-json": _imported("codes.json", {"codes.json": CODES}),
    "codes-gz": _imported("codes.json.gz", {"codes.json.gz": gzip.compress(CODES.encode(), mtime=0)}),
    "codes-ids-tsv": _imported("ids.tsv", {"codes.json": CODES, "ids.tsv": "a\ta\n7\t7\né\té\n"}),
    "codes-ids-csv": _imported("ids.csv", {"codes.json": CODES, "ids.csv": 'a,a\n7,"7"\né,é\n'}),
    "codes-ids-json": _imported("ids.json", {"codes.json": CODES, "ids.json": '{"a": "a", "7": "7", "é": "é"}'}),
    "download-record": _texts(
        {
            ".a.zip.downloaded.json": json.dumps(
                {"url": None, "checksum": None, "size": 1, "sha256": "0" * 64, "downloaded": "", "signature": [1, 2, 3, 4]}
            )
        },
        _record,
        ".a.zip.downloaded.json",
    ),
}
