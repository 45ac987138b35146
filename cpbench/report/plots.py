"""The plots of a report, by matplotlib: inline SVG with the page's colours, or PNG and SVG files.

A plot is a function that draws on axes with a theme. The page's theme has placeholder colours, which become CSS variables,
so one SVG serves light mode, dark mode and print.
"""

from __future__ import annotations

import contextlib
import html
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image

from cpbench.files import write_atomically
from cpbench.metrics.intervals import bootstrap
from cpbench.numbers import number
from cpbench.records import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
Draw = Callable[["Axes", "Theme"], None]

# lines of runs, light and dark; dashes distinguish them without colour
SERIES = ("#0b62a8", "#c2500a", "#0d7f5f", "#a5377f", "#7a6200", "#5b4bb5", "#a3262e", "#4d5761")
SERIES_DARK = ("#6db3f2", "#ff9d5c", "#4fd1a5", "#f08cc8", "#d9bd4a", "#a99bf5", "#ff8a8f", "#b4bfca")
DASHES = ("", "5 1.5", "2 1.2", "6 1.5 1.5 1.5")  # in widths of the line
# tasks, first to last
TASKS = ("#3b1f63", "#2c5f8d", "#1f8f86", "#7aa82c", "#c99a00")
TASKS_DARK = ("#a98bef", "#6aa6ec", "#45c9b4", "#a8d84e", "#ffe066")
# cells of a heat map, low to high: high values stand out from the page
HEAT = ("#fbfcf3", "#d9edce", "#96d2bd", "#4aa9bd", "#2b77b1", "#27479a", "#1a2668")
HEAT_DARK = ("#181d27", "#1d2f49", "#1f4a6c", "#266e89", "#419593", "#83bf9d", "#d8ecb9")
MARK = "#c62828"  # the frame around a concept just learned
LEVELS = 24  # shades of a heat map
MOST_POINTS = 120  # of a line
FEWEST = 3  # values required for an interval
SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "text.parse_math": False,  # a concept may be called $x$
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "svg.hashsalt": "cpbench",
}


@dataclass(frozen=True)
class Theme:
    """Colours by purpose; `series`: one per run, `tasks`: from the first task to the last."""

    ink: str
    muted: str
    line: str
    paper: str
    series: tuple[str, ...]
    tasks: tuple[str, ...]


def paper(tasks: int) -> Theme:
    """The theme of files: on white."""
    return Theme("#1b1f24", "#59636e", "#dfe3e8", "#ffffff", SERIES, shades(TASKS, tasks))


def stand_ins(tasks: int) -> Theme:
    """The theme of the page: placeholder colours, which `inline` replaces by CSS variables."""
    series = tuple(f"#0a00{i:02x}" for i in range(len(SERIES)))
    return Theme("#0b0001", "#0b0002", "#0b0003", "#0b0004", series, tuple(f"#0c{i:04x}" for i in range(tasks)))


def variables(tasks: int) -> dict[str, str]:
    """The CSS variable of each placeholder colour."""
    theme = stand_ins(tasks)
    css = dict(zip((theme.ink, theme.muted, theme.line, theme.paper), ("ink", "muted", "line", "paper"), strict=True))
    css |= {colour: f"s{i}" for i, colour in enumerate(theme.series)}
    return css | {colour: f"t{i + 1}" for i, colour in enumerate(theme.tasks)}


def shades(anchors: Sequence[str], n: int) -> tuple[str, ...]:
    """`n` colours from the first anchor to the last."""
    ramp = LinearSegmentedColormap.from_list("ramp", list(anchors))
    return tuple(to_hex(ramp(k / max(1, n - 1))) for k in range(n))


