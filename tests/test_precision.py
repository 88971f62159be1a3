"""The precision of a training: "auto" by hardware and measurement, warnings, and resumed trainings. No test reads this processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from trainings import RECIPE, constant, likelihood, policy, train, training_examples

from genrec import precision
from genrec.errors import NumericsError
from genrec.precision import Precision
from genrec.training import checkpoint, loop
from genrec.training.recipes import SFT
from genrec.types import SequenceBatch


@pytest.mark.parametrize(
    ("asked", "has", "ratio", "expected", "warned"),
    [
        ("auto", True, 0.4, "bf16-mixed", False),
        ("auto", True, 31.0, "32-true", False),  # it reports the instructions, but they are switched off or emulated
        ("auto", False, 0.4, "32-true", False),
        ("32-true", True, 0.4, "32-true", False),
        ("bf16-mixed", True, 0.4, "bf16-mixed", False),
        ("bf16-mixed", False, 64.2, "bf16-mixed", True),
    ],
)
def test_auto_takes_bf16_where_it_is_fast_and_an_explicit_bf16_warns_where_it_is_slow(
    capsys: pytest.CaptureFixture[str], asked: Precision, has: bool, ratio: float, expected: str, warned: bool
) -> None:
    precision.warn_of_slow_bf16.cache_clear()
    for _ in range(2):
        assert precision.resolve(asked, lambda: has, lambda: ratio) == expected
    printed = capsys.readouterr().err
    assert printed.count("a bfloat16 product takes 64 times as long as one in float32 on this machine") == (1 if warned else 0)
    assert bool(printed) == warned


@pytest.mark.parametrize(
    ("content", "has"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 sha_ni\n\nprocessor : 1\nflags : fpu\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 amx_tile\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f not_avx512_bf16\n", False),
        ("processor\t: 0\n", False),
    ],
)
def test_instructions_of_the_processor_are_read_from_linux(tmp_path: Path, content: str, has: bool) -> None:
    (tmp_path / "cpuinfo").write_text(content)
    assert bool(precision.CPU_FLAGS & precision.cpu_flags(tmp_path / "cpuinfo")) == has
    assert precision.cpu_flags(tmp_path / "missing") == frozenset()


def test_the_measurement_changes_no_random_number() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    precision.bf16_ratio.cache_clear()
    assert precision.bf16_ratio() > 0
    assert torch.equal(torch.rand(2), expected)


def test_other_processes_do_not_make_bf16_seem_slow() -> None:
    """The cores are taken from one product to the next, at random or during a whole first measurement of bfloat16."""

    def seconds(busy: Callable[[int], bool], bf16: float) -> Callable[[torch.dtype], float]:
        calls = count()
        return lambda dtype: (bf16 if dtype == torch.bfloat16 else 1.0) * (20.0 if busy(next(calls)) else 1.0)

    first = 2 * precision.TRIES
    for busy in (lambda call: call < 9, lambda call: call % 2 == 0 and call < first, lambda call: call % 7 != 0):
        assert precision.measured_ratio(seconds(busy, 0.5)) == 0.5
        assert precision.measured_ratio(seconds(busy, 30.0)) == 30.0


def auto() -> SFT:
    return replace(RECIPE, optimization=replace(RECIPE.optimization, precision="auto"))


def test_a_resumed_training_keeps_the_precision_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training starts in bf16 on one machine and goes on where "auto" would take float32."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "resolve", lambda asked: "bf16-mixed")
    built = policy()

    def objective(batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if step == 30:
            raise NumericsError("the machine goes away")
        return likelihood(built)(batch, step)

    with pytest.raises(NumericsError, match="goes away"):
        train(built, objective, training_examples(), auto(), 5, tmp_path / "last", constant, "SFT")
    capsys.readouterr()
    monkeypatch.setattr(loop, "resolve", lambda asked: "32-true")
    used: list[bool] = []
    again = policy()

    def watching(batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        used.append(torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))
        return likelihood(again)(batch, step)

    outcome = train(again, watching, training_examples(), auto(), 5, tmp_path / "last", constant, "SFT")
    assert used == [True] * 30  # steps 21 to 50
    assert outcome.recipe["precision"] == "bf16-mixed"
    assert "SFT: resuming from step 20 in bf16-mixed, the precision of the checkpoint" in capsys.readouterr().err
    kept = checkpoint.load(tmp_path / "last", checkpoint.TrainingId("sft", 5, ""), policy(), 50)
    assert kept is not None
    assert kept.progress.precision == "bf16-mixed"
