"""The command line. Each command imports what it needs, so that `genrec --help` starts at once."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from pathlib import Path

from genrec import __version__, completion, threads
from genrec.errors import GenrecError, UsageError, did_you_mean
from genrec.storage_errors import explain


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code (see `genrec.errors`)."""
    threads.configure()
    parser = _parser()
    completion.answer(parser)
    options, flags = _parse(parser, sys.argv[1:] if arguments is None else arguments)
    if getattr(options, "offline", False):
        os.environ["GENREC_OFFLINE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"genrec: warning: {message}", file=sys.stderr)
            code: int = options.call(options, flags)
        if sys.stdout is not None:  # None if the parent process closed it
            sys.stdout.flush()
        return code
    except GenrecError as error:
        print(f"genrec: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes an exit of it
            return _interrupted()
        from genrec.loading import explain_exit

        print(f"genrec: {explain_exit(error)}", file=sys.stderr)  # of a plug-in
        return UsageError.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError when memory runs out
        if isinstance(error, RuntimeError) and not re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE):
            raise
        print(
            f"genrec: out of memory ({error}); try half the batch: --sft.optimization.batch_size or --align.optimization.batch_size",
            file=sys.stderr,
        )
        return 5
    except OSError as error:
        explained = explain(error)
        if explained is None:
            raise
        print(f"genrec: {explained}", file=sys.stderr)
        return explained.exit_code


def _interrupted() -> int:
    """Print how to go on after Ctrl-C and return the exit code."""
    print("genrec: interrupted; run the same command again to resume from the last finished stage or checkpoint", file=sys.stderr)
    return 130


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options and, for commands on experiments, the overrides. Exits with 2 for an unknown command or option."""
    commands = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    if arguments and arguments[0][:1] != "-" and arguments[0] not in commands:
        known = f"the commands are {', '.join(commands)}"
        parser.error(f"there is no command {arguments[0]!r}; {known}{did_you_mean(arguments[0], commands)}")
    options, flags = parser.parse_known_args(arguments)
    overrides = options.command in ("run", "data", "tokenize")
    for flag in (flag.partition("=")[0] for flag in flags if flag.startswith("--") and "." not in flag):
        names = {option for action in commands[options.command]._actions for option in action.option_strings if option[1] == "-"}
        nearest = did_you_mean(flag, names)
        if nearest and not (overrides and did_you_mean(flag, names | _field_flags()) != nearest):
            commands[options.command].error(f"there is no option {flag}{nearest}")
    if flags and not overrides:
        commands[options.command].error(f"unrecognized arguments: {' '.join(flags)}; see genrec {options.command} --help")
    return options, flags


def _field_flags() -> set[str]:
    """Return the flags that override the fields of the experiment itself."""
    from dataclasses import fields

    from genrec.experiment import Experiment

    return {f"--{field.name.replace('_', '-')}" for field in fields(Experiment)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="genrec", description="Generative recommendation with Semantic IDs.")
    parser.add_argument("--version", action="version", version=f"genrec {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run an experiment or a list of experiments and print the results table",
        description="Run the stages whose artifacts are missing and print the results table. Override fields by key path, as in "
        "--seed 1 --align.loss.loss.beta 0.3 --align.negatives Uniform; '--fields' lists all fields. An override changes every "
        "experiment with the field. '--name NAME' names a single row; for a list it is a prefix: NAME-OLDNAME.",
    )
    run.add_argument("experiment", metavar="FILE.py:FUNCTION", help="a function that returns an experiment or a list of experiments")
    run.add_argument("--dry-run", action="store_true", help="print the stages, what is done and the estimated time; write nothing")
    run.add_argument("--refresh", metavar="STAGE", help="rebuild this stage and all later stages")
    run.add_argument("--replace", action="store_true", help="start rows again whose settings differ from those in data/runs/")
    run.add_argument("--fields", action="store_true", help="list all fields with their defaults")
    run.add_argument("--offline", action="store_true", help="download nothing (also GENREC_OFFLINE=1)")
    run.set_defaults(call=_run)

    data = commands.add_parser(
        "data",
        help="download and check a data set; print and plot its statistics",
        description="Download, check and split the data of an experiment and describe them. Override fields as in 'genrec run'.",
    )
    data.add_argument("experiment", metavar="FILE.py:FUNCTION", help="a function that returns an experiment or a list of experiments")
    _add_inspect_options(data, ["data"], "prepare the data again")
    data.set_defaults(call=_data)

    tokens = commands.add_parser(
        "tokenize",
        help="build the Semantic IDs; print and plot their health",
        description="Build the Semantic IDs of an experiment and describe them: code usage, collisions, and how alike items with a "
        "common prefix are. Override fields as in 'genrec run'.",
    )
    tokens.add_argument(
        "experiment", metavar="FILE.py:FUNCTION", help="a function that returns an experiment or a list of experiments"
    )
    _add_inspect_options(tokens, ["data", "embed", "tokenize"], "rebuild from this stage on")
    tokens.set_defaults(call=_tokenize)

    listing = commands.add_parser("list", help="list the rows with their seeds and results, and the runs that failed")
    listing.add_argument("--data", metavar="TEXT", help="only rows with this text in the name of their data set")
    listing.set_defaults(call=_list)

    show = commands.add_parser("show", help="print the stages, artifacts, settings and metrics of a row")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(call=_show)

    compare = commands.add_parser("compare", help="compare rows: means, intervals, paired tests, different settings")
    compare.add_argument("names", metavar="NAME", nargs="+")
    compare.add_argument("--metric", default="ndcg@10", help="the metric to test (default: ndcg@10)")
    compare.add_argument("--reference", metavar="NAME", help="the row that all others are tested against (default: the first)")
    compare.add_argument("--markdown", metavar="FILE", type=Path, help="also write the tables as Markdown")
    compare.set_defaults(call=_compare)

    curves = commands.add_parser(
        "curves",
        help="training curves: last values, best step, a plot of one or several rows",
        description="Print the files, last values and best validation step of training curves. Plot them, each row as the mean over "
        "its seeds.",
    )
    curves.add_argument("names", metavar="NAME", nargs="+")
    curves.add_argument("--stage", choices=["align", "sft"], help="the stage (default: align if every row has it, else sft)")
    curves.add_argument("--picture", metavar="FILE", type=Path, help="file of the plot (default: in reports/ of the data folder)")
    curves.add_argument("--all", action="store_true", help="plot all columns, not only the most important panels of the stage")
    curves.add_argument("--csv", metavar="FILE", type=Path, help="also write all curves as one table with a line per seed and step")
    curves.set_defaults(call=_curves)

    check = commands.add_parser(
        "check",
        help="check that a plug-in of any kind (sampler, loss, source, split, policy, ...) keeps its contract",
    )
    check.add_argument("component", metavar="FILE.py:CLASS")
    check.set_defaults(call=_check)

    doctor = commands.add_parser("doctor", help="print versions, devices, threads and free disk space for a bug report")
    doctor.set_defaults(call=_doctor)
    return parser


def _add_inspect_options(parser: argparse.ArgumentParser, stages: list[str], refresh: str) -> None:
    """Add the options of a command that builds these stages and describes the last one."""
    parser.add_argument("--picture", metavar="FILE", type=Path, help="file of the plot (default: in reports/ of the data folder)")
    parser.add_argument("--refresh", nargs="?", const=stages[-1], choices=stages, help=refresh)
    parser.add_argument("--offline", action="store_true", help="download nothing (also GENREC_OFFLINE=1)")


def _run(options: argparse.Namespace, flags: list[str]) -> int:
    from genrec import dry_run, loading, pipeline, run_experiments, run_files
    from genrec.overrides import override, print_fields
    from genrec.progress import say

    pipeline.check_stage(options.refresh)
    found = loading.load(options.experiment)
    experiments = override(found, flags, options.experiment)
    if options.fields:
        print_fields(experiments[-1])
        return 0
    if len(experiments) < len(found):
        say(run_experiments.collapsed_line(len(found), experiments))
    if options.dry_run:
        for line in dry_run.lines(experiments, options.replace):
            print(line)
        return 0
    run_experiments.run(experiments, options.refresh, options.replace)
    seeds = {name: {entry.seed for entry in experiments if entry.name == name} for name in (entry.name for entry in experiments)}
    trained = {entry.name for entry in experiments if "sft" in entry.stages}
    for names in run_files.by_protocol(list(seeds)):
        cutoff = min(10, max(run_files.read(names[0])["protocol"]["cutoffs"]))
        _print_table(names, f"ndcg@{cutoff}", next((name for name in names if name in trained), names[0]), None, seeds)
    return 0


def _data(options: argparse.Namespace, flags: list[str]) -> int:
    from genrec import inspect_commands

    return inspect_commands.data(options, flags)


def _tokenize(options: argparse.Namespace, flags: list[str]) -> int:
    from genrec import inspect_commands

    return inspect_commands.tokenize(options, flags)


def _curves(options: argparse.Namespace, flags: list[str]) -> int:
    from genrec import inspect_commands

    return inspect_commands.curves(options)


def _print_table(
    names: list[str], metric: str, reference: str | None, file: Path | None, seeds: dict[str, set[int]] | None = None
) -> None:
    """Print a table of all seeds; or, after a run, of the seeds that were run, with what it means and what to do next."""
    from genrec import run_files
    from genrec.evaluation import comparison_report
    from genrec.evaluation.compare import compare
    from genrec.workspace import reports_folder

    comparison = compare(run_files.outcomes(names, seeds, metric), metric, reference)
    comparison_report.terminal(comparison)
    if seeds is not None:
        comparison_report.after_run(comparison, reports_folder())
    if file is not None:
        file.write_text(comparison_report.markdown(comparison), encoding="utf-8")


def _list(options: argparse.Namespace, flags: list[str]) -> int:
    from genrec import run_list

    print("\n".join(run_list.lines(options.data)))
    return 0


def _show(options: argparse.Namespace, flags: list[str]) -> int:
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


def _compare(options: argparse.Namespace, flags: list[str]) -> int:
    if options.reference is not None and options.reference not in options.names:
        raise UsageError(f"--reference {options.reference} is not among the rows {', '.join(options.names)}")
    _print_table(options.names, options.metric, options.reference, options.markdown)
    return 0


def _check(options: argparse.Namespace, flags: list[str]) -> int:
    from genrec import check_command, loading
    from genrec.workspace import raw_folder

    print("\n".join(check_command.check(loading.component(options.component), raw_folder())))
    return 0


def _doctor(options: argparse.Namespace, flags: list[str]) -> int:
    from genrec import doctor

    return doctor.report()


if __name__ == "__main__":
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))  # `python -m` puts the current folder first, before the libraries: see `genrec.loading`
    sys.exit(main())
