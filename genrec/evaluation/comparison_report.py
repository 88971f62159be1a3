"""Tables of a `Comparison`, as Markdown and on the terminal.

Names and values come from experiment files, so markup characters are escaped and non-printable characters become spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from genrec.evaluation.cold_metrics import chance
from genrec.evaluation.compare import ABSENT, PER_USER, Comparison, PairedTest, Row

PREFERRED = {"ndcg": (5, 10), "mrr": (10,), "coverage": (10,)}  # cut-offs to show if they exist, else the last one; recall has all
TITLES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "coverage": "Coverage"}
MAX_COLUMNS = 8  # rows of results that are shown as columns of the configuration table; more are shown as lines
HIDDEN = ("version", "source", "fingerprint")  # fields of a component that are shown only if nothing else differs
PIPE_WIDTH = 220  # width in characters of output that is not a terminal


class Table(NamedTuple):
    """A table of plain text. A cell may have two lines."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def markdown(comparison: Comparison) -> str:
    """Return the comparison as GitHub Markdown."""
    lines = [_escaped(line) for line in _header(comparison)]
    for table in _tables(comparison):
        rule = ["---", *["---:"] * (len(table.columns) - 1)]
        lines += ["", f"**{_escaped(table.title)}**", "", _line(map(_escaped, table.columns)), _line(rule)]
        lines += [_line(map(_escaped, row)) for row in table.rows]
        for note in table.notes:
            lines += ["", _escaped(note)]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def terminal(comparison: Comparison) -> None:
    """Print the comparison on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    for line in _header(comparison):
        console.print(Text(_plain(line)))
    for table in _tables(comparison):
        grid = Grid(title=Text(_plain(table.title)), box=box.SIMPLE, title_justify="left")
        for index, column in enumerate(table.columns):
            grid.add_column(Text(_plain(column)), justify="right" if index else "left", overflow="fold")
        for row in table.rows:
            grid.add_row(*(Text("\n".join(map(_plain, cell.split("\n")))) for cell in row))
        console.print(grid)
        for note in table.notes:
            console.print(Text(_plain(note), style="dim"))


def _header(comparison: Comparison) -> list[str]:
    """Return the protocol as one line."""
    protocol = [f"{key} {_value(value)}" for key, value in comparison.protocol.items()]
    beams = {row.name: _beams(row.configuration) for row in comparison.rows if "policy.num_beams" in row.configuration}
    if len(set(beams.values())) == 1:
        protocol.append(f"beams {next(iter(beams.values()))}")
    else:
        protocol += [f"beams of {name} {count}" for name, count in beams.items()]
    return ["Protocol: " + "; ".join(protocol)]


def _beams(configuration: dict[str, object]) -> str:
    """Return the beams of a row's policy. They may differ between rows, for example to compare beam search with exact scoring."""
    if configuration.get("evaluate.scoring") == "exact":
        return "none (exact scoring)"
    return str(configuration.get("evaluate.num_beams") or configuration["policy.num_beams"])


def _tables(comparison: Comparison) -> list[Table]:
    tables = [_results(comparison), *_semantic_ids(comparison), *_unseen(comparison)]
    if len(comparison.rows) > 1:
        tables.append(_tests(comparison))
    if comparison.differences:
        tables.append(_differences(comparison))
    return tables


def _results(comparison: Comparison) -> Table:
    """Return the table of metrics, with the confidence interval of the tested metric."""
    shown = _shown(comparison)
    rows = []
    for row in comparison.rows:
        seeds = ", ".join(map(str, row.seeds))
        interval = _interval(row.interval, "undefined: one user", ".4f")
        rows.append([row.name, seeds, *(_metric(row, key, comparison.metric) for key in shown), interval])
    notes = [
        "Metrics are means over all users and seeds. "
        + ("± is the standard deviation over seeds. " if any(len(row.seeds) > 1 for row in comparison.rows) else "")
        + f"The 95 % interval is a bootstrap interval over users with {comparison.resamples} resamples."
    ]
    for row in comparison.rows:
        invalid = row.metrics.get("invalid")
        if invalid is not None and invalid.mean > 0:
            notes.append(f"{row.name}: {invalid.mean:g} slots of its lists were empty or repeated an item. They count as misses.")
    columns = ["Row", "Seeds", *(_title(key) for key in shown), f"{_title(comparison.metric)}, 95 % interval"]
    return Table("Results", columns, rows, notes)


