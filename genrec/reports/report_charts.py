"""The charts of a report as Vega-Lite specifications.

Colors are variables of the page's style sheet, `var(--r3)` for row 3, so that one chart serves the light and the dark theme, paper,
and any choice of highlighted rows. A row has a shape as well as a color. Specification: https://vega.github.io/vega-lite/docs/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from genrec.reports.report_parts import Record

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
TEXT, MUTED, PAPER = "var(--text)", "var(--muted)", "var(--paper)"
HEIGHT, ROW_HEIGHT = 240, 38  # pixels: of a chart, and of a row of the chart of differences
NAME_OFFSET, NAME_HEIGHT = -11, 16  # pixels: of the name of a row from the middle of the row, and of a line of text
GROUP_LINES = "split(replace(datum.label, ' (', '\\n('), '\\n')"  # what stands in parentheses is the second line of a label
DASHES = ([1, 0], [6, 4], [2, 3], [10, 3, 2, 3], [1, 5])
CONFIG: Record = {
    "background": None,
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED, "titleColor": MUTED, "gridColor": "var(--grid)", "domainColor": "var(--grid)", "tickColor": "var(--grid)",
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelFlush": False,
    },
    "legend": {
        "labelColor": TEXT, "titleColor": MUTED, "labelFontSize": 12, "titleFontWeight": "normal", "orient": "bottom", "columns": 1,
        "labelLimit": 320, "symbolStrokeColor": TEXT, "symbolSize": 200,
    },
}  # fmt: skip


class RowScale:
    """The colors and shapes of the rows, by name. The rows at the places `first` have shapes of their own, up to eight."""

    def __init__(self, names: Sequence[str], first: Sequence[int] = ()) -> None:
        self.names = list(names)
        order = [*first, *(place for place in range(len(self.names)) if place not in first)]
        self.shapes = [order.index(place) % len(SHAPES) for place in range(len(self.names))]  # places in `SHAPES`

    def color(self, others: Mapping[str, str] | None = None) -> Record:
        """Return the color channel. `others` are further series with colors of their own, which get a legend."""
        more = dict(others or {})
        domain, colors = [*self.names, *more], [*(f"var(--r{place})" for place in range(len(self.names))), *more.values()]
        legend = {"values": list(more), "title": None, "symbolType": "stroke", "symbolDash": [6, 4]} if more else None
        return {"field": "row", "type": "nominal", "scale": {"domain": domain, "range": colors}, "legend": legend}

    def shape(self) -> Record:
        """Return the shape channel."""
        shapes = [SHAPES[number] for number in self.shapes]
        return {"field": "row", "type": "nominal", "scale": {"domain": self.names, "range": shapes}, "legend": None}


def chart(layers: Sequence[Record], values: Sequence[Record], height: int = HEIGHT) -> Record:
    """Return layers over the same data as a chart that is as wide as its place on the page."""
    size = {"width": "container", "height": height, "autosize": {"type": "fit-x", "contains": "padding"}}
    return {**size, "config": CONFIG, "data": {"values": list(values)}, "layer": list(layers)}


def differences(scale: RowScale, tests: Sequence[Record], seeds: Sequence[Record], metric: str) -> Record:
    """Return the chart of differences: interval, mean (filled: significant) and the difference at each seed.

    `tests` has row, difference, low, high, significant, p; `seeds` has row, seed, difference.
    """
    names = [each["row"] for each in tests]
    y: Record = {"field": "row", "type": "nominal", "scale": {"type": "point", "domain": names, "padding": 0.5}, "axis": None}
    name = {"type": "text", "align": "left", "x": 2, "yOffset": NAME_OFFSET, "fontSize": 12, "limit": 330}
    below = NAME_OFFSET + NAME_HEIGHT // 2
    zero = {"type": "rule", "color": MUTED, "strokeDash": [3, 3], "yOffset": below, "y2Offset": below + ROW_HEIGHT - NAME_HEIGHT}
    named = {"y": y, "text": {"field": "row"}}
    x = quantitative("difference", f"difference in {metric}, row minus reference")
    by_seed = _tooltip(row="row", seed="seed", difference="difference")
    tip = _tooltip(row="row", difference="difference", low="95 % interval from", high="to", p="p (Holm)")
    fill = {"condition": {**scale.color(), "test": "datum.significant"}, "value": PAPER}
    dots: Record = {
        "data": {"values": list(seeds)},
        "mark": {"type": "point", "size": 22, "filled": True, "opacity": 0.75, "yOffset": 14},
        "encoding": {"y": y, "x": x, "color": scale.color(), "tooltip": by_seed},
    }
    return chart(
        [
            {"mark": zero, "encoding": {"x": {"datum": 0}, "y": y, "y2": {"field": "row"}}},  # not through the names
            {
                "mark": {"type": "rule", "strokeWidth": 2.5, "yOffset": 6},
                "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": scale.color(), "tooltip": tip},
            },
            *([dots] if seeds else []),  # Vega warns of a layer without data
            {
                "mark": {"type": "point", "size": 110, "strokeWidth": 2, "opacity": 1, "yOffset": 6},
                "encoding": {"y": y, "x": x, "stroke": scale.color(), "fill": fill, "shape": scale.shape(), "tooltip": tip},
            },
            {"mark": {**name, "stroke": PAPER, "strokeWidth": 5, "strokeJoin": "round"}, "encoding": named},  # a gap in the lines
            {"mark": {**name, "color": TEXT}, "encoding": named},
        ],
        tests,
        ROW_HEIGHT * len(tests),
    )  # fmt: skip


def by_cutoff(scale: RowScale, values: Sequence[Record], cutoffs: Sequence[int], label: str) -> Record:
    """Return a metric against the cut-off n, a line for each row. `values` has row, n, value, deviation."""
    x = {**quantitative("n", "n, length of the list"), "scale": {"type": "log", "nice": False}}
    x["axis"] |= {"values": list(cutoffs), "format": "d", "grid": False, "labelOverlap": True}
    tip = _tooltip(row="row", n="n", value=label, deviation="standard deviation over seeds")
    encoding = {"x": x, "y": quantitative("value", label, zero=True), "color": scale.color(), "tooltip": tip}
    return chart(_line_and_points(encoding, scale), values)


def by_group(scale: RowScale, values: Sequence[Record], groups: Sequence[str], label: str, others: Mapping[str, str]) -> Record:
    """Return a figure by group, a line for each row and for each of `others`. `values` has row, group, value."""
    axis: Record = {"title": None, "labelAngle": 0, "labelLimit": 110, "grid": False, "labelOverlap": True, "labelSeparation": 4}
    axis["labelExpr"] = GROUP_LINES
    x = {"field": "group", "type": "ordinal", "scale": {"domain": list(groups), "padding": 0.3}, "axis": axis}
    tip = _tooltip(row="row", group="group", value=label)
    encoding = {"x": x, "y": quantitative("value", label, zero=True), "color": scale.color(others), "tooltip": tip}
    lines = chart(_line_and_points(encoding, scale), values)
    for layer in lines["layer"] if others else ():
        layer["encoding"]["strokeDash"] = {"condition": {"test": _is_one_of(others), "value": [6, 4]}, "value": [1, 0]}
        layer["encoding"]["opacity"] = {"condition": {"test": _is_one_of(others), "value": 1}, "value": 0.9}
    return lines


def against(scale: RowScale, means: Sequence[Record], seeds: Sequence[Record], x: str, y: str) -> Record:
    """Return one metric against another: a large point for the mean of a row, small ones for its seeds. Both have row, x, y."""
    both = [*means, *seeds]
    axes = {name: _around(quantitative(name, label), [each[name] for each in both]) for name, label in (("x", x), ("y", y))}
    encoding: Record = {**axes, "color": scale.color()}
    encoding["tooltip"] = _tooltip(row="row", seed="seed", x=x, y=y)
    small = {"type": "point", "filled": True, "size": 20, "opacity": 0.6}
    large = {"type": "point", "filled": True, "size": 130, "opacity": 1, "stroke": PAPER, "strokeWidth": 1}
    mean = {**encoding, "shape": scale.shape(), "tooltip": _tooltip(row="row", x=x, y=y)}
    return chart([{"data": {"values": list(seeds)}, "mark": small, "encoding": encoding}, {"mark": large, "encoding": mean}], means)


def curves(
    scale: RowScale, values: Sequence[Record], lines: Mapping[str, float], label: str, domain: tuple[float, float] | None
) -> Record:
    """Return curves over steps: the mean over seeds, a band from the lowest to the highest seed, and horizontal lines.

    `values` has row, column (its label), step, value, low, high. A curve ends in the mark of its row.
    """
    length = Counter((each["row"], each["column"]) for each in values)
    last = {(each["row"], each["column"]): each["step"] for each in values}
    values = [
        each | {"single": length[curve] == 1, "last": each["step"] == last[curve]}
        for each in values
        for curve in [(each["row"], each["column"])]
    ]
    columns = list(dict.fromkeys(each["column"] for each in values))
    x = quantitative("step", "step")
    x["axis"] |= {"format": ",~f", "tickCount": 5, "grid": False, "labelOverlap": True, "labelSeparation": 6}
    y = quantitative("value", label)
    if domain is not None:
        y["scale"] |= {"domain": list(domain)}
    dashes = [list(DASHES[place % len(DASHES)]) for place in range(len(columns))]
    dash: Record = {
        "field": "column", "type": "nominal", "scale": {"domain": columns, "range": dashes},
        "legend": {"title": None, "symbolType": "stroke"} if len(columns) > 1 else None,
    }  # fmt: skip
    shared = {"x": x, "color": scale.color(), "detail": {"field": "column"}}
    tip = _tooltip(row="row", column="column", step="step", value="mean over seeds", low="lowest seed", high="highest seed")
    mark = {"opacity": {"condition": {"test": "datum.last", "value": 1}, "value": 0}, "shape": scale.shape()}
    span = {**shared, "y": {**y, "field": "low"}, "y2": {"field": "high"}}
    rule = {"transform": [{"filter": "datum.single"}], "mark": {"type": "rule", "opacity": 0.4, "strokeWidth": 2}, "encoding": span}
    layers: list[Record] = [
        {"mark": {"type": "area", "opacity": 0.15}, "encoding": span},
        *([rule] if any(each["single"] for each in values) else []),  # Vega warns of a layer without data
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {**shared, "y": y, "strokeDash": dash}},
        {"mark": {"type": "point", "filled": True, "size": 60}, "encoding": {**shared, "y": y, **mark, "tooltip": tip}},
    ]
    low, high = domain or (0.0, 1.0)
    for name, value in joined(lines, NAME_HEIGHT * (high - low) / HEIGHT):
        level: Record = {"values": [{"name": name, "value": value}]}
        layers.append({"data": level, "mark": {"type": "rule", "color": MUTED, "strokeDash": [2, 3]}, "encoding": {"y": y}})
        text = {"type": "text", "align": "left", "baseline": "bottom", "dx": 3, "dy": -2, "color": MUTED, "x": 0}
        if name:
            layers.append({"data": level, "mark": text, "encoding": {"y": y, "text": {"field": "name"}}})
    return chart(layers, values)


def joined(lines: Mapping[str, float], height: float) -> list[tuple[str, float]]:
    """Return labels and values, the highest first. A line less than `height` below a label has none: that label names it, too."""
    found: list[tuple[list[str], float]] = []
    place, label = float("inf"), list[str]()  # of the last label
    for name, value in sorted(lines.items(), key=lambda line: -line[1]):
        if place - value < height:
            label.append(name)
            found.append(([], value))
        else:
            place, label = value, [name]
            found.append((label, value))
    return [(", ".join(names), value) for names, value in found]


def by_level(scale: RowScale, values: Sequence[Record], label: str, logarithmic: bool = False) -> Record:
    """Return a figure of Semantic IDs by level or prefix length. `values` has row, level, value."""
    axis = {"title": "level", "labelAngle": 0, "grid": False, "labelOverlap": True, "labelSeparation": 6}
    y = quantitative("value", label, zero=not logarithmic)
    if logarithmic:
        y["scale"] = {"type": "log"}
        axis["title"] = "codes of the prefix"
    encoding = {
        "x": {"field": "level", "type": "ordinal", "sort": None, "axis": axis}, "y": y, "color": scale.color(),
        "tooltip": _tooltip(row="Semantic IDs of", level="level", value=label),
    }  # fmt: skip
    return chart(_line_and_points(encoding, scale), values)


def quantitative(field: str, label: str, zero: bool = False) -> Record:
    """Return a channel of numbers with its axis."""
    axis: dict[str, Any] = {"title": label, "tickCount": 5}
    return {"field": field, "type": "quantitative", "scale": {"zero": zero, "nice": True}, "axis": axis}


def _around(channel: Record, values: Iterable[float | None]) -> Record:
    """Give numbers that are all the same an axis around them, with the number as its tick. Vega would mark them as 0."""
    found = {each for each in values if each is not None}
    if len(found) == 1:
        (value,) = found
        room = abs(value) / 10 or 0.01
        channel["scale"] |= {"domain": [value - room, value + room], "nice": False}
        channel["axis"] |= {"values": [value], "format": ".4~g"}
    return channel


def _line_and_points(encoding: Record, scale: RowScale) -> list[Record]:
    """Return a line through points; the points have the shape of their row."""
    line = {name: channel for name, channel in encoding.items() if name != "tooltip"}
    return [
        {"mark": {"type": "line", "strokeWidth": 1.8}, "encoding": line},
        {"mark": {"type": "point", "filled": True, "size": 55, "opacity": 1}, "encoding": {**encoding, "shape": scale.shape()}},
    ]


def _is_one_of(names: Mapping[str, str]) -> str:
    """Return an expression that is true for a record of these series; the names are genrec's own."""
    return " || ".join(f"datum.row === '{name}'" for name in names)


def _tooltip(**fields: str) -> list[Record]:
    """Return the fields of a tooltip with their titles."""
    return [{"field": field, "title": title} for field, title in fields.items()]
