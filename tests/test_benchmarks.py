"""Benchmarks run, print their tables, and give both sides the same work."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from genrec.semantic_ids import SemanticIds

FILE = Path(__file__).parents[1] / "experiments" / "benchmarks" / "data.py"


def load(file: Path) -> ModuleType:
    """Import a benchmark by its path."""
    specification = importlib.util.spec_from_file_location(f"{file.stem}_benchmark", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load(FILE)


def test_both_sides_of_the_data_benchmark_give_the_same(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.generate(tmp_path / "log.parquet", 30_000)
    outcomes = {}
    for side in ("ours", "in_pandas"):
        (tmp_path / side).mkdir()
        outcomes[side] = getattr(benchmark, side)(tmp_path / "log.parquet", tmp_path / side)
    assert outcomes["ours"] == outcomes["in_pandas"]
    assert 20_000 < outcomes["ours"]["kept"] < 30_000
    for name in ("event_item", "event_time", "event_rating", "bounds"):
        np.testing.assert_array_equal(*(np.load(tmp_path / side / f"{name}.npy") for side in outcomes))
    for name, column in (("split", "part"), ("users", "user_id"), ("interactions", "item")):
        one, other = (pd.read_parquet(tmp_path / side / f"{name}.parquet")[column].tolist() for side in outcomes)
        assert one == other


def test_the_data_benchmark_runs_and_prints_its_table(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["data.py", "--events", "5e3", "--rounds", "1", "--work", str(tmp_path)])
    benchmark.main()
    assert "| | ours / pandas |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["data.py", "--read", "500", "--work", str(tmp_path)])
    benchmark.main()
    assert '"events": 500' in capsys.readouterr().out


TOKENIZER = FILE.with_name("tokenizer.py")


@pytest.mark.slow
def test_the_tokenizer_benchmark_runs_and_prints_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parts without a data set, at small sizes; `append` and `reassign` leave no collision."""
    module = load(TOKENIZER)
    arguments = ["--rounds", "1", "--items", "30000", "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["tokenizer.py", "million", *arguments])
    module.main()

    def run_here(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        """Run a side without the seconds that a process of its own, as above, takes to import libraries."""
        with monkeypatch.context() as side, contextlib.redirect_stdout(io.StringIO()) as printed:
            side.setattr(sys, "argv", command[1:])
            module.main()
        return subprocess.CompletedProcess(command, 0, printed.getvalue())

    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=run_here, PIPE=subprocess.PIPE))
    monkeypatch.setattr(sys, "argv", ["tokenizer.py", "collisions", *arguments])
    module.main()
    printed = capsys.readouterr().out
    rows = {row["side"]: row for row in map(json.loads, (line for line in printed.splitlines() if line.startswith("{")))}
    assert rows["append"]["collided"] == rows["reassign"]["collided"] == 0 < rows["append"]["collided_before"]
    assert rows["sinkhorn"]["collided"] < rows["sinkhorn"]["collided_before"]
    assert rows["ours, torch"]["error"] == pytest.approx(rows["faiss ResidualQuantizer"]["error"], rel=0.05)
    assert "| million | seconds | / faiss ResidualQuantizer |" in printed
    assert "| collisions | seconds | / a dictionary |" in printed


@pytest.mark.slow
@pytest.mark.realdata
def test_the_tokenizer_benchmarks_quality_of_beauty(real_data: Path, tmp_path: Path) -> None:
    module = load(TOKENIZER)
    options = argparse.Namespace(beauty=real_data / "amazon-2014")
    row = {"side": "random codes", **module.quality("random codes", tmp_path, options)}
    assert row["health"]["collided_before_separation"] <= 10  # of 12,101 items with 256^4 codes
    assert row["health"]["equal_vectors"]["items"] == 122
    table = "\n".join(module.quality_table([row]))
    assert "12,101 items, of which 122 have the vector of another item" in table
    lift = row["health"]["co_occurrence"]["prefixes"][0]["lift"]
    assert lift == pytest.approx(1.0, abs=0.1)  # random codes are independent of the items


