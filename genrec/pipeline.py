"""The stages, in order: plan an experiment (keys, nothing is run), then build what is missing.

data -> embed -> tokenize -> sft -> align -> evaluate. A stage is a pure step from its parents' artifacts to its own; `plan` gives
every stage's key from the experiment alone. Where items are their own codes there is no tokenize stage, and embed only before align.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from genrec import stages
from genrec.errors import UsageError
from genrec.experiment import Experiment
from genrec.progress import say
from genrec.store import Artifact, Store, describe, hash_of

VERSIONS = {"data": 3, "embed": 2, "tokenize": 2, "sft": 2, "align": 3, "evaluate": 2}  # raised when a change changes results


class Step(NamedTuple):
    """A planned stage of an experiment."""

    stage: str
    key: str
    specification: dict[str, Any]
    parents: dict[str, str]  # stage -> key


def home() -> Path:
    """Where artifacts, runs and raw data are: GENREC_HOME, else `data` in the current folder."""
    return Path(os.environ.get("GENREC_HOME", "data"))


def store() -> Store:
    """The artifacts of `home()`."""
    return Store(home() / "artifacts")


def plan(experiment: Experiment) -> list[Step]:
    """The experiment's stages with their keys, in order. Reads the source's files for their fingerprint; writes nothing."""
    root = home() / "raw"

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


def run(
    experiment: Experiment,
    refresh: str | None = None,
    done: set[str] | None = None,
    last: str | None = None,
    ready: Callable[[Artifact], None] | None = None,
) -> dict[str, Artifact]:
    """Build what is missing, from stage `refresh` on in any case, up to stage `last`; returns the artifacts by stage.

    `ready` is given every artifact as soon as it is there, before the next stage. `done` holds the keys that this command has
    refreshed already, so that experiments that share a stage refresh it once.
    """
    steps, where = plan(experiment), store()
    artifacts: dict[str, Artifact] = {}
    done = set() if done is None else done
    check_stage(refresh)
    if last is not None and last not in [step.stage for step in steps]:
        raise UsageError(f"{experiment.name} has no stage {last!r}, only {', '.join(step.stage for step in steps)}")
    anew = False
    for step in steps:
        anew = anew or step.stage == refresh
        if anew and step.key not in done:
            where.remove(step.stage, step.key)
        done.add(step.key)
        if not where.has(step.stage, step.key):
            _build(experiment, step, artifacts, where)
        artifacts[step.stage] = where.get(step.stage, step.key)
        if ready is not None:
            ready(artifacts[step.stage])
        if step.stage == last:
            break
    return artifacts


def check_stage(name: str | None) -> None:
    """Refuse a stage that does not exist."""
    if name is not None and name not in VERSIONS:
        raise UsageError(f"there is no stage {name!r}; the stages are {', '.join(VERSIONS)}")


def _build(experiment: Experiment, step: Step, artifacts: dict[str, Artifact], where: Store) -> None:
    about = {
        "version": VERSIONS[step.stage],
        "specification": step.specification,
        "parents": step.parents,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "git": _git_commit(),
        "hardware": hardware(),
    }
    began = time.monotonic()
    say(f"{experiment.name} (seed {experiment.seed}): {step.stage} {step.key} ...")
    with where.create(step.stage, step.key, about) as folder:
        if folder is not None:
            stages.BUILDERS[step.stage](experiment, {name: artifact.folder for name, artifact in artifacts.items()}, folder)
    say(f"{experiment.name} (seed {experiment.seed}): {step.stage} {step.key} made in {time.monotonic() - began:.1f} s")


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    result = {"python": platform.python_version()}
    recorded = "genrec torch pytorch-lightning numpy pandas scikit-learn duckdb pyarrow faiss-cpu faiss-gpu sentence-transformers"
    for name in recorded.split():
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return result


def hardware() -> dict[str, Any]:
    """The machine, in words."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def _git_commit() -> str | None:
    """The commit of genrec's own checkout, where it is one."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
