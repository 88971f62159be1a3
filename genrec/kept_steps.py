"""The step of a training that a row has kept, by the curves of its artifacts."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from genrec.stage_names import is_training_stage, kind_of_stage
from genrec.store import Artifact, Store

CURVES = "curves.parquet"  # the file of a training that tells its kept step
BEFORE_TRAINING = {"sft": ", the untrained policy", "align": ", the SFT policy"}  # step 0 by stage, in words
BEFORE_LATER = ", the policy of the stage before"  # step 0 of a later stage in a chain of alignments


def kept_steps(keys: Mapping[str, str], artifacts: Store) -> dict[str, int]:
    """Return the step that each training of a seed has kept, by stage. `keys` holds the key of each stage.

    Step 0 of SFT is the untrained policy, step 0 of an alignment the policy from before the stage. Trainings that are no longer
    stored are left out.
    """
    stored = [stage for stage in keys if is_training_stage(stage) and artifacts.has(stage, keys[stage])]
    return {stage: kept_step(artifacts.get(stage, keys[stage], only=[CURVES])) for stage in stored}


def kept_step(artifact: Artifact) -> int:
    """Return the step that the artifact of a training holds: the last one, or the best on validation."""
    from genrec.training.curves import best_step
    from genrec.training.model_selection import selection_of

    curves, specification = pd.read_parquet(artifact.folder / CURVES), artifact.manifest["specification"]
    if kind_of_stage(artifact.stage) == "align" and specification["align"]["keep"] == "last":
        return int(curves["step"].max())
    return best_step(curves, selection_of(specification).column)[0]


def start_in_words(keys: Mapping[str, str], artifacts: Store) -> str:
    """Return a warning if the last training of a seed has kept step 0, so that it changed nothing; else "".

    `keys` holds the key of each training, in order.
    """
    at_start: list[str] = []
    for stage in reversed(list(keys)):
        if not artifacts.has(stage, keys[stage]) or kept_step(artifacts.get(stage, keys[stage], only=[CURVES])) > 0:
            break
        at_start.append(stage)
    if not at_start:
        return ""
    if kind_of_stage(at_start[-1]) == "sft":
        return "the policy is untrained: step 0 was the best on validation, so its lists are those of random weights"
    what = BEFORE_TRAINING.get(at_start[-1], BEFORE_LATER).removeprefix(", ")
    return f"{' and '.join(reversed(at_start))} changed nothing: step 0 was the best on validation, so this is {what}"