def test_places_by_shared_digits_by_hand() -> None:
    """Items 1 to 4 share 2, 2, 1 and 0 digits with item 0. Equal numbers share their mean place, and the last item is left out."""
    module = load(FILE.with_name("shared_digits.py"))
    similarity = module.shared(np.array([[1, 2], [1, 2], [1, 2], [1, 0], [0, 0]]))
    last, target = np.zeros(4, dtype=np.int64), np.arange(1, 5)
    assert module.places(similarity, last, target).tolist() == [0.5, 0.5, 2, 3]
    assert module.table({"digits": similarity}, last, target)[2] == "| digits | 1.0000 | 1.0000 | 1.0000 |"
    vectors = np.array([[1, 0], [2, 0], [0, 1], [1, 1], [-1, 0]], dtype=np.float32)
    assert module.places(module.cosine(vectors), last, target).tolist() == [0, 2, 1, 3]


POLICY = FILE.with_name("policy.py")
COMPARED = {  # part -> the reference of its ratios
    "train": "peer", "targets": "peer", "align": "peer", "decode": "peer", "small": "peer", "kept": "peer", "parallel": "Tiger",
    "million": "Tiger", "loop": "bare steps", "history": "Tiger, codes", "policies": "Tiger, codes",
    "exact": "item by item", "candidates": "peer", "beams": "peer", "catalog": "peer", "lengths": "peer",
}  # fmt: skip


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files of the policy benchmark import each other, as in a script."""
    monkeypatch.syspath_prepend(str(POLICY.parent))


def printed_by_the_policy_benchmark(*arguments: str) -> str:
    """Run it with toy sizes in a process of its own, since it makes copies of its process, in which OpenMP must be unused."""
    command = [sys.executable, str(POLICY), "--tiny", "--threads", "1", *arguments]
    return subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "2"}, stdout=subprocess.PIPE, text=True, check=True).stdout


def rows_of(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


@pytest.mark.usefixtures("beside")
def test_a_part_of_the_policy_benchmark_runs_and_prints_its_table() -> None:
    pytest.importorskip("transformers")
    assert {*COMPARED, "floor", "profile"} == set(load(POLICY).PARTS)
    printed = printed_by_the_policy_benchmark("train", "--lengths", "beauty", "--precision", "float32")
    rows = rows_of(printed)
    assert {row["side"] for row in rows} == {"ours", "peer"}
    assert all(len(row["rates"]) == 1 and row["rate"] > 0 for row in rows)
    header = next(line for line in printed.splitlines() if line.startswith("| train |"))
    assert "| / peer |" in header
    assert "| peak mb |" in header
    assert any(line.startswith("| peer |") and "| 1.00 |" in line for line in printed.splitlines())


@pytest.mark.slow
@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize(("lengths", "precisions"), [("full", ("float32", "bfloat16")), ("beauty", ("float32",))])
def test_every_part_of_the_policy_benchmark_runs_and_prints_its_table(lengths: str, precisions: tuple[str, ...]) -> None:
    pytest.importorskip("transformers")
    printed = printed_by_the_policy_benchmark("all", "--lengths", lengths, "--precision", *precisions)
    rows = rows_of(printed)
    for part, reference in COMPARED.items():
        header = next(line for line in printed.splitlines() if line.startswith(f"| {part} |"))
        assert f"| / {reference} |" in header
        mine = [row for row in rows if row["part"] == part]
        assert {row["precision"] for row in mine} == set(precisions)
        assert reference in {row["side"] for row in mine}
        assert all(len(row["rates"]) == 1 and row["rate"] > 0 for row in mine)
        assert all(row["threads"] == 1 and 0 < row["start_mb"] <= row["prepared_mb"] <= row["peak_mb"] for row in mine)
        assert "| peak mb |" in header
        ratios = [line for line in printed.splitlines() if line.startswith(f"| {reference} |") and "| 1.00 |" in line]
        assert ratios  # the reference relative to itself
    sides = {part: {"ours", "peer"} for part in ("train", "align", "decode", "small", "candidates", "beams", "catalog", "lengths")}
    sides |= {"kept": {"ours, kept", "ours", "peer"}, "parallel": {"RPG", "SASRec", "Tiger"}, "million": {"RPG", "Tiger"}}
    for part, expected in sides.items():
        assert {row["side"] for row in rows if row["part"] == part} == expected
    for part, tasks in {"small": 2, "parallel": 3}.items():
        assert [*Counter(row["task"] for row in rows if row["part"] == part).values()] == [len(precisions) * len(sides[part])] * tasks
    assert all(row["seconds_per_100"] == 100 / row["rate"] for row in rows if row["part"] == "million")
    for part, settings in {"candidates": 2, "beams": 2, "catalog": 2, "lengths": 2, "million": 2}.items():
        assert len({row["setting"] for row in rows if row["part"] == part}) == settings
    tables = [row for row in rows if row["part"] == "catalog" and row["side"] == "ours"]
    assert all(row["table_mb"] > 0 and 0 <= row["masks_share"] <= row["search_share"] for row in tables)
    assert "| training example, codes |" in printed
    assert "AdamW" in printed  # from the profile


@pytest.mark.usefixtures("beside")
def test_the_policy_benchmarks_ratios_are_medians_of_rounds() -> None:
    """Round 2 is slow for both sides: rates of 30, 3, 20 against 10, 1, 10 have a median ratio of 3."""
    shapes = importlib.import_module("policy_shapes")
    common = {"task": "", "precision": "float32", "unit": "users", "reference": "peer"}
    rows = [
        {"side": "ours", "setting": "K = 1", "rate": 20.0, "rates": [30.0, 3.0, 20.0], "peak_mb": 1_234.4, **common},
        {"side": "peer", "setting": "K = 1", "rate": 10.0, "rates": [10.0, 1.0, 10.0], "peak_mb": 1_500.6, **common},
        {"side": "ours", "setting": "K = 3", "rate": 8.0, "rates": [8.0, 8.0, 8.0], "peak_mb": 900.0, **common},
    ]
    lines = list(shapes.table("beams", rows))
    assert lines[0] == "| beams | task | precision | users/s | / peer | cost / first | peak mb |"
    assert lines[2:] == [
        "| ours | K = 1 | float32 | 20 | 3.00 | 1.00 | 1,234 |",
        "| peer | K = 1 | float32 | 10 | 1.00 | 1.00 | 1,501 |",
        "| ours | K = 3 | float32 | 8 | left out | 2.50 | 900 |",
    ]


@pytest.mark.usefixtures("beside")
def test_the_policy_benchmarks_sides_alternate_and_their_peak_memory_is_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A side with 400 MB, in another process, does not count for the side that runs after it."""
    shapes, processes = (importlib.import_module(f"policy_{name}") for name in ("shapes", "processes"))
    turns = tmp_path / "turns"

    def make(side: str, megabytes: int) -> Callable[[], int]:
        held = bytearray(b"1" * 1_000_000 * megabytes)

        def step() -> int:
            with turns.open("a", encoding="utf-8") as file:
                file.write(f"{side} ")
            return min(len(held), 7)

        return step

    def missing() -> Callable[[], int]:
        raise shapes.Missing("its library is not installed")

    sides = {"large": lambda: make("large", 400), "missing": missing, "small": lambda: make("small", 1)}
    case = shapes.Case("users", "float32", sides, "decoding", about={"batch": 7})
    found = processes.measure(case, 2, 0.0, "cpu", threads=3)
    assert list(found) == ["large", "small"]
    assert turns.read_text(encoding="utf-8").split() == ["large", "small"] * 3  # one warm-up and two rounds
    assert "decoding, float32: missing is left out, its library is not installed" in capsys.readouterr().out
    large, small = (found[side].about for side in ("large", "small"))
    assert large["batch"] == small["batch"] == 7
    assert large["threads"] == small["threads"] == 3
    assert large["peak_mb"] - large["start_mb"] > 390
    assert small["peak_mb"] - small["start_mb"] < 100


