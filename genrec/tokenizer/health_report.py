"""Reports about Semantic IDs from the figures of `genrec.tokenizer.health`: of `genrec tokenize`, and a line for `genrec run`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrec.errors import counted
from genrec.progress import say
from genrec.tokenizer.health_bounds import health_warnings
from genrec.tokenizer.tokenized_files import read_health


def say_health(folder: Path) -> None:
    """Print a line about the Semantic IDs in an artifact's folder, and a line for each figure beyond its bound."""
    figures = read_health(folder)
    say(run_line(figures))
    for message in health_warnings(figures):
        say(f"tokenize: warning: {message}")


def run_line(figures: dict[str, Any]) -> str:
    """Return the health in one line: sizes, items with equal codes, usage, perplexity and reconstruction error."""
    levels, items, error = figures["encoded_levels"], figures["items"], figures["reconstruction"]
    sizes = dict.fromkeys(f"{level['size']:,}" for level in levels)
    codes = next(iter(sizes)) if len(sizes) == 1 else _sizes(levels)
    before, after = figures["collided_before_separation"] / items, figures["collided"] / items
    usage = " / ".join(f"{level['used'] / level['size']:.0%}"[:-1] for level in levels)
    perplexity = " / ".join(f"{level['perplexity']:,.0f}" for level in levels)
    appended = len(figures["levels"]) > figures["quantized_levels"]
    separated = "with the further code appended to tell them apart" if appended else "after separation"
    undefined = "undefined for these codes" if error is None else f"{error:.3f} of the variance"
    return (
        f"tokenize: {counted(len(levels), 'level')} of {codes} codes, {counted(items, 'item')}, {before:.1%} share their codes "
        f"({after:.1%} {separated}), usage {usage} %, perplexity {perplexity}, reconstruction error {undefined}"
    )


def lines(figures: dict[str, Any]) -> list[str]:
    """Return the report: size, code usage by level, collisions, equal vectors, reconstruction error, and a table by prefix length."""
    return [
        _size(figures) + _new_items(figures),
        *_usage(figures),
        *_collisions(figures),
        "reconstruction error: undefined for listed codes and for equal vectors"
        if figures["reconstruction"] is None
        else f"reconstruction error: {figures['reconstruction']:.1%} of the variance of the vectors",
        *_prefixes(figures),
        *(f"{name}: {figures[key]['reason']}" for key, name in _REASONS.items() if figures[key]["reason"]),
    ]


def summary(figures: dict[str, Any]) -> list[str]:
    """Return the report in two or three lines: size and reconstruction error, collisions, equal vectors."""
    error = "" if figures["reconstruction"] is None else f"; reconstruction error {figures['reconstruction']:.1%}"
    collisions = "; ".join(line.strip() for line in _collisions(figures))
    return [_size(figures) + error, *collisions.replace("; equal vectors:", "\nequal vectors:").split("\n")]


_REASONS = {"category_purity": "no category purity", "co_occurrence": "no co-occurrence"}  # prefixes of reasons for missing figures


