"""The protocol of a `Comparison` as labeled lines: data, split, ranking, selection, seeds, Holm's families, environment.

Names and values come from experiment files. The output functions escape them (`genrec.evaluation.comparison.comparison_report`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from genrec.errors import counted
from genrec.evaluation.compare import Comparison, Row
from genrec.evaluation.comparison.comparable import ABSENT
from genrec.evaluation.comparison.run_environments import environment_lines
from genrec.evaluation.comparison.table_cells import LabeledLine
from genrec.evaluation.statistics.paired_tests import enumerated
from genrec.types.data import TIES_OF_EACH_SEED

TITLE = "Protocol"
Entries = dict[str, object]  # of the protocol of a run (`genrec.run_files.protocol`)


def protocol_lines(comparison: Comparison) -> list[LabeledLine]:
    """Return the protocol, a line per subject. An entry that no subject names has a line of its own, so that none is hidden."""
    left = dict(comparison.protocol)
    subjects = [
        ("Data", _data(left)),
        ("Split", _split(left)),
        ("Feedback", _feedback(left)),
        ("Ranking", [*_ranking(left), *_beams(comparison.rows)]),
    ]
    lines = [LabeledLine(label, "; ".join(parts)) for label, parts in subjects if parts]
    lines += [
        *_selection(comparison.rows, left),
        LabeledLine("Seeds", _seeds(comparison)),
        *_endpoints(comparison),
        *_families(comparison),
        *(LabeledLine(name, _value(value)) for name, value in left.items()),
        *environment_lines(comparison),
    ]
    return lines


def _data(left: Entries) -> list[str]:
    """Take the entries on the data set out of a protocol and return them in words."""
    parts = [_value(left.pop("data"))] if "data" in left else []
    parts += [f"key {left.pop('data key')}"] if "data key" in left else []
    for name in ("user", "item", "interaction"):
        if f"{name}s" in left:
            count = left.pop(f"{name}s")
            parts.append(counted(count, name) if isinstance(count, int) else f"{name}s {count}")
    if "users tested" in left:
        tested = left.pop("users tested")
        parts.append(f"users tested: {tested:,}" if isinstance(tested, int) else f"users tested: {tested}")
    return parts


def _split(left: Entries) -> list[str]:
    """Take the entries on the split out of a protocol and return them in words."""
    parts = [_value(left.pop("split"))] if "split" in left else []
    ties, decided, later = (left.pop(name, ABSENT) for name in ("ties", "targets decided by ties", "training later than a test event"))
    if ties is None:
        return [*parts, "no times: events in row order, and leakage unknown"]
    if ties != ABSENT:
        parts.append(f"ties in {ties}" + (", each with targets of its own" if ties == TIES_OF_EACH_SEED else ""))
    if decided != ABSENT:
        parts.append(f"the order of ties decides the target of {_percent(decided)} of the tested users")
    if later != ABSENT:
        parts.append(f"on average {_percent(later)} of the training events are later than a test event")
    return parts


def _feedback(left: Entries) -> list[str]:
    """Take the entry on labels out of a protocol; empty without labels."""
    return [str(left.pop("feedback"))] if "feedback" in left else []


def _ranking(left: Entries) -> list[str]:
    """Take the entries on the ranking out of a protocol and return them in words."""
    parts = [_value(left.pop("ranking"))] if "ranking" in left else []
    if "history" in left:
        history = left.pop("history")
        parts.append(f"history of {history} {'item' if history == 1 else 'items'}")
    if "filter_seen" in left:
        filtered = left.pop("filter_seen")
        parts.append(f"seen items {'filtered out' if filtered else 'kept'} (filter_seen {filtered})")
    return parts + ([f"cut-offs {_value(left.pop('cutoffs'))}"] if "cutoffs" in left else [])


def _beams(rows: Sequence[Row]) -> list[str]:
    """Return the beams of the policies. They may differ between rows, for example to compare beam search with exact scoring."""
    beams = {row.name: _beams_of(row.configuration) for row in rows if "policy.num_beams" in row.configuration}
    if len(set(beams.values())) == 1:
        return [f"beams {next(iter(beams.values()))}"]
    return [f"beams of {name} {count}" for name, count in beams.items()]


def _beams_of(configuration: dict[str, object]) -> str:
    if configuration.get("evaluate.scoring") == "exact":
        return "none (exact scoring)"
    return str(configuration.get("evaluate.num_beams") or configuration["policy.num_beams"])


def _selection(rows: Sequence[Row], left: Entries) -> list[LabeledLine]:
    """Take the selection out of a protocol and return what it selects in the rows. A baseline selects nothing."""
    if "selection" not in left:
        return []
    selection = _value(left.pop("selection"))
    if not any(row.trained for row in rows):
        return [LabeledLine("Selection", "none, no row is trained")]
    kept: dict[object, list[str]] = {}
    for row in rows:
        for keep in {value for path, value in row.configuration.items() if re.fullmatch(r"align(-\d+)?\.keep", path)}:
            kept.setdefault(keep, []).append(row.name)
    best, last = kept.get("best", []), kept.get("last", [])
    parts = [f"{selection}, selects the step of SFT"]
    if best:
        parts[0] += " and of alignment" + (f" ({', '.join(best)})" if last else "")
    if last:
        parts.append("the last step of alignment is kept" + (f" ({', '.join(last)})" if best else ""))
    return [LabeledLine("Selection", "; ".join(parts))]


def _seeds(comparison: Comparison) -> str:
    """Return the seeds of the trained rows, those that all have in common, and the seeds of the baselines."""
    trained, baselines = ([row for row in comparison.rows if row.trained == kind] for kind in (True, False))
    parts = _seeds_of(trained, "all trained rows")
    if len({row.seeds for row in trained}) > 1:
        common = sorted(set.intersection(*(set(row.seeds) for row in trained)))
        parts.append(f"in common: {enumerated(common) if common else 'none'}")
    if any(len(row.seeds) > 1 for row in baselines):
        parts += _seeds_of(baselines, "all baselines")
    elif baselines:
        parts.append("baselines have one result for all seeds" if trained else "no row is trained, a baseline has one result")
    return "; ".join(parts)


def _seeds_of(rows: Sequence[Row], everyone: str) -> list[str]:
    """Return the seeds of rows: '0 and 1 of all trained rows', or '0 and 1 of sft', '0 of dpo'."""
    names: dict[tuple[int, ...], list[str]] = {}
    for row in rows:
        names.setdefault(row.seeds, []).append(row.name)
    if len(names) == 1 and len(rows) > 1:
        return [f"{enumerated(rows[0].seeds)} of {everyone}"]
    return [f"{enumerated(seeds)} of {', '.join(having)}" for seeds, having in names.items()]


def _families(comparison: Comparison) -> list[LabeledLine]:
    """Return the tests that Holm's correction of p counts together."""
    families = [family.in_words(comparison.reference) for family in comparison.families]
    return [LabeledLine("Holm's families" if len(families) > 1 else "Holm's family", "; ".join(families))] if families else []


def _endpoints(comparison: Comparison) -> list[LabeledLine]:
    """Return the endpoints of the table's studies: when they were named, and whether the table tests them."""
    lines = []
    for each in comparison.endpoints:
        tested = f"; not tested here as an endpoint: {each.reason}"
        order = ", before both rows had been run at any of these seeds"
        about = f"{each.endpoint}, named {each.named} in {each.study.name}"
        lines.append(LabeledLine("Endpoint", about + (tested if each.reason else order)))
    return lines


def _percent(share: object) -> str:
    return f"{share:.1%}" if isinstance(share, int | float) else str(share)


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