@pytest.mark.usefixtures("beside")
def test_a_side_of_the_policy_benchmark_that_fails_ends_the_run() -> None:
    shapes, processes = (importlib.import_module(f"policy_{name}") for name in ("shapes", "processes"))

    def fail() -> None:
        raise ValueError("a fault of the side")

    with pytest.raises(RuntimeError, match="the process of 'broken' ended before its measurement"):
        processes.measure(shapes.Case("users", "float32", {"broken": fail}), 1, 0.0, "cpu")
    with pytest.raises(RuntimeError, match="exit code 1"):
        processes.alone(fail)


@pytest.fixture
def plain_steps(beside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let genrec's side take steps of SGD, since AdamW turns rounding errors of small gradients into whole steps."""
    ours = importlib.import_module("policy_ours")
    monkeypatch.setattr(ours.Ours, "optimizer", lambda self: torch.optim.SGD(self.policy.parameters(), lr=0.1))


@pytest.mark.usefixtures("plain_steps")
def test_the_policy_benchmark_trains_alike_with_a_kept_reference() -> None:
    """After five steps, which repeat a batch, the weights are those of the steps that score the reference each time."""
    shapes, ours = (importlib.import_module(f"policy_{name}") for name in ("shapes", "ours"))
    pairs = shapes.examples("beauty", shapes.TINY, 3, 4)
    sides = [ours.Ours(ours.tiger(shapes.TINY, 4), shapes.semantic_ids(shapes.TINY), "cpu", "float32") for _ in range(3)]
    before = flat_weights(sides[2].policy)
    steps = sides[0].alignment(pairs), sides[1].kept_alignment(pairs)
    for _ in range(5):
        assert [step() for step in steps] == [3, 3]
    one, other = (flat_weights(side.policy) for side in sides[:2])
    torch.testing.assert_close(one, other)
    assert float((one - before).abs().max()) > 1e-4


@pytest.mark.usefixtures("plain_steps")
@pytest.mark.parametrize("name", ["RPG", "SASRec", "Tiger"])
def test_the_policy_benchmark_aligns_windows_like_their_prefixes(name: str) -> None:
    """One step of S-DPO on two windows of four targets moves the weights like one on the eight prefixes with the same candidates."""
    shapes, parallel = (importlib.import_module(f"policy_{name}") for name in ("shapes", "parallel"))
    ((history, targets, candidates), *_) = shapes.candidates_after(shapes.windows("full", shapes.TINY, 2), shapes.TINY.items, 3)
    assert candidates[:, 0].tolist() == targets.flatten().tolist()
    sides = [parallel.MAKERS[name](shapes.TINY, "cpu", "float32") for _ in range(2)]
    before = flat_weights(sides[0].policy)
    assert sides[0].window_alignment([(history, targets, candidates)])() == 8
    prefixes = torch.stack([torch.cat([row.new_zeros(3 - place), row[: place + 1]]) for row in history for place in range(4)])
    assert sides[1].alignment([(prefixes, candidates)])() == 8
    one, other = (flat_weights(side.policy) for side in sides)
    assert float((one - before).abs().max()) > 1e-4
    torch.testing.assert_close(one, other)


def flat_weights(policy: torch.nn.Module) -> torch.Tensor:
    """Return a copy of all weights in one row."""
    return torch.cat([each.detach().flatten() for each in policy.parameters()])


@pytest.mark.usefixtures("beside")
def test_both_sides_of_the_policy_benchmark_read_the_same_histories() -> None:
    """Without padding, the peer's tokens are those of our items; every prefix of a window occurs once."""
    pytest.importorskip("transformers")
    shapes, peer = (importlib.import_module(f"policy_{name}") for name in ("shapes", "peer"))
    ids = shapes.semantic_ids(shapes.TINY)
    assert ids.collided == 0
    history = shapes.histories(50, 4, shapes.TINY.items, "test", "beauty", 0)
    tokens, mask = peer.Peer(shapes.TINY, ids, "cpu", "float32").tokens(history)
    for row, given, seen in zip(history, tokens, mask, strict=True):
        assert given[seen > 0].tolist() == ids.tokens(row[row > 0]).flatten().tolist()
        assert seen.tolist() == sorted(seen.tolist(), reverse=True)  # right padding
    pairs = [(torch.tensor([[0, 7, 8], [4, 5, 6]]), torch.tensor([[0, 8, 9], [5, 6, 1]]))]
    cut = shapes.prefixes(pairs, batch=2)
    single = {(tuple(row[row > 0].tolist()), int(target)) for rows, targets in cut for row, target in zip(rows, targets, strict=True)}
    assert single == {((7,), 8), ((7, 8), 9), ((4,), 5), ((4, 5), 6), ((4, 5, 6), 1)}
    assert all(bool((rows[:, 0] > 0).any()) for rows, _ in cut)  # no batch is padded beyond its longest row


@pytest.mark.usefixtures("beside")
def test_the_policy_benchmarks_operations_are_those_of_a_t5() -> None:
    """The formula equals torch's count for the peer, except that the peer's softmax is over all tokens instead of one level."""
    pytest.importorskip("transformers")
    shapes, peer, floor = (importlib.import_module(f"policy_{name}") for name in ("shapes", "peer", "floor"))
    sizes = shapes.TINY
    ids = shapes.semantic_ids(sizes)
    model = peer.Peer(sizes, ids, "cpu", "float32").model.eval()
    model.set_attn_implementation("eager")  # the products of a fused kernel are not counted
    tokens = ids.tokens(torch.arange(1, sizes.history + 1)).flatten()[None]
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=tokens, decoder_input_ids=torch.zeros(1, sizes.levels, dtype=torch.int64), use_cache=False)
    softmax = 2 * sizes.levels * sizes.width * (ids.vocabulary - sizes.codes)
    forward = floor.encoder_operations(sizes, tokens.shape[1]) + floor.decoder_operations(sizes, tokens.shape[1], sizes.levels, 1)
    assert counted.get_total_flops() == forward + softmax
    assert floor.training_operations(sizes, tokens.shape[1]) == 3 * forward


