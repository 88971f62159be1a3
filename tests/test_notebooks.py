"""The notebook runs in order as a plain script, without Jupyter, and its prose matches the results."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from genrec.preference.negatives import BestOf
from genrec.testing import check_loss, check_reward, check_sampler, sampler_context

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FILES = ("my_plugins.py", "my_experiment.py", "plugins.ipynb")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the notebooks to a folder that is on the import path and holds the artifacts."""
    for name in FILES:
        shutil.copy(NOTEBOOKS / name, tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("my_plugins", "my_experiment"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((NOTEBOOKS / "plugins.ipynb").read_text(encoding="utf-8"))
    return content


def test_it_is_a_notebook_without_outputs() -> None:
    """The file follows notebook format 4.5 and keeps no outputs."""
    content = read()
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in content["cells"]]
    assert len(set(names)) == len(names)
    for cell in content["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        assert isinstance(cell["source"], list)
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_the_cells_run_and_the_prose_matches_the_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = {"__name__": "notebook"}
    for cell in read()["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
    printed = capsys.readouterr().out
    results = printed.split("against my-sft")[0].split("Results")[1]
    assert re.findall(r"^ *(my-[a-z]+) +0 ", results, re.MULTILINE) == ["my-sft", "my-control", "my-aligned", "my-novel"]
    assert "Careless" in space["message"]
    assert "is the target itself" in space["message"]
    assert space["at_start"] == pytest.approx(1.3133, abs=1e-4)  # ln(1 + e)
    assert space["later"] == pytest.approx(0.3133, abs=1e-4)  # ln(1 + 1/e)
    margin = {name: curve["margin"].dropna().iloc[-1] for name, curve in space["curves"].items()}
    first = {name: curve["loss"].dropna().iloc[0] for name, curve in space["curves"].items()}
    assert margin["my-novel"] > 5 * margin["my-aligned"] > 5 * max(margin["my-control"], 0.0)
    assert {curve["loss"].dropna().index[0] for curve in space["curves"].values()} == {20}
    assert first["my-aligned"] - first["my-control"] == pytest.approx(1.3133, abs=0.05)
    assert first["my-novel"] < first["my-aligned"] - 0.05
    popularity = {name: figures["popularity"] for name, figures in space["statistics"].items()}
    assert popularity["my-aligned"] > popularity["my-control"] > popularity["my-novel"]
    assert (folder / "data" / "runs" / "my-aligned.json").is_file()


def test_the_prose_names_the_rows_of_the_experiment(folder: Path) -> None:
    """The cell on the experiment names every row, and the counts in its text are right."""
    import my_experiment

    prose = "".join(next(cell["source"] for cell in read()["cells"] if cell["source"][0] == "## The experiment\n"))
    rows = my_experiment.comparison()
    assert re.findall(r"^- `(my-[a-z]+)`", prose, re.MULTILINE) == [row.name for row in rows]
    assert f"has {('no', 'one', 'two', 'three', 'four', 'five')[len(rows)]} rows" in prose
    align = my_experiment.novel().align
    assert align is not None
    assert isinstance(align.negatives, BestOf)
    assert (align.negatives.num_candidates, align.num_negatives) == (12, 3)  # twelve candidates, three kept


def test_the_plug_ins_keep_their_contracts(folder: Path) -> None:
    import my_plugins

    check_sampler(my_plugins.RoadsNotTaken(tries=1))
    check_loss(my_plugins.MarginDPO(beta=2.0, margin=0.0))
    check_reward(my_plugins.Novelty(smoothing=2.0))


def test_the_sampler_draws_next_items_of_other_users(folder: Path) -> None:
    """Users 0 and 1 take items 2 and 3 after item 1, user 2 takes 5 after 4. After item 1, user 0 gets 3 first, then random items."""
    import my_plugins
    import pandas as pd

    from genrec.types import SequenceBatch

    log = pd.DataFrame({"user": [0, 0, 1, 1, 2, 2], "item": [1, 2, 1, 3, 4, 5], "time": [0, 1, 0, 1, 0, 1]})
    context = sampler_context()._replace(interactions=log)
    draw = my_plugins.RoadsNotTaken(tries=20).build(context).draw
    found = draw(SequenceBatch(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([2])), 3, torch.Generator().manual_seed(0))
    assert found[0, 0] == 3
    assert not {0, 1, 2} & set(found[0].tolist())


def test_the_reward_is_self_information(folder: Path) -> None:
    """Events 3, 1 and 0, plus 1 each: the shares 4/7, 2/7 and 1/7 halve, so the rewards are 1 bit apart."""
    import my_plugins

    context = sampler_context()._replace(popularity=torch.tensor([0, 3, 1, 0]))
    bits = my_plugins.Novelty().rate(context)(None, torch.tensor([[1, 2, 3]]))
    torch.testing.assert_close(bits.diff(), torch.ones(1, 2))
    assert float(bits[0, 0]) == pytest.approx(0.8074, abs=1e-4)  # log2(7/4)
