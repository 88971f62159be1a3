"""Benchmark of alignment: seconds of a training step of S-DPO, gated on-policy S-DPO and GRPO, for exact scores and for beams.

    python experiments/benchmarks/alignment.py                        # SASRec and a causal Tiger, 12,101 items
    python experiments/benchmarks/alignment.py tiger --rounds 5
    python experiments/benchmarks/alignment.py --tiny                 # seconds; tests that it runs, measures nothing

| step | objective | batch |
|---|---|---|
| `sdpo` | S-DPO with 15 uniform negatives | prefixes |
| `sdpo windows` | the same on every target of a window | windows |
| `gated windows` | S-DPO against the policy's top 16, chosen in every step, with the hit gate | windows |
| `ungated windows` | the same without the gate: as if every row passed it | windows |
| `grpo` | GRPO over the policy's top 16 with a hit reward and k3 | prefixes |
| `grpo samples` | the same over 16 samples without replacement | prefixes |

All steps of a policy have the same number of targets: a window has 20 of them, and the prefixes are those of such windows. The
likelihood stands beside each loss with weight 1. A step is a batch, its candidates, the forward passes of policy and reference, the
backward pass, clipping and AdamW. SASRec lists exactly, Tiger searches with 16 beams.

The steps alternate, and a ratio is the median of the rounds' ratios. On a machine with other work, compare processor seconds with
`OMP_NUM_THREADS=1`. Weights are untrained, so that few rows pass the gate; `ungated windows` is the upper bound of a trained policy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

import pandas as pd
import torch
from policy_shapes import TINY, Sizes, semantic_ids, wait
from torch import Tensor

from genrec.baselines import SASRec
from genrec.data.examples import Examples, Windows
from genrec.environment import processor
from genrec.model import Tiger
from genrec.objectives import Preference
from genrec.objectives.frozen_policy import FrozenCopy
from genrec.objectives.policy_gradient import PolicyGradient
from genrec.preference.candidates import Rollouts, Sampled, TopItems
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.policy_gradient import Clip
from genrec.semantic_ids import SemanticIds
from genrec.training.lightning_module import adamw
from genrec.types import ObjectiveContext, SamplerContext

GROUP = 16  # candidates of a row
REFERENCE = {
    "sdpo windows": "sdpo",
    "gated windows": "sdpo windows",
    "ungated windows": "sdpo windows",
    "grpo": "sdpo",
    "grpo samples": "sdpo",
}
GRPO_LIMITS = {"grpo": 4.0, "grpo samples": 4.0}
LIMITS = {"sasrec": {"gated windows": 1.5} | GRPO_LIMITS, "tiger": {"gated windows": 3.0} | GRPO_LIMITS}
WINDOWS = {"sasrec": 64, "tiger": 8}  # windows of a step


def objectives() -> dict[str, Any]:
    """Return the objective of each step."""
    common = {"loss": SoftmaxDPO(), "likelihood": 1.0}
    grpo = PolicyGradient(candidates=Rollouts(size=GROUP), surrogate=Clip(), kl=1e-3, likelihood=1.0)
    return {
        "sdpo": Preference(**common, candidates=Sampled(num_negatives=GROUP - 1)),
        "sdpo windows": Preference(**common, candidates=Sampled(num_negatives=GROUP - 1), targets="all"),
        "gated windows": Preference(**common, candidates=TopItems(size=GROUP), targets="all"),
        "ungated windows": Preference(**common, candidates=TopItems(size=GROUP, gate=False), targets="all"),
        "grpo": grpo,
        "grpo samples": replace(grpo, candidates=Rollouts(size=GROUP, by="samples")),
    }


class Sequences(NamedTuple):
    """Random sequences of equal length, as an `ExampleSource`."""

    items: Tensor  # int64 [U, T + 1]

    def prefixes(self, feedback: Any = "not disliked") -> Examples:
        """Return one example for every target."""
        users, length = self.items.shape
        begin = torch.arange(users) * length
        number = torch.arange(1, users + 1)
        return Examples(self.items.flatten(), number, begin, begin + 1, number * (length - 1), length - 1)

    def windows(self, padding: Any = "zero", feedback: Any = "not disliked") -> Windows:
        """Return one window for each sequence."""
        users, length = self.items.shape
        number = torch.arange(1, users + 1)
        return Windows(
            self.items.flatten(), number, torch.arange(users) * length, torch.full((users,), length - 1), number, length - 1, padding
        )

    def table(self) -> pd.DataFrame:
        """Return the events: user, item and time."""
        users, length = self.items.shape
        user = torch.arange(1, users + 1).repeat_interleave(length)
        return pd.DataFrame({"user": user.numpy(), "item": self.items.flatten().numpy(), "time": torch.arange(users * length).numpy()})


def tiger(sizes: Sizes) -> Tiger:
    """Return a causal TIGER of these sizes that searches with as many beams as a group has candidates."""
    return Tiger(
        d_model=sizes.width, d_ff=sizes.inner, num_heads=sizes.heads, d_kv=sizes.head_width, num_encoder_layers=sizes.layers,
        num_decoder_layers=sizes.layers, dropout=sizes.dropout, encoder="causal", num_beams=GROUP,
    )  # fmt: skip


def make_step(name: str, specification: Any, ids: SemanticIds, length: int, windows: int, device: str) -> Callable[[], None]:
    """Return a training step of one objective with a policy of its own."""
    torch.manual_seed(0)
    policy = specification.build(ids).to(device).train()
    sequences = Sequences(torch.randint(1, ids.items + 1, (8 * windows, length + 1), generator=torch.Generator().manual_seed(1)))
    popularity = torch.bincount(sequences.items.flatten(), minlength=ids.items + 1)
    vectors = torch.zeros(ids.items + 1, 1)
    reference = FrozenCopy(policy)
    data = SamplerContext(ids.items, sequences.table(), popularity, vectors, ids, reference.policy)
    batch_size = windows if name.endswith("windows") else windows * length
    context = ObjectiveContext(
        policy=policy, reference=reference, source=sequences, data=lambda: data, frozen_copy=lambda label: FrozenCopy(policy),
        normalize="codes", steps=1_000, batch_size=batch_size, seed=0,
    )  # fmt: skip
    built = objectives()[name].build_step(context)
    optimizer, numbers = adamw(policy.parameters(), learning_rate=1e-4, weight_decay=0.0), count()
    order = torch.randperm(len(built.examples), generator=torch.Generator().manual_seed(2)).split(batch_size)

    def step() -> None:
        number = next(numbers)
        prepared = built.prepare(built.examples.batch(order[number % len(order)]), number)
        loss, _ = built.loss(to_device(prepared, device), number)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def to_device(value: Any, device: str) -> Any:
    """Move tensors, and named tuples of tensors, to a device, as Lightning does."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(each, device) for each in value))
    return value


