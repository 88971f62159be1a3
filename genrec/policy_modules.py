"""Policies as modules of torch, which the protocol `Policy` cannot express."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import nn

from genrec.errors import ArtifactError
from genrec.types import Policy, Recommender


def as_module(policy: Policy) -> nn.Module:
    """Return the policy typed as an `nn.Module`."""
    return cast(nn.Module, policy)


def load_weights(policy: Policy, path: Path) -> None:
    """Load the weights of a policy from a file, and put it into evaluation mode. Raise ArtifactError if they do not fit."""
    module = as_module(policy)
    try:
        module.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ArtifactError(f"{path} does not fit the policy: {error}") from None
    module.eval()


def device_of(recommender: Recommender) -> torch.device:
    """Return the present device of a policy's weights, or the CPU for a recommender without weights. Training may move a policy."""
    if isinstance(recommender, nn.Module):
        return next(recommender.parameters()).device
    return torch.device("cpu")


@contextmanager
def evaluation_mode(recommender: object) -> Iterator[None]:
    """Put a recommender that is a module into evaluation mode, and restore the mode of each of its modules afterwards."""
    if not isinstance(recommender, nn.Module):
        yield
        return
    modes = [(each, each.training) for each in recommender.modules()]
    recommender.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode
