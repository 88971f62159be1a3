"""Frozen copies of the policy in training: the reference, and the copies that proposers read."""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor

from genrec.policy_modules import as_module, device_of
from genrec.types import Policy


class FrozenCopy:
    """Hold a copy of `policy` in evaluation mode, without gradients (a `genrec.types.FrozenPolicy`).

    `weights` replace the policy's own at the start, such as those of the SFT policy in a later stage of a chain.
    """

    def __init__(self, policy: Policy, weights: dict[str, Tensor] | None = None, kept: bool = False) -> None:
        self._source, self.kept = as_module(policy), kept
        self._copy = copy.deepcopy(self._source).requires_grad_(False).eval()
        if weights is not None:
            self._copy.load_state_dict(weights)

    @property
    def policy(self) -> Policy:
        """The copy. It is one object for the whole training."""
        return cast(Policy, self._copy)

    def keep(self) -> None:
        """Make the weights part of the checkpoint."""
        self.kept = True

    def refresh(self) -> None:
        """Copy the weights of the policy in training."""
        assert self.kept, "call keep() when the objective is built: refreshed weights must be in the checkpoint"
        self._copy.load_state_dict(self._source.state_dict())

    def follow_device(self) -> None:
        """Move the copy to the device of the policy in training."""
        device = device_of(cast(Policy, self._source))
        if device_of(self.policy) != device:
            self._copy.to(device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights for the checkpoint, none unless they are kept."""
        return dict(self._copy.state_dict()) if self.kept else {}
