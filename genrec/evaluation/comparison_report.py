"""Stage 6: a comparison as text, for Markdown files and for the terminal. In: a `Comparison`. Out: the same tables in both.

Names and values come from experiment files: what could be read as markup is escaped, and what is not printable becomes a space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from genrec.evaluation.cold_metrics import chance
from genrec.evaluation.compare import ABSENT, PER_USER, Comparison, PairedTest, Row

PREFERRED = {"ndcg": (5, 10), "mrr": (10,), "coverage": (10,)}  # cut-offs shown beside every recall, else the last one
SHORT = {"recall": "R", "ndcg": "N", "mrr": "MRR", "coverage": "coverage"}
COLUMNS = 8  # rows of results that may stand side by side as columns
UNSAID = ("version", "source", "fingerprint")  # of a component, unless nothing else differs
PIPE_WIDTH = 220  # columns of text that goes to no terminal


class Table(NamedTuple):
    """A table of plain text; a cell may have two lines."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def markdown(comparison: Comparison) -> str:
    """The comparison in GitHub's Markdown."""
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
        for place, column in enumerate(table.columns):
            grid.add_column(Text(_plain(column)), justify="right" if place else "left", overflow="fold")
        for row in table.rows:
            grid.add_row(*(Text("\n".join(map(_plain, cell.split("\n")))) for cell in row))
        console.print(grid)
        for note in table.notes:
            console.print(Text(_plain(note), style="dim"))


def _header(comparison: Comparison) -> list[str]:
    """The protocol, in words."""
    protocol = [f"{key} {_value(value)}" for key, value in comparison.protocol.items()]
    beams = {row.name: _beams(row.configuration) for row in comparison.rows if "policy.num_beams" in row.configuration}
    if len(set(beams.values())) == 1:
        protocol.append(f"beams {next(iter(beams.values()))}")
    else:
        protocol += [f"beams of {name} {count}" for name, count in beams.items()]
    return ["Protocol: " + "; ".join(protocol)]


def _beams(configuration: dict[str, object]) -> str:
    """Of a row's policy. Rows may differ in it: beam against exact is what a beam loses."""
    if configuration.get("evaluate.scoring") == "exact":
        return "none, scored exactly"
    return str(configuration.get("evaluate.num_beams") or configuration["policy.num_beams"])


def _tables(comparison: Comparison) -> list[Table]:
    tables = [_results(comparison), *_semantic_ids(comparison), *_unseen(comparison)]
    if len(comparison.rows) > 1:
        tables.append(_tests(comparison))
    if comparison.differences:
        tables.append(_differences(comparison))
    return tables


def _results(comparison: Comparison) -> Table:
    """A line a row: seeds, metrics, and the tested metric's interval."""
    shown = _shown(comparison)
    rows = []
    for row in comparison.rows:
        seeds = ", ".join(map(str, row.seeds))
        interval = _interval(row.interval, "not defined: one user", ".4f")
        rows.append([row.name, seeds, *(_metric(row, key, comparison.metric) for key in shown), interval])
    notes = [
        "R recall, N NDCG, mean over all users and seeds"
        + ("; ± standard deviation over seeds" if any(len(row.seeds) > 1 for row in comparison.rows) else "")
        + f"; 95 %: bootstrap interval over users, {comparison.resamples} resamples"
    ]
    for row in comparison.rows:
        invalid = row.metrics.get("invalid")
        if invalid is not None and invalid.mean > 0:
            notes.append(f"{row.name}: {invalid.mean:g} slots of its lists were empty or repeated an item; they count as misses")
    columns = ["", "seeds", *(_short(key) for key in shown), f"{_short(comparison.metric)} 95 %"]
    return Table("Results", columns, rows, notes)


