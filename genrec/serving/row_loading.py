"""`genrec.load`: a row by its name, or an export by its folder."""

from __future__ import annotations

import os
from pathlib import Path

from genrec import run_files
from genrec.errors import UsageError, whole_number
from genrec.progress import say
from genrec.serving.export_files import is_export
from genrec.serving.exported_rows import load_export
from genrec.serving.stored_rows import load_stored
from genrec.serving.trained_rows import TrainedRow


def load(name: str | Path, seed: int | None = None, code: str | None = None, num_beams: int = 0) -> TrainedRow:
    """Load a row from its run file and artifacts, or from the folder of an export.

    Args:
        name: name of a row, or folder of an export. A row comes before a folder of the same name, which `./NAME` means.
        seed: one of the seeds; None takes the lowest.
        code: FILE.py or MODULE of a policy or baseline of your own, which the settings only name.
        num_beams: least number of beams of a beam search; lists can have as many items. 0 keeps that of the evaluation.

    A line warns if the last training has kept step 0. Raises UsageError if there is no such row, folder or seed, with the command that
    resumes a run that failed, and ArtifactError if an artifact or a file is missing or damaged.

    """
    if not isinstance(name, str | Path) or not str(name):
        raise UsageError(f"load needs the name of a row or the folder of an export, got {name!r}; 'genrec list' prints the rows")
    if code is not None and not isinstance(code, str | Path):
        raise UsageError(f"code must be FILE.py or MODULE, got {code!r}")
    seed, code = None if seed is None else whole_number(seed, "seed", 0), None if code is None else str(code)
    num_beams = whole_number(num_beams, "num_beams, the least number of beams (0: that of the evaluation),", 0)
    if _is_folder(name):
        row = load_export(Path(name).expanduser(), seed, code, num_beams)
    else:
        row = load_stored(str(name), seed, code, num_beams)
    if row.warning:
        say(f"warning: {row.name}, seed {row.seed}: {row.warning}")
    return row


def _is_folder(name: str | Path) -> bool:
    """Return whether this means a folder: a path, or a text that names an export and no row."""
    text = os.fspath(name)
    if isinstance(name, Path) or os.sep in text or text in (".", ".."):
        return True
    return is_export(Path(text)) and text not in run_files.names_of_rows()
