"""The pipeline of one experiment: data -> embed -> tokenize -> reward -> sft -> align -> evaluate.

`plan` returns the stages of an experiment with their keys, without running anything; `run` builds the artifacts that are missing.
An experiment without a tokenizer has no tokenize stage and embeds items only for alignment, or for an SFT whose objective or policy
may read their vectors. Only an objective with a reward model has the stage reward. A baseline has data and evaluate.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from genrec import artifact_folders, hashed_json, manifests, stages
from genrec.data.splits import tie_order_of
from genrec.environment import environment, git_commit, versions
from genrec.errors import ArtifactError, InputError, UsageError
from genrec.experiment import Experiment, file_names, flags_in_words, reward_model_in
from genrec.plugin_errors import attribute_to
from genrec.progress import contained, say
from genrec.stage_attempts import attempts_file, of_all_attempts
from genrec.stage_names import align_stage, is_training_stage, kind_of_stage, place_of
from genrec.store import Artifact, Store, describe, key_of, now
from genrec.tokenizer.health_report import say_health
from genrec.training.curves import OnRow, Row, together
from genrec.workspace import raw_folder, store

VERSIONS = {  # of each stage; raised when results change
    "data": 4, "embed": 2, "tokenize": 2, "reward": 1, "sft": 3, "align": 5, "evaluate": 3,
}  # fmt: skip
USED = {  # the fields of an experiment whose components run in each stage
    "data": ("source", "split"),
    "embed": ("embed",),
    "tokenize": ("tokenize",),
    "reward": ("reward_model",),
    "sft": ("policy", "sft", "align"),  # before SFT, alignment checks the data
    "align": ("policy", "align"),
    "evaluate": ("policy", "evaluate"),
}

Helpers = Callable[[str, str, Path], AbstractContextManager[None]]  # (stage, key, folder of its unfinished files)


class Step(NamedTuple):
    """A planned stage of an experiment."""

    stage: str  # name of the stage, such as align-2
    key: str  # 16 hexadecimal digits, the hash of specification and parents
    specification: dict[str, Any]  # the settings that the result depends on
    parents: dict[str, str]  # stage -> key of the artifacts that this stage reads


def plan(experiment: Experiment) -> list[Step]:
    """Return the experiment's stages with their keys, in order. Reads the source's files for their fingerprint and writes nothing.

    Where ties have an order for each seed, the data depend on the seed, and with them all later stages.
    """
    root = raw_folder()

    def part(*names: str) -> dict[str, Any]:
        with attribute_to(tuple(getattr(experiment, name) for name in names), "while its settings were described for the key"):
            return {name: describe(getattr(experiment, name), root, name) for name in names}

    names = set(experiment.stages)
    policy = () if "sft" in names else ("policy",)  # a baseline is fitted in evaluation
    length = {"history_length": experiment.history_length}
    training = length | {"seed": experiment.seed}
    vectors = ("embed",) if experiment.sft_reads_vectors else ()
    reward = ("reward",) if reward_model_in(experiment.sft) else ()
    inputs: dict[str, tuple[tuple[str, ...], dict[str, int], tuple[str, ...]]] = {  # fields, further settings, stages that it reads
        "data": (("source", "split"), {"seed": experiment.seed} if has_targets_per_seed(experiment) else {}, ()),
        "embed": (("embed",), {}, ("data",)),
        "tokenize": (("tokenize",), {}, ("data", "embed")),
        "reward": (("reward_model",), {}, ("data", "embed")),
        "sft": (("policy", "sft", "selection"), training, ("data", *vectors, "tokenize", *reward)),
        "evaluate": ((*policy, "evaluate"), length, ("data", "tokenize", experiment.stages[-2])),
    }
    steps: list[Step] = []
    keys: dict[str, str] = {}
    for stage in experiment.stages:
        if kind_of_stage(stage) == "align":
            specification, reads = _alignment(experiment, stage, part("selection") | training)
        else:
            fields, settings, reads = inputs[stage]
            specification = part(*fields) | settings
        parents = {name: keys[name] for name in reads if name in keys}
        keys[stage] = key_of(stage, version_of(stage), specification, parents)
        steps.append(Step(stage, keys[stage], specification, parents))
    return steps


def _alignment(experiment: Experiment, stage: str, settings: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings of a stage of alignment and the stages that it reads: that before it, and SFT if it is the reference."""
    place = place_of(stage)
    recipe, before = experiment.alignments[place], "sft" if place == 0 else align_stage(place - 1)
    if place == 0:
        recipe = replace(recipe, reference="previous")  # "sft" is the same policy there
    with attribute_to((recipe,), "while its settings were described for the key"):
        described = {"align": describe(recipe, raw_folder(), stage)} | settings
    further = [name for name, read in (("sft", place and recipe.reference == "sft"), ("reward", reward_model_in(recipe))) if read]
    return described, ("data", "embed", "tokenize", before, *further)


