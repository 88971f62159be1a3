"""Small files in every MovieLens format: archive and folder, tags, malformed rows, a missing archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from genrec.data.readers.upstream_files import UpstreamFile
from genrec.data.sources import MovieLens
from genrec.data.sources.movielens import Variant
from genrec.errors import InputError, NetworkError, UsageError
from genrec.types import Source

GENRES = b"unknown|0\nAction|1\nComedy|2\n\n"
ITEMS = "1|Toy Story (1995)|01-Jan-1995||http://x|0|1|1\n2|Café|05-Mar-1996||http://x|0|0|1\n3|unknown||||1|0|0\n".encode("latin-1")
RATINGS = b"7\t2\t4\t881250949\n7\t1\t5\t881250940\n007\t1\t3\t891717742\n"


def folder_100k(path: Path, ratings: bytes = RATINGS, items: bytes = ITEMS) -> Path:
    path.mkdir(parents=True)
    for name, content in (("u.data", ratings), ("u.item", items), ("u.genre", GENRES)):
        (path / name).write_bytes(content)
    return path


def test_100k_from_a_folder(tmp_path: Path) -> None:
    source = MovieLens("100k", path=folder_100k(tmp_path / "upstream"))
    assert isinstance(source, Source)
    interactions, items, set_aside = source.load(tmp_path)
    assert interactions.to_dict("list") == {
        "user": ["7", "7", "007"],
        "item": ["2", "1", "1"],
        "time": [881250949, 881250940, 891717742],
        "rating": [4.0, 5.0, 3.0],
    }
    assert items.to_dict("records") == [
        {
            "item": "1",
            "text": "Toy Story (1995). Action, Comedy",
            "title": "Toy Story (1995)",
            "year": "1995",
            "genres": "Action|Comedy",
        },
        {"item": "2", "text": "Café (1996). Comedy", "title": "Café", "year": "1996", "genres": "Comedy"},
        {"item": "3", "text": "unknown. unknown", "title": "unknown", "year": "", "genres": "unknown"},
    ]
    assert set_aside is not None
    assert len(set_aside) == 0


def test_archive_and_folder_have_the_same_fingerprint(tmp_path: Path) -> None:
    folder = folder_100k(tmp_path / "upstream")
    with zipfile.ZipFile(tmp_path / "any.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"deep/er/{file.name}")
    folder_100k(tmp_path / "ml-100k")  # unpacked by hand in the folder of downloaded files
    from_folder, from_archive, from_root = MovieLens("100k", folder), MovieLens("100k", tmp_path / "any.zip"), MovieLens()
    assert len({source.fingerprint(tmp_path) for source in (from_folder, from_archive, from_root)}) == 1
    assert from_folder.load(tmp_path).interactions.equals(from_archive.load(tmp_path).interactions)
    (folder / "u.data").write_bytes(RATINGS + b"8\t1\t3\t891717742\n")
    assert from_folder.fingerprint(tmp_path) != from_archive.fingerprint(tmp_path)


def test_an_unchanged_archive_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "any.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder_100k(tmp_path / "upstream").iterdir():
            archive.write(file, file.name)
    before = MovieLens("100k", path).fingerprint(tmp_path)
    opened: list[UpstreamFile] = []
    original = UpstreamFile.open
    monkeypatch.setattr(UpstreamFile, "open", lambda file: opened.append(file) or original(file))
    assert MovieLens("100k", path).fingerprint(tmp_path) == before
    assert not opened
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("u.data", RATINGS * 2), ("u.item", ITEMS), ("u.genre", GENRES)):
            archive.writestr(name, content)
    assert MovieLens("100k", path).fingerprint(tmp_path) != before
    assert len(opened) == 3


def test_1m(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_bytes(b"1::1193::5::978300760\n1::661::3::978302109\n")
    (tmp_path / "movies.dat").write_bytes("661::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1"))
    interactions, items, _ = MovieLens("1m", path=tmp_path).load(tmp_path)
    assert interactions["item"].tolist() == ["1193", "661"]
    assert items.to_dict("records") == [
        {
            "item": "661",
            "text": "Misérables, Les (1995). Drama, Musical",
            "title": "Misérables, Les (1995)",
            "year": "1995",
            "genres": "Drama|Musical",
        }
    ]


def test_10m_is_utf8_with_half_stars_and_tags(tmp_path: Path) -> None:
    folder = tmp_path / "ml-10M100K"  # the folder inside the published archive
    folder.mkdir()
    (folder / "ratings.dat").write_bytes(b"1::122::4.5::838985046\n1::185::5::838983525\n")
    (folder / "movies.dat").write_text("122::Amélie (Fabuleux destin, Le) (2001)::Comedy|Romance\n", encoding="utf-8")
    (folder / "tags.dat").write_text("15::122::Paris::1215184630\n16::122::paris ::1\n17::122::whimsical::2\n17::122::a::b::3\n")
    interactions, items, set_aside = MovieLens("10m", max_bad_rows=0.5).load(tmp_path)
    assert interactions["rating"].tolist() == [4.5, 5.0]
    assert items.to_dict("records") == [
        {
            "item": "122",
            "text": "Amélie (Fabuleux destin, Le) (2001). Comedy, Romance. tags: paris, whimsical",
            "title": "Amélie (Fabuleux destin, Le) (2001)",
            "year": "2001",
            "genres": "Comedy|Romance",
            "tags": "paris|whimsical",
        }
    ]
    assert set_aside is not None
    assert set_aside.to_numpy().tolist() == [["tags.dat", 4, "the line has the wrong number of columns"]]


def folder_csv(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "ratings.csv").write_text("\ufeffuserId,movieId,rating,timestamp\r\n1,2,0.5,1112486027\r\n007,3,4.0,1112484676\r\n")
    movies = 'movieId,title,genres\n2,"American President, The (1995)",Comedy|Drama\n3,"Say ""hi""",(no genres listed)\n4,Été,Drama\n'
    (path / "movies.csv").write_text(movies, encoding="utf-8")
    tags = (
        'userId,movieId,tag,timestamp\n1,2,Politics,1\n1,2,"a, b",2\n2,2,politics,3\n2,2,<b>zz</b>,4\n2,2,aa,5\n2,9,lost,6\n2,3,,7\n'
    )
    (path / "tags.csv").write_text(tags)
    return path


