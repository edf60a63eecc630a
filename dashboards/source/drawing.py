"""Draws a dashboard's panels the way Grafana would, from what a Prometheus server holds: the JSON's own
queries, units, colours, stacks and legends, in Grafana's light theme."""

import json
import math
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image

# ---- Grafana's names and looks ----

COLORS = {
    "text": "#24292e",
    "green": "#73bf69",
    "super-light-green": "#c8f2c2",
    "yellow": "#f2cc0c",
    "orange": "#ff9830",
    "red": "#f2495c",
    "purple": "#b877d9",
    "blue": "#5794f2",
    "light-blue": "#8ab8ff",
    "dark-blue": "#1f60c4",
}

# The order in which series without a colour of their own get one.
CLASSIC = [
    "#73bf69",
    "#f2cc0c",
    "#8ab8ff",
    "#ff780a",
    "#f2495c",
    "#5794f2",
    "#b877d9",
    "#705da0",
    "#37872d",
    "#fade2a",
    "#447ebc",
    "#c15c17",
]

PAGE, CARD, EDGE, GRID, FAINT = "#f4f5f5", "#ffffff", "#e0e2e5", "#e9eaec", "#6e7680"

COLUMNS = 24
WIDTH_INCHES = 12.0
# A unit of height of Grafana's grid.
UNIT_INCHES = 0.37
GAP_INCHES = 0.08
DPI = 120

matplotlib.rcParams.update(
    {
        "font.family": ["Inter", "DejaVu Sans"],
        "font.size": 9,
        "axes.edgecolor": GRID,
        "text.color": COLORS["text"],
        "xtick.color": FAINT,
        "ytick.color": FAINT,
    }
)
matplotlib.set_loglevel("ERROR")


def color(name: str) -> str:
    return COLORS.get(name, name)


def scaled(value: float, factor: float, units: list[str]) -> str:
    index = 0
    while abs(value) >= factor and index + 1 < len(units):
        value /= factor
        index += 1
    return digits(value) + units[index]


def digits(value: float) -> str:
    """Three of them, never as a power of ten."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def human(value: float, unit: str, decimals: int | None = None) -> str:
    """A value in Grafana's unit."""
    if not math.isfinite(value):
        return "–"
    if unit == "bytes":
        return scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"])
    if unit == "binBps":
        return scaled(value, 1024, [" B/s", " KiB/s", " MiB/s", " GiB/s"])
    if unit == "percentunit":
        percent = value * 100
        return f"{percent:.{decimals}f}%" if decimals is not None else digits(percent) + "%"
    if unit == "s":
        for size, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= size or (name == "µs" and value):
                return f"{digits(value / size)} {name}"
        return "0 s"
    text = f"{value:.{decimals}f}" if decimals is not None else scaled(value, 1000, ["", " K", " M", " G"])
    return text + (unit.removeprefix("suffix:") if unit.startswith("suffix:") else "")


# ---- Data ----


@dataclass(frozen=True)
class Span:
    """The time that is drawn, and how its queries are made."""

    server: str
    start: float
    end: float
    step: float
    variables: dict[str, str]

    def substituted(self, expr: str) -> str:
        # The longest names first: $__range begins like no other, but $job is in $jobs.
        for name in sorted(self.variables, key=len, reverse=True):
            expr = expr.replace(f"${name}", self.variables[name])
        return expr

    def ask(self, path: str, **parameters: str | float) -> list[Any]:
        url = f"{self.server}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url) as response:
            result: list[Any] = json.load(response)["data"]["result"]
        return result

    def ranges(self, expr: str) -> list[tuple[dict[str, str], np.ndarray]]:
        """Each series with a value, or none, at each step."""
        times = self.times()
        series = []
        found = self.ask(
            "query_range",
            query=self.substituted(expr),
            start=self.start,
            end=self.end,
            step=self.step,
        )
        for one in found:
            values = np.full(len(times), np.nan)
            for moment, value in one["values"]:
                index = round((moment - self.start) / self.step)
                if 0 <= index < len(values):
                    values[index] = float(value)
            series.append((one["metric"], values))
        return series

    def now(self, expr: str) -> list[tuple[dict[str, str], float]]:
        result = self.ask("query", query=self.substituted(expr), time=self.end)
        return [(one["metric"], float(one["value"][1])) for one in result]

    def times(self) -> np.ndarray:
        return np.arange(self.start, self.end + self.step / 2, self.step)


