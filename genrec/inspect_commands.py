"""The commands that print and plot the result of a stage: `genrec data`, `genrec tokenize` and `genrec curves`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from math import nan
from pathlib import Path

import pandas as pd

from genrec import loading, pipeline, row_trainings, run_files, stages
from genrec.errors import GenrecError, UsageError
from genrec.evaluation.comparison.settings_in_words import label
from genrec.experiment import Experiment
from genrec.overrides import override
from genrec.progress import say
from genrec.store import Artifact, hash_of
from genrec.workspace import reports_folder
from genrec.written_files import check_different, check_picture, check_replaceable, check_writable, not_writable, write_picture

CSV_FIRST = ("name", "seed", "stage")  # first columns of `genrec curves --csv`, before those of the curves


def data(options: argparse.Namespace, flags: list[str]) -> int:
    """Print and plot the statistics of each data set of the experiments (`genrec data`)."""
    from genrec.data import data_plots, data_report
    from genrec.data.corpus import Corpus

    check_picture(options.picture, options.replace)
    known: set[str] = set()
    done: set[str] = set()
    warned: set[str] = set()
    for experiment in override(loading.load(options.experiment), flags, options.experiment):
        artifact = _built("data", experiment, options.refresh, done, warned)["data"]
        if artifact.key in known:
            continue
        known.add(artifact.key)
        corpus = Corpus.load(artifact.folder)
        title = f"{run_files.artifact_label(artifact, 'source')}, {run_files.artifact_label(artifact, 'split')}"
        print(f"{title}\n{artifact.folder}")
        for line in data_report.lines(corpus):
            print(f"  {line}")
        name = f"{type(experiment.source).__name__.lower()}-{artifact.key}"
        _draw(partial(data_plots.draw, corpus, title), options.picture, name, artifact.key, first=len(known) == 1)
    return 0


def tokenize(options: argparse.Namespace, flags: list[str]) -> int:
    """Print and plot the health of the Semantic IDs of the experiments (`genrec tokenize`)."""
    from genrec.data.corpus import Corpus
    from genrec.semantic_ids import SemanticIds
    from genrec.tokenizer import health_report, semantic_id_plots
    from genrec.tokenizer.tokenized_files import read_health
    from genrec.training import curve_plots

    check_picture(options.picture, options.replace)
    found = [each for each in override(loading.load(options.experiment), flags, options.experiment) if "tokenize" in each.stages]
    if not found:
        raise UsageError(
            f"{options.experiment} has no experiment with Semantic IDs: baselines have none, and tokenize=None uses items as codes"
        )
    known: set[str] = set()
    done: set[str] = set()
    warned: set[str] = set()
    for experiment in found:
        artifacts = _built("tokenize", experiment, options.refresh, done, warned)
        artifact = artifacts["tokenize"]
        assert experiment.tokenize is not None
        if artifact.key in known:
            continue
        known.add(artifact.key)
        corpus, semantic_ids = Corpus.load(artifacts["data"].folder), SemanticIds.load(artifact.folder / "codes.safetensors")
        figures = read_health(artifact.folder)
        quantizer = artifact.manifest["specification"]["tokenize"]["quantizer"]
        files = artifact.manifest["file_names"].get("tokenize", ())
        data, embed = run_files.artifact_label(artifacts["data"], "source"), run_files.artifact_label(artifacts["embed"], "embed")
        title = f"{data}, {embed}, {label(quantizer, files)}"
        print(f"{title}\n{artifact.folder}")
        for line in health_report.lines(figures):
            print(f"  {line}")
        name = f"{type(experiment.tokenize.quantizer).__name__.lower()}-{artifact.key}"
        draw = partial(semantic_id_plots.draw, semantic_ids, figures, corpus.items, title)
        _draw(draw, options.picture, name, artifact.key, first=len(known) == 1)
        if (artifact.folder / "curves.parquet").is_file():
            rows = {title: [pd.read_parquet(artifact.folder / "curves.parquet")]}
            _draw(partial(curve_plots.draw, rows, title, stage="tokenize"), None, f"{name}-training", artifact.key, first=True)
    return 0


def _built(stage: str, experiment: Experiment, refresh: str | None, done: set[str], warned: set[str]) -> dict[str, Artifact]:
    """Build a stage before the trainings. Warn of what the trainings refuse about the data, once; `warned` are earlier warnings."""
    artifacts = pipeline.run(experiment, refresh, done, last=stage, alone=True)
    try:
        stages.check_components(experiment, artifacts["data"].folder)
    except GenrecError as error:
        warning = f"warning: a training will refuse this: {error}"
        if warning not in warned:
            say(warning)
        warned.add(warning)
    return artifacts


def curves(options: argparse.Namespace) -> int:
    """Print and plot the training curves of rows (`genrec curves`)."""
    from genrec.training import curve_plots

    check_different({"--picture": options.picture, "--csv": options.csv})
    check_picture(options.picture, options.replace)
    check_writable(options.csv, "--csv")
    check_replaceable(options.csv, "--csv", lambda text: text.startswith(",".join(CSV_FIRST)), options.replace)
    found = row_trainings.trainings(options.names, options.stage)
    stage = found[0].artifact.stage
    if options.stage is None and stage == "sft" and (without := row_trainings.rows_without("align", options.names)) != options.names:
        print(f"{', '.join(without)} {'has' if len(without) == 1 else 'have'} no alignment, so these are the curves of SFT")
    rows = _distinct({name: list(group) for name, group in groupby(found, key=lambda each: each.name)})
    for name, seeds in rows.items():
        print(f"{name}, {stage}")
        for line in _curves_lines(seeds):
            print(f"  {line}")
    if options.csv is not None:
        _write_csv(found, options.csv)
    key = hash_of([each.artifact.key for each in found])
    tables = {name: [each.curves for each in seeds] for name, seeds in rows.items()}
    lines = row_trainings.baseline_lines([each.artifact for each in found])
    draw = partial(curve_plots.draw, tables, f"{stage}: {', '.join(rows)}", stage=stage, everything=options.all, lines=lines)
    name = f"{'-'.join(dict.fromkeys(options.names))[:100]}-{stage}-curves{'-all' if options.all else ''}-{key}"
    _draw(draw, options.picture, name, key, first=True)
    return 0


def _distinct(rows: dict[str, list[row_trainings.Training]]) -> dict[str, list[row_trainings.Training]]:
    """Join rows with the same trainings, such as aligned rows that start from one SFT policy: one curve with all their names."""
    joined: dict[tuple[str, ...], list[str]] = {}
    for name, seeds in rows.items():
        joined.setdefault(tuple(each.artifact.key for each in seeds), []).append(name)
    return {", ".join(names): rows[names[0]] for names in joined.values()}


def _curves_lines(seeds: Sequence[row_trainings.Training]) -> list[str]:
    """Return lines with the files of a row's curves, the best step of each seed, and the last value of each column."""
    from genrec.training.curves import best_step, last_values
    from genrec.training.model_selection import selection_of

    lines = []
    for each in seeds:
        selected = selection_of(each.artifact.manifest["specification"]).column
        best, score = best_step(each.curves, selected)
        lines += [
            f"seed {each.seed}: {int(each.curves['step'].max())} steps, best on validation: step {best}, {selected} {score:.4f}",
            f"  {each.artifact.folder}: curves.parquet, curves.csv",
        ]
    last = [last_values(each.curves) for each in seeds]
    lines.append("last values" + (f", seeds {', '.join(str(each.seed) for each in seeds)}" if len(seeds) > 1 else ""))
    width = max(map(len, last[0]))
    return lines + [f"  {name:{width}}" + "".join(f" {values.get(name, nan):11.5g}" for values in last) for name in last[0]]


def _write_csv(found: Sequence[row_trainings.Training], path: Path) -> None:
    """Write all curves as one table: name, seed, stage, then the columns of the curves."""
    tables = []
    for each in found:
        table = each.curves.copy()
        about: tuple[str | int, ...] = (each.name, each.seed, each.artifact.stage)
        for place, (column, value) in enumerate(zip(CSV_FIRST, about, strict=True)):
            table.insert(place, column, value)
        tables.append(table)
    try:
        pd.concat(tables, ignore_index=True).to_csv(path, index=False)
    except OSError as error:
        raise not_writable(path, "--csv", error) from error
    print(f"  table: {path}")


def _draw(draw: Callable[[Path], None], wanted: Path | None, name: str, key: str, first: bool) -> None:
    """Draw to the requested file, or into reports/. All plots of a command but the first get their key in the file name."""
    path = wanted or reports_folder() / f"{name}.png"
    if wanted is not None and not first:
        path = path.with_stem(f"{path.stem}-{key}")
    write_picture(draw, path)
    print(f"  picture: {path}")
