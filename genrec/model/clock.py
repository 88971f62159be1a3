"""Where the time of decoding goes: the policy's own arithmetic, and the trie's. For benchmarks and for the test that bounds it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from genrec.model.beam_search import Decoding, State
from genrec.model.trie import Trie

Result = TypeVar("Result")


class DecodingTime(NamedTuple):
    """Of one `Trie.recommend`, the reading of the histories included."""

    total: float  # seconds
    policy: float  # seconds of it in the policy: reading, `start` and `advance`

    @property
    def trie_share(self) -> float:
        """The share of candidates, masks, top-k and lists, 0 to 1."""
        return 1 - self.policy / self.total


class _Timed:
    """A `Decoding` that notes the seconds it takes; it waits for a GPU before and after each call."""

    def __init__(self, inner: Decoding, device: torch.device, seconds: float) -> None:
        self.inner, self.device, self.seconds = inner, device, seconds

    def start(self) -> tuple[Tensor, State]:
        """As of `Decoding`."""
        return self._time(self.inner.start)

    def advance(self, level: int, state: State, beam: Tensor, code: Tensor) -> tuple[Tensor, State]:
        """As of `Decoding`."""
        return self._time(lambda: self.inner.advance(level, state, beam, code))

    def _time(self, call: Callable[[], Result]) -> Result:
        began = now(self.device)
        result = call()
        self.seconds += now(self.device) - began
        return result


def now(device: torch.device) -> float:
    """Seconds by a clock that has waited for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def decoding_time(
    read: Callable[[Tensor], Decoding], trie: Trie, history: Tensor, beams: int, n: int, exclude: Tensor | None = None
) -> DecodingTime:
    """Time one batch: `decoding_time(policy.decoding, policy.trie, history, beams=20, n=20).trie_share`. Warm up by calling twice."""
    began = now(history.device)
    decoding = _Timed(read(history), history.device, 0.0)
    decoding.seconds = now(history.device) - began
    trie.recommend(decoding, beams, n, exclude)
    return DecodingTime(now(history.device) - began, decoding.seconds)
