"""The format of run files: their shape, their version and the hash of their content."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from genrec import hashed_json, renamed
from genrec.errors import ArtifactError
from genrec.hashed_json import KEY, Each, Matching, Shape

FORMAT = 3  # version of the run file; files of format 1 use former field names, those of format 2 have no hash of their content
AGAIN = "move the file away and run the experiment again (stages that are done are not repeated)"
SEED_NUMBER = r"0|[1-9][0-9]{0,18}"
_STAGES = ("data", "evaluate")  # the stages that every row has
_SEED: dict[str, Shape] = {
    "recorded": str,  # UTC, ISO 8601: when the seed was last run
    "artifacts": Each(Matching(KEY), needs=_STAGES),  # stage -> key
    "seconds": Each(float),  # stage -> seconds that its artifact took, in all sessions
    "environment": Each(str),  # see `run_files.environment_of`
    "metrics": Each(float),
}
SHAPE: dict[str, Shape] = {
    "format": int,
    "name": str,
    "configuration": dict,  # key path -> value, of all stages
    "protocol": dict,  # what rows of one table have in common
    "seeds": Each(_SEED, lambda seed: re.fullmatch(SEED_NUMBER, seed) is not None, at_least=1),
}


def read(path: Path, advice: str = AGAIN) -> dict[str, Any]:
    """Return the checked content of a run file. Raises ArtifactError if it is damaged, of another format, or that of another row.

    `advice` says in the message what to do about such a file.
    """
    content = hashed_json.read_object(path, advice)
    if "format" not in content and isinstance(content.get("configuration"), dict):
        content = {"format": 1, **content}
    hashed_json.check_format(path, content, FORMAT, advice)
    if content["format"] == 2:
        raise ArtifactError(f"{path} was written by an earlier version of genrec, without a hash of its content; {advice}")
    if content["format"] < FORMAT:
        hashed_json.check_shape(path, content, {"configuration": dict}, advice)
        raise ArtifactError(
            f"{path} was written by an earlier version of genrec with other field names{renamed.examples(content['configuration'])}; "
            f"{advice}, or read it with the commit that wrote it"
        )
    hashed_json.check_object(path, content, SHAPE, advice)
    if content["name"] != path.stem:
        raise ArtifactError(
            f"{path} holds the row {content['name']!r}, expected {path.stem!r}: a file was copied or renamed; move it away, and give "
            "a row another name with 'genrec run ... --name NAME' (stages that are done are not repeated)"
        )
    return content