def measure(steps: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, list[tuple[float, float]]]:
    """Return seconds and processor seconds of each step, for each round; the steps alternate, and one warm-up is not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            wait(device)
            began = time.perf_counter(), time.process_time()
            step()
            wait(device)
            if number:
                seconds[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return seconds


def main() -> None:
    """Measure the chosen policies and print a JSON line for each step and a table for each policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="*", choices=[*LIMITS, []], default=[], help="sasrec, tiger; default: both")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; a figure is the median over them")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: tests that it runs, measures nothing")
    options = parser.parse_args()
    sizes = TINY if options.tiny else Sizes()
    machine = f"{processor()}, {torch.get_num_threads()} threads" if options.device == "cpu" else torch.cuda.get_device_name()
    for name in options.policies or list(LIMITS):
        windows = 2 if options.tiny else WINDOWS[name]
        if name == "sasrec":
            ids, specification = SemanticIds(torch.arange(sizes.items)[:, None]), SASRec(max_positions=sizes.history)
        else:
            ids, specification = semantic_ids(sizes), tiger(sizes)
        steps = {step: make_step(step, specification, ids, sizes.history, windows, options.device) for step in objectives()}
        seconds = measure(steps, options.rounds, options.device)
        print_table(name, seconds, windows * sizes.history, machine)


def print_table(policy: str, seconds: dict[str, list[tuple[float, float]]], targets: int, machine: str) -> None:
    """Print the medians and the ratios of one policy."""
    print(f"\n{policy}: {targets} targets a step, {machine}\n")
    print("| step | s | processor s | compared with | ratio of s | ratio of processor s | at most |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for name, times in seconds.items():
        other, figures, ratios = REFERENCE.get(name, name), [], []
        for kind in (0, 1):
            figures.append(f"{statistics.median(each[kind] for each in times):.3g}")
            pairs = zip(times, seconds[other], strict=True)
            ratios.append(f"{statistics.median(mine[kind] / theirs[kind] for mine, theirs in pairs):.2f}")
        print(f"| {' | '.join([name, *figures, other, *ratios, str(LIMITS[policy].get(name, ''))])} |")
    print()
    for name, times in seconds.items():
        wall, processor_seconds = ([each[kind] for each in times] for kind in (0, 1))
        row = {"policy": policy, "step": name, "targets": targets, "seconds": wall, "processor_seconds": processor_seconds}
        print(json.dumps(row | {"machine": machine}), flush=True)


if __name__ == "__main__":
    main()
