"""Checkpoints: damaged ones are passed over, never loaded, and the training still ends in the same weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainings import RECIPE, constant, likelihood, policy, train, training_examples
from worlds import TINY, cyclic

from genrec import pipeline
from genrec.errors import ArtifactError, NumericsError
from genrec.model import TigerPolicy
from genrec.objective_state import FixedTensors
from genrec.semantic_ids import SemanticIds
from genrec.store import hash_of
from genrec.training import checkpoint, loop
from genrec.training.checkpoint import FILES, Checkpoint, TrainingId, TrainingProgress
from genrec.training.sft import build_policy
from genrec.workspace import store

PROGRESS = TrainingProgress(7, 0, 0.5, 1, [])
OWNER = TrainingId("sft", 5, "")  # of a training with RECIPE and seed 5


def save(folder: Path, progress: TrainingProgress = PROGRESS) -> TigerPolicy:
    """Save a checkpoint of a policy after one step, and return the policy."""
    built = policy()
    optimizer = torch.optim.AdamW(built.parameters())
    built.level_log_prob(torch.tensor([[1, 2]]), torch.tensor([[3]])).sum().backward()
    optimizer.step()
    moments = optimizer.state_dict()["state"]
    checkpoint.save(folder, OWNER, built, moments, checkpoint.weights(built), {"count": torch.tensor([3])}, progress)
    return built


def load(folder: Path, built: torch.nn.Module, owner: TrainingId = OWNER) -> Checkpoint | None:
    return checkpoint.load(folder, owner, built, 50)


def seal(folder: Path) -> None:
    """Write the right sizes and hashes of changed files into `files.json`."""
    record = json.loads((folder / "files.json").read_text())
    del record["hash"]
    for name in FILES:
        record["files"][name] = {"size": (folder / name).stat().st_size, "sha256": checkpoint.file_hash(folder / name)}
    (folder / "files.json").write_text(json.dumps(record | {"hash": hash_of(record)}))


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
    found = load(tmp_path / "last", loaded)
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
    assert load(tmp_path / "last", loaded) is None
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
        {"step": 7, "best_step": 0, "best_score": math.nan, "stale": 1, "curves": []},
        {"step": 7, "best_step": 0, "best_score": 10**400, "stale": 1, "curves": []},
        {"step": 7, "best_step": 8, "best_score": 0.5, "stale": 1, "curves": []},
        {"step": 7, "best_step": 0, "best_score": 0.5, "stale": 1, "curves": [], "seconds": -1.0},
        {"step": 7, "best_step": 0, "best_score": 0.5, "stale": 1, "curves": [], "seconds": math.inf},
        {"step": 7, "best_step": 0, "best_score": 0.5, "stale": 1, "curves": [{}]},
        {"step": 7, "best_step": 0, "best_score": 0.5, "stale": 1, "curves": [{"step": 8}]},
        [7],
    ],
)
def test_progress_of_another_form_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object) -> None:
    """Although its hash is right."""
    folder = tmp_path / "last"
    save(folder)
    (folder / "progress.json").write_text(json.dumps(content))
    seal(folder)
    assert load(folder, policy()) is None
    assert "its JSON has another form" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["files.json", "progress.json"])
def test_deeply_nested_json_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    save(tmp_path / "last")
    (tmp_path / "last" / name).write_text("[" * 100_000)
    if name != "files.json":
        seal(tmp_path / "last")
    assert load(tmp_path / "last", policy()) is None
    assert "its JSON has another form (RecursionError" in capsys.readouterr().err


def junk(path: Path) -> None:
    path.write_bytes(b"no tensors")


def short_moments(path: Path) -> None:
    save_file({name: value[:1] if value.ndim else value for name, value in load_file(path).items()}, path)


def moments_of_another_parameter(path: Path) -> None:
    save_file({f"999.{name.split('.', 1)[1]}": value for name, value in load_file(path).items()}, path)


def no_number(path: Path) -> None:
    save_file({"first.step": torch.tensor(1.0)}, path)


def missing_weight(path: Path) -> None:
    save_file(dict(list(load_file(path).items())[1:]), path)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("optimizer.safetensors", junk, "its tensors can't be read"),
        ("policy.safetensors", junk, "its tensors can't be read"),
        ("optimizer.safetensors", no_number, "its tensors can't be read"),
        ("optimizer.safetensors", short_moments, "optimizer.safetensors does not fit the policy"),
        ("optimizer.safetensors", moments_of_another_parameter, "optimizer.safetensors does not fit the policy"),
        ("best.safetensors", missing_weight, "best.safetensors does not fit policy.safetensors"),
    ],
)
def test_tensors_of_another_form_are_passed_over_and_the_policy_keeps_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: Callable[[Path], None], said: str
) -> None:
    """Although their hashes are right."""
    save(tmp_path / "last")
    change(tmp_path / "last" / name)
    seal(tmp_path / "last")
    loaded = policy()
    before = checkpoint.weights(loaded)
    assert load(tmp_path / "last", loaded) is None
    assert said in capsys.readouterr().err
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in before.items())


def test_a_checkpoint_beyond_the_last_step_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "last", PROGRESS._replace(step=51))
    assert load(tmp_path / "last", policy()) is None
    assert "is damaged: it is of step 51, and the training has 50 steps; it is passed over" in capsys.readouterr().err


@pytest.mark.parametrize("owner", [TrainingId("align", 5, ""), TrainingId("sft", 6, ""), TrainingId("sft", 5, "0123456789abcdef")])
def test_a_checkpoint_of_another_training_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], owner: TrainingId
) -> None:
    save(tmp_path / "last")
    assert load(tmp_path / "last", policy(), owner) is None
    said = capsys.readouterr().err
    assert (
        f"the checkpoint in {tmp_path / 'last'} is of another training: sft with seed 5, expected {owner}; it is passed over" in said
    )


def test_a_checkpoint_that_names_no_training_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "last")
    files = json.loads((tmp_path / "last" / "files.json").read_text())["files"]
    (tmp_path / "last" / "files.json").write_text(json.dumps({"files": files, "hash": hash_of(files)}))
    assert load(tmp_path / "last", policy()) is None
    assert "files.json does not say to which training it belongs" in capsys.readouterr().err


def test_swapped_checkpoints_of_two_seeds_change_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two stopped trainings whose unfinished folders are exchanged, then both commands again."""
    experiments = [cyclic(steps=10, align_steps=6, seed=seed) for seed in (0, 1)]

    def weights_of(home: str) -> list[dict[str, torch.Tensor]]:
        monkeypatch.setenv("GENREC_HOME", str(tmp_path / home))
        return [
            load_file(pipeline.run(each)[stage].folder / "policy.safetensors") for each in experiments for stage in ("sft", "align")
        ]

    expected = weights_of("whole")
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "parts"))
    for stage in ("sft", "align"):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
            patch.setattr(loop, "LOG_EVERY", 5)
            patch.setattr(checkpoint, "save", stopping(checkpoint.save))
            for experiment in experiments:
                with pytest.raises(NumericsError, match="stopped"):
                    pipeline.run(experiment, last=stage)
        keys = [{step.stage: step.key for step in pipeline.plan(each)}[stage] for each in experiments]
        one, other = (store().folder(stage, key).with_name(f".{key}.partial") for key in keys)
        one.rename(tmp_path / "swapped")
        other.rename(one)
        (tmp_path / "swapped").rename(other)
        capsys.readouterr()
        for experiment in experiments:
            pipeline.run(experiment, last=stage)
        said = capsys.readouterr().err
        assert f"is of another training: {stage} {keys[0]} with seed 0, expected {stage} {keys[1]} with seed 1" in said
        assert f"is of another training: {stage} {keys[1]} with seed 1, expected {stage} {keys[0]} with seed 0" in said
    found = weights_of("parts")
    assert all(torch.equal(value, again[name]) for whole, again in zip(expected, found, strict=True) for name, value in whole.items())