def _semantic_ids(comparison: Comparison) -> list[Table]:
    """Return a table of the ranks of Semantic IDs, if items share any. These metrics are not ranks of items, so they are separate."""
    rows = [row for row in comparison.rows if any(key.startswith("sid_") for key in row.metrics)]
    if not rows:
        return []
    shown = _ranked(rows, "sid_")
    cells = [[row.name, *(_metric(row, f"sid_{key}", comparison.metric) for key in shown)] for row in rows]
    note = (
        "Some items share a Semantic ID. In this table a hit is any item with the Semantic ID of the target, and the cut-off counts "
        "distinct Semantic IDs in the list. The results above count items: they are expectations over the order of the items that "
        "share a Semantic ID. The two tables are not comparable."
    )
    return [Table("Ranking of Semantic IDs", ["Row", *(f"SID {_title(key)}" for key in shown)], cells, [note])]


def _unseen(comparison: Comparison) -> list[Table]:
    """Return the cold-start table: two lines per row, and the expectation of a random ranking among unseen items."""
    rows = [row for row in comparison.rows if "cold_users" in row.metrics]
    if not rows:
        return []
    shown, cells = _ranked(rows, "cold_"), []
    for prefix, among in (("cold_", "all items"), ("cold_only_", "unseen items")):
        some = [row for row in rows if any(key.startswith(f"{prefix}recall@") for key in row.metrics)]
        cells += [[row.name, among, *(_metric(row, prefix + key, comparison.metric) for key in shown)] for row in some]
    users, items = (round(rows[0].metrics[key].mean) for key in ("cold_users", "cold_items"))
    random = [chance(PER_USER[name], int(cutoff), items) for name, _, cutoff in (key.partition("@") for key in shown)]
    cells.append(["random order", "unseen items", *(f"{value:.4f}" for value in random)])
    note = f"Means over the {users} users with a target that has no training interaction. {items} items of the catalog have none."
    return [Table("Items unseen in training (cold start)", ["Row", "Ranked among", *map(_title, shown)], cells, [note])]


def _ranked(rows: Iterable[Row], prefix: str) -> list[str]:
    """Return all recalls and the preferred NDCGs that the rows have with a prefix, without the prefix."""
    known = list(dict.fromkeys(key.removeprefix(prefix) for row in rows for key in row.metrics if key.startswith(prefix)))
    recalls, ndcgs = ([key for key in known if key.startswith(f"{name}@")] for name in ("recall", "ndcg"))
    return recalls + ([f"ndcg@{n}" for n in PREFERRED["ndcg"] if f"ndcg@{n}" in ndcgs] or ndcgs[-1:])


def _tests(comparison: Comparison) -> Table:
    """Return the table of tests, a line for each row except the reference."""
    columns = ["Row", "Difference", "95 % interval", "p", "p (Holm)", "Win / tie / loss"]
    rows = [[row.name, *_test(row.test)] for row in comparison.rows if row.test is not None]
    count = sum(row.test is not None and row.test.p is not None for row in comparison.rows)
    note = (
        f"Differences are row minus reference. The test is a two-sided paired bootstrap over users with {comparison.resamples} "
        "resamples, each user's metric averaged over seeds. "
        f"p (Holm) is corrected for {count} test{'s' if count != 1 else ''}. Win, tie and loss count users."
    )
    title = f"{_title(comparison.metric)} compared with {comparison.reference}"
    return Table(title, columns, rows, [note, *_other_seeds(comparison)])


def _other_seeds(comparison: Comparison) -> list[str]:
    """Return a warning for each trained row with other seeds than the reference: a lucky seed could pass for an effect."""
    reference = next(row for row in comparison.rows if row.name == comparison.reference)
    unequal = [row for row in comparison.rows if set(row.seeds) != set(reference.seeds) and _trained(row) and _trained(reference)]
    return [
        f"{row.name} has the seeds {_value(row.seeds)}, but the reference has {_value(reference.seeds)}. Run both with the same seeds "
        "before drawing a conclusion."
        for row in unequal
    ]


