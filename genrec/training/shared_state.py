"""What processes that train together hold: counts, which the first one collects, and tensors that are equal in all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from genrec import process_group
from genrec.errors import UsageError
from genrec.objectives.preference_state import COUNTED, preference_states
from genrec.types import ObjectiveState


def collect_counts(state: ObjectiveState | None) -> None:
    """Move what all processes have counted to the first one."""
    if process_group.size() > 1:
        for each in preference_states(state):
            each.collect()


def clear_counts(state: ObjectiveState | None) -> None:
    """Forget the counts of a checkpoint in every process but the first one."""
    if not process_group.leads():
        for each in preference_states(state):
            each.clear()


def check_equal(tensors: Mapping[str, Tensor]) -> None:
    """Raise UsageError if a tensor, counts aside, is not the same in all processes, to the last bit."""
    if process_group.size() == 1:
        return
    own = {name: _hash(value) for name, value in tensors.items() if name.rpartition(".")[2] not in COUNTED}
    for number, other in enumerate(process_group.of_all(own)):
        differing = [name for name in own if own[name] != other.get(name)]
        if differing:
            raise UsageError(
                f"the processes {process_group.rank()} and {number} of this training have different values of {differing[0]}; "
                "add up by torch.distributed what an objective changes itself, or train without --trainer.devices"
            )


def check_processes(path: str, expected: int) -> None:
    """Raise UsageError if the recipe at `path` is for another number of processes (`Optimization.processes`) than train."""
    if expected not in (1, process_group.size()):
        raise UsageError(
            f"{path}.optimization.processes is {expected}, but the number of processes that train is {process_group.size()}; leave it "
            f"at 1, and add --trainer.devices {expected} for so many processes, which sets it"
        )


def _hash(value: Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
