"""The tables of a `Comparison` as plain text: results, Semantic IDs, cold start, tests, differing settings.

Names and values come from experiment files. The output functions escape them (`genrec.evaluation.comparison_report`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import NamedTuple

from genrec.evaluation.cold_metrics import chance
from genrec.evaluation.compare import ABSENT, PER_USER, Comparison, Row
from genrec.evaluation.held_out_negatives import held_out_notes
from genrec.evaluation.paired_tests import PairedTest, enumerated, seeds_in_words

PREFERRED = {"ndcg": (5, 10), "mrr": (10,), "coverage": (10,)}  # cut-offs to show if they exist, else the last one; recall has all
TITLES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "coverage": "Coverage"}
MAX_COLUMNS = 8  # rows of results that are shown as columns of the configuration table; more are shown as lines
HIDDEN = ("version", "source", "fingerprint")  # fields of a component that are shown only if nothing else differs
UNDEFINED = "undefined"  # cell of a test or an interval that does not exist; a note gives the reason
SEEDS_WIDTH = 8  # characters in a line of seeds in the narrow table of results


class Table(NamedTuple):
    """A table of plain text. A cell may have several lines; the first column is the row's name."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]
    first: tuple[str, ...] = ()  # columns that are shown first where the width is not enough for all
    narrow: Table | None = None  # the table to choose columns from where this one is too wide; None: this one
    listing: tuple[str, ...] = ()  # lines that replace a table that is too wide; empty: columns are left out


def tables(comparison: Comparison) -> list[Table]:
    """Return the tables in the order of the report."""
    found = [_results(comparison), *_semantic_ids(comparison), *_unseen(comparison)]
    if len(comparison.rows) > 1:
        found.append(_tests(comparison))
    if comparison.differences:
        found.append(_differences(comparison))
    return found


def protocol_line(comparison: Comparison) -> str:
    """Return the protocol as one line."""
    protocol = [f"{key} {_value(value)}" for key, value in comparison.protocol.items()]
    beams = {row.name: _beams(row.configuration) for row in comparison.rows if "policy.num_beams" in row.configuration}
    if len(set(beams.values())) == 1:
        protocol.append(f"beams {next(iter(beams.values()))}")
    else:
        protocol += [f"beams of {name} {count}" for name, count in beams.items()]
    return "Protocol: " + "; ".join(protocol)


def _beams(configuration: dict[str, object]) -> str:
    """Return the beams of a row's policy. They may differ between rows, for example to compare beam search with exact scoring."""
    if configuration.get("evaluate.scoring") == "exact":
        return "none (exact scoring)"
    return str(configuration.get("evaluate.num_beams") or configuration["policy.num_beams"])


def _results(comparison: Comparison) -> Table:
    """Return the table of metrics, with the confidence interval of the tested metric.

    Its narrow form also has difference and p of the test, and prefers the tested metric and Recall@10 to the other metrics.
    """
    shown = _shown(comparison)
    columns = ["Row", "Seeds", *map(title, shown), f"{title(comparison.metric)}, 95 % interval"]
    rows = []
    for row in comparison.rows:
        interval = _interval(row.interval, ".4f")
        rows.append([row.name, ", ".join(map(str, row.seeds)), *(_metric(row, key, comparison.metric) for key in shown), interval])
    notes = [
        "Metrics are means over all users and seeds. "
        + ("± is the standard deviation over seeds. " if any(len(row.seeds) > 1 for row in comparison.rows) else "")
        + f"The 95 % interval is a bootstrap interval over users with {comparison.resamples} resamples."
    ]
    if any(row.interval is None for row in comparison.rows):
        notes.append("The interval is undefined: one user.")
    for row in comparison.rows:
        invalid = row.metrics["invalid"].mean if "invalid" in row.metrics else 0.0
        if invalid > 0:
            were = "slot of its lists was" if invalid == 1 else "slots of its lists were"
            count = "It counts as a miss." if invalid == 1 else "They count as misses."
            notes.append(f"{row.name}: {invalid:g} {were} empty or repeated an item. {count}")
    notes += held_out_notes(comparison.rows)
    tested, recall, tests = title(comparison.metric), title("recall@10"), ["Difference", "p (Holm)"]
    first = [tested, columns[-1], *tests, recall, "Seeds"]
    narrow = Table("Results", columns, [[name, textwrap.fill(seeds, SEEDS_WIDTH), *cells] for name, seeds, *cells in rows], notes)
    if len(comparison.rows) > 1:
        cells = [["reference", ABSENT] if row.test is None else [_difference(row.test), _holm(row.test)] for row in comparison.rows]
        narrow = narrow._replace(columns=[*columns, *tests], rows=[line + more for line, more in zip(narrow.rows, cells, strict=True)])
    chosen = tuple(dict.fromkeys(name for name in first if name in narrow.columns))
    return Table("Results", columns, rows, notes, chosen, narrow._replace(first=chosen))


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
    columns = ["Row", *(f"SID {title(key)}" for key in shown)]
    return [Table("Ranking of Semantic IDs", columns, cells, [note], ("SID Recall@10", "SID NDCG@10"))]


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
    columns = ["Row", "Ranked among", *map(title, shown)]
    return [Table("Items unseen in training (cold start)", columns, cells, [note], ("Ranked among", "Recall@10", "NDCG@10"))]


