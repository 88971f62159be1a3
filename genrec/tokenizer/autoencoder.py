"""The RQ-VAE's network and loss.

Sources: Lee et al. 2022 (2203.01941), section 3.1; TIGER (Rajput et al. 2023, 2305.05065), section 3.1; the rotation trick of
Fifty et al. 2024 (2410.06424), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from genrec.tokenizer.residual_quantization import chosen_entries, quantize

Gradient = Literal["straight-through", "rotation"]


class Losses(NamedTuple):
    """The loss of a batch, the codes and residuals that update the codebooks, and the tensors that further terms read."""

    loss: Tensor  # float32 []
    codes: Tensor  # int64 [B, L]
    residuals: Tensor  # float32 [L, B, latent]  inputs of each level's quantization, detached
    reconstruction: Tensor  # float32 []  mean of |x - x'|^2 over the batch, detached
    entries: Tensor  # float32 [L, B, latent]  the codebook entries of the codes, with the codebooks' gradient
    quantized: Tensor  # float32 [B, latent]  their sum, with the latents' gradient: the input of the decoder


class ResidualAutoencoder(nn.Module):
    """Encoder, codebooks and decoder. Parameters are uninitialized until `initialize` or `load_state_dict` is called."""

    mean: Tensor  # float32 [D]  mean of the training vectors
    scale: Tensor  # float32 [D]  standard deviation of the training vectors; 1 for a constant dimension

    def __init__(self, width: int, hidden_dims: Sequence[int], latent_dim: int, num_levels: int, codebook_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(width))
        self.register_buffer("scale", torch.empty(width))
        self.encoder = _perceptron([width, *hidden_dims, latent_dim])
        self.decoder = _perceptron([latent_dim, *reversed(hidden_dims), width])
        self.codebooks = nn.Parameter(torch.empty(num_levels, codebook_size, latent_dim))

    def standardize(self, vectors: Tensor) -> Tensor:
        """Scale vectors float32 [B, D] so that every dimension of the training vectors has mean 0 and standard deviation 1."""
        return (vectors - self.mean) / self.scale

    def latents(self, standardized: Tensor) -> Tensor:
        """Encode standardized vectors: float32 [B, D] -> z float32 [B, latent]."""
        latents: Tensor = self.encoder(standardized)
        return latents.float()

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Decode codes into vectors: int64 [B, L] -> float32 [B, D]."""
        decoded: Tensor = self.decoder(chosen_entries(codes, self.codebooks).sum(0))
        return decoded * self.scale + self.mean

    def losses(self, standardized: Tensor, commitment_weight: float, gradient: Gradient = "straight-through") -> Losses:
        """Return the loss of a batch of standardized vectors x, float32 [B, D] (TIGER, section 3.1).

            |x - x'|^2 + sum over l of (|sg[r_l] - e_l|^2 + commitment_weight |r_l - sg[e_l]|^2), mean over the batch

        sg stops the gradient, squares are summed over dimensions, and x' = decoder(q). q has the value of the sum of the e_l;
        `gradient` selects how the gradient passes from q to z. Earlier entries are constants: r_l = z - sg[e_1 + ... + e_{l-1}].
        Lee et al., section 3.1, instead compare z with e_1 + ... + e_l in the commitment loss. Codebooks without gradients
        contribute the codebook term to the loss value only.
        """
        latents = self.latents(standardized)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            codes, residuals = quantize(latents, self.codebooks)
        entries = chosen_entries(codes, self.codebooks)
        before = latents.detach() - residuals  # sum of earlier entries e_1 + ... + e_{l-1}, float32 [L, B, latent]
        passed = ESTIMATORS[gradient](latents, entries.sum(0).detach())
        reconstruction = (self.decoder(passed).float() - standardized).square().sum(1)
        codebook = (residuals - entries).square().sum(2).sum(0)
        commitment = (latents - before - entries.detach()).square().sum(2).sum(0)
        loss = (reconstruction + codebook + commitment_weight * commitment).mean()
        return Losses(loss, codes, residuals, reconstruction.detach().mean(), entries, passed)


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """Return q = z + sg[e - z], float32 [B, latent]: the value of e, with the gradient of z unchanged."""
    return latents + (quantized - latents).detach()


def rotation(latents: Tensor, quantized: Tensor) -> Tensor:
    """Return q = sg[|e| / |z| R] z, float32 [B, latent], where R rotates the direction of z to that of e in their plane.

    The value is e. The gradient is rotated and scaled in the same way, so that it keeps its angle to the vector. With the unit
    vectors a = z/|z|, b = e/|e| and r = (a + b)/|a + b|: R z = z - 2 r r'z + 2 b a'z (Fifty et al. 2024, equation 3). The rotation
    is applied once, to the sum over levels. Opposite or zero vectors span no plane; there the gradient is straight-through.
    """
    with torch.no_grad():
        length, target = latents.norm(dim=1, keepdim=True), quantized.norm(dim=1, keepdim=True)
        a, b = latents / length.clamp(min=1e-12), quantized / target.clamp(min=1e-12)
        middle = a + b
        degenerate = (middle.norm(dim=1, keepdim=True) < 1e-3) | (length < 1e-12) | (target < 1e-12)
        r = functional.normalize(middle, dim=1)
    rotated = latents - 2 * r * (r * latents).sum(1, keepdim=True) + 2 * b * (a * latents).sum(1, keepdim=True)
    rotated = rotated * (target / length.clamp(min=1e-12))
    return torch.where(degenerate, straight_through(latents, quantized), rotated)


ESTIMATORS = {"straight-through": straight_through, "rotation": rotation}


def initialize(model: ResidualAutoencoder, generator: Generator) -> None:
    """Draw Kaiming-uniform weights and uniform biases, torch's defaults for linear layers, from the generator only."""
    for layer in [*model.encoder, *model.decoder]:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers with ReLU between them, without a draw from torch's global generator."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.utils.skip_init(nn.Linear, inputs, outputs), nn.ReLU()]  # type: ignore[no-untyped-call]
    return nn.Sequential(*layers[:-1])