def _semantic_ids(comparison: Comparison) -> list[Table]:
    """Where items share Semantic IDs: how well the Semantic IDs were ranked, in a table of its own because it is no item's rank."""
    rows = [row for row in comparison.rows if any(key.startswith("sid_") for key in row.metrics)]
    if not rows:
        return []
    shown = _ranked(rows, "sid_")
    cells = [[row.name, *(_metric(row, f"sid_{key}", comparison.metric) for key in shown)] for row in rows]
    note = (
        "a hit is any item with the target's Semantic ID; n counts Semantic IDs, as far as the list of items reaches. Not comparable "
        "with the results above, where a Semantic ID that G items share is worth 1/G of a slot each (the expectation over their order)"
    )
    return [Table("Semantic IDs that items share", ["", *(f"SID {_short(key)}" for key in shown)], cells, [note])]


def _unseen(comparison: Comparison) -> list[Table]:
    """Cold start: two lines a row, and what chance gives among unseen items alone."""
    rows = [row for row in comparison.rows if "cold_users" in row.metrics]
    if not rows:
        return []
    shown, cells = _ranked(rows, "cold_"), []
    for prefix, among in (("cold_", "all items"), ("cold_only_", "unseen items")):
        some = [row for row in rows if any(key.startswith(f"{prefix}recall@") for key in row.metrics)]
        cells += [[row.name, among, *(_metric(row, prefix + key, comparison.metric) for key in shown)] for row in some]
    users, items = (round(rows[0].metrics[key].mean) for key in ("cold_users", "cold_items"))
    by_chance = [chance(PER_USER[name], int(cutoff), items) for name, _, cutoff in (key.partition("@") for key in shown)]
    cells.append(["chance", "unseen items", *(f"{value:.4f}" for value in by_chance)])
    note = f"mean over the {users} users whose target has no training event; {items} items of the catalog have none"
    return [Table("Items unseen in training", ["", "ranked among", *map(_short, shown)], cells, [note])]


def _ranked(rows: Iterable[Row], prefix: str) -> list[str]:
    """Every recall and the preferred NDCGs that a row has under a prefix, without it."""
    known = list(dict.fromkeys(key.removeprefix(prefix) for row in rows for key in row.metrics if key.startswith(prefix)))
    recalls, ndcgs = ([key for key in known if key.startswith(f"{name}@")] for name in ("recall", "ndcg"))
    return recalls + ([f"ndcg@{n}" for n in PREFERRED["ndcg"] if f"ndcg@{n}" in ndcgs] or ndcgs[-1:])


def _tests(comparison: Comparison) -> Table:
    """A line for each row but the reference."""
    columns = ["", "difference", "95 %", "p", "p Holm", "win / tie / loss"]
    rows = [[row.name, *_test(row.test)] for row in comparison.rows if row.test is not None]
    count = sum(row.test is not None and row.test.p is not None for row in comparison.rows)
    note = (
        f"per user, seeds averaged; two-sided paired bootstrap test over users, {comparison.resamples} resamples; "
        f"Holm's correction over {count} test{'s' if count != 1 else ''}"
    )
    title = f"{_short(comparison.metric)} against {comparison.reference}"
    return Table(title, columns, rows, [note, *_other_seeds(comparison)])


def _other_seeds(comparison: Comparison) -> list[str]:
    """A warning for each trained row whose seeds are not the reference's: a lucky seed would pass for an effect."""
    reference = next(row for row in comparison.rows if row.name == comparison.reference)
    wrong = [row for row in comparison.rows if set(row.seeds) != set(reference.seeds) and _trained(row) and _trained(reference)]
    return [
        f"{row.name} has seeds {_value(row.seeds)} and the reference {_value(reference.seeds)}: "
        "run both with the same seeds before you believe the difference"
        for row in wrong
    ]


def _trained(row: Row) -> bool:
    """Whether the row's seeds mean anything: a baseline has no stage that draws."""
    return any(key.startswith("sft.") for key in row.configuration)


