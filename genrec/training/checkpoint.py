"""A training's state on disk: safetensors for weights and optimizer moments, JSON for the rest. Written beside, then renamed.

A checkpoint is a folder; the one with the final name is complete. Resuming gives the uninterrupted run's numbers, because batches,
dropout and negatives are functions of (seed, step) and everything else is here.
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


class Progress(NamedTuple):
    """How far a training is."""

    step: int  # optimizer steps done
    best_step: int  # the step whose weights are kept
    best_score: float  # its NDCG@10 on validation
    stale: int  # validations since
    curves: list[dict[str, float]]  # what was logged


class Checkpoint(NamedTuple):
    """A training's state, but for the policy's own weights."""

    progress: Progress
    best: dict[str, Tensor]  # the weights that are kept
    moments: dict[int, dict[str, Tensor]]  # the optimizer's state, by parameter
    counters: dict[str, Tensor]  # what the objective counts over the training


def save(
    folder: Path,
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    counters: dict[str, Tensor],
    progress: Progress,
) -> None:
    """Write the checkpoint `folder`; an older one is replaced when the new one is whole."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_contiguous(policy.state_dict()), partial / "policy.safetensors")
    save_file(_contiguous(best), partial / "best.safetensors")
    save_file(_contiguous(counters), partial / "counters.safetensors")
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
    """Load the policy's weights in place and return the rest; None where there is no checkpoint."""
    for candidate in (folder, folder.with_name(f"{folder.name}.old")):
        if (candidate / "progress.json").is_file():
            break
    else:
        return None
    progress = Progress(**json.loads((candidate / "progress.json").read_text(encoding="utf-8")))
    try:
        policy.load_state_dict(load_file(candidate / "policy.safetensors"))
    except RuntimeError as error:
        raise ArtifactError(f"the checkpoint in {candidate} does not fit this policy: {error}; remove it and run again") from None
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(candidate / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return Checkpoint(progress, load_file(candidate / "best.safetensors"), state, load_file(candidate / "counters.safetensors"))


def weights(policy: nn.Module) -> dict[str, Tensor]:
    """A copy of the policy's weights on the CPU, contiguous, as safetensors wants them."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in policy.state_dict().items()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
