"""`--trainer.strategy zero1`: processes that share the optimizer's state have the results of one process, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pandas import read_parquet
from pandas.testing import assert_frame_equal
from policies import TIGER, catalog
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed import FileStore
from torch.multiprocessing import start_processes
from torch.utils._python_dispatch import TorchDispatchMode
from worlds import cyclic

import genrec
from genrec import process_group
from genrec.__main__ import main
from genrec.errors import UsageError
from genrec.experiment import Align, Optimization, Validation
from genrec.model import RPG
from genrec.objectives import PolicyGradient, Preference
from genrec.preference.candidates import Rollouts, Sampled
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.training.lightning_module import adamw
from genrec.training.optimizer_shards import Moments, OptimizerShards
from genrec.training_processes import in_parts
from genrec.types import Objective

PROJECT = Path(__file__).parents[1]
RATE, DECAY, LIMIT = 0.1, 0.01, 0.5


def in_two(call: Any, folder: Path, *arguments: Any) -> list[Any]:
    """Call a function of (rank, file) in two forks, and return what each of them saves in FILE-RANK."""
    start_processes(call, (str(folder / "two"), *arguments), nprocs=2, start_method="fork")
    return [torch.load(folder / f"two-{rank}", weights_only=False) for rank in range(2)]


def parameters() -> list[nn.Parameter]:
    """Return parameters of odd sizes: a matrix, a scalar, one that never has a gradient, and a matrix that is not contiguous."""
    values = torch.randn(124, generator=torch.Generator().manual_seed(0))
    parts = (values[:70].view(7, 10), values[70], values[71:74], values[74:].view(10, 5).t())
    return [nn.Parameter(each) for each in parts]


def gradients(step: int) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Return the gradients of the two processes; the scalar has one in the second process alone."""
    drawn = torch.Generator().manual_seed(step + 1)
    first, second = ([torch.randn(each.shape, generator=drawn) for each in parameters()] for _ in range(2))
    return [first[0], None, None, first[3]], [second[0], second[1], None, second[3]]


def step_of_one(own: list[nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> float:
    """Take a step of a whole optimizer with the sum of the gradients, and return the norm."""
    for each, ours, theirs in zip(own, *gradients(step), strict=True):
        summed = theirs if ours is None else ours if theirs is None else ours + theirs
        each.grad = None if summed is None else torch.empty_like(each).copy_(summed)  # in the order of the parameter, as by autograd
    norm = nn.utils.clip_grad_norm_(own, LIMIT)
    optimizer.step()
    return float(norm)


def step_of_two(shards: OptimizerShards, optimizer: torch.optim.Optimizer, step: int) -> float:
    for each, gradient in zip(shards.parameters, gradients(step)[process_group.rank()], strict=True):
        each.grad = gradient
    norm = shards.add_up_gradients()
    assert all(each.grad is None for each in shards.parameters)
    nn.utils.clip_grads_with_norm_(shards.own, LIMIT, norm)
    optimizer.step()
    shards.exchange()
    return float(norm)


def of_shares(rank: int, file: str, moments: Moments) -> None:
    """Go on from the moments of whole optimizer for three steps; save parameters, norms, moments and sizes of the shares."""
    with process_group.joined(process_group.Meeting(FileStore(file, 2)), rank, 2, strategy="zero1"):
        shards = OptimizerShards(parameters())
        optimizer = adamw(shards.own, RATE, DECAY)
        if moments:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": shards.cut(moments)})
        norms = [step_of_two(shards, optimizer, step) for step in range(3)]
        whole = shards.whole(optimizer.state_dict()["state"])
        found = [each.detach() for each in shards.parameters]
        torch.save((found, norms, whole, [len(each) for each in shards.own], process_group.strategy()), f"{file}-{rank}")


@pytest.mark.parametrize("resumed", [False, True])
def test_shares_are_optimized_like_whole_parameters(resumed: bool, tmp_path: Path) -> None:
    """By hand, in units of 32: 70 numbers are 64 and 6, 1 and 3 are in the first share, 50 are 32 and 18. Also after a checkpoint."""
    own = parameters()
    optimizer = adamw(own, RATE, DECAY)
    moments: Moments = {}
    if resumed:
        step_of_one(own, optimizer, 7)
        moments = deepcopy(optimizer.state_dict()["state"])
        for each, start in zip(own, parameters(), strict=True):
            each.data.copy_(start)
    norms = [step_of_one(own, optimizer, step) for step in range(3)]
    state = optimizer.state_dict()["state"]
    first, second = in_two(of_shares, tmp_path, moments)
    assert (first[3], second[3]) == ([64, 1, 3, 32], [6, 0, 0, 18])
    assert first[4] == second[4] == "zero1"
    for found in (first, second):
        assert found[1] == norms
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], own, strict=True))
    assert torch.equal(own[2], parameters()[2])
    assert second[2] == {}
    assert set(first[2]) == set(state) == {0, 1, 3}
    for number, expected in state.items():
        assert set(first[2][number]) == set(expected)
        assert all(torch.equal(first[2][number][name], value) for name, value in expected.items())
    assert process_group.strategy() == "ddp"


