"""A random order of ties for each seed, from the keys of the stages to the table: each seed has targets of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from worlds import cyclic

from genrec import dry_run, pipeline, run_experiments, run_files, studies
from genrec.__main__ import main
from genrec.baselines import ItemKNN, Popularity
from genrec.data.splits import LeaveOneOut
from genrec.errors import UsageError
from genrec.evaluation.compare import compare
from genrec.experiment import Experiment, baselines, seeds, with_seeds
from genrec.testing import Cyclic
from genrec.types import RawTables
from genrec.written_files import is_own_picture

PER_SEED = LeaveOneOut(ties="random-per-seed")


@dataclass(frozen=True)
class TiedCycle:
    """The cycle of items with four events at each time, and two at the last."""

    def load(self, root: Path) -> RawTables:
        raw = Cyclic(num_items=40, num_users=60, length=10).load(root)
        return raw._replace(interactions=raw.interactions.assign(time=raw.interactions.groupby("user").cumcount() // 4))


def sft(split: LeaveOneOut = PER_SEED, seed: int = 0) -> Experiment:
    """Return an experiment that takes seconds."""
    experiment = cyclic(steps=3)
    return replace(experiment, name="tied-sft", source=TiedCycle(), split=split, seed=seed)


def keys(experiment: Experiment) -> dict[str, str]:
    return {step.stage: step.key for step in pipeline.plan(experiment)}


def test_keys_depend_on_the_seed_only_where_the_data_do() -> None:
    shared = ("data", "embed", "tokenize")
    for ties in ("file", "random"):
        first, second = (keys(sft(LeaveOneOut(ties=ties), seed)) for seed in (0, 1))
        assert [stage for stage in first if first[stage] == second[stage]] == list(shared)
    first, second = (keys(sft(seed=seed)) for seed in (0, 1))
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())
    orders: Sequence[Literal["file", "random", "random-per-seed"]] = ("file", "random", "random-per-seed")
    assert len({keys(sft(LeaveOneOut(ties=ties)))["data"] for ties in orders}) == 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two seeds of SFT, popularity and ItemKNN."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(home))
        run_experiments.run(seeds([*baselines(sft()), sft()], (0, 1)))
    return home


@pytest.fixture
def home(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENREC_HOME", str(finished))
    return finished


NAMES = ("tied-popularity", "tied-itemknn", "tied-sft")


def test_a_row_has_one_protocol_and_targets_of_each_seed(home: Path) -> None:
    contents = {name: run_files.read(name) for name in NAMES}
    assert len({json.dumps(content["protocol"]) for content in contents.values()}) == 1
    protocol = contents["tied-sft"]["protocol"]
    assert protocol["ties"] == "a random order of each seed"
    assert protocol["targets decided by ties"] > 0.2
    data = {name: [content["seeds"][seed]["artifacts"]["data"] for seed in "01"] for name, content in contents.items()}
    assert data["tied-sft"] == data["tied-popularity"] == data["tied-itemknn"]
    assert len({protocol["data key"], *data["tied-sft"]}) == 3  # the key of the protocol is that of the data without the seed
    assert "seed" not in contents["tied-sft"]["configuration"]
    runs = run_files.outcomes(NAMES)
    targets = {(run.name, run.seed): tuple(run.ranks.sort_values("user")["target"]) for run in runs}
    assert len(set(targets.values())) == 2
    assert all(targets[name, seed] == targets["tied-sft", seed] for name, seed in targets)
    for stage in ("embed", "tokenize", "sft", "evaluate"):
        assert len({contents["tied-sft"]["seeds"][seed]["artifacts"][stage] for seed in "01"}) == 2


def test_the_targets_are_the_last_events_of_each_order(home: Path) -> None:
    """A seed's artifacts are those of a random order with this seed."""
    for seed in (0, 1):
        run = next(run for run in run_files.outcomes(["tied-popularity"]) if run.seed == seed)
        fixed = pipeline.run(sft(LeaveOneOut(ties="random", ties_seed=seed)), last="data")["data"].folder
        events, parts = (pd.read_parquet(fixed / f"{name}.parquet") for name in ("interactions", "split"))
        test = events[(parts["part"] == "test").to_numpy()]
        assert run.ranks.sort_values("user")[["user", "target"]].to_numpy().tolist() == test[["user", "item"]].to_numpy().tolist()