def has_targets_per_seed(experiment: Experiment) -> bool:
    """Return whether the split orders ties anew for each seed, so that each seed has targets of its own."""
    with attribute_to((experiment.split,), "in tie_order()"):
        return tie_order_of(experiment.split).per_seed


def key_for_all_seeds(step: Step, version: int | None = None) -> str:
    """Return the key of a stage without the seed in its settings. `version` is that of the artifact; None: the present one."""
    settings = {name: value for name, value in step.specification.items() if name != "seed"}
    return key_of(step.stage, version_of(step.stage) if version is None else version, settings, step.parents)


def version_of(stage: str) -> int:
    """Return the present version of a stage."""
    return VERSIONS[kind_of_stage(stage)]


def run(
    experiment: Experiment,
    refresh: str | None = None,
    refreshed: set[str] | None = None,
    last: str | None = None,
    on_artifact: Callable[[Artifact], None] | None = None,
    on_row: OnRow | None = None,
    on_stage_row: Callable[[str, Row], None] | None = None,
    alone: bool = False,
    helpers: Helpers | None = None,
) -> dict[str, Artifact]:
    """Build the missing artifacts of an experiment and return all of its artifacts by stage.

    Args:
        experiment: the experiment.
        refresh: rebuild this stage and all later ones, even if their artifacts exist. Each stays until its successor is complete.
        refreshed: keys that were handled before, so that experiments that share a stage rebuild it once; extended in place.
        last: stop after this stage.
        on_artifact: called with each artifact as soon as it exists, before the next stage runs.
        on_row: called with each row of the training curves of the stage `last` while it trains. An exception of it ends the training.
        on_stage_row: called with the stage and each row of the training curves of every stage that trains.
        helpers: called for each training, it returns a context within which other processes take part.
        alone: build the stage `last` and what it reads, but not the other stages before it; the caller checks the components.

    """
    steps, existing = plan(experiment), store()
    artifacts: dict[str, Artifact] = {}
    rebuild, refreshed = False, set() if refreshed is None else refreshed
    check_stage(refresh)
    if last is not None and last not in experiment.stages:
        raise UsageError(f"{experiment.name} has no stage {last!r}, only {', '.join(experiment.stages)}")
    steps = with_read_by(steps, last) if alone else steps
    for step in steps:
        if refresh is not None or not existing.is_done(step.stage, step.key):
            existing.check_writable(step.stage, step.key)
    for step in steps:
        rebuild = rebuild or step.stage == refresh
        known = step.key in refreshed
        refreshed.add(step.key)
        anew = rebuild and not known
        if anew or not existing.is_done(step.stage, step.key):
            follow = None if on_stage_row is None else partial(on_stage_row, step.stage)
            _build(experiment, step, artifacts, existing, anew, together(on_row if step.stage == last else None, follow), helpers)
        artifacts[step.stage] = existing.get(step.stage, step.key)
        if step.stage == "data" and not alone:
            stages.check_components(experiment, artifacts["data"].folder)
        if step.stage == "tokenize" and not known:
            say_health(artifacts["tokenize"].folder)
        if on_artifact is not None:
            on_artifact(artifacts[step.stage])
        if step.stage == last:
            break
    return artifacts


def with_read_by(steps: Sequence[Step], stage: str | None) -> list[Step]:
    """Return the step of a stage, and those of the stages that it reads and that they read in turn."""
    found: list[Step] = []
    for step in reversed(steps):
        if step.stage == stage or any(step.stage in later.parents for later in found):
            found.insert(0, step)
    return found


def check_stage(name: str | None) -> None:
    """Raise UsageError if there is no stage of this name."""
    if name is not None and not is_stage(name):
        raise UsageError(f"there is no stage {name!r}; the stages are {', '.join(VERSIONS)}, and align-2 and so on in a chain")


def is_stage(name: str) -> bool:
    """Return whether there can be a stage of this name."""
    return name in VERSIONS or re.fullmatch(r"align-([2-9]|[1-9]\d+)", name) is not None