def _trained(row: Row) -> bool:
    """Return whether the row was trained. A baseline has no stage that uses the seed."""
    return any(key.startswith("sft.") for key in row.configuration)


def _test(test: PairedTest) -> list[str]:
    missing = f"undefined: {test.reason}"
    return [
        f"{test.difference:+.5f}",
        _interval(test.interval, missing, "+.5f"),
        missing if test.p is None else f"{test.p:.4f}",
        ABSENT if test.p_holm is None else f"{test.p_holm:.4f}",
        f"{test.wins} / {test.ties} / {test.losses}",
    ]


def _differences(comparison: Comparison) -> Table:
    """Return the table of differing settings: a line per setting and a column per row, or transposed if there are many rows."""
    names, title = [row.name for row in comparison.rows], "Configuration differences"
    keys = [key.removesuffix(".class") for key in comparison.differences]
    lines = [_line_of(key, [values[name] for name in names]) for key, values in comparison.differences.items()]
    if len(names) > max(len(keys), MAX_COLUMNS):
        return Table(title, ["Row", *keys], [[name, *column] for name, *column in zip(names, *lines, strict=True)], [])
    return Table(title, ["Setting", *names], [[key, *line] for key, line in zip(keys, lines, strict=True)], [])


def _shown(comparison: Comparison) -> list[str]:
    """Return the metrics to show: all recalls, the preferred cut-offs of the others, and the tested metric."""
    known = list(dict.fromkeys(key for row in comparison.rows for key in row.metrics if "@" in key))
    shown = [key for key in known if key.startswith("recall@")]
    for name, cutoffs in PREFERRED.items():
        available = [key for key in known if key.startswith(f"{name}@")]
        shown += [f"{name}@{n}" for n in cutoffs if f"{name}@{n}" in available] or available[-1:]
    return shown if comparison.metric in shown else [*shown, comparison.metric]


def _metric(row: Row, key: str, tested: str) -> str:
    """Return the mean, and on a second line the standard deviation over seeds."""
    if key not in row.metrics:
        return f"{row.value:.4f}" if key == tested else ABSENT
    spread = row.metrics[key]
    return f"{spread.mean:.4f}" + ("" if spread.deviation is None else f"\n±{spread.deviation:.4f}")


def _interval(interval: tuple[float, float] | None, missing: str, number: str) -> str:
    return missing if interval is None else f"[{interval[0]:{number}}, {interval[1]:{number}}]"


def _title(key: str) -> str:
    """Return the column title of a metric: 'recall@10' -> 'Recall@10'."""
    name, _, cutoff = key.partition("@")
    return f"{TITLES.get(name, name)}@{cutoff}"


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _line_of(key: str, values: list[object]) -> list[str]:
    """Return the values of a key as text, with different text for different values. A class path 'module:Name' becomes 'Name'."""
    if key.endswith(".class"):
        return [_value(value).rpartition(":")[2] for value in values]
    texts = [_text(value) for value in values]
    distinct = len(set(texts)) == len(set(map(repr, values)))
    return texts if distinct else [_text(value, hidden=()) for value in values]


def _text(value: object, hidden: tuple[str, ...] = HIDDEN) -> str:
    """Return a value as text, with components as calls: `OddOnly(flip=0), NearDuplicates(num_codes=1)`."""
    if isinstance(value, dict) and "class" in value:
        known = {name: entry for name, entry in value.items() if name != "class" and name not in hidden and entry is not None}
        fields = [f"{name}={_field(entry, hidden)}" for name, entry in known.items()]
        return f"{str(value['class']).rpartition(':')[2]}({', '.join(fields)})"
    return ", ".join(_text(entry, hidden) for entry in value) if isinstance(value, list | tuple) else str(value)


def _field(value: object, hidden: tuple[str, ...]) -> str:
    """Return a value as an argument of a call, with lists in brackets."""
    return f"[{_text(value, hidden)}]" if isinstance(value, list | tuple) else _text(value, hidden)


def _plain(text: str) -> str:
    """Replace all non-printable characters (control characters, line feeds, escape sequences) by spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def _escaped(text: str) -> str:
    """Escape plain text so that Markdown shows it unchanged, also in a table cell."""
    text = _plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|$~]|(?<!\w)_|_(?!\w)|(?<=\])\()", r"\\\1", text)