def _collisions(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the number of collisions before and after separation, and of equal vectors."""
    items, before, equal = figures["items"], figures["collided_before_separation"], figures["equal_vectors"]
    if before:
        unequal, near = figures["collided_before_separation_unequal"], figures["collided_before_separation_near_equal"]
        causes = [f"{before - unequal:,} of them only with items of equal vectors"] if before > unequal else []
        causes += [f"{near:,} with items of nearly equal vectors"] if near else []
        yield (
            f"collisions: {counted(before, 'item')} ({before / items:.1%}) got the same codes as another item, up to "
            f"{figures['largest_group_before_separation']:,} at once{''.join(f'; {cause}' for cause in causes)}"
        )
    else:
        yield "collisions: none, the quantizer gave every item different codes"
    changes = [f"{counted(figures['moved'], 'item')} got another code"] if figures["moved"] else []
    changes += ["a level was added"] if len(figures["levels"]) > figures["quantized_levels"] else []
    shared = f"{counted(figures['collided'], 'item')} ({figures['collided'] / items:.1%})" if figures["collided"] else "no item"
    verb = "share" if figures["collided"] > 1 else "shares"
    if before or changes:
        yield f"  after separation: {shared} {verb} a Semantic ID ({' and '.join(changes) or 'collisions were kept'})"
    if equal["items"]:
        groups = counted(equal["groups"], "group")
        yield f"equal vectors: {equal['items']:,} items in {groups} of up to {equal['largest']:,}; no quantizer can distinguish them"


def _used(level: dict[str, Any]) -> str:
    """Return a level's used codes and perplexity as text."""
    could = level.get("could_use", level["size"])
    use = "possible with" if level["level"] == 1 else "needed to distinguish"  # a unique prefix needs no further code, but gets one
    limit = f" (at most {could:,} {use} these vectors)" if could < level["size"] else ""
    return f"{level['used']:,} of {level['size']:,} codes used{limit}, perplexity {level['perplexity']:,.1f}"


def _usage(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the usage of the quantizer's levels, of the added level, and of the last level after reassignment."""
    own = figures["encoded_levels"]
    for level in own:
        yield f"level {level['level']}: {_used(level)}"
    for level in figures["levels"][len(own) :]:
        reason = (
            "added to separate collisions"
            if figures["collided_before_separation"]
            else "added for collisions, of which there are none"
        )
        yield f"level {level['level']}: {_used(level)} ({reason})"
    if figures["moved"]:
        last = figures["levels"][len(own) - 1]
        yield f"  level {last['level']} after separation: {_used(last)}"
    yield "  perplexity: effective number of codes in use; equal use of all codes gives the number of codes"


def _prefixes(figures: dict[str, Any]) -> Iterator[str]:
    """Yield a table with one row per prefix length, and a legend of its columns."""
    rows = [_row(figures, place) for place, prefix in enumerate(figures["prefixes"]) if prefix["collided_items"]]
    if not rows:
        return
    yield "groups of items that share their first codes:"
    columns = [column for column in zip(_HEAD, *rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        yield "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    purity, together = figures["category_purity"], figures["co_occurrence"]
    if purity["prefixes"]:
        labels = f"{counted(purity['labels'], 'label')} in {purity['column']}"
        yield f"  purity: share of items with the most frequent label of their group, of {labels}; shuffled: by chance"
        if purity["left_out"]:
            yield f"  labels ignored because most items have them: {', '.join(map(repr, purity['left_out'][:3]))}"
    if together["prefixes"]:
        yield f"  pairs together: share of {together['pairs']:,} pairs of consecutive training items that are in the same group"
        yield "  chance: the same share for independent items; lift: pairs together / chance"


_HEAD = ("first codes", "groups", "largest group", "items in shared groups", "purity (shuffled)", "pairs together (chance)", "lift")


def _row(figures: dict[str, Any], place: int) -> list[str]:
    """Return the cells of a row, in the order of `_HEAD`; a missing figure is an empty cell."""
    prefix = figures["prefixes"][place]
    cells = [f"{prefix['length']}", f"{prefix['distinct']:,}", f"{prefix['largest_group']:,}"]
    cells.append(f"{prefix['collided_items'] / figures['items']:.1%}")
    purity, together = figures["category_purity"]["prefixes"], figures["co_occurrence"]["prefixes"]
    pure = purity is not None and purity[place]["purity"] is not None
    cells.append(f"{purity[place]['purity']:.1%} ({purity[place]['chance']:.1%})" if pure else "")
    cells.append(f"{together[place]['share']:.2%} ({together[place]['expected']:.2%})" if together else "")
    lift = together[place]["lift"] if together else None
    cells.append("" if lift is None else f"{lift:,.1f}")
    return cells


def _size(figures: dict[str, Any]) -> str:
    """Return the number of items, levels and codes per level as text."""
    levels = figures["levels"]
    return f"{counted(figures['items'], 'item')}, Semantic IDs of {counted(len(levels), 'level')} ({_sizes(levels)})"


def _sizes(levels: list[dict[str, Any]]) -> str:
    """Return the number of codes of each level as text; of more than eight levels, the first four and the last."""
    sizes = [f"{level['size']:,}" for level in levels]
    return " x ".join(sizes if len(sizes) <= 8 else [*sizes[:4], "...", sizes[-1]])


def _new_items(figures: dict[str, Any]) -> str:
    """Return the number of items that the quantizer was not fitted on as text; empty if there are none."""
    new = figures["items"] - figures.get("items_fitted", figures["items"])
    return f"; the quantizer was fitted without {new:,} of them" if new else ""
