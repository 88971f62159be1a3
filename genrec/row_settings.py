"""The settings of a row by key path, as its stages record them: what all seeds of a row have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genrec import pipeline
from genrec.evaluation.compare import METRICS
from genrec.stage_names import is_training_stage
from genrec.store import Artifact, Store, hash_of

VERSION = "stages."  # prefix of the versions of the stages, which a user does not set
EVALUATION = "evaluate."  # prefix of the settings of the evaluation


def configuration(artifacts: dict[str, Artifact]) -> dict[str, Any]:
    """Return the settings and versions of all stages by key path, without the seed, as the manifests record them."""
    manifests = {stage: artifact.manifest for stage, artifact in artifacts.items()}
    return _merged({stage: (each["specification"], each["version"]) for stage, each in manifests.items()})


def planned_configuration(steps: Sequence[pipeline.Step]) -> dict[str, Any]:
    """Return the `configuration` that the artifacts of an experiment's steps will have."""
    return _merged({step.stage: (step.specification, pipeline.version_of(step.stage)) for step in steps})


def file_names(keys: Mapping[str, str], artifacts: Store) -> dict[str, tuple[str, ...]]:
    """Return the names of the files that the trainings of a seed read, by stage. `keys` holds the key of each stage.

    Trainings that are no longer stored are left out.
    """
    trainings = [(stage, key) for stage, key in keys.items() if is_training_stage(stage) and artifacts.has(stage, key)]
    stored = [artifacts.get(stage, key, only=()) for stage, key in trainings]  # the manifest alone is read
    return {each.stage: tuple(name for names in each.manifest["file_names"].values() for name in names) for each in stored}


def settings_hash(configuration: dict[str, Any]) -> str:
    """Return a hash of the settings without the versions of the stages, 16 hexadecimal digits: the same after an upgrade of genrec."""
    return hash_of({path: value for path, value in configuration.items() if not path.startswith(VERSION)})


def training_hash(configuration: dict[str, Any]) -> str:
    """Return the `settings_hash` of a row without the settings of its evaluation: the same for all ways to look at one training."""
    return settings_hash({path: value for path, value in configuration.items() if not path.startswith(EVALUATION)})


def before_alignment(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the row of an aligned row's SFT alone has. Without a tokenizer it embeds no items."""
    left_out = ("align.", "align-") + (("embed.",) if configuration.get("tokenize", True) is None else ())  # `align-2.` of a chain
    return {path: value for path, value in configuration.items() if not path.startswith(left_out)} | {"align": None}


def without_metrics(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that all seeds of a row share at all times: a row may be evaluated again with other further metrics."""
    return {path: value for path, value in configuration.items() if path != METRICS}


def with_metrics_of(configuration: dict[str, Any], evaluated: Artifact) -> dict[str, Any]:
    """Return the settings of a row with the further metrics of one seed, given by the artifact of its evaluation."""
    return without_metrics(configuration) | metrics_of(evaluated)


def metrics_of(evaluated: Artifact) -> dict[str, Any]:
    """Return the further metrics of an evaluation as settings of a row; empty if there are none."""
    own = evaluated.manifest["specification"]["evaluate"]
    return {METRICS: own["metrics"]} if "metrics" in own else {}


def flatten(description: object, path: str = "") -> dict[str, object]:
    """Return the leaves of a nested description by key path, named as on the command line: {'align.loss.beta': 1.0, ...}."""
    if isinstance(description, dict):
        result: dict[str, object] = {}
        for key, value in description.items():
            result |= flatten(value, f"{path}.{key}" if path else key)
        return result
    return {path: description}


def _merged(stages: dict[str, tuple[dict[str, Any], int]]) -> dict[str, Any]:
    """Return the settings of stages, given by specification and version. A version gets the key path `stages.STAGE.version`."""
    merged: dict[str, Any] = {}
    for stage, (specification, _) in stages.items():
        if stage != "reward":  # its settings are part of those of the objective
            merged |= {stage if name == "align" else name: value for name, value in specification.items()}
    merged.pop("seed", None)  # a row holds all of its seeds
    if "sft" in merged:
        merged.setdefault("tokenize", None)
        merged.setdefault("align", None)
    return flatten(merged) | {f"{VERSION}{stage}.version": version for stage, (_, version) in stages.items()}