def ink_on(colour: str) -> str:
    """Black or white, whichever has more contrast."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


# Intervals


def interval(values: Array) -> tuple[Array, Array]:
    """95 % bootstrap bounds (low, high), each (m,), of the column means of `values` (concepts, m).

    NaN values are ignored. Bounds are NaN for columns with fewer than three values.
    """
    low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    for k, column in enumerate(values.T):
        finite = column[~np.isnan(column)]
        if len(finite) >= FEWEST:
            bounds = bootstrap(finite, [str(j) for j in range(len(finite))])
            low[k], high[k] = bounds.low, bounds.high
    return low, high


def changes(matrix: Array) -> Array:
    """(T, T): change of concept j, k tasks after it was learned, from a retention matrix (T+1, T); NaN elsewhere."""
    tasks = matrix.shape[1]
    out = np.full((tasks, tasks), np.nan)
    for j in range(tasks):
        after = matrix[j + 1 :, j]
        out[j, : len(after)] = after - after[0]
    return out


def mean(values: Array) -> Array:
    """Column means of (n, m) without NaN values; NaN for a column without values."""
    n = (~np.isnan(values)).sum(axis=0)
    return np.where(n > 0, np.nansum(values, axis=0) / np.maximum(n, 1), np.nan)


# Drawing


def dash(i: int) -> tuple[str | tuple, str]:
    """Dash pattern of run i, for matplotlib and as an SVG attribute at 2 pixels width. Colours repeat after 8 runs."""
    pattern = DASHES[(i + i // len(SERIES)) % len(DASHES)]
    lengths = tuple(map(float, pattern.split()))
    return ((0, lengths) if lengths else "-"), " ".join(f"{2 * n:g}" for n in lengths)


def band(axes: Axes, theme: Theme, x: Array, values: Array, i: int, label: str, marker: bool = True) -> None:
    """The column means of `values` as a line, and their interval as an area."""
    y, (low, high) = mean(values), interval(values)
    colour, style = theme.series[i % len(theme.series)], dash(i)[0]
    finite = ~np.isnan(low)
    axes.fill_between(x[finite], low[finite], high[finite], color=colour, alpha=0.16, linewidth=0)
    axes.plot(x, y, color=colour, linestyle=style, marker="o" if marker else "", markersize=3, label=label)


def forgetting(matrices: Sequence[tuple[str, Array]], title: str, per_concept: bool) -> Draw:
    """Change of the score by number of tasks since a concept was learned; `per_concept` adds a thin line per concept."""

    def draw(axes: Axes, theme: Theme) -> None:
        axes.axhline(0, color=theme.muted, linewidth=0.7)
        for i, (label, matrix) in enumerate(matrices):
            change = changes(matrix)
            x = np.arange(change.shape[1], dtype=float)
            if per_concept:
                for line in change:
                    axes.plot(x, line, color=theme.muted, linewidth=0.6, alpha=0.55)
            band(axes, theme, x, change, i, label)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("tasks since the concept was learned")
        axes.set_ylabel("change of the score")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    return draw


@dataclass(frozen=True)
class Line:
    """One concept of one run: rows of the matrix (m,), values (prompts, m), and the task in which it was learned."""

    label: str
    rows: Array
    values: Array
    learned: int


def concept(name: str, lines: Sequence[Line], floor: float, ceiling: float, low: float, high: float, last: int) -> Draw:
    """A concept's score after its own and every later task, with the untouched model and the real pictures as references."""

    def draw(axes: Axes, theme: Theme) -> None:
        for level, dash in ((floor, (0, (1, 2))), (ceiling, (0, (4, 2)))):
            if not math.isnan(level):
                axes.axhline(level, color=theme.muted, linewidth=0.8, linestyle=dash)
        for i, line in enumerate(lines):
            band(axes, theme, line.rows, line.values, i, line.label)
        axes.set_title(name, loc="left", fontsize=9)
        axes.set_xlabel("after task")
        axes.set_xlim(0.6, last + 0.4)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))

    return draw


