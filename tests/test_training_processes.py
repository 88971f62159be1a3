"""`--trainer.devices`: processes that train together have the result of one process with as many parts of a step, bit for bit."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from alignments import built_step, take
from alignments import recipe as alignment
from pandas import read_parquet
from pandas.testing import assert_frame_equal
from preference_stages import stage
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed import FileStore
from torch.multiprocessing import start_processes
from trainings import training_examples
from worlds import cyclic

import genrec
from genrec import process_group
from genrec.__main__ import main
from genrec.baselines import Popularity
from genrec.errors import UsageError
from genrec.experiment import Align, Experiment, Optimization, Validation
from genrec.objectives import Preference
from genrec.objectives.preference_state import PreferenceState, preference_states
from genrec.preference.candidates import Sampled
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.preference.rewards import Popular
from genrec.training.batch_stream import BatchStream
from genrec.training.lightning_module import PartLog, mean_logs, of_all_processes
from genrec.training.shared_state import check_equal, check_processes, clear_counts, collect_counts
from genrec.training_processes import in_parts, train_together
from genrec.types import Objective
from genrec.workspace import store

PROJECT = Path(__file__).parents[1]


def of_two(monkeypatch: pytest.MonkeyPatch, rank: int, other: Callable[[Any], Any]) -> None:
    """Let this process be one of two, of which the other one sends what `other` makes of this one's value."""
    monkeypatch.setattr(process_group, "rank", lambda: rank)
    monkeypatch.setattr(process_group, "size", lambda: 2)
    monkeypatch.setattr(process_group, "of_all", lambda value: [value, other(value)] if rank == 0 else [other(value), value])


def artifacts(stage: str) -> list[Path]:
    return sorted(path.parent for path in (store().root / stage).glob("*/manifest.json"))