@pytest.mark.usefixtures("beside")
def test_the_policy_benchmarks_peer_decodes_real_items() -> None:
    """Its dictionary of prefixes reaches exactly the Semantic IDs of the catalog."""
    shapes, peer = (importlib.import_module(f"policy_{name}") for name in ("shapes", "peer"))
    ids = SemanticIds(torch.tensor([[0, 1], [0, 0], [1, 1]]), (2, 2))
    follows, items = peer.dictionary_trie(ids)
    assert {prefix: set(tokens) for prefix, tokens in follows.items()} == {(0,): {1, 2}, (0, 1): {3, 4}, (0, 2): {4}}
    assert items == {(1, 4): 1, (1, 3): 2, (2, 4): 3}
    assert shapes.random_items((2, 3), 5, 0).tolist() == shapes.random_items((2, 3), 5, 0).tolist()


NEGATIVES = FILE.with_name("negatives.py")


def test_the_negatives_benchmark_runs_and_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(NEGATIVES)
    monkeypatch.setattr(sys, "argv", ["negatives.py", "--tiny"])
    module.main()
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [(row["side"], row["count"]) for row in rows] == [(side, count) for side in module.SIDES for count in (3, 15)]
    found = {row["side"]: row["recall"] for row in rows}
    assert found["flat"] == 1.0
    assert all(0.7 < found[side] <= 1.0 for side in ("ivf", "hnsw"))
    assert "| sampler | K | ms per batch | processor ms | time / flat |" in printed
    assert sum("| 1.0000 |" in line for line in printed.splitlines()) == 2  # the reference against itself


