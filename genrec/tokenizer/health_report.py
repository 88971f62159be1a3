"""Stage 3, the health of Semantic IDs for people. In: the figures of `health`. Out: lines of text; `picture` draws the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def lines(figures: dict[str, Any]) -> list[str]:
    """Usage of each level, collisions and what no quantizer can tell apart, reconstruction, and prefixes by their length."""
    return [
        _size(figures) + _later(figures),
        *_usage(figures),
        *_collisions(figures),
        "reconstruction error: not defined (codes that are listed item by item, or equal vectors)"
        if figures["reconstruction"] is None
        else f"reconstruction error: {figures['reconstruction']:.1%} of the vectors' spread",
        *_prefixes(figures),
        *(f"{name}: {figures[key]['reason']}" for key, name in _REASONS.items() if figures[key]["reason"]),
    ]


def summary(figures: dict[str, Any]) -> list[str]:
    """The same in two or three lines: size and reconstruction, collisions, equal vectors."""
    error = "" if figures["reconstruction"] is None else f"; reconstruction error {figures['reconstruction']:.1%}"
    collisions = "; ".join(line.strip() for line in _collisions(figures))
    return [_size(figures) + error, *collisions.replace("; equal vectors:", "\nequal vectors:").split("\n")]


_REASONS = {"category_purity": "no category purity", "co_occurrence": "no co-occurrence"}


def _collisions(figures: dict[str, Any]) -> Iterator[str]:
    """Before and after they were dealt with, and whose fault they are."""
    items, before, equal = figures["items"], figures["collided_before_separation"], figures["equal_vectors"]
    if before:
        apart, near = figures["collided_before_separation_unequal"], figures["collided_before_separation_near_equal"]
        causes = [f"{before - apart:,} of them with equal vectors only"] if before > apart else []
        causes += [f"{near:,} with nearly equal ones"] if near else []
        yield (
            f"collisions: {_counted(before, 'item')} ({before / items:.1%}) shared all codes of the quantizer, up to "
            f"{figures['largest_group_before_separation']:,} at once{''.join(f'; {cause}' for cause in causes)}"
        )
    else:
        yield "collisions: the quantizer gave every item codes of its own"
    ways = [f"{_counted(figures['moved'], 'item')} got another code"] if figures["moved"] else []
    ways += ["a level was added"] if len(figures["levels"]) > figures["quantized_levels"] else []
    left = f"{_counted(figures['collided'], 'item')} ({figures['collided'] / items:.1%})" if figures["collided"] else "no item"
    verb = "share" if figures["collided"] > 1 else "shares"
    if before or ways:
        yield f"  now {left} {verb} a Semantic ID ({' and '.join(ways) or 'left as it is'})"
    if equal["items"]:
        groups = _counted(equal["groups"], "group")
        yield f"equal vectors: {equal['items']:,} items in {groups} of up to {equal['largest']:,}; no quantizer tells them apart"


def _used(level: dict[str, Any]) -> str:
    """A level's used codes and perplexity."""
    could = level.get("could_use", level["size"])
    limit = f" (the vectors could use {could:,})" if could < level["size"] else ""
    return f"{level['used']:,} of {level['size']:,} codes used{limit}, perplexity {level['perplexity']:,.1f}"


def _usage(figures: dict[str, Any]) -> Iterator[str]:
    """The quantizer's levels as it gave them, and the one that was added."""
    own = figures["encoded_levels"]
    for level in own:
        yield f"level {level['level']}: {_used(level)}"
    for level in figures["levels"][len(own) :]:
        yield f"level {level['level']}: {_used(level)} (tells apart what collided)"
    if figures["moved"]:
        last = figures["levels"][len(own) - 1]
        yield f"  level {last['level']} after items got another code: {_used(last)}"


def _prefixes(figures: dict[str, Any]) -> Iterator[str]:
    """A table with one row for each number of first codes that items share, and what its columns are."""
    rows = [_row(figures, place) for place, prefix in enumerate(figures["prefixes"]) if prefix["collided_items"]]
    if not rows:
        return
    yield "items by their first codes:"
    columns = [column for column in zip(_HEAD, *rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        yield "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    purity, together = figures["category_purity"], figures["co_occurrence"]
    if purity["prefixes"]:
        labels = f"{_counted(purity['labels'], 'label')} in {purity['column']}"
        yield f"  purity: how many have their group's most frequent label, of {labels}"
        if purity["left_out"]:
            yield f"  left out, since most items have it: {', '.join(map(repr, purity['left_out'][:3]))}"
    if together["prefixes"]:
        yield f"  pairs: {together['pairs']:,}, consecutive different items of users in training"


_HEAD = ("codes", "groups", "largest", "items sharing", "purity (shuffled)", "pairs agreeing (independent)", "lift")


def _row(figures: dict[str, Any], place: int) -> list[str]:
    """The cells under `_HEAD`, empty where there is nothing to say."""
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
    sizes = [f"{level['size']:,}" for level in figures["levels"]]
    sizes = sizes if len(sizes) <= 8 else [*sizes[:4], "...", sizes[-1]]
    return f"{_counted(figures['items'], 'item')}, Semantic IDs of {_counted(len(figures['levels']), 'level')} ({' x '.join(sizes)})"


def _later(figures: dict[str, Any]) -> str:
    """How many items the quantizer was not fitted on, where the figures say so."""
    later = figures["items"] - figures.get("items_fitted", figures["items"])
    return f"; {later:,} of them came after the quantizer was fitted" if later else ""


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