def _test(test: PairedTest) -> list[str]:
    missing = f"not defined: {test.reason}"
    return [
        f"{test.difference:+.5f}",
        _interval(test.interval, missing, "+.5f"),
        missing if test.p is None else f"{test.p:.4f}",
        ABSENT if test.p_holm is None else f"{test.p_holm:.4f}",
        f"{test.wins} / {test.ties} / {test.losses}",
    ]


def _differences(comparison: Comparison) -> Table:
    """A line a key, a column a row of the results; the other way round where there are many rows."""
    names, title = [row.name for row in comparison.rows], "What differs in the configuration"
    keys = [key.removesuffix(".class") for key in comparison.differences]
    lines = [_line_of(key, [values[name] for name in names]) for key, values in comparison.differences.items()]
    if len(names) > max(len(keys), COLUMNS):
        return Table(title, ["", *keys], [[name, *column] for name, *column in zip(names, *lines, strict=True)], [])
    return Table(title, ["", *names], [[key, *line] for key, line in zip(keys, lines, strict=True)], [])


def _shown(comparison: Comparison) -> list[str]:
    """The metrics of the table: every recall, the preferred cut-offs of the others, and the tested one."""
    known = list(dict.fromkeys(key for row in comparison.rows for key in row.metrics if "@" in key))
    shown = [key for key in known if key.startswith("recall@")]
    for name, cutoffs in PREFERRED.items():
        all_of_it = [key for key in known if key.startswith(f"{name}@")]
        shown += [f"{name}@{n}" for n in cutoffs if f"{name}@{n}" in all_of_it] or all_of_it[-1:]
    return shown if comparison.metric in shown else [*shown, comparison.metric]


def _metric(row: Row, key: str, tested: str) -> str:
    """Mean, and below it the deviation over seeds."""
    if key not in row.metrics:
        return f"{row.value:.4f}" if key == tested else ABSENT
    spread = row.metrics[key]
    return f"{spread.mean:.4f}" + ("" if spread.deviation is None else f"\n±{spread.deviation:.4f}")


def _interval(interval: tuple[float, float] | None, missing: str, number: str) -> str:
    return missing if interval is None else f"[{interval[0]:{number}}, {interval[1]:{number}}]"


def _short(key: str) -> str:
    """'recall@10' -> 'R@10'."""
    name, _, cutoff = key.partition("@")
    return f"{SHORT.get(name, name)}@{cutoff}"


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _line_of(key: str, values: list[object]) -> list[str]:
    """A key's values in words, those that differ in different words; of a class path 'module:Name' the name."""
    if key.endswith(".class"):
        return [_value(value).rpartition(":")[2] for value in values]
    texts = [_words(value) for value in values]
    told = len(set(texts)) == len(set(map(repr, values)))
    return texts if told else [_words(value, hidden=()) for value in values]


def _words(value: object, hidden: tuple[str, ...] = UNSAID) -> str:
    """A value in which components may stand: `OddOnly(flip=0), NearDuplicates(codes=1)`."""
    if isinstance(value, dict) and "class" in value:
        known = {name: entry for name, entry in value.items() if name != "class" and name not in hidden and entry is not None}
        fields = [f"{name}={_field(entry, hidden)}" for name, entry in known.items()]
        return f"{str(value['class']).rpartition(':')[2]}({', '.join(fields)})"
    return ", ".join(_words(entry, hidden) for entry in value) if isinstance(value, list | tuple) else str(value)


def _field(value: object, hidden: tuple[str, ...]) -> str:
    """As an argument: a list in brackets."""
    return f"[{_words(value, hidden)}]" if isinstance(value, list | tuple) else _words(value, hidden)


def _plain(text: str) -> str:
    """One line of printable text: no control character, no escape sequence."""
    return "".join(character if character.isprintable() else " " for character in text)


def _escaped(text: str) -> str:
    """Plain text as Markdown that shows exactly it, in a table's cell too."""
    text = _plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|$~]|(?<!\w)_|_(?!\w)|(?<=\])\()", r"\\\1", text)
