"""The sections of a report on items: popularity of what is recommended, recall by group, and Semantic IDs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy import ndarray
from pandas import DataFrame

from genrec.data.corpus import Corpus
from genrec.data.splits import BEGIN, TEST
from genrec.evaluation.compare import Comparison
from genrec.evaluation.comparison.table_cells import MetricName, metric_name, title
from genrec.evaluation.item_groups import NUM_POPULARITY_GROUPS, popularity_group
from genrec.evaluation.statistics.paired_tests import enumerated
from genrec.reports import report_charts
from genrec.reports.report_charts import MUTED, TEXT, RowScale
from genrec.reports.report_parts import Chart, Record, Section, StoredRow, is_stored, short
from genrec.semantic_ids import SemanticIds
from genrec.workspace import store

TOP = 10  # items of a list that are counted
HISTORIES, TARGETS = "histories of the test users", "their targets"
MAX_LEVELS = 6  # prefix lengths that are drawn
POPULARITY = "Popularity of what is recommended"
CODES = "Code usage and prefix groups of Semantic IDs"


def popularity_section(rows: Sequence[StoredRow], corpus: Corpus, ranks: DataFrame, scale: RowScale) -> Section:
    """Return the share of each popularity group in the lists of the rows, in the histories and among the targets."""
    group = popularity_group(torch.from_numpy(corpus.popularity())).numpy()
    values = []
    for row in rows:
        if is_stored("evaluate", row.artifacts.values()):
            shares = np.mean([group_shares(lists_of(keys), group) for keys in row.artifacts.values()], axis=0)
            values += _by_group(row.name, shares)
    users = ranks["user"].to_numpy()
    values += _by_group(HISTORIES, group_shares(history_items(corpus, users), group))
    values += _by_group(TARGETS, group_shares(ranks["target"].to_numpy(), group))
    names = [name for name, _ in _group_names()]
    others = {HISTORIES: TEXT, TARGETS: MUTED}
    spec = report_charts.by_group(scale, values, names, f"share of the first {TOP} items", others)
    lead = (
        f"Items are in {NUM_POPULARITY_GROUPS} groups with about equal training interactions, the most popular first. A row above the "
        "line of the histories recommends the group more often than users take it."
    )
    missing = [row.name for row in rows if not is_stored("evaluate", row.artifacts.values())]
    notes = [f"The lists of {enumerated(missing)} are not in the data folder, so they are left out."] if missing else []
    return Section("popularity", POPULARITY, lead, [Chart("Lists against histories", "", spec)], notes)


def lists_of(keys: Mapping[str, str]) -> ndarray:
    """Return the items on the first `TOP` places of all lists of a seed, int64 [...]."""
    path = store().folder("evaluate", keys["evaluate"]) / "recommendations.parquet"
    return pd.read_parquet(path, columns=["item"], filters=[("position", "<=", TOP)])["item"].to_numpy()


def history_items(corpus: Corpus, users: ndarray) -> ndarray:
    """Return the items of all events before the test part of these users, int64 [...]."""
    bounds = corpus.bounds[users - 1]
    return np.concatenate([corpus.item[begin:end] for begin, end in zip(bounds[:, BEGIN], bounds[:, TEST], strict=True)])


def group_shares(items: ndarray, group: ndarray) -> ndarray:
    """Return the share of each popularity group among items, float64 [G]; `group` int64 [N + 1] holds the group of each item."""
    counts = np.bincount(group[items[items > 0]], minlength=NUM_POPULARITY_GROUPS)
    return counts / max(int(counts.sum()), 1)


def _group_names() -> list[tuple[str, int]]:
    names = [f"{place + 1}" for place in range(NUM_POPULARITY_GROUPS)]
    names[0], names[-1] = "1 (most)", f"{NUM_POPULARITY_GROUPS} (least)"
    return [(name, place) for place, name in enumerate(names)]


def _by_group(row: str, shares: ndarray) -> list[Record]:
    return [{"row": row, "group": name, "value": short(float(shares[place]))} for name, place in _group_names()]


def group_section(comparison: Comparison, scale: RowScale) -> Section:
    """Return recall by group of users and of targets, for rows that were evaluated with groups."""
    names = {key: metric_name(key) for row in comparison.rows for key in row.metrics}
    grouped = {key: name for key, name in names.items() if name.stem == "recall" and name.group}
    charts = []
    for kind, keys in _kinds(grouped).items():
        groups = {key: grouped[key].group.removeprefix(f"{kind} ") + _users_of(comparison, key) for key in keys}
        values = [
            {"row": row.name, "group": groups[key], "value": short(row.metrics[key].mean)}
            for row in comparison.rows
            for key in keys
            if key in row.metrics
        ]
        spec = report_charts.by_group(scale, values, list(groups.values()), title(f"recall@{grouped[keys[0]].cutoff}"), {})
        what = {"history": "length of the user's history, events", "popularity": "popularity of the target, the most popular first"}
        charts.append(Chart(f"By {what.get(kind, kind)}", "", spec))
    notes = [] if charts else ["No row was evaluated by group."]
    return Section(
        "groups", "Recall by group", "Means over the users of a group, their number in parentheses, and over seeds.", charts, notes
    )


def _users_of(comparison: Comparison, key: str) -> str:
    """Return the number of users in a group, ' (57)', or ' (55-57)' if rows or seeds differ; empty if it is not recorded."""
    counts = [number for row in comparison.rows for number in row.user_counts.get(key, ())]
    return f" ({min(counts)}{f'-{max(counts)}' if max(counts) > min(counts) else ''})" if counts else ""


def _kinds(grouped: Mapping[str, MetricName]) -> dict[str, list[str]]:
    """Return the metrics by the kind of their groups, such as `history`, at one cut-off each."""
    found: dict[str, list[str]] = {}
    for key, name in grouped.items():
        kind = name.group.partition(" ")[0]
        if not found.get(kind) or grouped[found[kind][0]].cutoff == name.cutoff:
            found.setdefault(kind, []).append(key)
    return found


def codes_section(rows: Sequence[StoredRow], scale: RowScale) -> Section:
    """Return the usage of codes by level and the size of prefix groups, for each tokenizer."""
    shared: dict[str, list[str]] = {}
    for row in rows:
        if is_stored("tokenize", [row.first]):
            shared.setdefault(row.first["tokenize"], []).append(row.name)
    removed = [row.name for row in rows if "tokenize" in row.first and not is_stored("tokenize", [row.first])]
    gone = [f"The Semantic IDs of {enumerated(removed)} are not in the data folder, so they are left out."] if removed else []
    if not shared:
        return Section("codes", CODES, "", [], gone or ["No row has Semantic IDs of its own, so there are no codes to show."])
    usage, groups = [], []
    for key, names in shared.items():
        semantic_ids = SemanticIds.load(store().folder("tokenize", key) / "codes.safetensors")
        usage += [{"row": names[0], "level": str(place + 1), "value": share} for place, share in enumerate(code_usage(semantic_ids))]
        sizes = prefix_groups(semantic_ids)
        groups += [{"row": names[0], "level": str(length + 1), "value": size} for length, size in enumerate(sizes)]
    lead = (
        "A level with unused codes wastes room; the group of an item shrinks to 1 where its prefix is unique. Prefixes of up to "
        f"{MAX_LEVELS} codes are drawn."
    )
    charts = [
        Chart("Codes in use, by level", "", report_charts.by_level(scale, usage, "share of the codes of the level")),
        Chart("Items with the same prefix", "", report_charts.by_level(scale, groups, "items in the group of an item, mean", True)),
    ]
    notes = [f"{enumerated(names)} share their Semantic IDs, drawn as {names[0]}." for names in shared.values() if len(names) > 1]
    without = [row.name for row in rows if "tokenize" not in row.first]
    have = "have no Semantic IDs of their own, so they are" if len(without) > 1 else "has no Semantic IDs of its own, so it is"
    notes += [f"{enumerated(without)} {have} not drawn."] if without else []
    return Section("codes", CODES, lead, charts, notes + gone)


def code_usage(semantic_ids: SemanticIds) -> list[float]:
    """Return the share of the codes of each level that an item has."""
    used = [len(torch.unique(column)) for column in semantic_ids.codes.T]
    return [count / size for count, size in zip(used, semantic_ids.level_sizes, strict=True)]


def prefix_groups(semantic_ids: SemanticIds) -> list[float]:
    """Return, for prefixes of 1, 2, ... codes, the mean over items of the number of items with the same prefix, with itself."""
    codes = semantic_ids.codes[:, :MAX_LEVELS]
    sizes = [torch.unique(codes[:, :length], dim=0, return_counts=True)[1].double() for length in range(1, codes.shape[1] + 1)]
    return [float((size * size).sum() / len(codes)) for size in sizes]
