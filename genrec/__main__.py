"""The command line: `genrec run`, `data`, `tokenize`, `show`, `compare`, `curves`, `check`, `doctor`.

Nothing heavy is imported at its start.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import warnings
from pathlib import Path

from genrec import __version__, completion
from genrec.errors import GenrecError, UsageError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code (see `genrec.errors`)."""
    parser = _parser()
    completion.answer(parser)
    options, overrides = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    if overrides and options.command not in ("run", "data", "tokenize"):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    if getattr(options, "offline", False):
        os.environ["GENREC_OFFLINE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"genrec: warning: {message}", file=sys.stderr)
            code: int = options.call(options, overrides)
        if sys.stdout is not None:  # closed by whoever started this
            sys.stdout.flush()
        return code
    except GenrecError as error:
        print(f"genrec: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("genrec: stopped; the same command goes on from the last finished stage or checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError) as error:  # torch's errors of memory are RuntimeErrors, on a GPU and on a CPU
        if isinstance(error, RuntimeError) and not re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE):
            raise
        print(f"genrec: out of memory ({error}); try half the batch: --sft.batch or --align.batch", file=sys.stderr)
        return 5
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"genrec: the disk is full ({error}); finished artifacts are whole; free some space and run again", file=sys.stderr)
        return 5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="genrec", description="Generative recommendation with Semantic IDs.")
    parser.add_argument("--version", action="version", version=f"genrec {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run what is missing of an experiment, or of a list of them, and print the table",
        description="Run what is missing and print the table. Any field is overridden by its key path, as in "
        "--seed 1 --align.loss.loss.beta 0.3; '--fields' lists them. An override applies to every experiment of a list that has it.",
    )
    run.add_argument("experiment", metavar="FILE.py:FUNCTION", help="where the experiment, or a list of them, is returned")
    run.add_argument("--dry-run", action="store_true", help="print the stages and what is done already; write nothing")
    run.add_argument("--refresh", metavar="STAGE", help="build this stage and those after it anew")
    run.add_argument("--fields", action="store_true", help="list the fields that can be overridden")
    run.add_argument("--offline", action="store_true", help="fetch nothing (also GENREC_OFFLINE=1)")
    run.set_defaults(call=_run)

    data = commands.add_parser(
        "data",
        help="fetch and check a data set, print and draw its statistics",
        description="Fetch, check and split the data of an experiment and describe them. Fields are overridden as in 'genrec run'.",
    )
    data.add_argument("experiment", metavar="FILE.py:FUNCTION", help="an experiment, or a list of them, on the data")
    _describing(data, ["data"], "prepare the data anew")
    data.set_defaults(call=_data)

    tokens = commands.add_parser(
        "tokenize",
        help="make the Semantic IDs, print and draw what they are worth",
        description="Make the Semantic IDs of an experiment and describe them: usage, collisions, what a prefix says of an item. "
        "Fields are overridden as in 'genrec run'.",
    )
    tokens.add_argument("experiment", metavar="FILE.py:FUNCTION", help="an experiment, or a list of them")
    _describing(tokens, ["data", "embed", "tokenize"], "build from here on anew")
    tokens.set_defaults(call=_tokenize)

    show = commands.add_parser("show", help="a run's stages, artifacts, metrics and where every value came from")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(call=_show)

    compare = commands.add_parser("compare", help="rows beside each other: means, intervals, paired tests, differences")
    compare.add_argument("names", metavar="NAME", nargs="+")
    compare.add_argument("--metric", default="ndcg@10", help="tested metric (default: ndcg@10)")
    compare.add_argument("--reference", metavar="NAME", help="the row that the others are tested against (default: the first)")
    compare.add_argument("--markdown", metavar="FILE", type=Path, help="also write the table as Markdown")
    compare.set_defaults(call=_compare)

    curves = commands.add_parser(
        "curves",
        help="what was seen while policies were trained: last values, best step, a picture of several rows over each other",
        description="Print where the curves of a training are, their last values and the best step on validation, and draw them: one "
        "row by itself, or several over each other, each as the mean over its seeds.",
    )
    curves.add_argument("names", metavar="NAME", nargs="+")
    curves.add_argument("--stage", choices=["align", "sft"], help="whose curves (default: align, where every row has it)")
    curves.add_argument("--picture", metavar="FILE", type=Path, help="the picture (default: in reports/ of the data folder)")
    curves.add_argument("--csv", metavar="FILE", type=Path, help="also write all of them as one table, a row for each seed and step")
    curves.set_defaults(call=_curves)

    check = commands.add_parser(
        "check", help="whether a sampler, loss, source, item encoder, quantizer or policy of yours keeps its contract, and if not, why"
    )
    check.add_argument("component", metavar="FILE.py:CLASS")
    check.set_defaults(call=_check)

    doctor = commands.add_parser("doctor", help="versions, devices, threads, free disk: what a bug report needs")
    doctor.set_defaults(call=_doctor)
    return parser


