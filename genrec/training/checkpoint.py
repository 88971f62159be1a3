"""Checkpoints: save and load the state of a training run.

A checkpoint is a folder with safetensors files (weights, optimizer moments, tensors of the objective), `progress.json`, and
`files.json`, which is written last and holds the size and sha256 of the other files, the training that it belongs to, and a hash of
its own content. The folder is written under a temporary name and then renamed. A checkpoint with a changed, cut or missing file, or
of another training, is passed over, never loaded.

A resumed run gives the results of an uninterrupted one: batches, dropout and negatives are functions of (seed, step), and everything
else is in the checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec.errors import ArtifactError
from genrec.precision import Resolved
from genrec.progress import say
from genrec.store import file_hash, hash_of, write_json

TENSOR_FILES = ("policy.safetensors", "best.safetensors", "objective.safetensors", "optimizer.safetensors")
FILES = (*TENSOR_FILES, "progress.json")  # all files but files.json


class TrainingId(NamedTuple):
    """The training that a checkpoint belongs to."""

    stage: str  # "sft" or "align"
    seed: int  # of the training
    key: str  # of the artifact that it writes, "" for a training outside the pipeline

    def __str__(self) -> str:
        return f"{self.stage}{f' {self.key}' if self.key else ''} with seed {self.seed}"


class TrainingProgress(NamedTuple):
    """How far a training run has come."""

    step: int  # optimizer steps done
    best_step: int  # step with the best validation score; 0 is the policy before training
    best_score: float  # validation score at that step
    stale: int  # validations since that step
    curves: list[dict[str, float]]  # rows of the curves so far
    precision: Resolved = "32-true"  # precision of the steps; a resumed run keeps it
    pending: Sequence[dict[str, float]] = ()  # metrics of each step since the last row, for the next one
    seconds: float = 0.0  # time of the training up to this step, over all sessions


class Checkpoint(NamedTuple):
    """The state of a training run, without the policy's own weights."""

    progress: TrainingProgress
    best: dict[str, Tensor]  # weights of the best step
    moments: dict[int, dict[str, Tensor]]  # optimizer state by parameter number
    objective_state: dict[str, Tensor]  # tensors that the objective updates during training


def save(
    folder: Path,
    training: TrainingId,
    policy: nn.Module,
    moments: Mapping[int, Mapping[str, Tensor]],
    best: dict[str, Tensor],
    objective_state: dict[str, Tensor],
    progress: TrainingProgress,
) -> None:
    """Write a checkpoint to `folder`. An older one there is replaced only after the new one is complete.

    `moments` is the optimizer's state by parameter number, that of the whole parameters.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_contiguous(policy.state_dict()), partial / "policy.safetensors")
    save_file(_contiguous(best), partial / "best.safetensors")
    save_file(_contiguous(objective_state), partial / "objective.safetensors")
    named = {f"{index}.{name}": value for index, state in moments.items() for name, value in state.items()}
    save_file(_contiguous(named), partial / "optimizer.safetensors")
    write_json(partial / "progress.json", progress._asdict())
    files = {name: {"size": (partial / name).stat().st_size, "sha256": file_hash(partial / name)} for name in FILES}
    record = {"files": files, "training": training._asdict()}
    write_json(partial / "files.json", {**record, "hash": hash_of(record)})
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(
    folder: Path, training: TrainingId, policy: nn.Module, max_steps: int, trained: list[nn.Parameter] | None = None
) -> Checkpoint | None:
    """Load the policy's weights in place and return the rest of the checkpoint, or None if there is no whole checkpoint.

    A checkpoint that is damaged or of another training is passed over with a message, for the one before it if a stop in the middle
    of saving has left that. `max_steps` is the length of the training, `trained` the parameters of the optimizer, by default the
    policy's that need a gradient. Raises ArtifactError if the checkpoint is whole but does not
    fit the policy.
    """
    candidates = [each for each in _places(folder) if each.exists()]
    for place, candidate in enumerate(candidates):
        found = _load(candidate, training, policy, max_steps, trained)
        if isinstance(found, Checkpoint):
            return found
        last = place == len(candidates) - 1
        say(
            f"{found}; it is passed over, and "
            + ("this training starts again from step 0" if last else "the checkpoint before it is tried")
        )
    return None


def saved_rows(folder: Path) -> list[dict[str, float]]:
    """Return the rows of the curves of a checkpoint, also of one that `save` has left behind; none if there is no whole checkpoint."""
    for candidate in _places(folder):
        if damage_of(candidate) is None:
            return _progress(_read_json(candidate / "progress.json")).curves
    return []


def _places(folder: Path) -> tuple[Path, Path]:
    """Return where a checkpoint of `folder` may be: there, or beside it if a stop in the middle of saving has left the one before."""
    return folder, _old(folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def damage_of(folder: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, or None if it is whole."""
    try:
        record = _read_json(folder / "files.json")
        if "training" not in record:
            return "files.json does not say to which training it belongs, as in earlier versions of genrec"
        expected_hash, files = record.pop("hash"), record["files"]
        if set(files) != set(FILES) or expected_hash != hash_of(record):
            return "files.json has changed since it was written"
        for name, expected in files.items():
            path = folder / name
            if path.stat().st_size != expected["size"] or file_hash(path) != expected["sha256"]:
                return f"{name} has changed since it was written"
        TrainingId(**record["training"])
        _progress(_read_json(folder / "progress.json"))
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"a file cannot be read ({error})"
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:  # JSON of another shape
        return f"its JSON has another form ({error!r})"
    return None


