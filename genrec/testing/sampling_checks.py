"""Checks of policies that draw items without replacement (`genrec.types.SamplingPolicy`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec.testing.plugin_watch import call_plugin
from genrec.testing.specification_checks import ContractError
from genrec.types import ConstrainedPolicy, ItemSample, Policy, SamplingPolicy
from genrec.types.event_history import items_of
from genrec.value_forms import form_of

SAMPLE_SIZE = 8  # items of a sample
NUM_ALLOWED = 4  # items that remain when nearly all are excluded
NUM_ROWS = 4_000  # samples of one history whose first draws are counted
TOLERANCE = 1e-3  # rounding error of a log-probability
MAX_DEVIATIONS = 6.0  # of a count from its expectation, in standard deviations


def check_sampling(name: str, policy: Policy, history: Tensor, log_probs: Tensor) -> None:
    """Raise ContractError unless `sample_items` of a policy that has it draws distinct allowed items by its probabilities.

    `log_probs`, float32 [B, 1 + N], holds those of all items for histories int64 [B, T]; column 0 is no item. The Semantic IDs are
    distinct.
    """
    if not isinstance(policy, SamplingPolicy):
        return
    items = log_probs.shape[1] - 1
    nearly_all = torch.arange(1, items + 1 - NUM_ALLOWED).expand(len(history), -1).contiguous()
    states = torch.get_rng_state()
    for exclude in (None, items_of(history), nearly_all):
        first, second = (_draw(name, policy, history, SAMPLE_SIZE, exclude, log_probs) for _ in range(2))
        if not torch.equal(first.items, second.items) or not torch.equal(torch.get_rng_state(), states):
            raise ContractError(
                f"{name}: sample_items draws other items by the same generator, or from torch's global generator; draw all random "
                "numbers from the generator given"
            )
    if isinstance(policy, ConstrainedPolicy):
        _check_frequencies(name, policy, history[-1:], items)


def _draw(name: str, policy: Any, history: Tensor, n: int, exclude: Tensor | None, log_probs: Tensor) -> ItemSample:
    """Return a sample of each history; raise ContractError if it breaks the contract."""
    random = torch.Generator().manual_seed(0)
    sample: ItemSample = call_plugin(name, f"a sample of {n} items", lambda: policy.sample_items(history, n, exclude, random))
    _check_form(name, sample, (len(history), n))
    count, drawn = log_probs.shape[1] - 1, sample.items
    if int(drawn.min()) < 0 or int(drawn.max()) > count:
        raise ContractError(f"{name}: sample_items drew items {int(drawn.min())}..{int(drawn.max())}; items are 1..{count}, 0: none")
    for row, entries in enumerate(drawn.tolist()):
        out = set() if exclude is None else set(exclude[row].tolist()) - {0}
        found = [item for item in entries if item]
        expected = min(n, count - len(out))
        if len(set(found)) != len(found) or set(found) & out or len(found) != expected or entries[: len(found)] != found:
            raise ContractError(
                f"{name}: sample_items must draw {expected} distinct items that are not excluded, and end in items 0 only if fewer "
                f"than {n} are left; got {entries} with {len(out)} of {count} items excluded"
            )
    difference = (sample.log_prob - log_probs.gather(1, drawn)).masked_fill(drawn == 0, 0).abs().max()
    if not difference <= TOLERANCE:
        raise ContractError(f"{name}: ItemSample.log_prob must be log_prob of the items; they differ by up to {difference:g}")
    return sample


def _check_form(name: str, sample: object, shape: tuple[int, int]) -> None:
    """Check the type, data types and shapes of a sample; `shape` is that of its items."""
    if not isinstance(sample, ItemSample):
        raise ContractError(f"{name}: sample_items must return genrec.types.ItemSample, got {type(sample).__name__}")
    expected = {"items": (torch.int64, shape), "log_prob": (torch.float32, shape), "constrained": (torch.float32, shape)}
    for field, (dtype, size) in (expected | {"threshold": (torch.float32, shape[:1])}).items():
        tensor = getattr(sample, field)
        if tensor.dtype != dtype or tuple(tensor.shape) != size:
            raise ContractError(
                f"{name}: ItemSample.{field} must be {dtype} {list(size)}, got {form_of(tensor)}".replace("torch.", "")
            )


def _check_frequencies(name: str, policy: Any, history: Tensor, items: int) -> None:
    """Check how often each item is the first draw, for one history int64 [1, T] in many rows."""
    exact = policy.constrained_level_log_prob(history, torch.arange(1, items + 1)[None]).sum(-1)[0].double().exp()
    random = torch.Generator().manual_seed(0)
    first = policy.sample_items(history.repeat_interleave(NUM_ROWS, 0), 1, None, random).items[:, 0]
    counts = torch.bincount(first, minlength=items + 1)[1 : items + 1]
    deviation = (counts - NUM_ROWS * exact).abs() / (NUM_ROWS * exact * (1 - exact) + 1).sqrt()
    if bool((deviation > MAX_DEVIATIONS).any()):
        item = int(deviation.argmax())
        raise ContractError(
            f"{name}: sample_items draws item {item + 1} first in {int(counts[item])} of {NUM_ROWS} samples, where its probability "
            f"over the codes of real items is {float(exact[item]):.4f}"
        )