def legend_name(legend: str, labels: dict[str, str]) -> str:
    for name in (
        "part",
        "class",
        "kind",
        "reason",
        "gate",
        "result",
        "path",
        "call",
        "size_class",
        "version",
        "cluster",
        "job",
        "instance",
        "comm",
        "pid",
        "le",
    ):
        legend = legend.replace("{{" + name + "}}", labels.get(name, ""))
    return " ".join(legend.split())


# ---- Looks of one series ----


@dataclass
class Look:
    """How a series is drawn."""

    color: str
    unit: str
    # The panel says so; otherwise the colour is the next of the palette.
    colored: bool = False
    right: bool = False
    bars: bool = False
    over: bool = False


def look(panel: dict[str, Any], ref: str, name: str, index: int) -> Look:
    """What the panel's overrides make of a series."""
    defaults = panel["fieldConfig"]["defaults"]
    found = Look(CLASSIC[index % len(CLASSIC)], defaults.get("unit", "short"))
    if defaults.get("color", {}).get("mode") == "fixed":
        found.color, found.colored = color(defaults["color"]["fixedColor"]), True
    for override in panel["fieldConfig"].get("overrides", []):
        wanted = {"byFrameRefID": ref, "byName": name}[override["matcher"]["id"]]
        if override["matcher"]["options"] != wanted:
            continue
        for one in override["properties"]:
            match one["id"], one["value"]:
                case "color", value:
                    found.color, found.colored = color(value["fixedColor"]), True
                case "unit", value:
                    found.unit = value
                case "custom.axisPlacement", "right":
                    found.right = True
                case "custom.drawStyle", "bars":
                    found.bars = True
                case "custom.stacking", {"mode": "none"}:
                    found.over = True
    return found


def right_label(panel: dict[str, Any]) -> str:
    for override in panel["fieldConfig"]["overrides"]:
        for one in override["properties"]:
            if one["id"] == "custom.axisLabel":
                return str(one["value"])
    return ""


def threshold_color(panel: dict[str, Any], value: float) -> str:
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    chosen = "text"
    for step in steps:
        if step.get("value") is None or value >= step["value"]:
            chosen = step["color"]
    return color(chosen)


# ---- Panels ----


def draw_chart(panel: dict[str, Any], span: Span, axes: Axes) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    times = span.times()
    right: Axes | None = None
    bottom = np.zeros(len(times))
    handles: list[tuple[Any, str, Look, np.ndarray]] = []
    index = 0
    for target in panel["targets"]:
        for labels, values in span.ranges(target["expr"]):
            name = legend_name(target["legendFormat"], labels)
            style = look(panel, target["refId"], name, index)
            index += 1
            on = axes
            if style.right:
                if right is None:
                    right = axes.twinx()
                on = right
            if style.bars:
                width = span.step * 0.9
                drawn: Any = on.bar(times, np.nan_to_num(values), width=width, color=style.color, alpha=0.55)
            elif stacked and not style.over:
                top = bottom + np.nan_to_num(values)
                drawn = on.fill_between(times, bottom, top, color=style.color, alpha=0.75, linewidth=0)
                bottom = top
            else:
                dashes = (0, (4, 3)) if style.over else "solid"
                (drawn,) = on.plot(
                    times, values, color=style.color, linewidth=1.6, linestyle=dashes, zorder=4
                )
                if not style.over and not style.right:
                    shade = defaults["custom"]["fillOpacity"] / 100
                    on.fill_between(times, 0, values, color=style.color, alpha=shade, linewidth=0)
            handles.append((drawn, name, style, values))
    dress_time_axis(axes, span)
    dress_axis(axes, defaults.get("unit", "short"))
    if defaults.get("max") is not None:
        axes.set_ylim(top=defaults["max"] * 1.03)
    if right is not None:
        unit = next(style.unit for _, _, style, _ in handles if style.right)
        dress_axis(right, unit)
        right.set_ylabel(right_label(panel), fontsize=9, color=FAINT)
        right.grid(False)
        axes.set_zorder(right.get_zorder() + 1)
        axes.patch.set_visible(False)
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step.get("value") is not None and "thresholdsStyle" in defaults["custom"]:
            axes.axhline(step["value"], color=color(step["color"]), linestyle="dashed", linewidth=1)
    if not handles:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=FAINT, fontsize=12)
        return
    draw_legend(panel, axes, handles)