class LargestTensor(TorchDispatchMode):
    """Notes the most bytes of a tensor that an operation returns."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.size = max(self.size, found.nbytes)
        return found


def bytes_of_tiger(rank: int, file: str) -> None:
    """Take a step with a share of the optimizer, and save the bytes of its state and of the largest tensor that this has made."""
    with process_group.joined(process_group.Meeting(FileStore(file, 2)), rank, 2, strategy="zero1"):
        policy: Any = TIGER.build(catalog(60))
        shards = OptimizerShards(list(policy.parameters()))
        optimizer = adamw(shards.own, RATE, DECAY)
        for each in policy.parameters():
            each.grad = torch.ones_like(each)
        with LargestTensor() as largest:
            shards.add_up_gradients()
            gradients = sum(each.grad.nbytes for each in shards.own if each.grad is not None)
            optimizer.step()
            shards.exchange()
        state = sum(value.nbytes for each in optimizer.state.values() for name, value in each.items() if name != "step")
        views = all(own.data_ptr() == each.data_ptr() for own, each in zip(shards.own, shards.parameters, strict=True) if rank == 0)
        torch.save((state, gradients, largest.size, views), f"{file}-{rank}")


def test_each_of_two_processes_holds_half_of_the_state(tmp_path: Path) -> None:
    """The two moments are 8 bytes a number, 4 in each process; a share is at most 32 numbers from half of a parameter.

    Shares take no memory of their own. Gradients are added up one by one: no tensor is larger than a parameter and its padding.
    """
    policy: Any = TIGER.build(catalog(60))
    sizes = [each.numel() for each in policy.parameters()]
    found = in_two(bytes_of_tiger, tmp_path)
    assert sum(state for state, *_ in found) == 8 * sum(sizes)
    for state, summed, largest, views in found:
        assert abs(state - 4 * sum(sizes)) <= 8 * 32 * len(sizes) < 0.1 * 4 * sum(sizes)
        assert abs(summed - 2 * sum(sizes)) <= 4 * 32 * len(sizes)
        assert largest <= 4 * (max(sizes) + 2 * 32)
        assert views


def trained(home: Path, stages: list[str]) -> dict[str, Path]:
    found = {stage: [path.parent for path in (home / "artifacts" / stage).glob("*/manifest.json")] for stage in stages}
    assert all(len(each) == 1 for each in found.values())
    return {stage: each[0] for stage, each in found.items()}


def assert_equal(ours: dict[str, Path], theirs: dict[str, Path]) -> None:
    """Keys, weights, rows of the curves and ranks are equal, to the last bit."""
    for stage in ours:
        assert ours[stage].name == theirs[stage].name
        if stage == "evaluate":
            assert_frame_equal(*(read_parquet(each[stage] / "ranks.parquet") for each in (ours, theirs)))
            continue
        assert_frame_equal(*(read_parquet(each[stage] / "curves.parquet") for each in (ours, theirs)))
        one, other = (load_file(each[stage] / "policy.safetensors") for each in (ours, theirs))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


SMALL_RPG = RPG(d_model=16, d_ff=16, num_heads=2, num_layers=1)


@pytest.mark.parametrize(
    ("policy", "objective"),
    [
        (None, None),
        pytest.param(SMALL_RPG, None, marks=pytest.mark.slow),
        pytest.param(None, Preference(loss=SoftmaxDPO(), candidates=Sampled(Uniform(), 3)), marks=pytest.mark.slow),
        pytest.param(None, PolicyGradient(candidates=Rollouts(size=4)), marks=pytest.mark.slow),
    ],
    ids=["SFT of Tiger", "SFT of RPG", "S-DPO", "GRPO"],
)
def test_processes_with_shares_have_the_results_of_those_without(
    policy: Any, objective: Objective | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two processes with half of the state each have the results of one with steps in two parts; each step has a row of the curves.

    An alignment by two processes has a key of its own, so it is compared with two processes that both keep the whole state, which
    `tests/test_training_processes.py` and `tests/training/test_shared_batches.py` compare with one.
    """
    row = cyclic(steps=6)
    row = replace(row, name="shares", policy=policy or row.policy, sft=replace(row.sft, validation=Validation(every=1)))
    if objective is not None:
        optimization = Optimization(max_steps=4, batch_size=32, learning_rate=1e-3)
        row = replace(row, align=Align(objective=objective, optimization=optimization, validation=Validation(every=1)))
    stages = [each for each in row.stages if each in ("sft", "align", "evaluate")]
    found = []
    others = ("one", in_parts(row, 2), {}) if objective is None else ("whole", row, {"devices": 2})
    for folder, experiment, settings in (("two", row, {"devices": 2, "strategy": "zero1"}), others):
        monkeypatch.setenv("GENREC_HOME", str(tmp_path / folder))
        genrec.run(experiment, **settings)  # type: ignore[arg-type]
        found.append(trained(tmp_path / folder, stages))
    assert_equal(*found)
    ranks = read_parquet(found[0]["evaluate"] / "ranks.parquet")
    assert (len(ranks), ranks["user"].nunique()) == (100, 100)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trainer.strategy", "zero1"], "add --trainer.devices 2 or more, got 1"),
        (["--trainer.devices", "2", "--trainer.strategy", "fsdp"], "must be ddp or zero1, got 'fsdp'; parameters are not divided"),
        (["--trainer.devices", "2", "--trainer.strategy", "zero3", "--dry-run"], "must be ddp or zero1, got 'zero3'"),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused_before_any_stage(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    assert main(["run", "genrec.quickstart:sft", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_fsdp_is_refused_from_python() -> None:
    with pytest.raises(UsageError, match=r"got 'FSDP'; parameters are not divided over processes"):
        genrec.run(cyclic(), devices=2, strategy="FSDP")


EXPERIMENT = """
from dataclasses import replace
import signal_at_step
from genrec.experiment import Align, Optimization, Validation
from genrec.objectives import Preference
from worlds import cyclic

signal_at_step.install()

def row():
    optimization = Optimization(max_steps=6, batch_size=32, learning_rate=1e-3)
    return replace(cyclic(steps=6), align=Align(objective=Preference(), optimization=optimization, validation=Validation(every=2)))
"""


def ran(home: Path, *flags: str, ends: signal.Signals | None = None) -> tuple[int, str]:
    """Run the row on a data folder; a signal ends a process at the third step. Return the exit code and what was printed."""
    home.mkdir(exist_ok=True)
    (home / "mine.py").write_text(EXPERIMENT)
    if ends is not None:
        (home / f"signal-{int(ends)}").touch()
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    environment = os.environ | {"GENREC_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "genrec", "run", "mine.py:row", "--trainer.devices", "2", *flags]
    found = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    return found.returncode, found.stderr


ZERO1 = ("--trainer.strategy", "zero1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the whole optimizer in both processes, that nothing ends."""
    home = tmp_path_factory.mktemp("whole")
    assert ran(home)[0] == 0
    return home


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(ZERO1, ZERO1), (ZERO1, ()), ((), ZERO1)], ids=["both", "first", "second"])
def test_a_killed_training_goes_on_with_either_strategy(
    before: tuple[str, ...], after: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    """A process is killed in the third step of SFT. All end, the checkpoint is that of either strategy, the weights are equal."""
    home = tmp_path / "killed"
    code, said = ran(home, *before, ends=signal.SIGKILL)
    assert code != 0
    assert ("keeps its share of the optimizer's state (zero1)" in said) == bool(before)
    assert not list((home / "artifacts" / "sft").glob("[!.]*/manifest.json"))
    (checkpoint,) = (home / "artifacts" / "sft").glob(".*/**/optimizer.safetensors")
    weights = load_file(checkpoint.with_name("policy.safetensors"))
    assert any(each.shape == weights["embedding.weight"].shape for each in load_file(checkpoint).values())
    code, said = ran(home, *after)
    assert code == 0, said
    assert "resuming from step" in said
    stages = ["sft", "align", "evaluate"]
    assert_equal(trained(home, stages), trained(whole, stages))
    metrics = [json.loads((trained(each, stages)["evaluate"] / "metrics.json").read_text()) for each in (home, whole)]
    assert metrics[0] == metrics[1]