def _describing(parser: argparse.ArgumentParser, stages: list[str], refresh: str) -> None:
    """The options of a command that builds stages up to the last of these, and describes what it is."""
    parser.add_argument("--picture", metavar="FILE", type=Path, help="the picture (default: in reports/ of the data folder)")
    parser.add_argument("--refresh", nargs="?", const=stages[-1], choices=stages, help=refresh)
    parser.add_argument("--offline", action="store_true", help="fetch nothing (also GENREC_OFFLINE=1)")


def _run(options: argparse.Namespace, overrides: list[str]) -> int:
    from genrec import loading, pipeline, runs

    pipeline.check_stage(options.refresh)
    found = loading.load(options.experiment)
    if options.fields:
        loading.print_fields(found[-1])
        return 0
    experiments = loading.override(found, overrides)
    if options.dry_run:
        for experiment in experiments:
            print(f"{experiment.name} (seed {experiment.seed})")
            for stage, key, state in runs.dry_run(experiment):
                print(f"  {stage:9} {key}  {state}")
        return 0
    runs.run(experiments, options.refresh)
    seeds = {name: {entry.seed for entry in experiments if entry.name == name} for name in (entry.name for entry in experiments)}
    trained = {entry.name for entry in experiments if not entry.is_baseline}
    for names in runs.by_protocol(list(seeds)):
        _print_table(names, "ndcg@10", next((name for name in names if name in trained), names[0]), None, seeds)
    return 0


def _data(options: argparse.Namespace, overrides: list[str]) -> int:
    from genrec import describing

    return describing.data(options, overrides)


def _tokenize(options: argparse.Namespace, overrides: list[str]) -> int:
    from genrec import describing

    return describing.tokenize(options, overrides)


def _curves(options: argparse.Namespace, overrides: list[str]) -> int:
    from genrec import describing

    return describing.curves(options)


def _print_table(
    names: list[str], metric: str, reference: str | None, file: Path | None, seeds: dict[str, set[int]] | None = None
) -> None:
    from genrec import runs
    from genrec.evaluation import report
    from genrec.evaluation.compare import compare

    comparison = compare(runs.outcomes(names, seeds), metric, reference)
    report.terminal(comparison)
    if file is not None:
        file.write_text(report.markdown(comparison), encoding="utf-8")


def _show(options: argparse.Namespace, overrides: list[str]) -> int:
    from genrec import pipeline, runs

    content = runs.read(options.name)
    print(content["name"])
    for title in ("protocol", "configuration"):
        print(f"\n{title}")
        for key, value in content[title].items():
            print(f"  {key} = {value}")
    for seed, entry in content["seeds"].items():
        print(f"\nseed {seed}")
        for stage, key in entry["artifacts"].items():
            about = pipeline.store().get(stage, key).manifest
            made = f"{about['created']}, {about['seconds']:.1f} s, commit {about['git']}, torch {about['versions']['torch']}"
            print(f"  {stage:9} {pipeline.store().folder(stage, key)}  made {made}")
        for name, value in entry["metrics"].items():
            print(f"  {name} = {value:.6g}")
    return 0


def _compare(options: argparse.Namespace, overrides: list[str]) -> int:
    if options.reference is not None and options.reference not in options.names:
        raise UsageError(f"--reference {options.reference} is not among the rows {', '.join(options.names)}")
    _print_table(options.names, options.metric, options.reference, options.markdown)
    return 0


def _check(options: argparse.Namespace, overrides: list[str]) -> int:
    from genrec import loading, pipeline, testing

    component = loading.component(options.component)
    testing.check_component(component, pipeline.home() / "raw")
    print(f"{component!r} keeps its contract")
    return 0


def _doctor(options: argparse.Namespace, overrides: list[str]) -> int:
    from genrec import doctor

    return doctor.report()


if __name__ == "__main__":
    sys.exit(main())
