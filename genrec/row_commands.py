"""The commands that read stored rows, such as `genrec list`, `compare`, `recommend` and `export`, and `genrec doctor`.

Each command imports what it needs, so that `genrec --help` starts at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.command_lines import command_line
from genrec.errors import UsageError, counted
from genrec.terminal_text import print_lines

if TYPE_CHECKING:
    from genrec.evaluation.compare import Comparison, Run
    from genrec.kept_rows import KeptRows, Rows


def print_comparison(
    comparison: Comparison,
    file: Path | None = None,
    after_run: bool = False,
    with_inputs: Collection[str] = (),
    with_seeds: str = "",
) -> None:
    """Print a comparison with the sentences on controls, after a run also its meaning and what to do next; write it to a file.

    The file is Markdown. `with_inputs` are the rows of a run that read more of a history than its items, `with_seeds` is the command
    that runs the rows with enough seeds.
    """
    from genrec.evaluation.comparison import comparison_report
    from genrec.evaluation.comparison.comparison_controls import reading_of_controls
    from genrec.workspace import reports_folder

    if after_run:
        comparison_report.after_run(comparison, reports_folder(), with_inputs, with_seeds)
    else:
        comparison_report.terminal(comparison, reading_of_controls(comparison))
    if file is not None:
        _write(file, comparison_report.markdown(comparison), "--markdown")


def list_rows(options: argparse.Namespace, flags: list[str]) -> int:
    """List the rows and the failed runs, or their disk space (`genrec list`)."""
    from genrec import disk_usage, run_list

    print_lines(disk_usage.lines(options.data) if options.disk else run_list.lines(options.data))
    return 0


def status(options: argparse.Namespace, flags: list[str]) -> int:
    """Show what runs and what failed (`genrec status`)."""
    from genrec import run_status

    print_lines(run_status.lines())
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
    from genrec import kept_rows, results, run_files
    from genrec.evaluation.compare import compare as compare_runs
    from genrec.evaluation.comparison import comparison_plots
    from genrec.evaluation.comparison.comparison_csv import comparison_csv
    from genrec.evaluation.comparison.comparison_latex import latex
    from genrec.progress import say
    from genrec.written_files import write_picture

    if options.reference is not None and options.reference not in options.names:
        raise UsageError(f"--reference {options.reference} is not among the rows {', '.join(options.names)}")
    _check_written(options)
    if options.html is not None:
        from genrec.reports import report_page

        report_page.check_libraries()
        if options.html_users < 0:
            raise UsageError(f"--html-users must be 0 (none) or more, got {options.html_users}")
    rows = None if options.folder is None else kept_rows.KeptRows(options.folder)
    named = results.named_once(options.names)
    names, left_out = _of_one_protocol(named, options.reference, rows or run_files) if options.html is not None else (named, [])
    seeds = None if options.seeds is None else results.at_seeds(names, listed_seeds(options.seeds), rows)
    runs = (rows or run_files).outcomes(names, seeds, options.metric)
    comparison = compare_runs(runs, options.metric, options.reference)
    print_comparison(comparison, options.markdown)
    for file, written, option in ((options.latex, latex, "--latex"), (options.csv, comparison_csv, "--csv")):
        if file is not None:
            _write(file, written(comparison), option)
    if options.picture is not None:
        write_picture(partial(comparison_plots.draw, comparison), options.picture)
        say(f"--picture: written to {options.picture}")
    if options.html is not None:
        _write_report(comparison, runs, options, named, left_out, rows)
    return 0


def _check_written(options: argparse.Namespace) -> None:
    """Raise UsageError if an option of `genrec compare` names a file that cannot be written, or one of others without `--replace`.

    So do two options that name the same file.
    """
    from genrec.evaluation.comparison.comparison_csv import FIRST
    from genrec.evaluation.comparison.comparison_latex import HEAD
    from genrec.evaluation.comparison.comparison_protocol import TITLE
    from genrec.written_files import check_different, check_picture, check_replaceable, check_writable

    written = ("markdown", "latex", "csv", "picture", "html")
    check_different({f"--{option}": getattr(options, option) for option in written})
    for option in ("markdown", "latex", "csv", "html"):
        check_writable(getattr(options, option), f"--{option}")
    check_picture(options.picture, options.replace)
    check_replaceable(options.markdown, "--markdown", lambda text: f"**{TITLE}**" in text, options.replace)
    check_replaceable(options.latex, "--latex", lambda text: text.startswith(HEAD), options.replace)
    check_replaceable(options.csv, "--csv", lambda text: text.startswith(",".join(FIRST)), options.replace)
    check_replaceable(options.html, "--html", lambda text: 'name="generator" content="genrec' in text[:2000], options.replace)


def keep(options: argparse.Namespace, flags: list[str]) -> int:
    """Keep the results of stored rows in a small folder (`genrec keep`)."""
    from genrec import kept_rows, run_files
    from genrec.disk_usage import in_words

    rows = kept_rows.keep(options.names, options.folder, options.metrics, options.replace)
    kept = run_files.names_of_rows(options.folder / "runs")
    for name in dict.fromkeys(options.names):
        size = sum(path.stat().st_size for kind in kept_rows.KINDS if (path := rows.file(kind, name)).is_file())
        print(f"{name}: {counted(len(rows.read(name)['seeds']), 'seed')}, {in_words(size)}")
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{options.folder} holds {counted(len(kept), 'row')}, {in_words(size)}; compare them with")
    print(f"  {command_line('compare', *dict.fromkeys(options.names), '--from', options.folder)}")
    return 0


def _of_one_protocol(names: list[str], reference: str | None, rows: Rows) -> tuple[list[str], list[str]]:
    """Return the rows with the protocol of the reference, and a sentence for each other row, which is also logged."""
    from genrec.progress import say

    first = reference or names[0]
    expected, kept, left_out = rows.read(first)["protocol"], [], []
    for name in names:
        found = rows.read(name)["protocol"]
        differing = [key for key in dict.fromkeys([*expected, *found]) if expected.get(key) != found.get(key)]
        if not differing:
            kept.append(name)
        else:
            left_out.append(f"{name} is left out: it and {first} have different protocols ({', '.join(differing)}).")
            say(left_out[-1])
    return kept, left_out


def _write_report(
    comparison: Comparison,
    runs: Sequence[Run],
    options: argparse.Namespace,
    named: Sequence[str],
    left_out: Sequence[str],
    rows: KeptRows | None,
) -> None:
    """Write the report of a comparison and its runs as one HTML file (`--html`); `named` are the rows of the command."""
    from genrec.reports import report_content, report_page

    words = ["compare", *named, "--metric", options.metric, "--reference", comparison.reference]
    words += [] if options.seeds is None else ["--seeds", options.seeds]
    words += [] if rows is None else ["--from", options.folder.name if options.folder.is_absolute() else options.folder]
    words += ["--html", options.html.name, "--html-users", options.html_users, "--html-seed", options.html_seed]
    chosen = report_content.ReportOptions(options.html_users, options.html_seed, command_line(*words), tuple(left_out), rows)
    _write(options.html, report_page.page(report_content.content(comparison, runs, chosen)), "--html")


def _write(path: Path, text: str, option: str) -> None:
    """Write a file that an option names, and say so."""
    from genrec.progress import say
    from genrec.written_files import not_writable

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise not_writable(path, option, error) from error
    say(f"{option}: written to {path}")


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


def export(options: argparse.Namespace, flags: list[str]) -> int:
    """Write a trained row to a folder that recommends without the data (`genrec export`)."""
    from genrec.disk_usage import in_words
    from genrec.serving import row_export
    from genrec.serving.export_files import folder_name

    written = row_export.export(options.name, options.folder, options.seed, options.code)
    size = sum(path.stat().st_size for path in written)
    folder = Path(options.folder)
    print(f"{folder}: {', '.join(sorted(path.name for path in written))}, {in_words(size)}; try it with")
    print(f"  {command_line('recommend', folder_name(folder), '--search', 'TEXT')}")
    print("README.md is the model card; read its section on the license of the data before you publish the folder")
    return 0


def serve(options: argparse.Namespace, flags: list[str]) -> int:
    """Serve rows and exports over HTTP (`genrec serve`)."""
    from genrec.serving import serve_command

    return serve_command.serve(options)


def doctor(options: argparse.Namespace, flags: list[str]) -> int:
    """Describe the installation (`genrec doctor`)."""
    from genrec import doctor

    return doctor.report()
