"""The settings of a row by key path, as its stages record them: what all seeds of a row have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genrec import pipeline
from genrec.store import Artifact, hash_of

VERSION = "stages."  # prefix of the versions of the stages, which a user does not set


def configuration(artifacts: dict[str, Artifact]) -> dict[str, Any]:
    """Return the settings and versions of all stages by key path, without the seed, as the manifests record them."""
    manifests = {stage: artifact.manifest for stage, artifact in artifacts.items()}
    return _merged({stage: (each["specification"], each["version"]) for stage, each in manifests.items()})


def planned_configuration(steps: Sequence[pipeline.Step]) -> dict[str, Any]:
    """Return the `configuration` that the artifacts of an experiment's steps will have."""
    return _merged({step.stage: (step.specification, pipeline.version_of(step.stage)) for step in steps})


def settings_hash(configuration: dict[str, Any]) -> str:
    """Return a hash of the settings without the versions of the stages, 16 hexadecimal digits: the same after an upgrade of genrec."""
    return hash_of({path: value for path, value in configuration.items() if not path.startswith(VERSION)})


def training_hash(configuration: dict[str, Any]) -> str:
    """Return a hash of the settings before evaluation: equal for two looks at one trained policy, with other metrics or cut-offs."""
    return settings_hash({path: value for path, value in configuration.items() if not path.startswith("evaluate.")})


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
        merged |= {stage if name == "align" else name: value for name, value in specification.items()}
    merged.pop("seed", None)  # a row holds all of its seeds
    if "sft" in merged:
        merged.setdefault("tokenize", None)
        merged.setdefault("align", None)
    return flatten(merged) | {f"{VERSION}{stage}.version": version for stage, (_, version) in stages.items()}