def _ranked(rows: Iterable[Row], prefix: str) -> list[str]:
    """Return all recalls and the preferred NDCGs that the rows have with a prefix, without the prefix."""
    known = list(dict.fromkeys(key.removeprefix(prefix) for row in rows for key in row.metrics if key.startswith(prefix)))
    recalls, ndcgs = ([key for key in known if key.startswith(f"{name}@")] for name in ("recall", "ndcg"))
    return recalls + ([f"ndcg@{n}" for n in PREFERRED["ndcg"] if f"ndcg@{n}" in ndcgs] or ndcgs[-1:])


def _tests(comparison: Comparison) -> Table:
    """Return the table of tests, a line for each row except the reference. It names the seeds of a test if they are not the row's."""
    columns = ["Row", "Difference", "95 % interval", "p", "p (Holm)", "Win / tie / loss"]
    tested = [(row.name, row.test) for row in comparison.rows if row.test is not None]
    rows = [[name, *_test(test)] for name, test in tested]
    count = sum(test.p is not None for _, test in tested)
    note = (
        f"Differences are row minus reference. The test is a two-sided paired bootstrap over users with {comparison.resamples} "
        "resamples, each user's metric averaged over the seeds that both rows have; a baseline has one result for all seeds. "
        f"p (Holm) is corrected for {count} test{'s' if count != 1 else ''}. Win, tie and loss count users."
    )
    notes = [note, *(f"{name}: the test is undefined: {test.reason}." for name, test in tested if test.reason)]
    other, first = _other_seeds(comparison), ["Difference", "p (Holm)", "95 % interval", "p"]
    if other:
        columns.append("Seeds compared")
        first.insert(1, columns[-1])
        rows = [[*cells, ", ".join(map(str, test.seeds)) or "none"] for cells, (_, test) in zip(rows, tested, strict=True)]
    name = f"{title(comparison.metric)} compared with {comparison.reference}"
    return Table(name, columns, rows, notes + other, tuple(first))


def _other_seeds(comparison: Comparison) -> list[str]:
    """Return a warning for each trained row with other seeds than the reference: a lucky seed could pass for an effect.

    Below a baseline as the reference, one warning says that the trained rows have different seeds.
    """
    reference = next(row for row in comparison.rows if row.name == comparison.reference)
    if not reference.trained:
        return list(filter(None, [seeds_differ(comparison)]))
    unequal = [row for row in comparison.rows if row.seeds != reference.seeds and row.trained]
    return [
        f"{row.name} has {seeds_in_words(row.seeds)}, but the reference has {seeds_in_words(reference.seeds)}. "
        + (f"They are compared at {seeds_in_words(row.test.seeds)} only. " if row.test is not None and row.test.seeds else "")
        + "Run both with the same seeds before drawing a conclusion."
        for row in unequal
    ]


def seeds_differ(comparison: Comparison) -> str:
    """Return a warning if the trained rows have different seeds, which also decide which row is best; else empty."""
    names: dict[tuple[int, ...], list[str]] = {}
    for row in comparison.rows:
        if row.trained:
            names.setdefault(row.seeds, []).append(row.name)
    if len(names) < 2:
        return ""
    having = [f"{enumerated(rows)} {'have' if len(rows) > 1 else 'has'} {seeds_in_words(seeds)}" for seeds, rows in names.items()]
    return (
        f"The means of the trained rows are over different seeds: {'; '.join(having)}. "
        "Run all with the same seeds before drawing a conclusion."
    )


def _test(test: PairedTest) -> list[str]:
    """Return difference, interval, p, corrected p and counts of a test."""
    counts = ABSENT if test.difference is None else f"{test.wins} / {test.ties} / {test.losses}"
    p = UNDEFINED if test.p is None else f"{test.p:.4f}"
    return [_difference(test), _interval(test.interval, "+.5f"), p, _holm(test), counts]


def _difference(test: PairedTest) -> str:
    return UNDEFINED if test.difference is None else f"{test.difference:+.5f}"


def _holm(test: PairedTest) -> str:
    return ABSENT if test.p_holm is None else f"{test.p_holm:.4f}"


def _differences(comparison: Comparison) -> Table:
    """Return the table of differing settings: a line per setting and a column per row, or transposed if there are many rows."""
    names, name = [row.name for row in comparison.rows], "Configuration differences"
    keys = [key.removesuffix(".class") for key in comparison.differences]
    lines = [_line_of(key, [values[row] for row in names]) for key, values in comparison.differences.items()]
    listing = tuple(_listed(key, names, line) for key, line in zip(keys, lines, strict=True))
    if len(names) > max(len(keys), MAX_COLUMNS):
        rows = [[row, *column] for row, *column in zip(names, *lines, strict=True)]
        return Table(name, ["Row", *keys], rows, [], listing=listing)
    return Table(name, ["Setting", *names], [[key, *line] for key, line in zip(keys, lines, strict=True)], [], listing=listing)


def _listed(key: str, names: list[str], values: list[str]) -> str:
    """Return a setting as a line: 'align.num_negatives: 1 (shop-dpo); 3 (shop-sdpo, shop-beams)'. Rows without it are left out."""
    having = {value: [name for name, other in zip(names, values, strict=True) if other == value] for value in values}
    return f"{key}: " + "; ".join(f"{value} ({', '.join(rows)})" for value, rows in having.items() if value != ABSENT)


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


def _interval(interval: tuple[float, float] | None, number: str) -> str:
    return UNDEFINED if interval is None else f"[{interval[0]:{number}}, {interval[1]:{number}}]"


def title(key: str) -> str:
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
