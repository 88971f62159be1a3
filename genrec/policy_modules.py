"""Policies as modules of torch, which the protocol `Policy` cannot express."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from genrec.types import Policy, Recommender


def as_module(policy: Policy) -> nn.Module:
    """Return the policy typed as an `nn.Module`."""
    return cast(nn.Module, policy)


def device_of(recommender: Recommender) -> torch.device:
    """Return the present device of a policy's weights, or the CPU for a recommender without weights. Training may move a policy."""
    if isinstance(recommender, nn.Module):
        return next(recommender.parameters()).device
    return torch.device("cpu")
