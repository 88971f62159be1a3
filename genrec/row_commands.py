"""The commands that read stored rows, `genrec list`, `show`, `compare` and `curves`, and `genrec doctor`.

Each command imports what it needs, so that `genrec --help` starts at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from genrec.errors import UsageError


def print_table(
    names: list[str], metric: str, reference: str | None, file: Path | None, seeds: dict[str, set[int]] | None = None
) -> None:
    """Print a table of all seeds; or, after a run, of the seeds that were run, with what it means and what to do next."""
    from genrec import run_files
    from genrec.evaluation import comparison_report
    from genrec.evaluation.compare import compare
    from genrec.workspace import reports_folder

    comparison = compare(run_files.outcomes(names, seeds), metric, reference)
    comparison_report.terminal(comparison)
    if seeds is not None:
        comparison_report.after_run(comparison, reports_folder())
    if file is not None:
        file.write_text(comparison_report.markdown(comparison), encoding="utf-8")


def list_rows(options: argparse.Namespace, flags: list[str]) -> int:
    """List the rows and the failed runs (`genrec list`)."""
    from genrec import run_list

    print("\n".join(run_list.lines(options.data)))
    return 0


def show(options: argparse.Namespace, flags: list[str]) -> int:
    """Print all that is stored about a row (`genrec show`)."""
    from genrec import run_files
    from genrec.workspace import store

    content = run_files.read(options.name)
    print(content["name"])
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
        for name, text in entry["environment"].items():
            print(f"  {name} = {text}")
        for name, value in entry["metrics"].items():
            print(f"  {name} = {value:.6g}")
    return 0


def compare(options: argparse.Namespace, flags: list[str]) -> int:
    """Compare stored rows (`genrec compare`)."""
    if options.reference is not None and options.reference not in options.names:
        raise UsageError(f"--reference {options.reference} is not among the rows {', '.join(options.names)}")
    print_table(options.names, options.metric, options.reference, options.markdown)
    return 0


def curves(options: argparse.Namespace, flags: list[str]) -> int:
    """Print and plot training curves (`genrec curves`)."""
    from genrec import inspect_commands

    return inspect_commands.curves(options)


def doctor(options: argparse.Namespace, flags: list[str]) -> int:
    """Describe the installation (`genrec doctor`)."""
    from genrec import doctor

    return doctor.report()
