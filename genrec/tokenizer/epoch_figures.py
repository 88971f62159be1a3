"""Figures of an epoch of the RQ-VAE's training. Collecting them changes nothing of the training and draws no random number."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.tokenizer.autoencoder import Losses
from genrec.tokenizer.collisions import prefix_groups


class EpochFigures:
    """The losses and codes of one epoch. Each batch is taken with the weights before its step."""

    def __init__(self) -> None:
        self.codes: list[Tensor] = []  # int64 [B, L] of each batch
        self.loss: Tensor | float = 0.0  # sums over the items
        self.reconstruction: Tensor | float = 0.0

    def add(self, losses: Losses) -> None:
        """Add a batch."""
        self.codes.append(losses.codes)
        self.loss = self.loss + losses.loss.detach() * len(losses.codes)
        self.reconstruction = self.reconstruction + losses.reconstruction * len(losses.codes)

    def used(self, size: int) -> Tensor:
        """Return which of the `size` codes of each level occurred, bool [L, C]."""
        codes = torch.cat(self.codes).T
        return torch.zeros(len(codes), size, dtype=torch.bool, device=codes.device).scatter_(1, codes, True)

    def row(self, epoch: int, used: Tensor, variance: float) -> dict[str, float]:
        """Return the figures of the epoch as a row of the training curves.

        - `loss`: mean over the items.
        - `reconstruction`: mean of |x - x'|^2 divided by `variance`, the mean of |x|^2 of the standardized vectors.
        - `usage_level_1`, ...: share of the level's codes that occurred; `used` is bool [L, C].
        - `collided`: share of the items with the same codes as another item.
        """
        codes = torch.cat(self.codes).cpu()
        *_, groups = prefix_groups(codes)
        usage = used.double().mean(1).tolist()
        return {
            "epoch": epoch,
            "loss": float(self.loss) / len(codes),
            "reconstruction": float(self.reconstruction) / len(codes) / variance,
            **{f"usage_level_{level}": share for level, share in enumerate(usage, start=1)},
            "collided": int(groups.sizes[groups.sizes > 1].sum()) / len(codes),
        }