def training(name: str, lines: pd.DataFrame, points: int = MOST_POINTS) -> Draw:
    """One logged value of a training phase: per task a smoothed line of at most `points` points. Columns: task, step, value."""

    def draw(axes: Axes, theme: Theme) -> None:
        for task, line in lines.groupby("task"):
            line = line.sort_values("step")
            smooth = curves.smoothed(line["value"]).to_numpy()
            indices = np.unique(np.linspace(0, len(line) - 1, min(len(line), points)).astype(int))
            x, y = line["step"].to_numpy()[indices], smooth[indices]
            axes.plot(
                x,
                y,
                color=theme.tasks[int(task) - 1],
                linewidth=1,
                marker="" if len(indices) > 1 else ".",
                label=f"task {task}",
            )
        values = lines["value"]
        if (values > 0).all() and values.max() > 30 * values.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())  # the default one needs math text, which is off
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(name, loc="left", fontsize=9)
        axes.set_xlabel("step")

    return draw


def trade_off(points: Sequence[tuple[str, float, float]], x: str, y: str) -> Draw:
    """One point per run: its training cost and its final average."""

    def draw(axes: Axes, theme: Theme) -> None:
        middle = (min(cost for _, cost, _ in points) + max(cost for _, cost, _ in points)) / 2
        for i, (label, cost, score) in enumerate(points):
            axes.plot([cost], [score], "o", color=theme.series[i % len(theme.series)], markersize=5)
            offset, side = ((6, "left"), (-6, "right"))[cost > middle]  # towards the middle, where there is space
            axes.annotate(
                label, (cost, score), (offset, 0), textcoords="offset points", ha=side, va="center", fontsize=7
            )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.margins(0.4, 0.15)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))

    return draw


def equal_text(lines: Sequence[tuple[str, Sequence[tuple[float, float, float]]]], x: str, y: str) -> Draw:
    """A line per run through its strengths: (strength, text share, identity), each point named by its strength."""

    def draw(axes: Axes, theme: Theme) -> None:
        for i, (label, points) in enumerate(lines):
            color = theme.series[i % len(theme.series)]
            shares, identities = [p[1] for p in points], [p[2] for p in points]
            axes.plot(shares, identities, color=color, linestyle=dash(i)[0], marker="o", markersize=3, label=label)
            for strength, share, identity in points:
                axes.annotate(
                    f"{strength:g}",
                    (share, identity),
                    xytext=(3, 3),
                    textcoords="offset points",
                    color=theme.muted,
                    fontsize=6,
                )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(lines) > 1:
            axes.legend(frameon=False)

    return draw


def heat(name: str, table: pd.DataFrame, low: float, high: float) -> Draw:
    """A retention matrix with its reference rows and values; a frame marks the task in which a concept was learned."""

    def draw(axes: Axes, theme: Theme) -> None:
        values, size = table.to_numpy(dtype=float), 7 if table.shape[1] <= 12 else 4
        ramp = LinearSegmentedColormap.from_list("heat", HEAT)
        axes.imshow(values, cmap=ramp, vmin=low, vmax=high, aspect="auto")
        axes.grid(False)
        for (t, j), value in np.ndenumerate(values):
            if not math.isnan(value):
                shade = to_hex(ramp((value - low) / (high - low)))
                axes.text(j, t, number(value), ha="center", va="center", fontsize=size, color=ink_on(shade))
            if table.index[t] == f"task {j + 1}":
                axes.add_patch(Rectangle((j - 0.5, t - 0.5), 1, 1, fill=False, edgecolor=MARK, linewidth=1.2))
        axes.set_xticks(range(table.shape[1]), list(table.columns), rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(table.shape[0]), list(table.index))
        axes.tick_params(length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.set_title(name, loc="left", fontsize=9, wrap=True)  # long with a method's settings, over a few concepts

    return draw


def time_lapse(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Image.Image | None], int]]) -> Draw:
    """The time-lapse grid; each row is (concept, its pictures by column, the column in which it was learned)."""

    def draw(axes: Axes, theme: Theme) -> None:
        axes.grid(False)
        for j, (_, pictures, learned) in enumerate(rows):
            for k, picture in enumerate(pictures):
                if picture is not None:
                    axes.imshow(picture, extent=(k + 0.03, k + 0.97, j + 0.97, j + 0.03), interpolation="nearest")
                if k == learned:
                    axes.add_patch(Rectangle((k, j), 1, 1, fill=False, edgecolor=MARK, linewidth=1.4))
        axes.set_xlim(-0.02, len(heads) + 0.02)
        axes.set_ylim(len(rows) + 0.02, -0.02)
        axes.set_aspect("equal")
        axes.xaxis.tick_top()
        axes.set_xticks(np.arange(len(heads)) + 0.5, list(heads), fontsize=6)
        axes.set_yticks(np.arange(len(rows)) + 0.5, [name for name, *_ in rows])
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)

    return draw


