"""The notebooks keep the outputs of a run in order; plugins.ipynb also runs as a plain script, and its prose matches the results."""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from genrec.preference.negatives import BestOf
from genrec.testing import check_loss, check_reward, check_sampler, sampler_context

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
BOOKS = sorted(NOTEBOOKS.glob("*.ipynb"))
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


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_outputs_of_one_run_in_order(path: Path) -> None:
    """The file follows notebook format 4.5, its cells compile, and a run from the first cell to the last has left no error."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in content["cells"]]
    assert len(set(names)) == len(names)
    assert {cell["cell_type"] for cell in content["cells"]} == {"markdown", "code"}
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    for cell in cells:
        compile("".join(cell["source"]), cell["id"], "exec")
        assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in cell["outputs"])
    assert any(cell["outputs"] for cell in cells)
    assert path.stat().st_size < 300_000  # bytes, pictures included


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_outputs_of_a_notebook_hold_no_path_and_no_machine(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        shown = " ".join(texts(cell.get("outputs", [])))
        found = re.search(r"(?<![\w.<])/(?:home|root|work|tmp|usr|Users)/|[A-Z]:\\|0x[0-9a-f]{6,}", shown)
        assert found is None, f"{path.name}, cell {cell['id']}: {found}"
        assert platform.node() not in shown.split()
        assert "\r" not in shown  # of a progress bar


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_no_experiment_of_the_repository(path: Path) -> None:
    """It says all of its settings itself, so a change of the quick start or of a study does not change it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    source = "\n".join("".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code")
    assert re.findall(r"^(?:from|import) (?:experiments|quickstart|genrec\.quickstart)\b", source, re.MULTILINE) == []


def test_pieces_of_standard_output_are_joined() -> None:
    """Progress between two prints is dropped, and the prints are one output; a table between them stays between them."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    stream, result = (nbformat.v4.new_output(kind) for kind in ("stream", "display_data"))
    out, err = ({**stream, "name": name, "text": f"{name} "} for name in ("stdout", "stderr"))
    pieces = [nbformat.from_dict(each) for each in (err, out, err, out, result, out)]
    kept = execute_script().kept_outputs(pieces)
    assert [each.get("text", "table") for each in kept] == ["stdout stdout ", "table", "stdout "]


@pytest.mark.slow
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_again_with_the_same_outputs(path: Path) -> None:
    """Cells with the tag `exact` print the same text on every machine. Others, of trainings, have outputs of the same kinds."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    module = execute_script()
    before = json.loads(path.read_text(encoding="utf-8"))
    after = module.execute(path)
    for old, new in zip(before["cells"], after["cells"], strict=True):
        assert [kind(output) for output in old.get("outputs", [])] == [kind(output) for output in new.get("outputs", [])], old["id"]
        if "exact" in old["metadata"].get("tags", ()):
            assert texts(old["outputs"]) == texts(new["outputs"]), old["id"]


def execute_script() -> ModuleType:
    """Return `notebooks/execute.py` as a module."""
    specification = importlib.util.spec_from_file_location("execute_notebooks", NOTEBOOKS / "execute.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def texts(outputs: list[dict[str, Any]]) -> list[str]:
    """Return the plain text and the HTML of outputs; lines may be a list, as in a file, or one text."""
    parts = [output.get("text") for output in outputs]
    parts += [output.get("data", {}).get(name) for output in outputs for name in ("text/plain", "text/html")]
    return ["".join(part) for part in parts if part is not None]


def kind(output: dict[str, Any]) -> tuple[str, ...]:
    return (output["output_type"], *sorted(output.get("data", {})))


@pytest.mark.slow
def test_the_cells_run_and_the_prose_matches_the_results(folder: Path) -> None:
    space: dict[str, Any] = {"__name__": "notebook"}
    for cell in read()["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
    assert list(space["results"].table.index) == ["my-sft", "my-control", "my-aligned", "my-novel"]
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
    sampled = align.objective.candidates
    assert isinstance(sampled.negatives, BestOf)
    assert (sampled.negatives.num_candidates, sampled.num_negatives) == (12, 3)  # twelve candidates, three kept


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
    bits = my_plugins.Novelty().rate(context).rate(None, torch.tensor([[1, 2, 3]]))
    torch.testing.assert_close(bits.diff(), torch.ones(1, 2))
    assert float(bits[0, 0]) == pytest.approx(0.8074, abs=1e-4)  # log2(7/4)
