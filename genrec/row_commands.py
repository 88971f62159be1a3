"""The commands that read stored rows, `genrec list`, `show`, `compare`, `keep` and `curves`, and `genrec doctor`.

Each command imports what it needs, so that `genrec --help` starts at once.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.errors import UsageError, counted

if TYPE_CHECKING:
    from genrec.kept_rows import Rows

NUM_SHOWN = 5  # seeds that a message names at most


def print_table(
    names: list[str],
    metric: str,
    reference: str | None,
    file: Path | None,
    seeds: dict[str, set[int]] | None = None,
    after_run: bool = False,
    folder: Path | None = None,
) -> None:
    """Print a table of all seeds, or of those given for each row. After a run, also print its meaning and what to do next.

    `folder` holds kept rows; by default the rows are those of the data folder.
    """
    from genrec.evaluation.compare import compare
    from genrec.evaluation.comparison import comparison_report
    from genrec.workspace import reports_folder

    comparison = compare(_rows(folder).outcomes(names, seeds, metric), metric, reference)
    comparison_report.terminal(comparison)
    if after_run:
        comparison_report.after_run(comparison, reports_folder())
    if file is not None:
        file.write_text(comparison_report.markdown(comparison), encoding="utf-8")


def _rows(folder: Path | None) -> Rows:
    """Return the rows that are kept in a folder, by default those of the data folder."""
    from genrec import kept_rows, run_files

    return run_files if folder is None else kept_rows.KeptRows(folder)


def list_rows(options: argparse.Namespace, flags: list[str]) -> int:
    """List the rows and the failed runs (`genrec list`)."""
    from genrec import run_list

    print("\n".join(run_list.lines(options.data)))
    return 0


def show(options: argparse.Namespace, flags: list[str]) -> int:
    """Print all that is stored about a row (`genrec show`)."""
    from genrec import kept_steps, row_settings, run_files, studies, tuning_record
    from genrec.workspace import store

    content, tried = run_files.read(options.name), studies.read_all()
    print(content["name"])
    for origin in tuning_record.origins(content["configuration"]):
        print(f"  {origin}")
    for title in ("protocol", "configuration"):
        print(f"\n{title}")
        for key, value in content[title].items():
            print(f"  {key} = {value}")
    for seed, entry in content["seeds"].items():
        print(f"\nseed {seed}")
        for stage, key in entry["artifacts"].items():
            about = store().get(stage, key).manifest
            where = {name: about["environment"].get(name, "?") for name in ("torch", "threads")}
            made = f"{about['created']}, {about['seconds']:.1f} s, commit {about['git']}, torch {where['torch']}"
            print(f"  {stage:9} {store().folder(stage, key)}  made {made}, threads {where['threads']}")
        for stage, step in kept_steps.kept_steps(entry["artifacts"], store()).items():
            print(f"  {stage} kept step {step}{kept_steps.BEFORE_TRAINING.get(stage, kept_steps.BEFORE_LATER) if step == 0 else ''}")
        settings = row_settings.training_hash(content["configuration"])
        for study in studies.of_run(tried, content["name"], settings, int(seed), run_files.present_settings):
            print(f"  run in {study.name}, {counted(len(study.rows), 'trained row')} in all: {', '.join(sorted(study.rows))}")
        for name, text in entry["environment"].items():
            print(f"  {name} = {text}")
        for name, value in entry["metrics"].items():
            print(f"  {name} = {value:.6g}")
    return 0


def compare(options: argparse.Namespace, flags: list[str]) -> int:
    """Compare stored rows (`genrec compare`)."""
    if options.reference is not None and options.reference not in options.names:
        raise UsageError(f"--reference {options.reference} is not among the rows {', '.join(options.names)}")
    seeds = None if options.seeds is None else _at_seeds(options.names, listed_seeds(options.seeds), options.folder)
    print_table(options.names, options.metric, options.reference, options.markdown, seeds, folder=options.folder)
    return 0


def keep(options: argparse.Namespace, flags: list[str]) -> int:
    """Keep the results of stored rows in a small folder (`genrec keep`)."""
    from genrec import kept_rows, run_files

    rows = kept_rows.keep(options.names, options.folder, options.metrics, options.replace)
    kept = run_files.names_of_rows(options.folder / "runs")
    for name in dict.fromkeys(options.names):
        size = sum(path.stat().st_size for kind in kept_rows.KINDS if (path := rows.file(kind, name)).is_file())
        print(f"{name}: {counted(len(rows.read(name)['seeds']), 'seed')}, {size / 1e3:,.0f} kB")
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{options.folder} holds {counted(len(kept), 'row')}, {size / 1e6:.2f} MB; compare them with")
    print(f"  genrec compare {' '.join(map(shlex.quote, dict.fromkeys(options.names)))} --from {shlex.quote(str(options.folder))}")
    return 0


def listed_seeds(text: str) -> Sequence[int]:
    """Return the seeds that an option names: `5` is a number of seeds, 0 to 4; `5,6,7` and `5,` list them."""
    from genrec.experiment import seed_numbers

    parts = [part.strip() for part in text.split(",")]
    listed = parts[:-1] if len(parts) > 1 and not parts[-1] else parts
    if not all(part.isdecimal() for part in listed):
        raise UsageError(f"--seeds must be a number of seeds, such as 5, or seeds with commas, such as 5,6,7, got {text!r}")
    return seed_numbers(int(parts[0]) if len(parts) == 1 else [int(part) for part in listed])


def _at_seeds(names: list[str], numbers: Sequence[int], folder: Path | None) -> dict[str, set[int]]:
    """Return the seeds at which each row is compared: those of `numbers` that it has. A baseline without them keeps its own.

    Raises UsageError if a trained row has none of them. A row that lacks some is named in a line.
    """
    from genrec.evaluation.statistics.paired_tests import is_trained, seeds_in_words
    from genrec.progress import say

    found: dict[str, set[int]] = {}
    for name in dict.fromkeys(names):
        content = _rows(folder).read(name)
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
    from genrec.evaluation.statistics.paired_tests import enumerated, seeds_in_words

    first = [*islice((number for number in numbers if number not in without), NUM_SHOWN)]
    others = len(numbers) - len(without) - len(first)
    return f"seeds {enumerated([*first, f'{others:,} more'])}" if others else seeds_in_words(first)


def curves(options: argparse.Namespace, flags: list[str]) -> int:
    """Print and plot training curves (`genrec curves`)."""
    from genrec import inspect_commands

    return inspect_commands.curves(options)


def doctor(options: argparse.Namespace, flags: list[str]) -> int:
    """Describe the installation (`genrec doctor`)."""
    from genrec import doctor

    return doctor.report()