def draw_legend(panel: dict[str, Any], axes: Axes, handles: list[tuple[Any, str, Look, np.ndarray]]) -> None:
    names = [name for _, name, _, _ in handles]
    if panel["options"]["legend"]["displayMode"] == "table":
        swatches = [Rectangle((0, 0), 1, 0.35, color=style.color) for _, _, style, _ in handles]

        def last(values: np.ndarray) -> float:
            known = values[~np.isnan(values)]
            return float(known[-1]) if len(known) else 0.0

        order = sorted(range(len(names)), key=lambda i: -last(handles[i][3]))
        rows = [f"{names[i]}   {human(last(handles[i][3]), handles[i][2].unit)}" for i in order]
        axes.legend(
            [swatches[i] for i in order],
            rows,
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            fontsize=8.5,
            labelspacing=0.3,
            frameon=False,
            handlelength=1.1,
            handleheight=0.6,
        )
        return
    # Names one after the other, in as many lines as there is room for.
    width, height = inches(axes)
    x, y = -0.45, -0.41
    for name, (_, _, style, _) in zip(names, handles, strict=True):
        wide = 0.4 + 0.075 * len(name)
        if x + wide > width + 0.1:
            x, y = -0.45, y - 0.19
        if y < -0.66:
            break
        at = (x / width, y / height)
        swatch = Rectangle(
            at, 0.13 / width, 0.1 / height, color=style.color, transform=axes.transAxes, clip_on=False
        )
        axes.add_patch(swatch)
        axes.text(at[0] + 0.19 / width, at[1] - 0.01 / height, name, transform=axes.transAxes, fontsize=9)
        x += wide


def inches(axes: Axes) -> tuple[float, float]:
    """Width and height."""
    page = axes.get_figure(root=True)
    assert page is not None
    box, (width, height) = axes.get_position(), page.get_size_inches()
    return box.width * width, box.height * height


def dress_time_axis(axes: Axes, span: Span) -> None:
    axes.set_xlim(span.start, span.end)
    # A label takes 0.85 inches.
    most = max(1.0, inches(axes)[0] / 0.85)
    step = next(
        step for step in (5, 10, 15, 20, 30, 60, 120, 300, 600) if (span.end - span.start) / step <= most
    )
    axes.xaxis.set_major_locator(MultipleLocator(step))
    # Below the lowest label of the upright axis.
    axes.tick_params(axis="x", pad=7)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda seconds, _: time.strftime("%H:%M:%S", time.gmtime(seconds)))
    )


def dress_axis(axes: Axes, unit: str) -> None:
    axes.set_ylim(bottom=0)
    if axes.get_ylim()[1] <= 0.0 or axes.dataLim.ymax <= 0:
        axes.set_ylim(top=1.0)
    steps = [1, 2, 2.56, 5.12, 10] if unit in ("bytes", "binBps") else [1, 2, 5, 10]
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=steps))
    if unit in ("bytes", "binBps"):
        low, high = axes.get_ylim()
        step = 2.0 ** math.ceil(math.log2(max(high - low, 1) / 5))
        axes.set_yticks(np.arange(0, high + step * 0.01, step))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value, unit)))
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9)
    for side in axes.spines.values():
        side.set_visible(False)


