"""Run experiments and compare rows from Python: what `genrec run` and `genrec compare` call.

    results = genrec.run(experiment, seeds=5)
    genrec.compare(["taste-sft", "taste-sdpo"], metric="recall@10")

Both return `Results`, which a notebook shows as tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from html import escape
from inspect import isfunction
from itertools import islice
from pathlib import Path

from pandas import DataFrame

from genrec import process_group, run_experiments, run_files, studies
from genrec.endpoints import Endpoint
from genrec.endpoints import check as check_endpoints
from genrec.engines import engine_of
from genrec.errors import UsageError
from genrec.errors import given as shown
from genrec.evaluation import compare as comparing
from genrec.evaluation.compare import Comparison, Row
from genrec.evaluation.comparison import comparison_report
from genrec.evaluation.comparison.comparison_tables import tables
from genrec.evaluation.statistics.paired_tests import enumerated, is_trained, seeds_in_words
from genrec.experiment import Experiment, seed_numbers, with_seeds
from genrec.kept_rows import KeptRows, Rows
from genrec.launched_processes import launch_of
from genrec.pipeline import Helpers
from genrec.progress import say
from genrec.stage_tasks import Origin
from genrec.sweeps import Sweep, given
from genrec.training_processes import train_together
from genrec.types import Tracker

NUM_SHOWN = 5  # seeds that a message names at most


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """The tables of rows: one comparison for all rows with the same protocol."""

    comparisons: tuple[Comparison, ...]

    @property
    def table(self) -> DataFrame:
        """The figures of all rows as numbers, one row each: seeds, the mean of each metric over seeds, and the test.

        `low` and `high` are the 95 % interval of the tested metric over users. `difference`, its interval and `p_holm` compare the row
        with the reference; they are missing for the reference, and where there is no test.
        """
        lines = [_line(row, comparison) for comparison in self.comparisons for row in comparison.rows]
        return DataFrame(lines, columns=None if lines else ["row"]).set_index("row")

    def markdown(self) -> str:
        """Return all tables and the protocol as GitHub Markdown, as `genrec compare --markdown` writes them."""
        return "\n".join(map(comparison_report.markdown, self.comparisons))

    def __repr__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        """Return the tables of the report for a notebook."""
        parts = []
        for comparison in self.comparisons:
            for found in tables(comparison):
                body = DataFrame(found.rows, columns=found.columns).to_html(index=False, border=0)
                notes = "".join(f"<p>{escape(note)}</p>" for note in found.notes)
                parts.append(f"<h4>{escape(found.title)}</h4>{body}{notes}")
        return "".join(parts)


def run(
    experiments: Experiment | Sequence[Experiment],
    seeds: int | Sequence[int] | None = None,
    *,
    refresh: str | None = None,
    replace: bool = False,
    study: str = studies.FROM_PYTHON,
    trackers: Mapping[str, Tracker] | None = None,
    on: str | None = None,
    devices: int = 1,
    strategy: str = "ddp",
    origin: Origin | None = None,
    overridden: bool = False,
    endpoints: Sequence[Endpoint] = (),
) -> Results:
    """Run the missing stages of an experiment or of a list of them, record the rows, and return their table (`genrec run`).

    Args:
        experiments: the experiments.
        seeds: seeds in place of their own: 5 stands for seeds 0 to 4, (5, 6, 7) lists them. Baselines run once.
        refresh: rebuild this stage and all later ones.
        replace: start rows again whose settings differ from those of their run file.
        study: name of the list in the record of what was tried.
        trackers: by name, what follows the trainings, such as {"mine": MyTracker()} (`genrec.types.Tracker`). With `on` they receive
            the curves of a row when all of its stages are done.
        on: where the stages run, such as "local:2" (`genrec.engines.engine_of`); None: in this process.
        devices: processes that train each policy together, a GPU for each where there are GPUs (`genrec.training_processes`). Steps
            are then computed in at least as many parts (`Optimization.accumulate`). If a launcher such as torchrun has started these
            processes, the first one runs and records the rows, and the others take part in its trainings and return no tables.
        strategy: what each of these processes holds: "ddp", a whole optimizer, or "zero1", its share of the optimizer's state.
        origin: makes the same list of experiments in a worker process; None: the experiments are sent there.
        overridden: whether settings of the experiments were changed on the command line; `devices` changes some, too.
        endpoints: the tests for which the list is run, recorded before anything is trained (`genrec.endpoints`).

    """
    listed = _listed(experiments)
    if seeds is not None:
        listed = with_seeds(listed, seed_numbers(seeds))
    check_endpoints(endpoints, listed, "the list")
    divided = process_group.check_strategy(strategy, devices)
    sweep, launch = None, launch_of(devices)
    helpers: Callable[[int], Helpers] | None = None
    if devices != 1:
        listed, helpers = train_together(listed, origin, devices, on, None if launch is None else launch.local_size, divided)
    if launch is not None and launch.rank:
        launch.follow(listed)
        return Results(())
    if on is not None:
        sweep = Sweep(engine_of(on), given(listed) if origin is None else origin)
    with nullcontext() if launch is None else launch.leading():
        started = helpers if launch is None else partial(launch.helpers, strategy=divided)
        run_experiments.run(listed, refresh, replace, study, trackers, sweep, started, overridden or devices != 1, endpoints)
    numbers = {name: {each.seed for each in listed if each.name == name} for name in (each.name for each in listed)}
    trained = {each.name for each in listed if "sft" in each.stages}
    found = []
    for names in run_files.by_protocol(list(numbers)):
        cutoff = min(10, max(run_files.read(names[0])["protocol"]["cutoffs"]))
        reference = next((name for name in names if name in trained), names[0])
        found.append(comparison_of(names, f"ndcg@{cutoff}", reference, numbers))
    return Results(tuple(found))


def _listed(experiments: Experiment | Sequence[Experiment]) -> list[Experiment]:
    """Return the experiments as a list. Raises UsageError for anything else, such as the function that returns them."""
    if isinstance(experiments, Experiment):
        return [experiments]
    given_list = list(experiments) if isinstance(experiments, Iterable) and not isinstance(experiments, str) else [experiments]
    wrong = [each for each in given_list if not isinstance(each, Experiment)]
    if wrong and isfunction(wrong[0]):
        name = wrong[0].__name__
        raise UsageError(f"run needs an Experiment or a list of them, got the function {name}; call it: genrec.run({name}())")
    if wrong or not given_list:
        got = shown(wrong[0]) if wrong else "an empty list"
        raise UsageError(f"run needs an Experiment, a list of them or 'FILE.py:FUNCTION', got {got}")
    return given_list


def compare(
    names: str | Sequence[str],
    metric: str = "ndcg@10",
    reference: str | None = None,
    seeds: int | Sequence[int] | None = None,
    *,
    folder: Path | str | None = None,
) -> Results:
    """Compare stored rows: means over seeds, intervals, paired tests, different settings (`genrec compare`).

    Args:
        names: names of the rows.
        metric: the metric to test, such as `recall@10`.
        reference: the row that all others are tested against; None: the first.
        seeds: compare at these seeds only: 5 stands for seeds 0 to 4, (5, 6, 7) lists them.
        folder: compare rows that `genrec keep` wrote to this folder; None: rows of the data folder.

    """
    if not isinstance(names, str | Iterable) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"compare needs the name of a row or a list of names, got {names!r}; 'genrec list' prints the rows")
    if not isinstance(metric, str):
        raise UsageError(f"metric must be the name of a metric, such as 'recall@10', got {metric!r}")
    listed = named_once([names] if isinstance(names, str) else names)
    rows = None if folder is None else KeptRows(Path(folder))
    numbers = None if seeds is None else at_seeds(listed, seed_numbers(seeds), rows)
    return Results((comparison_of(listed, metric, reference, numbers, rows),))


def named_once(names: Sequence[str]) -> list[str]:
    """Return the names of rows without repetitions, in order. A line names those that are repeated."""
    found = list(dict.fromkeys(names))
    repeated = [name for name in found if list(names).count(name) > 1]
    if repeated:
        say(f"{enumerated(repeated)} {'is' if len(repeated) == 1 else 'are'} named more than once; a row is not compared with itself")
    return found


def comparison_of(
    names: list[str], metric: str, reference: str | None, seeds: dict[str, set[int]] | None, rows: Rows | None = None
) -> Comparison:
    """Return the comparison of stored rows at all seeds, or at those given for each row; `rows`: None is the data folder."""
    return comparing.compare((rows or run_files).outcomes(names, seeds, metric), metric, reference)


def _line(row: Row, comparison: Comparison) -> Mapping[str, object]:
    """Return the figures of a row by column."""
    low, high = row.interval or (None, None)
    test = row.test
    about: dict[str, float | None] = {"difference": None, "difference_low": None, "difference_high": None, "p_holm": None}
    if test is not None:
        lower, upper = test.interval or (None, None)
        about = {"difference": test.difference, "difference_low": lower, "difference_high": upper, "p_holm": test.p_holm}
    tested = {"metric": comparison.metric, "value": row.value, "low": low, "high": high, **about}
    means = {name: spread.mean for name, spread in row.metrics.items()}
    return {"row": row.name, "seeds": ", ".join(map(str, row.seeds)), **tested, **means}


def at_seeds(names: Sequence[str], numbers: Sequence[int], rows: Rows | None = None) -> dict[str, set[int]]:
    """Return the seeds at which each row is compared: those of `numbers` that it has. A baseline without them keeps its own.

    Raises UsageError if a trained row has none of them. A row that lacks some is named in a line.
    """
    found: dict[str, set[int]] = {}
    for name in dict.fromkeys(names):
        content = (rows or run_files).read(name)
        own = {int(seed) for seed in content["seeds"]}
        common = {seed for seed in own if seed in numbers}
        if not is_trained(content["configuration"]):
            common = common or own
        elif not common:
            raise UsageError(
                f"{name} has none of {_first_seeds(numbers, set())}; it has {seeds_in_words(sorted(own))}; run the missing ones"
            )
        elif len(common) < len(numbers):
            say(f"{name} has no {_first_seeds(numbers, common)}; it is compared at {seeds_in_words(sorted(common))}")
        found[name] = common
    return found


def _first_seeds(numbers: Sequence[int], without: set[int]) -> str:
    """Return seeds but those of `without` in words: 'seed 0', 'seeds 0, 1 and 2', or the first five and the number of the others."""
    first = [*islice((number for number in numbers if number not in without), NUM_SHOWN)]
    others = len(numbers) - len(without) - len(first)
    return f"seeds {enumerated([*first, f'{others:,} more'])}" if others else seeds_in_words(first)