@pytest.mark.parametrize(
    ("objective", "devices"),
    [
        (None, 2),
        pytest.param(Preference(loss=SoftmaxDPO(), candidates=Sampled(Uniform(), 3)), 2, marks=pytest.mark.slow),
        pytest.param(Preference(loss=SoftmaxDPO(), candidates=Sampled(Uniform(), 3)), 4, marks=pytest.mark.slow),
    ],
    ids=["SFT", "S-DPO", "S-DPO with four"],
)
def test_processes_have_the_results_of_one(
    objective: Objective | None, devices: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SFT, and an alignment if there is an objective: weights, curves and counts of negatives are equal, as is the key of SFT.

    `tests/training/test_shared_batches.py` has objectives with statistics of a batch, which differ from those of a part.
    """
    row = replace(cyclic(steps=6), name="together")
    if objective is not None:
        optimization = Optimization(max_steps=4, batch_size=32, learning_rate=1e-3)
        row = replace(row, align=Align(objective=objective, optimization=optimization, validation=Validation(every=2)))
    trained = [each for each in row.stages if each in ("sft", "align")]
    found: list[dict[str, Any]] = []
    for folder, count, experiment in (("several", devices, row), ("one", 1, in_turns(row, devices))):
        monkeypatch.setenv("GENREC_HOME", str(tmp_path / folder))
        genrec.run(experiment, devices=count)
        found.append({each: artifacts(each)[0] for each in (*trained, "evaluate")})
    several, one = found
    for each in trained:
        assert (several[each].name == one[each].name) == (each == "sft")
        assert_frame_equal(read_parquet(several[each] / "curves.parquet"), read_parquet(one[each] / "curves.parquet"))
        ours, theirs = (load_file(folder[each] / "policy.safetensors") for folder in (several, one))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("drawn_negatives.parquet", "negatives.json") if "align" in trained else ():
        assert (several["align"] / name).is_file() == isinstance(objective, Preference)
        assert not isinstance(objective, Preference) or (several["align"] / name).read_bytes() == (one["align"] / name).read_bytes()
    assert len(read_parquet(several["evaluate"] / "ranks.parquet")) == 100  # each user once


def in_turns(row: Experiment, count: int) -> Experiment:
    """Return an experiment that computes the parts of a step one after the other."""
    sft, *aligned = (replace(each, optimization=replace(each.optimization, accumulate=count)) for each in (row.sft, *row.alignments))
    return replace(row, sft=sft, align=aligned[0] if aligned else None)


def one_of_three(rank: int, file: str) -> None:
    """Write the sum over three processes."""
    with process_group.joined(process_group.Meeting(FileStore(file, 3)), rank, 3):
        values = torch.tensor([[1e8, 1.0, 2.0, 1.0], [-1e8, 1e8, 4.0, 1.0], [1.0, -1e8, 8.0, 1.0]])[rank]
        torch.save(process_group.sum_in_order(values), f"{file}-{rank}")


def test_gradients_are_added_up_in_the_order_of_the_processes(tmp_path: Path) -> None:
    """By hand, in float32: (1e8 - 1e8) + 1 = 1, but (1 + 1e8) - 1e8 = 0. The first share has all four places.

    Forks have the libraries of this process; sums of four numbers use no threads, which a fork would lack.
    """
    start_processes(one_of_three, (str(tmp_path / "sum"),), nprocs=3, start_method="fork")
    assert [torch.load(tmp_path / f"sum-{rank}").tolist() for rank in range(3)] == [[1.0, 0.0, 14.0, 3.0]] * 3


def test_parts_go_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    for rank in (0, 1):
        of_two(monkeypatch, rank, lambda value: value)
        parts = next(iter(BatchStream(training_examples(), 16, seed=1, start=0, parts=5)))
        assert [part.targets for part in parts] == [4, 3, 3, 3, 3]
        assert [part.number for part in parts if part.batch is not None] == list(range(rank, 5, 2))
        seen += [user for part in parts if part.batch is not None for user in part.batch.user.tolist()]
    monkeypatch.undo()
    (whole,) = next(iter(BatchStream(training_examples(), 16, seed=1, start=0)))
    assert sorted(seen) == sorted(whole.batch.user.tolist())


def test_logs_of_a_step_are_joined_in_the_order_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: parts 0 and 2 here, 1 in the other process; (.5 * 1 + .25 * 2 + .25 * 3) = 1.75."""
    here = [PartLog(0, 0.5, {"loss": torch.tensor(1.0)}), PartLog(2, 0.25, {"loss": torch.tensor(3.0)})]
    of_two(
        monkeypatch, 0, lambda value: [[PartLog(1, 0.25, {"loss": torch.tensor(2.0)})], [PartLog(0, 1.0, {"loss": torch.tensor(4.0)})]]
    )
    first, second = of_all_processes([here, []])
    assert [each.number for each in first] == [0, 1, 2]
    assert (float(mean_logs(first)["loss"]), float(mean_logs(second)["loss"])) == (1.75, 4.0)


def state_with_draws() -> PreferenceState:
    """Return the state of an objective after a step of 16 examples with 2 negatives each, in which a reward prefers an item."""
    step, _, frozen, batch = built_step(alignment(num_negatives=2, reward=Popular(), chosen="best"))
    take(step, frozen, batch, 0)
    (state,) = preference_states(step.state)
    return state


@pytest.mark.parametrize("rank", [0, 1])
def test_counts_are_collected_by_the_first_process(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    state = state_with_draws()
    rows, draws = int(state.statistics.totals["rows"]), int(state.draw_counts.table()["count"].sum())
    assert state.preferred is not None
    preferred = int(state.preferred.table()["count"].sum())
    assert rows == 16
    assert 0 < preferred <= 16
    assert 0 < draws <= 32
    of_two(monkeypatch, rank, lambda value: {name: each.clone() for name, each in value.items()} if isinstance(value, dict) else True)
    collect_counts(state)
    assert int(state.statistics.totals["rows"]) == (32 if rank == 0 else 0)
    assert state.draw_counts.table()["count"].sum() == (2 * draws if rank == 0 else 0)
    assert state.preferred.table()["count"].sum() == (2 * preferred if rank == 0 else 0)
    assert bool(state.gated)  # in one of them


def test_a_resumed_process_has_the_counts_of_a_checkpoint_only_if_it_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_with_draws()
    of_two(monkeypatch, 0, lambda value: value)
    clear_counts(state)
    assert int(state.statistics.totals["rows"]) == 16
    of_two(monkeypatch, 1, lambda value: value)
    clear_counts(state)
    assert state.preferred is not None
    counts = [len(each.table()) for each in (state.draw_counts, state.preferred)]
    assert (int(state.statistics.totals["rows"]), *counts) == (0, 0, 0)


def test_tensors_that_differ_between_processes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A count may differ, a last bit of a weight may not. Also bfloat16, bool, an empty tensor and a scalar are compared."""
    tensors: dict[str, Tensor] = {
        "weight": torch.ones(3, dtype=torch.bfloat16),
        "own.rows": torch.tensor(4),
        "0.preferred_pairs": torch.tensor([7]),
        "flag": torch.tensor([True]),
        "none": torch.ones(0, 2),
    }
    of_two(monkeypatch, 0, dict)
    check_equal(tensors)
    of_two(monkeypatch, 0, lambda value: {name: each for name, each in value.items() if "preferred" not in name})
    check_equal(tensors)
    of_two(monkeypatch, 0, lambda value: {**value, "flag": "another"})
    with pytest.raises(UsageError, match="processes 0 and 1 of this training have different values of flag"):
        check_equal(tensors)


def test_steps_get_as_many_parts_as_processes() -> None:
    row = cyclic(align_steps=4)
    three = in_parts(row, 3)
    assert (three.sft.optimization.accumulate, three.alignments[0].optimization.accumulate) == (3, 3)
    assert (three.sft.optimization.processes, three.alignments[0].optimization.processes) == (1, 3)
    chain = in_parts(replace(row, align=(stage(), stage())), 2)
    assert [each.optimization.accumulate for each in chain.alignments] == [2, 2]
    more = replace(row.sft, optimization=replace(row.sft.optimization, accumulate=8))
    assert in_parts(replace(row, sft=more, align=None), 3).sft.optimization.accumulate == 8
    baseline = replace(row, policy=Popularity(), tokenize=None, align=None)
    assert in_parts(baseline, 3) == baseline
    with pytest.raises(UsageError, match=r"sft\.optimization\.batch_size of cyclic is 64, but each of the 65 processes needs"):
        in_parts(row, 65)


def test_a_recipe_for_another_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"align\.optimization\.processes is 2, but the number of processes that train is 1"):
        check_processes("align", 2)
    of_two(monkeypatch, 0, lambda value: value)
    check_processes("align", 2)
    check_processes("sft", 1)  # the likelihood has no statistics of a batch
    with pytest.raises(UsageError, match=r"processes must be at most optimization\.accumulate = 2"):
        Optimization(batch_size=8, accumulate=2, processes=3)


@pytest.mark.parametrize(("count", "engine", "message"), [(0, None, "at least 1, got 0"), (2, "local:2", "exclude each other")])
def test_what_does_not_fit_is_refused(count: int, engine: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_together([cyclic()], None, count, engine)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"this machine has 1 GPU, .*got --trainer.devices 2"):
        process_group.check_count(2)


def test_the_dry_run_shows_the_keys_of_steps_in_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that a dry run names the artifacts which the run will build."""
    file = experiment_file(tmp_path)
    assert main(["run", f"{file}:row", "--dry-run"]) == 0
    plain = capsys.readouterr().out
    assert main(["run", f"{file}:row", "--dry-run", "--trainer.devices", "2"]) == 0
    together = capsys.readouterr().out
    assert main(["run", f"{file}:row", "--dry-run", "--sft.optimization.accumulate", "2"]) == 0
    assert capsys.readouterr().out == together != plain


def experiment_file(folder: Path) -> Path:
    """Write a file with an experiment, whose training takes some seconds."""
    file = folder / "together.py"
    file.write_text(f"import sys\nsys.path.append({str(PROJECT / 'tests')!r})\nfrom worlds import cyclic\n\n\ndef row():\n"
                    "    return cyclic(steps=300)\n")  # fmt: skip
    return file


def started(file: Path, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "genrec", "run", f"{file}:row", "--trainer.devices", "2"]
    environment = os.environ | {"GENREC_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment, cwd=file.parent)


def until_training(run: subprocess.Popen[str]) -> int:
    """Wait until the training is on, and return the process that takes part in it."""
    assert run.stderr is not None
    while "SFT: 300 steps" not in run.stderr.readline():
        assert run.poll() is None
    command = ["pgrep", "-f", "-P", str(run.pid), "spawn_main"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["other", "first", "stopped"])
def test_a_process_that_ends_ends_all_and_the_command_goes_on(killed: str, tmp_path: Path) -> None:
    """None hangs, the exit code is not 0, and the same command then has the weights of a run that was not interrupted."""
    file = experiment_file(tmp_path)
    run = started(file, tmp_path / "killed")
    other = until_training(run)
    process = os.pidfd_open(other)
    if killed == "stopped":
        run.send_signal(signal.SIGTERM)
    else:
        os.kill(other if killed == "other" else run.pid, signal.SIGKILL)
    message = run.communicate()[1]
    assert run.returncode != 0
    assert killed != "other" or "was killed in the sft stage, as process 2 of 2" in message
    select.select([process], [], [])  # until it has ended, with the first one or after it
    os.close(process)
    for folder in ("killed", "whole"):
        again = started(file, tmp_path / folder)
        again.communicate()
        assert again.returncode == 0
    ours, theirs = (load_file(next((tmp_path / each).glob("artifacts/sft/*/policy.safetensors"))) for each in ("killed", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    metrics = [
        json.loads(next((tmp_path / each).glob("artifacts/evaluate/*/metrics.json")).read_text()) for each in ("killed", "whole")
    ]
    assert metrics[0] == metrics[1]


def test_the_sum_of_gradients_has_the_layout_of_its_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW reads a gradient by the strides of its parameter, so a transposed parameter needs a transposed sum."""
    parameter = torch.nn.Parameter(torch.arange(6.0).view(3, 2).T)
    parameter.grad = torch.arange(6.0, 12.0).view(2, 3)
    expected = parameter.grad.clone()
    monkeypatch.setattr(process_group, "size", lambda: 2)
    monkeypatch.setattr(process_group, "have_gradients", lambda parameters: [True])
    monkeypatch.setattr(process_group, "sum_in_order", lambda values: values)
    process_group.add_up_gradients([parameter])
    assert parameter.grad.stride() == parameter.stride()
    assert torch.equal(parameter.grad, expected)