def _load(
    folder: Path, training: TrainingId, policy: nn.Module, max_steps: int, trained: list[nn.Parameter] | None
) -> Checkpoint | str:
    """Load a checkpoint, or return in words why it is passed over. The policy then keeps its weights."""
    damage = damage_of(folder)
    if damage is not None:
        return _damaged(folder, damage)
    owner = TrainingId(**_read_json(folder / "files.json")["training"])
    if owner != training:
        return f"the checkpoint in {folder} is of another training: {owner}, expected {training}"
    progress = _progress(_read_json(folder / "progress.json"))
    if progress.step > max_steps:
        return _damaged(folder, f"it is of step {progress.step}, and the training has {max_steps} steps")
    try:
        weights_of, best, objective, optimizer = (load_file(folder / name) for name in TENSOR_FILES)
        moments = _moments(optimizer)
    except (SafetensorError, ValueError) as error:
        return _damaged(folder, f"its tensors can't be read ({error})")
    if shapes(best) != shapes(weights_of):
        return _damaged(folder, "best.safetensors does not fit policy.safetensors")
    fits = shapes(weights_of) == shapes(policy.state_dict())
    if fits and not _fit(moments, [each for each in policy.parameters() if each.requires_grad] if trained is None else trained):
        return _damaged(folder, "optimizer.safetensors does not fit the policy")
    try:
        policy.load_state_dict(weights_of)
    except RuntimeError as error:
        raise ArtifactError(f"the checkpoint in {folder} does not fit this policy: {error}; remove it and run again") from None
    return Checkpoint(progress, best, moments, objective)


def _damaged(folder: Path, what: str) -> str:
    return f"the checkpoint in {folder} is damaged: {what}"


def _moments(optimizer: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return the tensors of `optimizer.safetensors` by parameter number and name. Raises ValueError for a name of another form."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in optimizer.items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    return moments


def _fit(moments: Mapping[int, Mapping[str, Tensor]], parameters: list[nn.Parameter]) -> bool:
    """Return whether the moments are those of AdamW over these parameters. A parameter without a gradient so far has none."""
    for number, state in moments.items():
        if not 0 <= number < len(parameters):
            return False
        shape = parameters[number].shape
        if shapes(state) != {"step": torch.Size([]), "exp_avg": shape, "exp_avg_sq": shape}:
            return False
    return all(value.is_floating_point() for state in moments.values() for value in state.values())


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shape of each tensor."""
    return {name: value.shape for name, value in tensors.items()}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _progress(content: dict[str, Any]) -> TrainingProgress:
    """Return the progress that `progress.json` describes. Raises ValueError, TypeError or AttributeError if it has another form."""
    progress = TrainingProgress(**{**content, "pending": tuple(content.get("pending", ()))})
    numbers = (progress.step, progress.best_step, progress.stale)
    if not all(type(number) is int and number >= 0 for number in numbers) or progress.best_step > progress.step:
        raise ValueError(f"progress.json must count steps from 0, got {numbers}")
    if not (math.isfinite(progress.seconds) and progress.seconds >= 0):
        raise ValueError(f"progress.json must hold seconds of 0 or more, got {progress.seconds}")
    if not math.isfinite(progress.best_score):
        raise ValueError(f"progress.json must hold a finite score, got {progress.best_score}")
    if progress.precision not in get_args(Resolved):
        raise ValueError(f"progress.json must name a precision, got {progress.precision!r}")
    if not all(isinstance(value, int | float) for row in (*progress.curves, *progress.pending) for value in row.values()):
        raise ValueError("progress.json must hold rows of numbers")
    if not all("loss" in row for row in progress.pending):
        raise ValueError("progress.json must hold the loss of each step since the last row")
    if not all(type(row["step"]) is int and row["step"] <= progress.step for row in progress.curves):
        raise ValueError(f"progress.json must hold rows of steps up to {progress.step}")
    return progress


def weights(policy: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the policy's weights on the CPU. It is contiguous, as safetensors requires."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in policy.state_dict().items()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
