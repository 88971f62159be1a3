"""The pipeline of one experiment: data -> embed -> tokenize -> sft -> align -> evaluate.

`plan` returns the stages of an experiment with their keys, without running anything; `run` builds the artifacts that are missing.
An experiment without a tokenizer has no tokenize stage and embeds items only for alignment. A baseline has the stages data and
evaluate.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from genrec import stages
from genrec.environment import git_commit, hardware, versions
from genrec.errors import NetworkError, UsageError
from genrec.experiment import Experiment, file_names
from genrec.progress import say
from genrec.store import Artifact, Store, describe, hash_of
from genrec.training.plugin_errors import attribute_to
from genrec.workspace import raw_folder, store

VERSIONS = {"data": 3, "embed": 2, "tokenize": 2, "sft": 2, "align": 3, "evaluate": 2}  # of each stage; raised when results change


class Step(NamedTuple):
    """A planned stage of an experiment."""

    stage: str  # name of the stage
    key: str  # 16 hexadecimal digits, the hash of specification and parents
    specification: dict[str, Any]  # the settings that the result depends on
    parents: dict[str, str]  # stage -> key of the artifacts that this stage reads


def plan(experiment: Experiment) -> list[Step]:
    """Return the experiment's stages with their keys, in order. Reads the source's files for their fingerprint and writes nothing."""
    root = raw_folder()

    def part(*names: str) -> dict[str, Any]:
        return {name: describe(getattr(experiment, name), root, name) for name in names}

    names = set(experiment.stages)
    policy = () if "sft" in names else ("policy",)  # a baseline is fitted in evaluation
    length = {"history_length": experiment.history_length}
    training = length | {"seed": experiment.seed}
    inputs: dict[str, tuple[tuple[str, ...], dict[str, int], tuple[str, ...]]] = {  # fields, further settings, stages that it reads
        "data": (("source", "split"), {}, ()),
        "embed": (("embed",), {}, ("data",)),
        "tokenize": (("tokenize",), {}, ("data", "embed")),
        "sft": (("policy", "sft"), training, ("data", "tokenize")),
        "align": (("align",), training, ("data", "embed", "tokenize", "sft")),
        "evaluate": ((*policy, "evaluate"), length, ("data", "tokenize", "align" if "align" in names else "sft")),
    }
    steps: list[Step] = []
    keys: dict[str, str] = {}
    for stage in experiment.stages:
        fields, settings, reads = inputs[stage]
        specification = part(*fields) | settings
        parents = {name: keys[name] for name in reads if name in keys}
        keys[stage] = hash_of({"stage": stage, "version": VERSIONS[stage], "specification": specification, "parents": parents})
        steps.append(Step(stage, keys[stage], specification, parents))
    return steps


def preview(experiment: Experiment) -> list[tuple[str, str, str]]:
    """Return the name and key of each stage with 'done' or 'to run'.

    Nothing is downloaded: raises NetworkError if the data set's files are missing.
    """
    artifacts, before = store(), os.environ.get("GENREC_OFFLINE")
    os.environ["GENREC_OFFLINE"] = "1"
    try:
        return [(step.stage, step.key, "done" if artifacts.has(step.stage, step.key) else "to run") for step in plan(experiment)]
    except NetworkError as error:
        raise NetworkError(f"a dry run downloads nothing; run 'genrec data' first to download the data set; {error}") from None
    finally:
        os.environ.pop("GENREC_OFFLINE")
        if before is not None:
            os.environ["GENREC_OFFLINE"] = before


def run(
    experiment: Experiment,
    refresh: str | None = None,
    refreshed: set[str] | None = None,
    last: str | None = None,
    on_artifact: Callable[[Artifact], None] | None = None,
) -> dict[str, Artifact]:
    """Build the missing artifacts of an experiment and return all of its artifacts by stage.

    Args:
        experiment: the experiment.
        refresh: rebuild this stage and all later ones, even if their artifacts exist.
        refreshed: keys that were handled before, so that experiments that share a stage rebuild it once; extended in place.
        last: stop after this stage.
        on_artifact: called with each artifact as soon as it exists, before the next stage runs.

    """
    steps, existing = plan(experiment), store()
    artifacts: dict[str, Artifact] = {}
    refreshed = set() if refreshed is None else refreshed
    check_stage(refresh)
    if last is not None and last not in experiment.stages:
        raise UsageError(f"{experiment.name} has no stage {last!r}, only {', '.join(experiment.stages)}")
    rebuild = False
    for step in steps:
        rebuild = rebuild or step.stage == refresh
        if rebuild and step.key not in refreshed:
            existing.remove(step.stage, step.key)
        refreshed.add(step.key)
        if not existing.has(step.stage, step.key):
            _build(experiment, step, artifacts, existing)
        artifacts[step.stage] = existing.get(step.stage, step.key)
        if on_artifact is not None:
            on_artifact(artifacts[step.stage])
        if step.stage == last:
            break
    return artifacts


def check_stage(name: str | None) -> None:
    """Raise UsageError if there is no stage of this name."""
    if name is not None and name not in VERSIONS:
        raise UsageError(f"there is no stage {name!r}; the stages are {', '.join(VERSIONS)}")


def _build(experiment: Experiment, step: Step, artifacts: dict[str, Artifact], existing: Store) -> None:
    """Run one stage and store its artifact."""
    about = {
        "version": VERSIONS[step.stage],
        "specification": step.specification,
        "parents": step.parents,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "git": git_commit(),
        "hardware": hardware(),
        "file_names": {name: names for name in step.specification if (names := file_names(getattr(experiment, name)))},
    }
    start = time.monotonic()
    say(f"{experiment.name} (seed {experiment.seed}): {step.stage} {step.key} ...")
    policy = experiment.policy if step.stage in ("sft", "align", "evaluate") else None
    with existing.create(step.stage, step.key, about) as folder, attribute_to(policy, f"in stage {step.stage}"):
        if folder is not None:
            stages.BUILDERS[step.stage](experiment, {name: artifact.folder for name, artifact in artifacts.items()}, folder)
    say(f"{experiment.name} (seed {experiment.seed}): {step.stage} {step.key} finished in {time.monotonic() - start:.1f} s")
