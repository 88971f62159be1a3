"""Checkpoints: save and load the state of a training run.

A checkpoint is a folder with safetensors files (weights, optimizer moments, tensors of the objective) and `progress.json`. It is
written to a temporary folder and then renamed, so a folder with the final name is complete. A resumed run gives the results of an
uninterrupted one: batches, dropout and negatives are functions of (seed, step), and everything else is in the checkpoint.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec.errors import ArtifactError
from genrec.store import write_json


class TrainingProgress(NamedTuple):
    """How far a training run has come."""

    step: int  # optimizer steps done
    best_step: int  # step with the best validation score; 0 is the policy before training
    best_score: float  # NDCG@10 on validation at that step
    stale: int  # validations since that step
    curves: list[dict[str, float]]  # rows of the curves so far


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
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, policy: nn.Module) -> Checkpoint | None:
    """Load the policy's weights in place and return the rest of the checkpoint, or None if there is no checkpoint."""
    for candidate in (folder, folder.with_name(f"{folder.name}.old")):
        if (candidate / "progress.json").is_file():
            break
    else:
        return None
    progress = TrainingProgress(**json.loads((candidate / "progress.json").read_text(encoding="utf-8")))
    try:
        policy.load_state_dict(load_file(candidate / "policy.safetensors"))
    except RuntimeError as error:
        raise ArtifactError(f"the checkpoint in {candidate} does not fit this policy: {error}; remove it and run again") from None
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(candidate / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    return Checkpoint(progress, load_file(candidate / "best.safetensors"), moments, load_file(candidate / "objective.safetensors"))


def weights(policy: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the policy's weights on the CPU. It is contiguous, as safetensors requires."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in policy.state_dict().items()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
