"""Tables of further metrics: Semantic IDs, cold start, beyond accuracy, and recall by group. All cells are means over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from genrec.errors import counted
from genrec.evaluation.cold_metrics import chance
from genrec.evaluation.compare import ABSENT, Comparison, Row
from genrec.evaluation.comparison.compared_metric import PER_USER
from genrec.evaluation.comparison.table_cells import TITLES, MetricName, Table, metric_cell, metric_name, ranked_keys, title
from genrec.evaluation.feedback_metrics import PAIRWISE

FEEDBACK_COUNTS = ("pair_users", "disliked_users")  # numbers of users whom the metrics of preference count
# prefixes of metrics that are in a table or a note of their own
ELSEWHERE = ("sid_", "cold_", "negatives_", "preferred_items_", "preference_share", "reward_model_", "pairwise_", "disliked@")
COUNTS = ("users", "invalid", "excluded_targets", "cold_users", "cold_items", *FEEDBACK_COUNTS)  # numbers of users, slots or items
CUTOFF = 10  # of the metrics beyond accuracy, where it exists; else the last one
DEFINED = "Definitions: docs/evaluation.md in the repository of genrec, Other metrics."


def metric_tables(comparison: Comparison) -> list[Table]:
    """Return the tables of metrics that the rows have beside those of the results table."""
    rows = comparison.rows
    return [*_semantic_ids(rows), *_unseen(rows), *_feedback(rows), *_beyond_accuracy(comparison), *_groups(rows)]


def _semantic_ids(all_rows: tuple[Row, ...]) -> list[Table]:
    """Return a table of the ranks of Semantic IDs, if items share any. These metrics are not ranks of items, so they are separate."""
    rows = [row for row in all_rows if any(key.startswith("sid_") for key in row.metrics)]
    if not rows:
        return []
    shown = ranked_keys(rows, "sid_")
    cells = [[row.name, *(metric_cell(row, f"sid_{key}") for key in shown)] for row in rows]
    note = (
        "Some items share a Semantic ID. In this table a hit is any item with the Semantic ID of the target, and the cut-off counts "
        "distinct Semantic IDs in the list. The results above count items: they are expectations over the order of the items that "
        "share a Semantic ID. The two tables are not comparable."
    )
    columns = ["Row", *(f"SID {title(key)}" for key in shown)]
    return [Table("Ranking of Semantic IDs", columns, cells, [note], ("SID Recall@10", "SID NDCG@10"))]


def _unseen(all_rows: tuple[Row, ...]) -> list[Table]:
    """Return the cold-start table: two lines per row, and the expectation of a random ranking among unseen items."""
    rows = [row for row in all_rows if "cold_users" in row.metrics]
    if not rows:
        return []
    shown, cells = ranked_keys(rows, "cold_"), []
    for prefix, among in (("cold_", "all items"), ("cold_only_", "unseen items")):
        some = [row for row in rows if any(key.startswith(f"{prefix}recall@") for key in row.metrics)]
        cells += [[row.name, among, *(metric_cell(row, prefix + key) for key in shown)] for row in some]
    users, items = (round(rows[0].metrics[key].mean) for key in ("cold_users", "cold_items"))
    random = [chance(PER_USER[name], int(cutoff), items) for name, _, cutoff in (key.partition("@") for key in shown)]
    cells.append(["random order", "unseen items", *(f"{value:.4f}" for value in random)])
    note = f"Means over the {users} users with a target that has no training interaction. {items} items of the catalog have none."
    columns = ["Row", "Ranked among", *map(title, shown)]
    return [Table("Items unseen in training (cold start)", columns, cells, [note], ("Ranked among", "Recall@10", "NDCG@10"))]


def _feedback(all_rows: tuple[Row, ...]) -> list[Table]:
    """Return the table of liked and disliked held-out items, if events have labels."""
    names = [key for row in all_rows for key in row.metrics if key == PAIRWISE or key.startswith("disliked@")]
    rows = [row for row in all_rows if any(key in row.metrics for key in names)]
    if not rows:
        return []
    ndcg = [key for key in ranked_keys(rows) if key.startswith("ndcg@")]
    shown = [*([PAIRWISE] if PAIRWISE in names else []), *ndcg, *dict.fromkeys(key for key in names if key != PAIRWISE)]
    cells = [[row.name, *(metric_cell(row, key) for key in shown)] for row in rows]
    pairs, disliked, users = (_count(rows, key) for key in (*FEEDBACK_COUNTS, "users"))
    notes = [
        "Pairwise accuracy: share of the pairs of a liked and a disliked test item of a user in which the liked one has the higher "
        f"score, mean over the {counted(pairs, 'user')} with a pair.",
        f"NDCG: of the first liked test item, mean over the {counted(users, 'user')} with such an item.",
        f"disliked@n: share of the {counted(disliked, 'user')} with a disliked test item who have one in the first n items.",
    ]
    titles = ["Pairwise accuracy" if key == PAIRWISE else f"{title(key)} of liked" if key in ndcg else key for key in shown]
    return [
        Table("Liked and disliked items", ["Row", *titles], cells, notes, ("Pairwise accuracy", "NDCG@10 of liked", "disliked@10"))
    ]


def _count(rows: list[Row], key: str) -> int:
    """Return a number of users, which is the same for all rows; 0 if they have none."""
    return round(max((row.metrics[key].mean for row in rows if key in row.metrics), default=0.0))


def _beyond_accuracy(comparison: Comparison) -> list[Table]:
    """Return a table of all metrics that are in no other table, at one cut-off each."""
    names = {key: metric_name(key) for row in comparison.rows for key in row.metrics if _is_beyond(key)}
    chosen = [key for key, name in names.items() if name.cutoff is None or name.cutoff == _cutoff_of(name, list(names.values()))]
    shown = [key for key in chosen if key != comparison.metric]  # the tested metric is in the results table
    if not shown:
        return []
    cells = [[row.name, *(metric_cell(row, key) for key in shown)] for row in comparison.rows]
    counts = {key: _users_of(key, comparison.rows) for key in shown}
    columns = [f"{title(key)}{counts[key] if counts[key] != f' ({comparison.users})' else ''}" for key in shown]
    note = f"Means over seeds, and over users where a user has a value of the metric; a number of users is in parentheses. {DEFINED}"
    return [Table("Beyond accuracy", ["Row", *columns], cells, [note])]


def _users_of(key: str, rows: Sequence[Row]) -> str:
    """Return the number of users that a metric counts, ' (57)', or ' (55-57)' if rows or seeds differ; empty if it is not recorded."""
    counts = [number for row in rows for number in row.user_counts.get(key, ())]
    if not counts:
        return ""
    return f" ({min(counts)})" if min(counts) == max(counts) else f" ({min(counts)}-{max(counts)})"


def _is_beyond(key: str) -> bool:
    """Return whether a metric is neither in the results table nor in one of its own."""
    name = metric_name(key)
    return key not in COUNTS and not key.startswith(ELSEWHERE) and name.stem not in TITLES


def _cutoff_of(name: MetricName, names: list[MetricName]) -> int:
    """Return the cut-off at which a metric is shown."""
    cutoffs = [other.cutoff for other in names if other.cutoff is not None and (other.stem, other.group) == (name.stem, name.group)]
    return CUTOFF if CUTOFF in cutoffs else cutoffs[-1]


def _groups(rows: tuple[Row, ...]) -> list[Table]:
    """Return tables of an accuracy metric by group, such as `recall@10[history 1-4]`: a column per group, one cut-off each."""
    names = {key: metric_name(key) for row in rows for key in row.metrics}
    grouped = {key: name for key, name in names.items() if name.group and name.stem in TITLES and name.cutoff is not None}
    tables = []
    for stem in dict.fromkeys(name.stem for name in grouped.values()):
        cutoff = _cutoff_of(MetricName(stem, None, ""), [name._replace(group="") for name in grouped.values()])
        shown = {key: name.group for key, name in grouped.items() if (name.stem, name.cutoff) == (stem, cutoff)}
        cells = [[row.name, *(metric_cell(row, key) for key in shown)] for row in rows]
        columns = [f"{group}{_users_of(key, rows)}" for key, group in shown.items()]
        users = f"Means over the users of each group, their number in parentheses, and over seeds; {ABSENT}: no users."
        by_popularity = any(group.startswith("popularity ") for group in shown.values())
        popular = ["Popularity 1 of 5 holds the most popular targets."] if by_popularity else []
        note = " ".join([users, *popular, DEFINED])
        tables.append(Table(f"{title(stem)}@{cutoff} by group", ["Row", *columns], cells, [note]))
    return tables
