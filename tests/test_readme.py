"""What the README says works: its sampler keeps the contract, its commands and files exist."""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

import pytest

from genrec import loading
from genrec.__main__ import _parser, main
from genrec.preference.contract import check_draw
from genrec.randomness import generator
from genrec.testing import batches_of, sampler_context

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_readmes_sampler_is_short_and_keeps_its_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written beside an experiment that uses it, as the README says; checked, planned, and drawn from."""
    sampler = next(block for block in python_blocks() if "class SimilarPopularity" in block)
    experiment = next(block for block in python_blocks() if "def similar" in block)
    assert len([line for line in sampler.splitlines() if line.strip()]) <= 25
    (tmp_path / "mine.py").write_text(sampler)
    (tmp_path / "mine_experiment.py").write_text(experiment)
    (tmp_path / "quickstart.py").write_text((PROJECT / "experiments" / "quickstart.py").read_text())
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["check", str(tmp_path / "mine.py:SimilarPopularity")]) == 0
    assert "SimilarPopularity(window=50) keeps its contract" in capsys.readouterr().out
    (found,) = loading.override(loading.load(str(tmp_path / "mine_experiment.py:similar")), ["--align.negatives.window", "20"])
    assert found.align is not None
    context = sampler_context()
    for batch in batches_of(context):
        check_draw(batch, found.align.negatives.build(context)(batch, 3, generator(0)), 3, context)


def test_the_readmes_source_is_short_and_keeps_its_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written outside the package as the README says; checked, described, fetched from a mirror, and run."""
    source = next(block for block in python_blocks() if "class Plays" in block)
    experiment = next(block for block in python_blocks() if "def plays" in block)
    assert len([line for line in source.splitlines() if line.strip()]) <= 25
    (tmp_path / "plays.py").write_text(source)
    (tmp_path / "plays_experiment.py").write_text(experiment)
    lines = [f"{user}\t0{track}\tÉ {track}\t{1_600_000_000 + 9 * user + track}" for user in range(30) for track in range(6)]
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "plays.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("GENREC_MIRROR", str(tmp_path / "mirror"))
    assert main(["check", str(tmp_path / "plays.py:Plays")]) == 0
    assert "keeps its contract" in capsys.readouterr().out
    for arguments in ([], ["--source.path", str(tmp_path / "mirror" / "plays.tsv.gz")]):
        assert main(["data", str(tmp_path / "plays_experiment.py:plays"), "--offline", *arguments]) == 0
        assert "30 users, 6 items, 180 interactions" in capsys.readouterr().out
    assert len(list((tmp_path / "data" / "artifacts" / "data").glob("[!.]*"))) == 1  # the same content, wherever it lies


@pytest.mark.parametrize("command", sorted(set(re.findall(r"genrec (?:run|data) (experiments/(?!mine|plays)\S+)", README))))
def test_the_readmes_experiments_exist(command: str) -> None:
    assert loading.load(str(PROJECT / command))


def test_the_readme_names_every_command() -> None:
    actions = [action for action in _parser()._actions if action.choices]
    assert {f"`genrec {name}" in README for name in actions[0].choices or ()} == {True}


def test_links_lead_somewhere() -> None:
    for page in ("README.md", "genrec/README.md", "data/README.md", "experiments/results.md"):
        text = (PROJECT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(((?!https?://|#)[^)]+)\)", text):
            assert ((PROJECT / page).parent / target).exists(), f"{page} links to {target}"
