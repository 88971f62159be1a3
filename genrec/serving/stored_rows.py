"""Rows loaded from their run file and artifacts: `genrec.load`.

    row = genrec.load("beauty-tiger")
    row.recommend(["B004OHQR1Q", "B00KAL5JAU"], n=10)

The experiment's Python file is not needed: the settings of the policy or the baseline are in the run file. Ids are those of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genrec import failed_runs, kept_steps, loading, run_files, studies
from genrec.command_lines import command_line
from genrec.data.corpus import Corpus
from genrec.errors import ArtifactError, UsageError
from genrec.evaluation.statistics.paired_tests import seeds_in_words
from genrec.item_titles import item_titles
from genrec.kept_studies import portable_name
from genrec.row_settings import training_hash
from genrec.serving.catalog_items import CatalogItems
from genrec.serving.item_recommender import ItemRecommender
from genrec.serving.rebuilt_components import component_of
from genrec.serving.trained_rows import TrainedRow
from genrec.stage_inputs import build_trained, fitted_baseline, load_semantic_ids, on_device
from genrec.stage_names import is_training_stage, kind_of_stage, place_of
from genrec.store import Artifact
from genrec.types import Baseline, Recommender
from genrec.workspace import store

UNKNOWN_FUNCTION = "FILE.py:FUNCTION"  # in the command of a row that was run by Python code


def load_stored(name: str, seed: int | None = None, code: str | None = None, num_beams: int = 0) -> TrainedRow:
    """Load a row from its run file and artifacts.

    Args:
        name: name of the row.
        seed: one of its seeds; None takes the lowest.
        code: FILE.py or MODULE of a policy or baseline of your own, which the run file only names.
        num_beams: least number of beams of a beam search; lists can have as many items. 0 keeps that of the evaluation.

    Raises UsageError if there is no such row or seed, with the command that resumes a run that failed, and ArtifactError if an
    artifact is missing or damaged.

    """
    content = _content(name)
    seeds = tuple(sorted(map(int, content["seeds"])))
    chosen = seeds[0] if seed is None else seed
    if chosen not in seeds:
        raise UsageError(_no_seed(content, chosen, seeds))
    if code is not None:
        loading.import_once(code)
    settings, keys = content["configuration"], content["seeds"][str(chosen)]["artifacts"]
    specification = component_of(settings, "policy", name)
    trainings = sorted(filter(is_training_stage, keys), key=lambda stage: (kind_of_stage(stage) == "align", place_of(stage)))
    needed = ["data", *(["tokenize"] if "tokenize" in keys else []), *trainings[-1:]]
    artifacts = {stage: _artifact(content, chosen, stage, keys[stage]) for stage in needed}
    corpus = Corpus.load(artifacts["data"].folder)
    beams = beams_of(settings, num_beams)
    semantic_ids = load_semantic_ids(corpus, {stage: artifact.folder for stage, artifact in artifacts.items()})
    if isinstance(specification, Baseline):
        recommender: Recommender = fitted_baseline(specification, corpus)
    else:
        recommender = on_device(
            build_trained(specification, semantic_ids, artifacts[trainings[-1]].folder / "policy.safetensors", beams)
        )
    own_ids = semantic_ids if "tokenize" in artifacts else None
    items = ItemRecommender.of_row(name, specification, recommender, _catalog(corpus), own_ids, settings, beams)
    warning = kept_steps.start_in_words({stage: keys[stage] for stage in trainings}, store())
    return TrainedRow(name, chosen, seeds, items, corpus, settings["evaluate.filter_seen"], warning)


def beams_of(settings: Mapping[str, Any], least: int) -> int:
    """Return the number of beams of a row's evaluation, or `least` if that is more; 0 for a recommender without beam search."""
    if "policy.num_beams" not in settings:
        return 0
    return max(int(settings.get("evaluate.num_beams") or settings["policy.num_beams"]), least)


def _catalog(corpus: Corpus) -> CatalogItems:
    """Return the catalog of a corpus."""
    ids = tuple(corpus.items["item_id"].astype(str))
    return CatalogItems(ids, tuple(item_titles(corpus.items)), corpus.popularity("train")[1:])


def _content(name: str) -> dict[str, Any]:
    """Return the run file of a row. Raises UsageError if there is none, with the command that resumes a failed run."""
    try:
        return run_files.read(name)
    except UsageError as error:
        failure = _failure(name, None)
        if not failure:
            raise
        raise UsageError(f"{name} has no result yet: {failure}") from error


def _no_seed(content: dict[str, Any], seed: int, seeds: Sequence[int]) -> str:
    """Return the message about a seed that a row does not have."""
    name = content["name"]
    failure = _failure(name, seed)
    how = failure or f"train it with: {run_command(content, seeds[0], seed)} (or choose one of those)"
    return f"{name} has no result of seed {seed}, only of {seeds_in_words(list(seeds))}; {how}"


def _failure(name: str, seed: int | None) -> str:
    """Return where the last run of a row failed or was stopped and the command that goes on, or ""."""
    found = [each for each in failed_runs.read_all()[0] if each.name == name and seed in (None, each.seed)]
    if not found:
        return ""
    last = found[-1]
    where = f"in {last.stage}" if last.stage else "after its last stage"
    return f"seed {last.seed} {'was stopped' if last.stopped else 'failed'} {where}; go on with: {last.command or 'the same run'}"


def _artifact(content: dict[str, Any], seed: int, stage: str, key: str) -> Artifact:
    """Return an artifact of a row. Raises ArtifactError if it was removed, with the command that builds it again."""
    existing = store()
    if not existing.has(stage, key):
        raise ArtifactError(
            f"{content['name']} (seed {seed}) needs the artifact {stage}/{key}, which is no longer in {existing.root}; build it again "
            f"with: {run_command(content, seed, seed)}"
        )
    return existing.get(stage, key)


def run_command(content: dict[str, Any], known: int, seed: int, portable: bool = False) -> str:
    """Return the command that runs a row with a seed, by the study in which the seed `known` was run.

    With `portable`, the experiment's file is named without the folders of this machine.
    """
    where = _study(content, known) or UNKNOWN_FUNCTION
    return command_line("run", portable_name(where) if portable else where, "--seeds", f"{seed},")


def was_overridden(content: dict[str, Any], seed: int) -> bool | None:
    """Return whether settings that the command of `run_command` lacks were given on the command line; None if it is not known."""
    return studies.was_overridden(studies.read_all(), _study(content, seed), training_hash(content["configuration"]))


def _study(content: dict[str, Any], seed: int) -> str:
    """Return the FILE.py:FUNCTION by which a seed of a row was run, or ""."""
    records, settings = studies.read_all(), training_hash(content["configuration"])
    found = [study.name for study in studies.of_run(records, content["name"], settings, seed, run_files.present_settings)]
    names = found or studies.of_baseline(records, content["name"], settings)
    return next((name for name in names if ":" in name), "")
