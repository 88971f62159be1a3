"""Lower bounds for `policy.py`: computed operations divided by the measured speed of a matrix product.

Also the time of the search without the network, and torch's profile of a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from policy_shapes import Sizes, Step, wait
from torch import Tensor
from torch.nn import functional


def encoder_operations(sizes: Sizes, tokens: int) -> float:
    """Return the operations (two per multiply-add) to encode `tokens` tokens, with the decoder's keys and values of them.

    With D the width, P = heads x head width and F the inner width, a token of a layer takes 4 D P (query, key, value, output)
    + 2 D F (feed-forward) + 2 S P (scores and mixture over S tokens), and 2 D P more for the keys and values of each decoder layer.
    """
    inside = sizes.heads * sizes.head_width
    layer = 4 * sizes.width * inside + 2 * sizes.width * sizes.inner + 2 * tokens * inside
    return 2.0 * tokens * sizes.layers * (layer + 2 * sizes.width * inside)


def decoder_operations(sizes: Sizes, tokens: int, codes: int, candidates: int) -> float:
    """Return the operations to decode `candidates` of `codes` codes each over a history of `tokens`, without its keys and values.

    A code of a layer takes 4 D P + 2 D P (self-attention; query and output of the attention to the history) + 2 D F
    + 2 (S + codes) P, and D x (codes of a level) for the softmax at the end.
    """
    inside = sizes.heads * sizes.head_width
    layer = 6 * sizes.width * inside + 2 * sizes.width * sizes.inner + 2 * (tokens + codes) * inside
    return 2.0 * candidates * codes * (sizes.layers * layer + sizes.width * sizes.codes)


def training_operations(sizes: Sizes, tokens: int) -> float:
    """Return the operations of one training example: three forward passes (outputs, gradients of inputs and of weights)."""
    return 3 * (encoder_operations(sizes, tokens) + decoder_operations(sizes, tokens, sizes.levels, 1))


def alignment_operations(sizes: Sizes, tokens: int, negatives: int) -> float:
    """Return the operations of one preference: policy forward and backward, reference forward; each encodes the history once."""
    return 4 * (encoder_operations(sizes, tokens) + decoder_operations(sizes, tokens, sizes.levels, 1 + negatives))


def decoding_operations(sizes: Sizes, tokens: int, beams: int) -> float:
    """Return the operations to decode one user: the history once, the first level once, `beams` beams on each later level."""
    return encoder_operations(sizes, tokens) + decoder_operations(sizes, tokens, 1, 1 + beams * (sizes.levels - 1))


def needs(sizes: Sizes) -> dict[str, float]:
    """Return the operations of each unit of work, with a history of codes and of items."""
    result = {}
    for kind, tokens in (("codes", sizes.history * sizes.levels), ("items", sizes.history)):
        result[f"training example, {kind}"] = training_operations(sizes, tokens)
        result[f"S-DPO history, K = 3, {kind}"] = alignment_operations(sizes, tokens, 3)
        result[f"user, 20 beams, {kind}"] = decoding_operations(sizes, tokens, 20)
    return result


def products(sizes: Sizes, rows: int, precision: str, device: str) -> dict[str, tuple[Callable[[], Tensor], float]]:
    """Return matrix products of the model's shapes by name, with their operations."""
    dtype, inside = getattr(torch, precision), sizes.heads * sizes.head_width
    shapes = [(sizes.width, 3 * inside), (inside, sizes.width), (sizes.width, sizes.inner), (sizes.inner, sizes.width)]
    result: dict[str, tuple[Callable[[], Tensor], float]] = {}
    generator = torch.Generator().manual_seed(0)
    for inputs, outputs in shapes:
        states = torch.randn(rows, inputs, generator=generator).to(device, dtype)
        weight = torch.randn(outputs, inputs, generator=generator).to(device, dtype)
        work = 2.0 * rows * inputs * outputs
        result[f"linear {inputs} to {outputs}"] = (lambda x=states, w=weight: functional.linear(x, w), work)
        if precision == "float32":  # uses another library, which is faster on some processors
            image = states.T.reshape(1, inputs, rows, 1).contiguous(memory_format=torch.channels_last)
            result[f"1x1 conv2d {inputs} to {outputs}"] = (lambda x=image, w=weight[:, :, None, None]: functional.conv2d(x, w), work)
    return result


@torch.no_grad()
def peak(product: Callable[[], Tensor], operations: float, device: str, seconds: float) -> float:
    """Return the highest rate, in operations per second, of short runs that fill `seconds`."""
    for _ in range(3):
        product()
    best, until = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < until:
        wait(device)
        began = time.perf_counter()
        for _ in range(5):
            product()
        wait(device)
        best = max(best, 5 * operations / (time.perf_counter() - began))
    return best


class RandomDecoding:
    """A `Decoding` with log-probabilities drawn in advance, so that only the search is timed."""

    def __init__(self, batch: int, beams: int, sizes: Sizes, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        levels = torch.randn(sizes.levels, batch, beams, sizes.codes, generator=generator).log_softmax(-1)
        self.levels = levels.to(device)

    def start(self) -> tuple[Tensor, None]:
        """Return the first level."""
        return self.levels[0, :, 0], None

    def advance(self, level: int, state: None, beam: Tensor, code: Tensor) -> tuple[Tensor, None]:
        """Return the next level."""
        return self.levels[level + 1, :, : beam.shape[1]], None


def search_steps(policy: Any, batch: int, beams: int, sizes: Sizes, device: str) -> tuple[Step, Step]:
    """Return a step of the search over the trie without a network, and one without the trie, in which all codes are candidates."""
    decoding = RandomDecoding(batch, beams, sizes, device)

    def constrained() -> int:
        policy.trie.recommend(decoding, beams, beams, None)
        return batch

    def unconstrained() -> int:
        score, code = decoding.levels[0, :, 0].topk(min(beams, sizes.codes))
        for level in range(sizes.levels - 1):
            following, _ = decoding.advance(level, None, code, code)
            total = (score.unsqueeze(-1) + following).flatten(1)
            score, code = total.topk(min(beams, total.shape[1]))
        return batch

    return constrained, unconstrained


def profile(step: Step, device: str) -> str:
    """Return the operators of one step, the slowest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    step()
    wait(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with record(activities=activities) as recorded:
        step()
        wait(device)
    order = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    return str(recorded.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=40))
