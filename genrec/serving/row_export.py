"""`genrec export`: a trained row as a folder that recommends without the data of its training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save_file

from genrec import __version__, run_files
from genrec.artifact_folders import set_modes
from genrec.errors import UsageError
from genrec.hashed_json import add_hash
from genrec.policy_modules import as_module
from genrec.progress import say
from genrec.serving.export_files import CARD, FORMAT, ITEMS, MODEL, SEMANTIC_IDS, SETTINGS
from genrec.serving.exported_rows import probe
from genrec.serving.item_recommender import History
from genrec.serving.model_card import Figures, model_card
from genrec.serving.stored_rows import load_stored, run_command, was_overridden
from genrec.serving.trained_rows import TrainedRow
from genrec.store import file_hash, write_json
from genrec.training.checkpoint import weights
from genrec.types import Baseline, Policy, RestorableBaseline
from genrec.types.event_history import in_words

UNFINISHED = ".unfinished"  # folder inside the export while it is written
PROBE = 5  # items of the probe, of the most popular ones as a history, and of the list that it gets


def export(name: str, folder: Path | str, seed: int | None = None, code: str | None = None) -> list[Path]:
    """Write a trained row to an empty or new folder and return its files; `genrec.load(folder)` loads it without the data.

    Args:
        name: name of the row.
        folder: the folder; one that holds files is refused.
        seed: one of the row's seeds; None takes the lowest.
        code: FILE.py or MODULE of a policy of your own. The export does not hold it, and asks for it when it is loaded.

    Raises UsageError for a folder with files and for a baseline that needs users, and what `genrec.load` raises.

    """
    for value, what in ((name, "the name of the row"), (folder, "the folder of the export")):
        if not isinstance(value, str | Path):
            raise UsageError(f"{what} must be a text or a path, got {value!r}; for example export('NAME', 'FOLDER')")
    if not str(folder) or not name:
        what = "name of the row" if not name else "folder of the export"
        raise UsageError(f"the {what} is an empty text; give the row and a new or empty folder: genrec export NAME FOLDER")
    folder = Path(folder).expanduser()
    _check_empty(folder)
    row = load_stored(name, seed, code)
    specification = row.items.specification
    if isinstance(specification, Baseline) and not isinstance(specification, RestorableBaseline):
        raise UsageError(
            f"{name} is the baseline {type(specification).__name__}, which cannot be exported: it recommends by the interactions of "
            "each user, which an export does not hold (a genrec.types.RestorableBaseline has what a history needs); export another "
            f"row, or use 'genrec recommend {name}' here"
        )
    if row.items.inputs:
        raise UsageError(
            f"{name} cannot be exported: {type(specification).__name__} reads {in_words(row.items.inputs)} of a history, and an "
            f"export recommends to lists of items alone; export another row, or use 'genrec recommend {name} --user ID' here"
        )
    if row.warning:
        say(f"warning: {name}, seed {row.seed}: {row.warning}")
    existed = folder.is_dir()
    unfinished = folder / UNFINISHED
    try:
        unfinished.mkdir(parents=True)
        _write(row, run_files.read(name), unfinished)
        written = [path.rename(folder / path.name) for path in sorted(unfinished.iterdir(), key=lambda path: path.name == SETTINGS)]
        unfinished.rmdir()
    except BaseException:
        shutil.rmtree(unfinished if existed else folder, ignore_errors=True)
        raise
    return written


def _check_empty(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a new or empty folder for the export")
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if found:
        raise UsageError(
            f"the folder {folder} is not empty, it holds {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}; name a new or "
            "empty folder, or remove this one first"
        )


def _write(row: TrainedRow, content: dict[str, Any], folder: Path) -> None:
    """Write the files of the export."""
    items = row.items
    if isinstance(items.specification, RestorableBaseline):
        saved = {key: each.contiguous() for key, each in items.specification.tensors(items.recommender).items()}
    else:
        saved = weights(as_module(cast(Policy, items.recommender)))
    save_file(saved, folder / MODEL)
    if items.semantic_ids is not None:
        items.semantic_ids.save(folder / SEMANTIC_IDS)
    catalog = items.catalog
    columns = {
        "item_id": pa.array(catalog.ids, pa.string()),
        "title": pa.array(catalog.titles, pa.string()),
        "interactions": pa.array(catalog.num_interactions, pa.int64()),
    }
    pq.write_table(pa.table(columns), folder / ITEMS)
    set_modes(folder)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)} for path in sorted(folder.iterdir())}
    entry = content["seeds"][str(row.seed)]
    about = {
        "format": FORMAT,
        "genrec": __version__,
        "row": row.name,
        "seed": row.seed,
        "seeds": list(row.seeds),
        "configuration": content["configuration"],
        "protocol": content["protocol"],
        "metrics": entry["metrics"],
        "command": run_command(content, row.seed, row.seed, portable=True),
        **({"warning": row.warning} if row.warning else {}),
        "probe": _probe(row),
        "files": files,
    }
    write_json(folder / SETTINGS, add_hash(about))
    figures = Figures(row.seed, {int(seed): each["metrics"] for seed, each in content["seeds"].items()}, entry["environment"])
    lacks_settings = was_overridden(content, row.seed)
    card = model_card(about, figures, catalog, type(items.specification).__name__, lacks_settings)
    (folder / CARD).write_text(card, encoding="utf-8")


def _probe(row: TrainedRow) -> dict[str, list[Any]]:
    """Return a history of popular items, the list that it gets, and the scores of the list."""
    items = row.items
    history = (items.catalog.num_interactions.argsort(kind="stable")[::-1][:PROBE] + 1).tolist()[-items.history_length :]
    length = min(PROBE, len(items.catalog), items.num_beams or PROBE)
    listed = [number for number in items.rank([History(history)], length).items[0].tolist() if number]
    return {"history": history, "items": listed, "log_prob": probe(items.recommender, history, listed)}