def test_the_comparison_benchmark_runs_and_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(FILE.with_name("compare.py"))
    runs = module.random_runs(2, 3, 40)
    assert [(run.name, run.seed) for run in runs] == [(f"row-{row}", seed) for row in range(2) for seed in range(3)]
    monkeypatch.setattr(sys, "argv", ["compare.py", "--tiny"])
    module.main()
    printed = capsys.readouterr().out
    assert printed.startswith("20 runs (4 rows x 5 seeds) of 40 users; ")
    assert ", threads " in printed
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("|")][2:] == ["| ndcg@10", "| novelty@10"]


def test_the_runs_of_the_comparison_benchmark_have_as_many_hits_as_beauty() -> None:
    """About 6 % of the users have their target among the first ten, 17 % among the first 50."""
    (run,) = load(FILE.with_name("compare.py")).random_runs(1, 1, 22_363)
    rank = run.ranks["rank"]
    assert rank.between(1, 10).mean() == pytest.approx(0.06, abs=0.01)
    assert rank.between(1, 50).mean() == pytest.approx(0.17, abs=0.02)


def test_the_calibration_prints_a_line_for_each_condition(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = load(FILE.with_name("calibration.py"))
    monkeypatch.setattr(module, "USERS", 40)
    monkeypatch.setattr(sys, "argv", ["calibration.py", "--tables", "2", "--families", "branched"])
    module.main()
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith("2 tables of 40 users for each condition, seed 0; ")
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| branched")]
    assert [tuple(row[:5]) for row in cells] == [
        (each.family, str(each.rows), str(each.seeds), f"{each.deviation:.4f}", f"{each.gain:.3f}")
        for each in (*module.null_conditions(), *module.power_conditions())
        if each.family == "branched"
    ]
    assert all(len(row) == 11 for row in cells)
    monkeypatch.setattr(sys, "argv", ["calibration.py", "--tables", "2", "--few-seeds"])
    module.main()
    _, over_users, over_seeds = capsys.readouterr().out.split("\n\n")
    assert len(over_users.splitlines()) == 2 + 4 * 3 * 2  # families, seeds, deviations
    assert len(over_seeds.splitlines()) == 2 + 4 * 3


ALIGNMENT = FILE.with_name("alignment.py")


@pytest.mark.usefixtures("beside")
def test_the_alignment_benchmark_measures_every_step_of_both_policies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(ALIGNMENT)
    monkeypatch.setattr(sys, "argv", ["alignment.py", "--tiny", "--rounds", "1"])
    module.main()
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    steps = ["sdpo", "sdpo windows", "gated windows", "ungated windows", "grpo", "grpo samples"]
    assert [(row["policy"], row["step"]) for row in rows] == [(policy, step) for policy in ("sasrec", "tiger") for step in steps]
    assert {row["targets"] for row in rows} == {8}  # two windows of four targets
    assert all(row["seconds"][0] > 0 and len(row["seconds"]) == 1 for row in rows)
    for row in ("| sdpo |", "| gated windows |"):
        assert sum(line.startswith(row) for line in printed.splitlines()) == 2
    limits = [line.rsplit("|", 2)[1].strip() for line in printed.splitlines() if line.startswith(("| gated", "| grpo"))]
    assert limits == ["1.5", "4.0", "4.0", "3.0", "4.0", "4.0"]


@pytest.mark.usefixtures("beside")
def test_the_scale_benchmark_measures_every_part_at_every_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(FILE.with_name("scale.py"))
    monkeypatch.setattr(module, "LARGEST", {"step-rpg-items": 300})
    monkeypatch.setattr(sys, "argv", ["scale.py", "--tiny"])
    module.main()
    printed = capsys.readouterr().out
    rows = rows_of(printed)
    expected = [(part, items) for part in module.PARTS for items in (300, 600)]
    assert [(row["part"], row["items"]) for row in rows] == [each for each in expected if each != ("step-rpg-items", 600)]
    assert "step-rpg-items is left out at 600 items" in printed
    assert sum(line.startswith(f"| {part} |") for part in module.PARTS for line in printed.splitlines()) == len(rows)
    found = {(row["part"], row["items"]): row for row in rows}
    assert found["append", 600]["collided"] == 0 < found["append", 600]["collided_before"]
    codes = [300 * 4 * 8, 600 * 4 * 8]  # int64
    assert all(size < 1e6 * found["ids", items]["disk_mb"] < size + 1_000 for items, size in zip((300, 600), codes, strict=True))
    digits = 16 * (4 + 4)  # two int32 numbers for each of 16 digits
    grown = found["rpg", 600]["tables_mb"] - found["rpg", 300]["tables_mb"]
    assert 1e6 * grown == pytest.approx(300 * digits)
    embedding = 1e6 * (found["rpg-items", 600]["disk_mb"] - found["rpg-items", 300]["disk_mb"])
    assert embedding == pytest.approx(300 * 16 * 4)  # float32 of width 16


@pytest.mark.usefixtures("beside")
def test_the_scale_benchmarks_exponents_are_slopes_of_logarithms() -> None:
    """Ten times the items take 1,000 times the processor seconds, 10 times the memory above the start, and no build is known."""
    module = load(FILE.with_name("scale.py"))
    common = {"part": "ids", "seconds": 9.0, "start_mb": 500.0}
    rows = [
        {**common, "items": 1_000, "cpu_seconds": 0.25, "peak_mb": 510.0},
        {**common, "items": 10_000, "cpu_seconds": 250.0, "peak_mb": 600.0, "tables_mb": 1.25},
        {**common, "part": "trie", "items": 20_000, "cpu_seconds": 1.0, "peak_mb": 700.0},
    ]
    assert list(module.table(rows))[2:] == [
        "| ids | 1,000 | 9 | 0.25 |  | 510 |  |  |  |  |  |",
        "| ids | 10,000 | 9 | 250 | 3.00 | 600 | 1.00 |  |  | 1.2 |  |",
        "| trie | 20,000 | 9 | 1 |  | 700 |  |  |  |  |  |",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("beside")
def test_the_processes_benchmark_compares_two_processes_with_one() -> None:
    """In a process of its own, because the benchmark forks."""
    command = [sys.executable, str(FILE.with_name("processes.py")), "--tiny", "--rounds", "1", "--steps", "2"]
    environment = os.environ | {"PYTHONPATH": str(FILE.parents[2])}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    (row,) = (line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| toy, batches of 16 |"))
    one, alone, two, each, ratio, limit = (cell.strip() for cell in row[1:])
    assert len(each.split(" + ")) == 2
    assert all(float(value) > 0 for value in (one, alone, two, *each.split(" + "), ratio, limit))


def test_the_best_round_of_the_processes_benchmark_and_its_ratios(beside: None) -> None:
    """By hand: 0.4 s alone; the second round of two is the faster one, with 0.25 s: ratio 1.6; at most 0.3 s / 0.2 s = 1.5."""
    module = load(FILE.with_name("processes.py"))
    rounds = [[module.Measured(*each) for each in two] for two in ([(0.3, 0.1), (0.3, 0.1)], [(0.25, 0.15), (0.26, 0.2)])]
    line = module.row("policy", [module.Measured(0.4, 0.3)], module.best(rounds))
    assert line == "| policy | 400 | 300 | 250 | 150 + 200 | 1.60 | 1.50 |"