@contextlib.contextmanager
def figure(draws: Sequence[Draw], size: tuple[float, float], theme: Theme, columns: int = 1) -> Iterator[Figure]:
    """A figure with one panel of `size` inches per plot. Use and save it inside the with block only."""
    colours = {name: theme.ink for name in ("text.color", "axes.labelcolor", "axes.titlecolor")}
    colours |= {name: theme.muted for name in ("axes.edgecolor", "xtick.color", "ytick.color")}
    colours |= {"grid.color": theme.line}
    with matplotlib.rc_context(SETTINGS | colours):
        columns = min(columns, len(draws))
        rows = -(-len(draws) // columns)
        fig = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        fig.patch.set_alpha(0)
        panels = fig.subplots(rows, columns, squeeze=False)
        for axes, draw in zip(panels.flat, draws, strict=False):
            axes.patch.set_alpha(0)
            draw(axes, theme)
        for axes in list(panels.flat)[len(draws) :]:
            axes.set_visible(False)
        yield fig


def inline(draw: Draw, size: tuple[float, float], tasks: int, key: str, title: str) -> str:
    """A plot as SVG for the page, with CSS variables as colours, ids prefixed by `key`, and `title` as its label."""
    with figure([draw], size, stand_ins(tasks)) as fig, matplotlib.rc_context({"svg.fonttype": "none"}):
        buffer = io.StringIO()
        fig.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    references = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))

    def prefixed(match: re.Match) -> str:
        return f' id="{key}-{match[1]}"' if match[1] in references else ""

    svg = re.sub(r' id="([^"]*)"', prefixed, svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{key}-", svg)
    for colour, variable in variables(tasks).items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"\n\s*", "\n", svg)
    head = re.search(r'viewBox="([^"]+)"', svg)
    assert head
    label = html.escape(title)
    width = round(size[0] * 115)  # pixels; if it were larger, its text would outgrow the page's
    opening = f'<svg viewBox="{head[1]}" style="max-width: {width}px" role="img" aria-label="{label}">'
    return opening + svg[svg.index(">", svg.index("<svg")) + 1 :]


def save(draws: Sequence[Draw], size: tuple[float, float], tasks: int, target: Path, columns: int = 1) -> list[Path]:
    """The plots, on white, as target.png and target.svg."""
    files = []
    with figure(draws, size, paper(tasks), columns) as fig:
        fig.patch.set_alpha(1)
        handles, names = next(
            (legend for a in fig.axes if len((legend := a.get_legend_handles_labels())[0]) > 1), ([], [])
        )
        if handles:
            fig.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), fontsize=7, frameon=False)
        for ending, options in (
            ("png", {"dpi": 150, "metadata": {"Software": None}}),
            ("svg", {"metadata": {"Date": None}}),
        ):
            buffer = io.BytesIO()
            fig.savefig(buffer, format=ending, facecolor="white", **options)
            write_atomically(target.with_name(f"{target.name}.{ending}"), buffer.getvalue())
            files.append(target.with_name(f"{target.name}.{ending}"))
    return files