def draw_figure(panel: dict[str, Any], span: Span, axes: Axes) -> None:
    axes.set_axis_off()
    target = panel["targets"][0]
    defaults = panel["fieldConfig"]["defaults"]
    if target.get("instant"):
        current = span.now(target["expr"])
        value = current[0][1] if current else math.nan
        values = np.array([])
    else:
        series = span.ranges(target["expr"])
        values = series[0][1] if series else np.array([])
        known = values[~np.isnan(values)]
        value = float(known[-1]) if len(known) else math.nan
    tint = threshold_color(panel, value)
    if len(values):
        spark = axes.inset_axes((-0.02, -0.06, 1.04, 0.36))
        spark.set_axis_off()
        line = "#5794f2" if tint == COLORS["text"] else tint
        spark.plot(values, color=line, linewidth=1)
        spark.fill_between(range(len(values)), 0, np.nan_to_num(values), color=line, alpha=0.18, linewidth=0)
        spark.set_ylim(bottom=0)
        spark.set_xlim(0, len(values) - 1)
    text = human(value, defaults.get("unit", "short"), defaults.get("decimals"))
    axes.text(0.5, 0.62, text, ha="center", va="center", fontsize=19, color=tint, weight="semibold")


def draw_bars(panel: dict[str, Any], span: Span, axes: Axes) -> None:
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    rows: list[tuple[str, float, str]] = []
    for target in panel["targets"]:
        for labels, value in span.now(target["expr"]):
            name = legend_name(target["legendFormat"], labels)
            style = look(panel, target["refId"], name, len(rows))
            tint = style.color if style.colored else threshold_color(panel, value)
            rows.append((name, value, tint))
    axes.set_axis_off()
    if not rows:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=FAINT, fontsize=12)
        return
    largest = max((value for _, value, _ in rows if math.isfinite(value)), default=0) or 1
    longest = max(len(name) for name, _, _ in rows)
    # Where names end and bars begin, in parts of the width.
    left = min(0.5, longest * 0.078 / inches(axes)[0] + 0.02)
    end = 1 - 0.72 / inches(axes)[0]
    axes.set_xlim(0, 1)
    axes.set_ylim(max(len(rows), 5) - 0.4, -0.6)
    for row, (name, value, tint) in enumerate(rows):
        room = end - left
        axes.add_patch(Rectangle((left, row - 0.36), room, 0.72, color="#f1f2f3", linewidth=0))
        width = room * max(0.0, value) / largest
        axes.add_patch(Rectangle((left, row - 0.36), width, 0.72, color=tint, alpha=0.85, linewidth=0))
        axes.text(left - 0.012, row, name, ha="right", va="center", fontsize=9)
        axes.text(end + 0.012, row, human(value, unit), ha="left", va="center", fontsize=9, weight="semibold")


def draw_heat(panel: dict[str, Any], span: Span, axes: Axes) -> None:
    unit = panel["options"]["yAxis"]["unit"]
    series = span.ranges(panel["targets"][0]["expr"])
    series.sort(key=lambda one: float(one[0]["le"].replace("+Inf", "inf")))
    bounds = [one[0]["le"] for one in series]
    cumulated = np.array([np.nan_to_num(values) for _, values in series])
    counts = np.diff(cumulated, axis=0, prepend=0)
    # Buckets that nothing ever fell into are not drawn.
    used = [index for index in range(len(bounds)) if counts[index].max() > 0.01]
    first, last = (min(used), max(used) + 1) if used else (0, len(bounds))
    shown = np.ma.masked_less(counts[first:last], 0.01)
    times = span.times()
    edges = np.append(times, times[-1] + span.step)
    axes.pcolormesh(
        edges,
        np.arange(last - first + 1),
        shown,
        cmap="Oranges",
        norm=LogNorm(vmin=0.02, vmax=max(counts.max(), 1)),
    )
    dress_time_axis(axes, span)
    axes.set_yticks(np.arange(1, last - first + 1))
    axes.set_yticklabels(
        ["more" if bound == "+Inf" else human(float(bound), unit) for bound in bounds[first:last]]
    )
    axes.tick_params(length=0, labelsize=9)
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    for side in axes.spines.values():
        side.set_visible(False)