def _build(
    experiment: Experiment, step: Step, artifacts: dict[str, Artifact], existing: Store, anew: bool, on_row: OnRow | None,
    helpers: Helpers | None,
) -> None:  # fmt: skip
    """Run one stage and store its artifact. With `anew`, nothing is resumed, and the artifact takes the place of one that exists."""
    about: dict[str, Any] = {
        "version": version_of(step.stage),
        "specification": step.specification,
        "parents": step.parents,
        "created": now(),
        "versions": versions(),
        "git": git_commit(),
        "file_names": {name: names for name in step.specification if (names := file_names(_component(experiment, step, name)))},
    }
    start = time.monotonic()
    title = f"{experiment.name} (seed {experiment.seed}): {step.stage} {step.key}"
    say(f"{title}{flags_in_words(experiment, step.stage)} ...")
    used = tuple(getattr(experiment, name) for name in USED[kind_of_stage(step.stage)])
    attempts, checkpoint = attempts_file(step.stage, step.key), existing.folder(step.stage, f".{step.key}.partial") / "checkpoint"
    try:
        store_files = existing.create(step.stage, step.key, about, replace=anew)
        with contained(), store_files as folder, attribute_to(used, f"in stage {step.stage}"):
            if folder is not None:
                about["environment"] = of_all_attempts(attempts, checkpoint, environment(), title)
                about["earlier_seconds"] = _run_builder(experiment, step, artifacts, folder, on_row, helpers)
    finally:
        if not checkpoint.is_dir():  # nothing to resume from
            attempts.unlink(missing_ok=True)
    earlier = f", after {about['earlier_seconds']:.1f} s before it was interrupted" if about.get("earlier_seconds") else ""
    say(f"{title} finished in {time.monotonic() - start:.1f} s{earlier}")


def discard(experiment: Experiment, stage: str) -> None:
    """Remove the checkpoint and the other files of an unfinished stage of this experiment. Its artifact stays if there is one."""
    step = next(step for step in plan(experiment) if step.stage == stage)
    store().discard(step.stage, step.key)
    attempts_file(step.stage, step.key).unlink(missing_ok=True)


def _run_builder(
    experiment: Experiment, step: Step, artifacts: dict[str, Artifact], folder: Path, on_row: OnRow | None, helpers: Helpers | None
) -> float:
    """Run one stage, and return the seconds that its training took in earlier sessions.

    Raises an error if another process has changed what the stage reads.
    """
    parents = {name: artifact.folder for name, artifact in artifacts.items()}
    try:
        trains = is_training_stage(step.stage)
        with helpers(step.stage, step.key, folder) if helpers is not None and trains else nullcontext():
            watch = (on_row,) if on_row is not None and trains else ()
            earlier_seconds = stages.builder_of(step.stage)(experiment, parents, folder, *watch) or 0.0
    except FileNotFoundError as error:
        for parent in (artifacts[name] for name in step.parents):
            if not _is_unchanged(parent):
                raise ArtifactError(
                    f"{parent.folder} was removed or built again by another process while {step.stage} read it; run again"
                ) from error
        raise
    changed = _changed_files(experiment, step)
    if changed:
        artifact_folders.remove(folder / "checkpoint")  # it was made from other files
        raise InputError(f"{changed} changed while {step.stage} read them; run again when nothing writes to them")
    return earlier_seconds


def _is_unchanged(artifact: Artifact) -> bool:
    """Return whether an artifact that was read before has the same manifest."""
    try:
        return hashed_json.read_object(artifact.folder / manifests.NAME, "") == artifact.manifest
    except (OSError, ArtifactError):
        return False


def _changed_files(experiment: Experiment, step: Step) -> str:
    """Return, in words, the files of the stage whose fingerprint is no longer the planned one; "" if there are none."""
    root = raw_folder()
    for name, planned in step.specification.items():
        before = _fingerprints(planned)
        if before and _fingerprints(describe(_component(experiment, step, name), root, name)) != before:
            files = ", ".join(file_names(_component(experiment, step, name)))
            return f"the files of {name}{f' ({files})' if files else ''}"
    return ""


def _component(experiment: Experiment, step: Step, name: str) -> object:
    """Return the component that an entry of a stage's settings describes."""
    return experiment.alignments[place_of(step.stage)] if name == "align" else getattr(experiment, name)


def _fingerprints(description: object) -> list[object]:
    """Return the fingerprints in a description, in order."""
    if isinstance(description, list):
        return [each for entry in description for each in _fingerprints(entry)]
    if not isinstance(description, dict):
        return []
    own = [description["fingerprint"]] if "fingerprint" in description else []
    return own + [each for entry in description.values() for each in _fingerprints(entry)]
