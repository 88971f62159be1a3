"""`genrec list --disk`: the bytes of each row and artifact, what rows share, what nothing uses, and the total."""

from __future__ import annotations

from collections.abc import Sequence

from genrec import run_files
from genrec.stored_artifacts import ArtifactId, Stored, Uses, size_of, stored, uses
from genrec.workspace import home, store


def lines(data: str | None = None) -> list[str]:
    """Return a table of the rows, one of the artifacts, and the totals; with `data` the rows with this text in their data's name.

    Run files and records that can't be read are named at the end.
    """
    known, folders = uses(), stored()
    sizes: dict[ArtifactId, int] = {}
    for each in folders:
        sizes[each.id] = sizes.get(each.id, 0) + each.size
    names = [name for name in known.rows if data is None or data.lower() in _data_of(name).lower()]
    rows = [_row(name, known, sizes) for name in sorted(names, key=lambda name: -_total(known.rows[name], sizes))]
    result = table([("row", "size", "alone", "shared"), *rows], "lrrr") if rows else [f"{home()} has no rows"]
    listed = [each for each in folders if data is None or any(each.id in known.rows[name] for name in names)]
    entries = [(str(each), in_words(each.size), ", ".join(known.of(each.id)) or "-") for each in sorted(listed, key=_by_size)]
    result += ["", *table([("artifact", "size", "used by"), *entries], "lrl")] if entries else []
    return [*result, "", *_totals(folders, known), *(line for why in known.unknown() for line in ("", f"unreadable: {why}"))]


def _row(name: str, known: Uses, sizes: dict[ArtifactId, int]) -> tuple[str, ...]:
    used = known.rows[name]
    alone = {artifact for artifact in used if known.of(artifact) == [name]}
    return name, *(in_words(_total(each, sizes)) for each in (used, alone, used - alone))


def _total(artifacts: set[ArtifactId], sizes: dict[ArtifactId, int]) -> int:
    return sum(sizes.get(artifact, 0) for artifact in artifacts)


def _totals(folders: Sequence[Stored], known: Uses) -> list[str]:
    """Return the bytes of the artifacts by use, and those of the other folders."""
    by_rows, by_runs = ({each for used in users.values() for each in used} for users in (known.rows, known.runs))
    parts = {"rows": 0, "unfinished runs alone": 0, "nothing": 0}
    for each in folders:
        parts["rows" if each.id in by_rows else "unfinished runs alone" if each.id in by_runs else "nothing"] += each.size
    shares = ", by ".join(f"{who} {in_words(size)}" for who, size in parts.items())
    total = f"artifacts: {in_words(sum(parts.values()))}; used by {shares}"
    hint = ["'genrec clean --unused' removes what nothing uses"] if parts["nothing"] else []
    if hint and known.unknown():
        hint = ["the unreadable files below may use what nothing else uses, so 'genrec clean' keeps it until they are removed"]
    others = sorted(path for path in home().glob("[!.]*") if path.is_dir() and path != store().root)
    return [total, *hint, "other folders: " + (", ".join(f"{path.name} {in_words(size_of(path))}" for path in others) or "none")]


def _data_of(name: str) -> str:
    return str(run_files.read(name)["protocol"].get("data", ""))


def _by_size(each: Stored) -> tuple[int, str]:
    return -each.size, str(each)


def in_words(size: int) -> str:
    """Return a number of bytes in words, in powers of 1000: `0 B`, `12.3 kB`, `1.5 GB`."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def table(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Return rows of text in columns as wide as their widest cell, flush left (`l`) or right (`r`)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    result = []
    for row in rows:
        cells = [f"{cell:{'>' if side == 'r' else '<'}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)]
        result.append("  ".join(cells).rstrip())
    return result
