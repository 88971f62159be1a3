"""Checkpoints: damaged ones are passed over, never loaded, and the training still ends in the same weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainings import RECIPE, constant, likelihood, policy, training_examples
from worlds import TINY

from genrec.errors import ArtifactError
from genrec.model import TigerPolicy
from genrec.semantic_ids import SemanticIds
from genrec.store import hash_of
from genrec.training import checkpoint, loop
from genrec.training.checkpoint import FILES, TrainingProgress
from genrec.training.loop import train
from genrec.training.sft import build_policy

PROGRESS = TrainingProgress(7, 0, 0.5, 1, [])


def save(folder: Path, progress: TrainingProgress = PROGRESS) -> TigerPolicy:
    """Save a checkpoint of a policy after one step, and return the policy."""
    built = policy()
    optimizer = torch.optim.AdamW(built.parameters())
    built.level_log_prob(torch.tensor([[1, 2]]), torch.tensor([[3]])).sum().backward()
    optimizer.step()
    checkpoint.save(folder, built, optimizer, checkpoint.weights(built), {"count": torch.tensor([3])}, progress)
    return built


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def rewrite(path: Path) -> None:
    path.write_text("[]")


DAMAGES: list[Callable[[Path], None]] = [flip, cut, rewrite, Path.unlink]


def test_a_whole_checkpoint_is_loaded(tmp_path: Path) -> None:
    saved, loaded = save(tmp_path / "last"), policy()
    found = checkpoint.load(tmp_path / "last", loaded)
    assert found is not None
    assert found.progress == PROGRESS
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in saved.state_dict().items())
    assert set(found.moments[0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert found.objective_state["count"].tolist() == [3]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", [*FILES, "files.json"])
def test_a_damaged_checkpoint_is_passed_over_and_never_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    save(tmp_path / "last")
    damage(tmp_path / "last" / name)
    loaded = policy()
    before = checkpoint.weights(loaded)
    assert checkpoint.load(tmp_path / "last", loaded) is None
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in before.items())
    said = capsys.readouterr().err
    assert f"the checkpoint in {tmp_path / 'last'} is damaged: " in said
    assert name in said or "its JSON has another form" in said
    assert "this training starts again from step 0" in said


@pytest.mark.parametrize(
    "content",
    [
        {"step": 7, "best_step": 0, "best_score": 0.5, "stale": 1},
        {"step": 7, "best_step": 0, "best_score": 0.5, "stale": 1, "curves": [], "epoch": 3},
        {"step": "7", "best_step": 0, "best_score": 0.5, "stale": 1, "curves": []},
        {"step": 7, "best_step": 0, "best_score": 0.5, "stale": 1, "curves": [3]},
        {"step": 7, "best_step": 0, "best_score": 0.5, "stale": 1, "curves": [], "precision": "16-true"},
        [7],
    ],
)
def test_progress_of_another_form_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object) -> None:
    """Although its hash is right."""
    folder = tmp_path / "last"
    save(folder)
    (folder / "progress.json").write_text(json.dumps(content))
    record = json.loads((folder / "files.json").read_text())["files"]
    path = folder / "progress.json"
    record["progress.json"] = {"size": path.stat().st_size, "sha256": checkpoint.file_hash(path)}
    (folder / "files.json").write_text(json.dumps({"files": record, "hash": hash_of(record)}))
    assert checkpoint.load(folder, policy()) is None
    assert "its JSON has another form" in capsys.readouterr().err


def test_the_checkpoint_before_a_damaged_one_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stop in the middle of saving leaves the older one beside the new one."""
    save(tmp_path / "last")
    shutil.move(tmp_path / "last", tmp_path / "older")
    save(tmp_path / "last", PROGRESS._replace(step=9))
    shutil.move(tmp_path / "older", tmp_path / "last.old")
    flip(tmp_path / "last" / "policy.safetensors")
    found = checkpoint.load(tmp_path / "last", policy())
    assert found is not None
    assert found.progress.step == 7
    said = capsys.readouterr().err
    assert "last is damaged: policy.safetensors has changed since it was written" in said
    assert "the checkpoint before it is tried" in said


def test_a_checkpoint_of_another_policy_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "last")
    other = build_policy(TINY, SemanticIds(torch.arange(40).unsqueeze(1)), seed=0)
    assert isinstance(other, TigerPolicy)
    with pytest.raises(ArtifactError, match="does not fit this policy"):
        checkpoint.load(tmp_path / "last", other)


def test_a_checkpoint_of_another_objective_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "last")
    built = policy()
    with pytest.raises(ArtifactError, match=r"holds the tensors count of the objective, expected none"):
        train(built, likelihood(built), training_examples(), RECIPE, 5, tmp_path / "last", constant, "test")


def test_a_training_whose_checkpoint_is_damaged_starts_again_and_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    whole = policy().train()
    train(whole, likelihood(whole), training_examples(), RECIPE, 5, tmp_path / "last", constant, "test")
    assert (tmp_path / "last" / "files.json").is_file()
    flip(tmp_path / "last" / "best.safetensors")
    again = policy().train()
    outcome = train(again, likelihood(again), training_examples(), RECIPE, 5, tmp_path / "last", constant, "test")
    assert "starts again from step 0" in capsys.readouterr().err
    assert [row["step"] for row in outcome.curves] == [0, 20, 40, 50]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
