"""The parser of the command line. The commands themselves are in `genrec.experiment_commands` and `genrec.row_commands`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from genrec import __version__, dashed_values, experiment_commands, row_commands, serving_parser
from genrec.errors import did_you_mean
from genrec.stage_names import align_stage

FIELDS = {"--seed"}  # options that are fields of the experiment; left to the overrides, argparse takes them for short forms of others
IDS = ("--history", "--user", "--search")  # options of `genrec recommend` with ids and titles, which may begin with a dash
STAGES = ("sft", *map(align_stage, range(9)))  # with training curves


def build() -> argparse.ArgumentParser:
    """Return the parser of all commands. Importing and building it imports nothing heavy."""
    parser = argparse.ArgumentParser(prog="genrec", description="Generative recommendation with Semantic IDs.")
    parser.add_argument("--version", action="version", version=f"genrec {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run an experiment or a list of experiments and print the results table",
        description="Run the stages whose artifacts are missing and print the results table. Override fields by key path, as in "
        "--seed 1 --align.loss.beta 0.3 --align.negatives Uniform; '--fields' lists all fields. An override changes every "
        "experiment with the field. '--name NAME' names a single row; for a list it is a prefix: NAME-OLDNAME.",
    )
    _add_experiment(run)
    run.add_argument("--dry-run", action="store_true", help="print the stages, what is done and the estimated time; write nothing")
    run.add_argument("--seed", metavar="N", help="run every experiment with this seed alone; an override like those of other fields")
    run.add_argument(
        "--seeds",
        metavar="COUNT|N,N,...",
        help="run every trained experiment with these seeds in place of its own: a single number counts them, 7 stands for seeds 0 to "
        "6; with a comma they are listed, as in 5,6,7, and 7, is seed 7 alone. A baseline is run once, and with all of these seeds "
        "where ties have an order for each",
    )
    run.add_argument(
        "--rows",
        metavar="NAME,...",
        help="run only these rows of the list, by their names in the file; * stands for any characters, as in '*-sft,*-gated'. "
        "All endpoints of the function are recorded",
    )
    run.add_argument("--refresh", metavar="STAGE", help="rebuild this stage and all later stages")
    run.add_argument("--replace", action="store_true", help="start rows again whose settings differ from those in data/runs/")
    run.add_argument("--fields", action="store_true", help="list all fields with their defaults")
    run.add_argument(
        "--track",
        metavar="TRACKER",
        action="append",
        default=[],
        help="also log curves, settings and metrics to tensorboard, wandb, mlflow or FILE.py:CLASS; may be repeated. A tracker that "
        "fails stops no training",
    )
    run.add_argument(
        "--on",
        metavar="ENGINE",
        help="run stages side by side in other processes: local:N, ray, ray:ADDRESS, slurm or slurm:partition=NAME,hours=8. Stages "
        "that rows share are built once; a row that fails does not end the others",
    )
    run.add_argument(
        "--trainer.devices",
        dest="devices",
        metavar="N",
        type=int,
        default=1,
        help="train each policy with N processes, a GPU for each where there are GPUs; steps are computed in at least N parts "
        "(--sft.optimization.accumulate)",
    )
    run.add_argument(
        "--trainer.strategy",
        dest="strategy",
        metavar="STRATEGY",
        default="ddp",
        help="what each of the N processes holds: ddp, the whole optimizer, or zero1, 1/N of its state; the weights are the same",
    )
    run.add_argument("--offline", action="store_true", help="download nothing (also GENREC_OFFLINE=1)")
    run.set_defaults(call=experiment_commands.run)

    data = commands.add_parser(
        "data",
        help="download and check a data set; print and plot its statistics",
        description="Download, check and split the data of an experiment and describe them. Override fields as in 'genrec run'.",
    )
    _add_experiment(data)
    _add_inspect_options(data, ["data"], "prepare the data again")
    data.set_defaults(call=experiment_commands.data)

    tokens = commands.add_parser(
        "tokenize",
        help="build the Semantic IDs; print and plot their health",
        description="Build the Semantic IDs of an experiment and describe them: code usage, collisions, and how alike items with a "
        "common prefix are. Override fields as in 'genrec run'.",
    )
    _add_experiment(tokens)
    _add_inspect_options(tokens, ["data", "embed", "tokenize"], "rebuild from this stage on")
    tokens.set_defaults(call=experiment_commands.tokenize)

    tune = commands.add_parser(
        "tune",
        help="search for the settings with the best validation metric; the test is not evaluated",
        description="Run the trials of a tuning: train the experiment with values of its space, keep the score on validation, print "
        "all trials and the command that confirms the best one on fresh seeds. A tuning that was interrupted goes on. Needs Optuna: "
        "pip install 'genrec[tune]'. Override fields as in 'genrec run'.",
    )
    tune.add_argument("experiment", metavar="FILE.py:FUNCTION", help="a function that returns a genrec.tuning.Tuning")
    tune.add_argument("--trials", metavar="N", type=int, help="number of trials (default: that of the tuning)")
    tune.add_argument("--hours", metavar="H", type=float, help="processor-hours after which no trial starts (default: the tuning's)")
    tune.add_argument("--seed", metavar="N", type=int, help="seed of the trials and of the search (default: the tuning's)")
    tune.add_argument(
        "--round-size",
        metavar="N",
        type=int,
        help="number of trials that are proposed together and may run at the same time; the trials depend on it (default: that of the "
        "tuning, else N with --on local:N, else 1)",
    )
    tune.add_argument("--on", metavar="ENGINE", help="run the trials of a round in other processes; engines as in 'genrec run --on'")
    tune.add_argument("--replace", action="store_true", help="start again if the settings have changed; earlier trials stay recorded")
    tune.add_argument(
        "--dry-run", action="store_true", help="print the budget, the space and the first trial's stages, and run nothing"
    )
    tune.add_argument("--offline", action="store_true", help="download nothing (also GENREC_OFFLINE=1)")
    tune.set_defaults(call=experiment_commands.tune)

    listing = commands.add_parser("list", help="list the rows with their seeds and results, and the runs that failed")
    listing.add_argument("--data", metavar="TEXT", help="only rows with this text in the name of their data set")
    listing.add_argument("--disk", action="store_true", help="list the disk space of rows and artifacts instead")
    listing.set_defaults(call=row_commands.list_rows)

    status = commands.add_parser("status", help="show the runs that are going on, and those that failed with the command to resume")
    status.set_defaults(call=row_commands.status)

    clean = commands.add_parser(
        "clean",
        help="remove rows, or the artifacts that no row uses",
        description="Show what would be removed, with sizes, and ask. Artifacts that another row or a running, failed or killed run "
        "uses are kept.",
    )
    clean.add_argument("names", metavar="ROW", nargs="*", help="rows to remove, with the artifacts that no other row uses")
    clean.add_argument("--unused", action="store_true", help="remove the artifacts that no row uses, and what interrupted runs left")
    clean.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    clean.add_argument("--yes", action="store_true", help="remove without a question")
    clean.set_defaults(call=row_commands.clean)

    show = commands.add_parser("show", help="print the stages, artifacts, settings and metrics of a row")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(call=row_commands.show)

    compare = commands.add_parser("compare", help="compare rows: means, intervals, paired tests, different settings")
    compare.add_argument("names", metavar="NAME", nargs="+")
    compare.add_argument("--metric", default="ndcg@10", help="the metric to test (default: ndcg@10)")
    compare.add_argument("--reference", metavar="NAME", help="the row that all others are tested against (default: the first)")
    compare.add_argument("--seeds", metavar="COUNT|N,N,...", help="compare at these seeds only: 5 is seeds 0 to 4; 3,4,5 lists them")
    compare.add_argument("--markdown", metavar="FILE", type=Path, help="also write the tables as Markdown")
    compare.add_argument("--latex", metavar="FILE", type=Path, help="also write the tables as LaTeX (booktabs)")
    compare.add_argument("--csv", metavar="FILE", type=Path, help="also write all metrics and tests as CSV, a line for each row")
    compare.add_argument(
        "--picture", metavar="FILE", type=Path, help="also plot the differences with their intervals, as PNG, SVG or PDF"
    )
    compare.add_argument(
        "--html", metavar="FILE", type=Path, help="also write a report with charts, one file (needs pip install 'genrec[report]')"
    )
    compare.add_argument(
        "--html-users", metavar="N", type=int, default=30, help="test users that the report shows (default: 30; 0: none)"
    )
    compare.add_argument("--html-seed", metavar="N", type=int, default=0, help="seed of the sample of these users (default: 0)")
    compare.add_argument("--from", dest="folder", metavar="FOLDER", type=Path, help="compare rows that 'genrec keep' wrote to FOLDER")
    compare.add_argument("--replace", action="store_true", help="replace files that genrec did not write")
    compare.set_defaults(call=row_commands.compare)

    keep = commands.add_parser(
        "keep",
        help="keep the results of rows in a small folder, from which anyone compares them without training",
        description="Write the run files, the rank of every user and the record of what was tried to a folder, about 0.1 MB a row. "
        "'genrec compare NAME ... --from FOLDER' prints the same table and tests from it.",
    )
    keep.add_argument("names", metavar="NAME", nargs="+")
    keep.add_argument("--to", dest="folder", metavar="FOLDER", type=Path, required=True, help="the folder; it may hold other rows")
    keep.add_argument(
        "--metrics", metavar="METRIC", nargs="+", default=[], help="also keep these metrics of each user, such as tail_recall@10"
    )
    keep.add_argument(
        "--replace", action="store_true", help="replace kept rows that have other settings, other metrics or further seeds"
    )
    keep.set_defaults(call=row_commands.keep)

    curves = commands.add_parser(
        "curves",
        help="training curves: last values, best step, a plot of one or several rows",
        description="Print the files, last values and best validation step of training curves. Plot them, each row as the mean over "
        "its seeds.",
    )
    curves.add_argument("names", metavar="NAME", nargs="+")
    curves.add_argument(
        "--stage", metavar="STAGE", choices=STAGES, help="sft, align, or align-2 of a chain (default: the last that every row has)"
    )
    curves.add_argument("--picture", metavar="FILE", type=Path, help="file of the plot (default: in reports/ of the data folder)")
    curves.add_argument("--all", action="store_true", help="plot all columns, not only the most important panels of the stage")
    curves.add_argument("--csv", metavar="FILE", type=Path, help="also write all curves as one table with a line per seed and step")
    curves.add_argument("--replace", action="store_true", help="replace files that genrec did not write")
    curves.set_defaults(call=row_commands.curves)

    serving_parser.add_recommend(commands)
    serving_parser.add_export(commands)
    serving_parser.add_serve(commands)

    check = commands.add_parser(
        "check",
        help="check that plug-ins of any kind (sampler, loss, source, split, policy, ...) keep their contracts",
        description=(
            "Check one plug-in, several, or all plug-ins that a file defines, each built without arguments. A line for each says "
            "whether it keeps its contract. Exit code 1 if one of several fails; a single one that breaks its contract ends in code 3."
        ),
    )
    check.add_argument(
        "components", metavar="FILE.py[:CLASS]", nargs="+",
        help="a class, a function that returns a plug-in, or an instance; without it, all public plug-in classes of the file",
    )  # fmt: skip
    check.set_defaults(call=experiment_commands.check)

    doctor = commands.add_parser("doctor", help="print versions, devices, threads and free disk space for a bug report")
    doctor.set_defaults(call=row_commands.doctor)
    return parser


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment", metavar="FILE.py:FUNCTION", help="a function that returns an experiment or a list of experiments"
    )


def _add_inspect_options(parser: argparse.ArgumentParser, stages: list[str], refresh: str) -> None:
    """Add the options of a command that builds these stages and describes the last one."""
    parser.add_argument("--picture", metavar="FILE", type=Path, help="file of the plot (default: in reports/ of the data folder)")
    parser.add_argument("--replace", action="store_true", help="replace a picture that genrec did not write")
    parser.add_argument("--refresh", nargs="?", const=stages[-1], choices=stages, help=refresh)
    parser.add_argument("--offline", action="store_true", help="download nothing (also GENREC_OFFLINE=1)")


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options and, for commands on experiments, the overrides. Exits with 2 for an unknown command or option.

    `words` of the options are the arguments as they were given.
    """
    commands = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    if arguments and arguments[0][:1] != "-" and arguments[0] not in commands:
        known = f"the commands are {', '.join(commands)}"
        parser.error(f"there is no command {arguments[0]!r}; {known}{did_you_mean(arguments[0], commands)}")
    marked = dashed_values.mark(commands["recommend"], arguments, IDS) if arguments[:1] == ["recommend"] else arguments
    options, flags = parser.parse_known_args(marked)
    dashed_values.unmark(options)
    options.words = arguments
    overrides = options.command in ("run", "data", "tokenize", "tune")
    for flag in (flag.partition("=")[0] for flag in flags if flag.startswith("--") and "." not in flag):
        names = {
            option for action in commands[options.command]._actions for option in action.option_strings if option[1] == "-"
        } - FIELDS
        nearest = did_you_mean(flag, names)
        if nearest and not (overrides and _is_override(flag, nearest, names)):
            commands[options.command].error(f"there is no option {flag}{nearest}")
    if flags and not overrides:
        history = any(each.startswith("--history=") for each in arguments)
        one = "; --history=ITEM takes one item, repeat it for each item" if history else ""
        commands[options.command].error(f"unrecognized arguments: {' '.join(flags)}{one}; see genrec {options.command} --help")
    return options, flags


def _is_override(flag: str, nearest: str, options: set[str]) -> bool:
    """Return whether a flag names a field of a component, or is nearer to one of the experiment than to the nearest option."""
    from genrec.component_choices import public_fields
    from genrec.experiment import Experiment

    own = {f"--{field.name.replace('_', '-')}" for field in fields(Experiment)}
    return flag[2:].replace("-", "_") in public_fields() or did_you_mean(flag, options | own) != nearest
