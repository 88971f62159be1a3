"""Check that all rewards are finite: a NaN would silently count as the best reward, or as a group of equal rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.errors import NumericsError
from genrec.own_ids import OwnIds, name_item, name_user
from genrec.plugin_source import name_with_place
from genrec.types import SequenceBatch, StepFault


class RewardCheck:
    """Find the first reward of a training that is NaN or infinite.

    On a CPU the step raises NumericsError. On a GPU, where reading a value would make the CPU wait, it is remembered on the device,
    and `fault` reads it.
    """

    def __init__(self, reward: object, own_ids: OwnIds | None) -> None:
        self.reward, self.own_ids = reward, own_ids
        self._place: Tensor | None = None  # int64 [3]: step, user and item of the first bad reward; the step is -1 if all are finite
        self._value: Tensor | None = None  # float64 [1]

    def add(self, step: int, rows: SequenceBatch, items: Tensor, rewards: Tensor) -> None:
        """Check the rewards float [X, M] of items int64 [X, M], 0 where masked. On a CPU, raise NumericsError for a bad one."""
        bad = (~rewards.isfinite() & (items > 0)).flatten()
        if bad.device.type != "cpu":
            self._remember(step, rows.user, items, rewards, bad)
        elif bool(bad.any()):
            self._remember(step, rows.user, items, rewards, bad)
            raise NumericsError(self._read().message)

    def _remember(self, step: int, users: Tensor, items: Tensor, rewards: Tensor, bad: Tensor) -> None:
        """Keep the first bad reward, without waiting for the device. `bad` is bool [X * M]."""
        if not bad.numel():
            return
        first = bad.int().argmax(0, keepdim=True)
        user, item = users.gather(0, first // items.shape[1]), items.flatten().gather(0, first)
        place, value = torch.cat([torch.full_like(user, step), user, item]), rewards.detach().flatten().gather(0, first).double()
        if self._place is None or self._value is None:
            self._place, self._value = torch.full_like(place, -1), torch.zeros_like(value)
        is_first = bad.any() & (self._place[:1] < 0)
        self._place, self._value = torch.where(is_first, place, self._place), torch.where(is_first, value, self._value)

    def fault(self) -> StepFault | None:
        """Return the first bad reward of the steps, or None. Waits for the device."""
        return None if self._place is None or int(self._place[0]) < 0 else self._read()

    def _read(self) -> StepFault:
        assert self._place is not None
        assert self._value is not None
        step, user, item = self._place.tolist()
        return StepFault(
            step,
            f"the reward {name_with_place(type(self.reward))} is {float(self._value):g} for item {name_item(self.own_ids, item)} of "
            f"{name_user(self.own_ids, user)} in step {step} (counted from 0), expected a finite number for every item; correct "
            "the reward",
        )