def test_rows_are_compared_by_seed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(run_files.outcomes(NAMES), reference="tied-popularity", resamples=50)
    assert {row.name: row.seeds for row in found.rows} == dict.fromkeys(NAMES, (0, 1))
    assert all(row.test.seeds == (0, 1) for row in found.rows if row.test is not None)
    assert main(["compare", *NAMES]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "ties in a random order of each seed, each with targets of its own; the order of ties decides the target of" in printed
    assert "Seeds: 0 and 1 of tied-sft; 0 and 1 of all baselines" in printed


def test_a_further_seed_extends_the_row(home: Path) -> None:
    before = run_files.read("tied-popularity")["seeds"]
    run_experiments.run([replace(baselines(sft())[0], seed=2)])
    assert run_files.read("tied-popularity")["seeds"].keys() == {*before, "2"}


def test_baselines_need_the_seeds_of_the_other_rows(home: Path) -> None:
    """Refused before anything is trained, in a dry run too, and by `genrec compare`."""
    rows = [*baselines(sft()), *seeds([sft()], (0, 1))]
    message = re.escape(
        "the baseline tied-popularity has seed 0 only: seed 1 is missing; run the baselines with the seeds of the other rows: "
        "seeds(baselines(experiment), (0, 1))"
    )
    with pytest.raises(UsageError, match=message):
        run_experiments.run(rows)
    with pytest.raises(UsageError, match=message):
        list(dry_run.lines(rows))
    run_files.check_rows(seeds([*baselines(sft()), sft()], (0, 1)))
    other = replace(baselines(sft())[1], name="other", split=LeaveOneOut(ties="random-per-seed", ties_seed=9))
    run_files.check_rows([*seeds([*baselines(sft()), sft()], (0, 1)), other])  # of other data: no row to share a table with
    fixed = replace(sft(), split=LeaveOneOut(ties="random"), name="fixed-sft")
    run_files.check_rows([*baselines(fixed), *seeds([fixed], (0, 1))])


def test_the_option_seeds_runs_baselines_with_all_seeds() -> None:
    """With one order of ties a baseline is run once."""
    rows = with_seeds([*baselines(sft()), sft()], (2, 4))
    assert [(row.name, row.seed) for row in rows] == [(name, seed) for name in NAMES for seed in (2, 4)]
    fixed = sft(LeaveOneOut(ties="random"))
    assert [row.seed for row in with_seeds([*baselines(fixed), fixed], (2, 4))] == [0, 0, 2, 4]


def test_a_study_holds_a_row_once_for_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trained rows are one family, although each seed has data of its own. A baseline is no row of a study."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    studies.record("mine.py:rows", seeds([*baselines(sft()), sft()], (0, 1)))
    (row,) = studies.read(studies.file_of("mine.py:rows"))["rows"]
    assert (row["name"], sorted(row["seeds"])) == ("tied-sft", ["0", "1"])


def test_genrec_compare_refuses_a_baseline_of_fewer_seeds(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = replace(sft(), name="tied-one", policy=ItemKNN(num_neighbors=3))
    run_experiments.run([one])
    assert main(["compare", "tied-sft", "tied-one"]) == 4
    assert "the baseline tied-one has seed 0 only: seed 1 is missing" in capsys.readouterr().err


def test_orders_of_ties_never_share_a_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_experiments.run([replace(sft(LeaveOneOut()), name="tied-rows", policy=Popularity())])
    assert main(["compare", "tied-popularity", "tied-rows"]) == 4
    error = capsys.readouterr().err
    assert "tied-popularity (seed 0) and tied-rows (seed 0) can't be compared: split is 'LeaveOneOut(" in error
    assert "ties=random-per-seed)' and 'LeaveOneOut(" in error
    assert "run both with the same protocol" in error


def test_genrec_data_prints_the_order(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from genrec.experiment import Experiment\nfrom genrec.testing import Shop\n\n\n"
        "def rows():\n    return Experiment(name='shop-sft', source=Shop(num_items=60, num_users=40))\n"
    )
    picture = tmp_path / "data.svg"
    assert main(["data", f"{path}:rows", "--split.ties", "random-per-seed", "--seed", "3", "--picture", str(picture)]) == 0
    assert is_own_picture(picture)
    printed = capsys.readouterr().out
    assert "ties=random-per-seed" in printed
    assert "ties in time: a random order of each seed, here that of seed 3; they decide the target of " in printed