DRAW: dict[str, Callable[[dict[str, Any], Span, Axes], None]] = {
    "timeseries": draw_chart,
    "stat": draw_figure,
    "bargauge": draw_bars,
    "heatmap": draw_heat,
}

# What a panel's inside keeps free for axis labels and legend, in inches: left, right, top, bottom.
MARGINS = {
    "timeseries": (0.8, 0.2, 0.36, 0.75),
    "heatmap": (0.8, 0.2, 0.36, 0.34),
    "stat": (0.05, 0.05, 0.3, 0.08),
    "bargauge": (0.1, 0.05, 0.36, 0.08),
}


# ---- The page ----


@dataclass(frozen=True)
class Row:
    """A dashboard's row: its heading and its panels."""

    title: str
    panels: list[dict[str, Any]]


def rows(dashboard: Path) -> list[Row]:
    result: list[Row] = []
    for panel in json.loads(dashboard.read_text())["panels"]:
        if panel["type"] == "row":
            result.append(Row(panel["title"], []))
        else:
            result[-1].panels.append(panel)
    return result


def draw_row(row: Row, span: Span, file: Path) -> None:
    """One row of a dashboard as one picture."""
    top = min(panel["gridPos"]["y"] for panel in row.panels)
    end = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in row.panels)
    head = 0.42
    height = (end - top) * UNIT_INCHES + head + GAP_INCHES
    page = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, facecolor=PAGE)
    page.text(0.012, 1 - 0.27 / height, row.title, fontsize=12.5, weight="semibold", va="center")
    column = (WIDTH_INCHES - GAP_INCHES) / COLUMNS
    for panel in row.panels:
        place = panel["gridPos"]
        x = GAP_INCHES + place["x"] * column
        y = height - head - (place["y"] - top + place["h"]) * UNIT_INCHES + GAP_INCHES
        width = place["w"] * column - GAP_INCHES
        tall = place["h"] * UNIT_INCHES - GAP_INCHES
        draw_panel(page, panel, span, (x, y, width, tall))
    save(page, file)


def draw_panel(
    page: Figure, panel: dict[str, Any], span: Span, box: tuple[float, float, float, float]
) -> None:
    """A card with its title, and the panel inside it; `box` in inches from the lower left."""
    x, y, width, height = box
    page_width, page_height = page.get_size_inches()
    card = FancyBboxPatch(
        (x / page_width, y / page_height),
        width / page_width,
        height / page_height,
        boxstyle="square,pad=0",
        facecolor=CARD,
        edgecolor=EDGE,
        linewidth=1,
        transform=page.transFigure,
        zorder=-1,
    )
    page.add_artist(card)
    page.text(
        (x + 0.1) / page_width,
        (y + height - 0.17) / page_height,
        panel["title"],
        fontsize=10,
        weight="semibold",
        va="center",
    )
    left, right, top, bottom = MARGINS[panel["type"]]
    if panel["type"] == "timeseries":
        if any("axisPlacement" in str(one) for one in panel["fieldConfig"]["overrides"]):
            right = 0.85
        if panel["options"]["legend"]["displayMode"] == "table":
            right, bottom = 1.7, 0.35
    axes = page.add_axes(
        (
            (x + left) / page_width,
            (y + bottom) / page_height,
            (width - left - right) / page_width,
            (height - top - bottom) / page_height,
        )
    )
    axes.set_facecolor("none")
    DRAW[panel["type"]](panel, span, axes)


def save(page: Figure, file: Path) -> None:
    """As a small file: flat colours need no more than a palette."""
    page.savefig(file, dpi=DPI, facecolor=page.get_facecolor())
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(256).save(file, optimize=True)