def stopping(save: Callable[..., None]) -> Callable[..., None]:
    """Return a function that saves a checkpoint and then interrupts the training."""

    def save_and_stop(*state: object) -> None:
        save(*state)
        raise NumericsError("stopped")

    return save_and_stop


def test_the_checkpoint_before_a_damaged_one_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stop in the middle of saving leaves the older one beside the new one."""
    save(tmp_path / "last")
    shutil.move(tmp_path / "last", tmp_path / "older")
    save(tmp_path / "last", PROGRESS._replace(step=9))
    shutil.move(tmp_path / "older", tmp_path / "last.old")
    flip(tmp_path / "last" / "policy.safetensors")
    found = load(tmp_path / "last", policy())
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
        load(tmp_path / "last", other)


def test_a_checkpoint_of_another_objective_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "last")
    built = policy()
    with pytest.raises(ArtifactError, match=r"holds the tensors count of the objective, expected none"):
        train(built, likelihood(built), training_examples(), RECIPE, 5, tmp_path / "last", constant, "test")
    state = {"count": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ArtifactError, match=r"the objective's tensor count has the shape \[1\], expected \[2\]"):
        train(built, likelihood(built), training_examples(), RECIPE, 5, tmp_path / "last", constant, "test", FixedTensors(state))


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
