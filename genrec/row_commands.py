"""The commands that read stored rows, `genrec list`, `show`, `compare` and `curves`, and `genrec doctor`.

Each command imports what it needs, so that `genrec --help` starts at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.errors import UsageError, counted

if TYPE_CHECKING:
    from genrec.evaluation.compare import Comparison


def print_table(
    names: list[str],
    metric: str,
    reference: str | None,
    file: Path | None,
    seeds: dict[str, set[int]] | None = None,
    after_run: bool = False,
) -> None:
    """Print a table of all seeds, or of those given for each row. After a run, also print its meaning and what to do next."""
    from genrec import results

    print_comparison(results.comparison_of(names, metric, reference, seeds), file, after_run)


def print_comparison(comparison: Comparison, file: Path | None = None, after_run: bool = False) -> None:
    """Print a comparison, after a run also its meaning and what to do next, and write it as Markdown to a file."""
    from genrec.evaluation.comparison import comparison_report
    from genrec.workspace import reports_folder

    comparison_report.terminal(comparison)
    if after_run:
        comparison_report.after_run(comparison, reports_folder())
    if file is not None:
        file.write_text(comparison_report.markdown(comparison), encoding="utf-8")


def list_rows(options: argparse.Namespace, flags: list[str]) -> int:
    """List the rows and the failed runs, or their disk space (`genrec list`)."""
    from genrec import disk_usage, run_list

    print("\n".join(disk_usage.lines(options.data) if options.disk else run_list.lines(options.data)))
    return 0


def status(options: argparse.Namespace, flags: list[str]) -> int:
    """Show what runs and what failed (`genrec status`)."""
    from genrec import run_status

    print("\n".join(run_status.lines()))
    return 0


def clean(options: argparse.Namespace, flags: list[str]) -> int:
    """Remove rows, or what no row uses (`genrec clean`)."""
    from genrec import clean_command

    return clean_command.clean(options.names, options.unused, options.dry_run, options.yes)


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
    from genrec import results

    seeds = None if options.seeds is None else listed_seeds(options.seeds)
    found = results.compare(options.names, options.metric, options.reference, seeds)
    print_comparison(found.comparisons[0], options.markdown)
    return 0


def listed_seeds(text: str) -> Sequence[int]:
    """Return the seeds that an option names: `5` is a number of seeds, 0 to 4; `5,6,7` and `5,` list them."""
    from genrec.experiment import seed_numbers

    parts = [part.strip() for part in text.split(",")]
    listed = parts[:-1] if len(parts) > 1 and not parts[-1] else parts
    if not all(part.isdecimal() for part in listed):
        raise UsageError(f"--seeds must be a number of seeds, such as 5, or seeds with commas, such as 5,6,7, got {text!r}")
    return seed_numbers(int(parts[0]) if len(parts) == 1 else [int(part) for part in listed])


def curves(options: argparse.Namespace, flags: list[str]) -> int:
    """Print and plot training curves (`genrec curves`)."""
    from genrec import inspect_commands

    return inspect_commands.curves(options)


def recommend(options: argparse.Namespace, flags: list[str]) -> int:
    """Recommend items to histories and users (`genrec recommend`)."""
    from genrec.serving import recommend_command

    return recommend_command.recommend(options)


def doctor(options: argparse.Namespace, flags: list[str]) -> int:
    """Describe the installation (`genrec doctor`)."""
    from genrec import doctor

    return doctor.report()
