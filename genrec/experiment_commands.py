"""The commands that read a file of the user: `genrec run`, `data`, `tokenize`, `tune` and `check`.

Each command imports what it needs, so that `genrec --help` starts at once.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from genrec.errors import UsageError, did_you_mean
from genrec.row_commands import listed_seeds, print_comparison
from genrec.terminal_text import print_lines

if TYPE_CHECKING:
    from genrec.experiment import Experiment
    from genrec.results import Results
    from genrec.types import Tracker


@dataclass(frozen=True)
class ListedExperiments:
    """The experiments of a command line, which a worker process loads in the same way."""

    where: str  # FILE.py:FUNCTION or MODULE:FUNCTION
    flags: tuple[str, ...]  # overrides
    seeds: str | None  # value of --seeds
    rows: str | None = None  # value of --rows

    def __call__(self) -> Sequence[Experiment]:
        """Return the experiments. A process loads them once, so that each class of the file exists once."""
        return _loaded(self)

    def chosen(self, experiments: Sequence[Experiment]) -> list[Experiment]:
        """Return the loaded experiments that --rows names, all without it. Raises UsageError for a name that none of them has."""
        if self.rows is None:
            return list(experiments)
        names = list(dict.fromkeys(each.name for each in experiments))
        chosen = set[str]()
        for pattern in [each.strip() for each in self.rows.split(",") if each.strip()] or [self.rows]:
            found = fnmatch.filter(names, pattern)
            if not found:
                raise UsageError(
                    f"--rows: {self.where} returns no row {pattern!r}{did_you_mean(pattern, names)}; its rows: {', '.join(names)}"
                )
            chosen.update(found)
        return [each for each in experiments if each.name in chosen]

    def overridden(self, experiments: Sequence[Experiment]) -> list[Experiment]:
        """Return the loaded experiments with the overrides."""
        from genrec.overrides import override

        return override(experiments, list(self.flags), self.where)

    def seeded(self, experiments: list[Experiment]) -> list[Experiment]:
        """Return the experiments with the seeds in place of their own, if there are some."""
        from genrec.experiment import with_seeds

        return experiments if self.seeds is None else with_seeds(experiments, listed_seeds(self.seeds))


@cache
def _loaded(listed: ListedExperiments) -> Sequence[Experiment]:
    from genrec import loading

    return listed.seeded(listed.overridden(listed.chosen(loading.load(listed.where))))


def run_named(
    where: str,
    seeds: int | Sequence[int] | None = None,
    *,
    refresh: str | None = None,
    replace: bool = False,
    trackers: Mapping[str, Tracker] | None = None,
    on: str | None = None,
    devices: int = 1,
    strategy: str = "ddp",
) -> Results:
    """Run the experiments of FILE.py:FUNCTION or MODULE:FUNCTION from Python; arguments as in `genrec.results.run`."""
    from genrec import endpoints, loading, results, studies
    from genrec.experiment import seed_numbers

    listed = ListedExperiments(where, (), None if seeds is None else f"{','.join(map(str, seed_numbers(seeds)))},")
    loaded = loading.load(where)  # read anew: in a notebook the file may have changed
    named = endpoints.named(loading.member(where), loaded, where)
    experiments = listed.seeded(listed.overridden(loaded))
    study = studies.study_name(where)
    return results.run(
        experiments, refresh=refresh, replace=replace, study=study, trackers=trackers, on=on, devices=devices, strategy=strategy,
        origin=listed, endpoints=named,
    )  # fmt: skip


def run(options: argparse.Namespace, flags: list[str]) -> int:
    """Run experiments and print their table (`genrec run`)."""
    from genrec import dry_run, endpoints, engines, loading, pipeline, process_group, results, row_tracking, run_experiments, studies
    from genrec.overrides import print_fields
    from genrec.progress import say
    from genrec.training_processes import in_parts
    from genrec.types.event_history import inputs_of

    pipeline.check_stage(options.refresh)
    if options.seed is not None and options.seeds is not None:
        raise UsageError(f"--seed {options.seed} and --seeds {options.seeds} exclude each other; give one of them")
    if options.on is not None:
        engines.engine_of(options.on)  # its errors come before anything is loaded
    overridden = bool(flags)
    flags = flags if options.seed is None else [*flags, "--seed", options.seed]
    loaded = loading.load(options.experiment)
    listed = ListedExperiments(options.experiment, tuple(flags), options.seeds, options.rows)
    named = endpoints.named(loading.member(options.experiment), loaded, options.experiment)
    loaded, others = listed.chosen(loaded), loaded
    experiments = listed.overridden(loaded)
    if options.fields:
        print_fields(experiments[-1])
        return 0
    if len(experiments) < len(loaded):
        say(run_experiments.collapsed_line(len(loaded), experiments))
    experiments = listed.seeded(experiments)
    if options.seeds is not None and options.seeds.strip().isdecimal():
        count = int(options.seeds)
        counted = f"seeds 0 to {count - 1}" if count > 1 else "seed 0"
        say(f"--seeds {count} is a number of seeds: {counted}; '--seeds {count},' is seed {count} alone")
    trackers, study = row_tracking.trackers_of(options.track), studies.study_name(options.experiment)
    if options.dry_run:
        process_group.check_strategy(options.strategy, options.devices)
        row_tracking.Tracking(trackers)  # checks them
        print_lines(dry_run.lines([in_parts(each, options.devices) for each in experiments], options.replace))
        print_lines(f"endpoint: {each}" for each in named)
        return 0
    if options.rows is not None:
        studies.record(study, [], endpoints=endpoints.of_rows(named, [*others, *experiments]))
    found = results.run(
        experiments,
        refresh=options.refresh,
        replace=options.replace,
        study=study,
        trackers=trackers,
        on=options.on,
        devices=options.devices,
        strategy=options.strategy,
        origin=listed,
        overridden=overridden,
        endpoints=endpoints.of_rows(named, experiments),
    )
    with_inputs = {each.name for each in experiments if inputs_of(each.policy)}
    for comparison in found.comparisons:
        print_comparison(comparison, after_run=True, with_inputs=with_inputs, with_seeds=_with_seeds(options.words))
    return 0


def _with_seeds(words: Sequence[str]) -> str:
    """Return the command `genrec run` with the default number of seeds in place of its own, and without --refresh and --replace."""
    from genrec.command_lines import command_line, without_options
    from genrec.evaluation.statistics.paired_tests import DEFAULT_SEEDS

    return command_line(*without_options(words, ("--refresh", "--replace", "--seed", "--seeds")), "--seeds", DEFAULT_SEEDS)


def data(options: argparse.Namespace, flags: list[str]) -> int:
    """Describe data sets (`genrec data`)."""
    from genrec import inspect_commands

    return inspect_commands.data(options, flags)


def tokenize(options: argparse.Namespace, flags: list[str]) -> int:
    """Describe Semantic IDs (`genrec tokenize`)."""
    from genrec import inspect_commands

    return inspect_commands.tokenize(options, flags)


def tune(options: argparse.Namespace, flags: list[str]) -> int:
    """Run the trials of a tuning and print them (`genrec tune`)."""
    from dataclasses import replace

    from genrec import engines, loading, studies, tuner, tuning_report
    from genrec.overrides import override

    engine = None if options.on is None else engines.engine_of(options.on)  # its errors come before anything is loaded
    tuning = loading.load_tuning(options.experiment)
    given = {name: getattr(options, name) for name in ("trials", "hours", "seed", "round_size") if getattr(options, name) is not None}
    tuning = replace(tuning, experiment=override([tuning.experiment], flags, options.experiment)[0], **given)
    tuning = replace(tuning, round_size=tuner.round_size_of(tuning, engine))
    if options.dry_run:
        tuner.check(tuning, options.experiment)
        print_lines(tuning_report.planned(tuning))
        return 0
    origin = ListedExperiments(options.experiment, tuple(flags), None)
    record = tuner.tune(tuning, studies.study_name(options.experiment), options.replace, options.experiment, engine, origin)
    print_lines(tuning_report.lines(tuning, record, options.experiment, flags))
    return 0


def check(options: argparse.Namespace, flags: list[str]) -> int:
    """Check plug-ins (`genrec check`)."""
    from genrec import check_command
    from genrec.workspace import raw_folder

    return check_command.run(options.components, raw_folder())
