"""Options that name a file: the user's own files are not replaced, those of genrec are, and each written file is confirmed."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import cyclic

from genrec import inspect_commands, run_experiments
from genrec.__main__ import main
from genrec.baselines import Popularity
from genrec.written_files import PICTURE_METADATA, PICTURES, READ, check_different, is_own_picture

OWN = "user,item,time\na,b,1\n"
WORLD = f"{Path(__file__).parent / 'worlds.py'}:cyclic"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a row of popularity and one with training curves."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(folder))
        run_experiments.run([replace(cyclic(), name="popularity", policy=Popularity()), cyclic(steps=2)])
    return folder


@pytest.mark.parametrize(
    ("option", "ending", "command"),
    [
        ("--markdown", ".md", ["compare", "popularity"]),
        ("--latex", ".tex", ["compare", "popularity"]),
        ("--csv", ".csv", ["compare", "popularity"]),
        ("--html", ".html", ["compare", "popularity"]),
        ("--picture", ".svg", ["compare", "popularity"]),
        ("--out", ".csv", ["recommend", "popularity", "--all-users"]),
        ("--out", ".jsonl", ["recommend", "popularity", "--all-users"]),
        ("--out", ".parquet", ["recommend", "popularity", "--all-users"]),
    ],
)
def test_only_files_of_genrec_are_replaced(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    option: str, ending: str, command: list[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("GENREC_HOME", str(home))
    if option == "--html":
        pytest.importorskip("vl_convert")
    path = tmp_path / f"events{ending}"
    path.write_text(OWN)
    assert main([*command, option, str(path)]) == 2
    assert f"{option} {path}: the file exists and was not written by genrec with {option}; name another" in capsys.readouterr().err
    assert path.read_text() == OWN
    for more in (["--replace"], []):  # the second time the file is genrec's own
        assert main([*command, option, str(path), *more]) == 0
        assert f"written to {path}" in capsys.readouterr().err
    path.write_text("")  # nothing is lost
    assert main([*command, option, str(path)]) == 0


@pytest.mark.parametrize(
    ("command", "first", "second"),
    [
        ("compare", "--markdown", "--csv"),
        ("compare", "--latex", "--html"),
        ("compare", "--csv", "--picture"),
        ("curves", "--picture", "--csv"),
        ("recommend --all-users", "--out", "--semantic-ids"),
    ],
)
def test_two_options_with_one_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, first: str, second: str
) -> None:
    """Also by different paths, and before any row is read."""
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), "row", first, "table.csv", second, str(tmp_path / "table.csv")]) == 2
    assert f"{first} and {second} both name {tmp_path / 'table.csv'}; name two files" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_device_may_be_named_twice() -> None:
    check_different({"--markdown": Path("/dev/null"), "--csv": Path("/dev/null"), "--latex": None, "--html": None})


@pytest.mark.parametrize("command", [["curves", "cyclic"], ["data", WORLD], ["tokenize", WORLD]], ids=lambda words: words[0])
def test_files_of_the_inspecting_commands(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Each file is refused before anything is drawn, replaced on request, and then genrec's own; the drawing itself is slow."""
    monkeypatch.setenv("GENREC_HOME", str(home))
    monkeypatch.setattr(inspect_commands, "_draw", lambda _, path, *args, **more: _plot(path))
    for option, ending in (("--picture", ".png"), *((("--csv", ".csv"),) if command[0] == "curves" else ())):
        path = tmp_path / f"events{ending}"
        path.write_text(OWN)
        assert main([*command, option, str(path)]) == 2
        assert f"{option} {path}: the file exists and was not written by genrec with {option}; name another" in capsys.readouterr().err
        assert path.read_text() == OWN
        for more in (["--replace"], []):
            assert main([*command, option, str(path), *more]) == 0
            assert path.read_bytes() != OWN.encode()


def _plot(path: Path | None) -> None:
    """Write a small picture with the mark of genrec."""
    if path is not None:
        pytest.importorskip("matplotlib.figure").Figure(figsize=(1, 1)).savefig(path, metadata=PICTURE_METADATA)


@pytest.mark.parametrize("ending", PICTURES)
def test_pictures_of_genrec_are_known_by_their_mark(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{ending}"
    _plot(path)
    assert is_own_picture(path)
    pytest.importorskip("matplotlib.figure").Figure(figsize=(1, 1)).savefig(path)  # without the mark
    assert not is_own_picture(path)
    for end in (b"/Creator (genrec)", b""):  # PDF files have it at their end
        path.write_bytes(b"%PDF" + b" " * 3 * READ + end)
        assert is_own_picture(path) == bool(end)