@pytest.mark.parametrize("variant", ["20m", "25m", "32m", "latest-small", "latest"])
def test_csv_variants(tmp_path: Path, variant: Variant) -> None:
    source = MovieLens(variant, path=folder_csv(tmp_path / "upstream"), num_tags=3)
    interactions, items, set_aside = source.load(tmp_path)
    assert interactions.to_dict("list") == {
        "user": ["1", "007"],
        "item": ["2", "3"],
        "time": [1112486027, 1112484676],
        "rating": [0.5, 4.0],
    }
    assert items["text"].tolist() == [
        "American President, The (1995). Comedy, Drama. tags: politics, a, b, zz",  # equally frequent tags in file order
        'Say "hi"',
        "Été. Drama",
    ]
    assert items["genres"].tolist() == ["Comedy|Drama", "", "Drama"]
    assert set_aside is not None
    assert not len(set_aside)
    without = MovieLens(variant, path=tmp_path / "upstream", num_tags=0)
    (tmp_path / "upstream" / "tags.csv").unlink()
    assert without.load(tmp_path).items.columns.tolist() == ["item", "text", "title", "year", "genres"]
    with pytest.raises(InputError, match=r"holds no tags\.csv"):
        source.load(tmp_path)


def test_a_csv_with_another_header_is_an_error(tmp_path: Path) -> None:
    folder = folder_csv(tmp_path / "upstream")
    (folder / "ratings.csv").write_text("user,movieId,rating,timestamp\n1,2,3,4\n")
    with pytest.raises(InputError, match=r"ratings\.csv needs a column 'userId'; it has 'user', 'movieId'"):
        MovieLens("32m", path=folder).load(tmp_path)


def test_malformed_rows_are_set_aside_up_to_one_percent(tmp_path: Path) -> None:
    good = b"".join(b"%d\t1\t4\t88125%04d\n" % (user, user) for user in range(1, 400))
    bad = b"1\t2\t3\n9\t1\t4\t88125\x00949\nu\ti\tfive\t5\n"
    source = MovieLens(path=folder_100k(tmp_path / "upstream", good + bad))
    interactions, _, set_aside = source.load(tmp_path)
    assert len(interactions) == 399
    assert set_aside is not None
    assert set_aside.to_dict("list") == {
        "file": ["u.data"] * 3,
        "line": [400, 401, 402],
        "reason": ["the line has the wrong number of columns", "the line holds a NUL byte", "the rating is not a finite number"],
    }
    strict = MovieLens(path=folder_100k(tmp_path / "again", good + bad * 2))
    with pytest.raises(InputError, match=r"6 of 405 rows \(1\.5%\) are malformed") as caught:
        strict.load(tmp_path)
    assert caught.value.exit_code == 3


def test_invalid_genre_flags_and_files(tmp_path: Path) -> None:
    folder = folder_100k(tmp_path / "upstream", items=ITEMS.replace(b"|0|1|1", b"|0|7|1"))
    with pytest.raises(InputError, match="flag is neither 0 nor 1"):
        MovieLens(path=folder).load(tmp_path)
    (folder / "u.genre").write_bytes(b"Action\n")
    with pytest.raises(InputError, match="GENRE"):
        MovieLens(path=folder).load(tmp_path)


def test_the_message_names_the_missing_archive_and_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_OFFLINE", "1")
    monkeypatch.delenv("GENREC_MIRROR", raising=False)
    for call in (MovieLens("1m").load, MovieLens("1m").fingerprint):
        with pytest.raises(NetworkError, match=r"--source\.path") as caught:
            call(tmp_path)
        assert caught.value.exit_code == 7
        assert str(tmp_path / "ml-1m.zip") in str(caught.value)
        assert "https://files.grouplens.org/datasets/movielens/ml-1m.zip" in str(caught.value)
    with pytest.raises(InputError, match="there is no file or folder"):
        MovieLens(path=tmp_path / "absent.zip").load(tmp_path)


def test_invalid_settings() -> None:
    with pytest.raises(UsageError, match="variant"):
        MovieLens("20M")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="num_tags must be 0 or more"):
        MovieLens(num_tags=-1)
    with pytest.raises(UsageError, match="max_bad_rows must be a share"):
        MovieLens(max_bad_rows=1.5)
