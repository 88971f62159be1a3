"""Checkpoints: save and load the state of a training run.

A checkpoint is a folder with safetensors files (weights, optimizer moments, tensors of the objective), `progress.json`, and
`files.json`, which is written last and holds the size and sha256 of the other files and a hash of its own content. The folder is
written under a temporary name and then renamed. A checkpoint with a changed, cut or missing file is passed over, never loaded.

A resumed run gives the results of an uninterrupted one: batches, dropout and negatives are functions of (seed, step), and everything
else is in the checkpoint.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec.errors import ArtifactError
from genrec.precision import Resolved
from genrec.progress import say
from genrec.store import file_hash, hash_of, write_json

TENSOR_FILES = ("policy.safetensors", "best.safetensors", "objective.safetensors", "optimizer.safetensors")
FILES = (*TENSOR_FILES, "progress.json")  # all files but files.json


class TrainingProgress(NamedTuple):
    """How far a training run has come."""

    step: int  # optimizer steps done
    best_step: int  # step with the best validation score; 0 is the policy before training
    best_score: float  # validation score at that step
    stale: int  # validations since that step
    curves: list[dict[str, float]]  # rows of the curves so far
    precision: Resolved = "32-true"  # precision of the steps; a resumed run keeps it


class Checkpoint(NamedTuple):
    """The state of a training run, without the policy's own weights."""

    progress: TrainingProgress
    best: dict[str, Tensor]  # weights of the best step
    moments: dict[int, dict[str, Tensor]]  # optimizer state by parameter number
    objective_state: dict[str, Tensor]  # tensors that the objective updates during training


def save(
    folder: Path,
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    objective_state: dict[str, Tensor],
    progress: TrainingProgress,
) -> None:
    """Write a checkpoint to `folder`. An older one there is replaced only after the new one is complete."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_contiguous(policy.state_dict()), partial / "policy.safetensors")
    save_file(_contiguous(best), partial / "best.safetensors")
    save_file(_contiguous(objective_state), partial / "objective.safetensors")
    moments = {f"{index}.{name}": value for index, state in optimizer.state_dict()["state"].items() for name, value in state.items()}
    save_file(_contiguous(moments), partial / "optimizer.safetensors")
    write_json(partial / "progress.json", progress._asdict())
    files = {name: {"size": (partial / name).stat().st_size, "sha256": file_hash(partial / name)} for name in FILES}
    write_json(partial / "files.json", {"files": files, "hash": hash_of(files)})
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, policy: nn.Module) -> Checkpoint | None:
    """Load the policy's weights in place and return the rest of the checkpoint, or None if there is no whole checkpoint.

    A damaged checkpoint is passed over with a message, for the one before it if a stop in the middle of saving has left that.
    Raises ArtifactError if the checkpoint is whole but does not fit the policy.
    """
    candidates = [each for each in (folder, folder.with_name(f"{folder.name}.old")) if each.exists()]
    for place, candidate in enumerate(candidates):
        damage = damage_of(candidate)
        if damage is None:
            return _load(candidate, policy)
        last = place == len(candidates) - 1
        say(
            f"the checkpoint in {candidate} is damaged: {damage}; it is passed over, and "
            + ("this training starts again from step 0" if last else "the checkpoint before it is tried")
        )
    return None


def damage_of(folder: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, or None if it is whole."""
    try:
        record = _read_json(folder / "files.json")
        files = record["files"]
        if set(files) != set(FILES) or record["hash"] != hash_of(files):
            return "files.json has changed since it was written"
        for name, expected in files.items():
            path = folder / name
            if path.stat().st_size != expected["size"] or file_hash(path) != expected["sha256"]:
                return f"{name} has changed since it was written"
        _progress(_read_json(folder / "progress.json"))
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"a file cannot be read ({error})"
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # JSON of another shape
        return f"its JSON has another form ({error!r})"
    return None


def _load(folder: Path, policy: nn.Module) -> Checkpoint:
    """Load a whole checkpoint."""
    weights_of, best, objective, optimizer = (load_file(folder / name) for name in TENSOR_FILES)
    try:
        policy.load_state_dict(weights_of)
    except RuntimeError as error:
        raise ArtifactError(f"the checkpoint in {folder} does not fit this policy: {error}; remove it and run again") from None
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in optimizer.items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    return Checkpoint(_progress(_read_json(folder / "progress.json")), best, moments, objective)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _progress(content: dict[str, Any]) -> TrainingProgress:
    """Return the progress that `progress.json` describes. Raises ValueError, TypeError or AttributeError if it has another form."""
    progress = TrainingProgress(**content)
    numbers = (progress.step, progress.best_step, progress.stale)
    if not all(type(number) is int and number >= 0 for number in numbers) or not isinstance(progress.best_score, int | float):
        raise ValueError(f"progress.json must count steps from 0, got {numbers}")
    if progress.precision not in get_args(Resolved):
        raise ValueError(f"progress.json must name a precision, got {progress.precision!r}")
    if not all(isinstance(value, int | float) for row in progress.curves for value in row.values()):
        raise ValueError("progress.json must hold rows of numbers")
    return progress


def weights(policy: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the policy's weights on the CPU. It is contiguous, as safetensors requires."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in policy.state_dict().items()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
