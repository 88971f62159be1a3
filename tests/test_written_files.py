"""Options that name a file: the user's own files are not replaced, those of genrec are, and each written file is confirmed."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import cyclic

from genrec import run_experiments
from genrec.__main__ import main
from genrec.baselines import Popularity

OWN = "user,item,time\na,b,1\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a row of popularity."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(folder))
        run_experiments.run([replace(cyclic(), name="popularity", policy=Popularity())])
    return folder


@pytest.mark.parametrize(
    ("option", "ending", "command"),
    [
        ("--markdown", ".md", ["compare", "popularity"]),
        ("--latex", ".tex", ["compare", "popularity"]),
        ("--csv", ".csv", ["compare", "popularity"]),
        ("--html", ".html", ["compare", "popularity"]),
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
